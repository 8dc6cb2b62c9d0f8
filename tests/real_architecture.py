"""The published super-resolution model with random weights, in the community's layout."""

import json
from pathlib import Path

import numpy as np
import paddle

from ppdiffusers import UNet2DModel, VQModel
from ppdiffusers.checkpoints import save_pdparams, save_safetensors
from ppdiffusers.models.model import linear_weights

NAME = "CompVis/ldm-super-resolution-4x-openimages"

INDEX = {
    "_class_name": "LDMSuperResolutionPipeline",
    "_diffusers_version": "0.7.0",
    "scheduler": ["ppdiffusers", "DDIMScheduler"],
    "unet": ["ppdiffusers", "UNet2DModel"],
    "vqvae": ["ppdiffusers", "VQModel"],
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.0155,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "timestep_values": None,
    "trained_betas": None,
}
UNET = {
    "_class_name": "UNet2DModel",
    "attention_head_dim": 32,
    "block_out_channels": [160, 320, 320, 640],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "in_channels": 6,
    "out_channels": 3,
    "sample_size": 64,
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"],
}
VQVAE = {
    "_class_name": "VQModel",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "latent_channels": 3,
    "layers_per_block": 2,
    "num_vq_embeddings": 8192,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
PARAMETERS = {"unet": 113_622_563, "vqvae": 55_322_782}
SIZES = {
    "model_index.json": 256,
    "scheduler/scheduler_config.json": 288,
    "unet/config.json": 703,
    "vqvae/config.json": 518,
}


def write(folder: Path, unet=UNET, vqvae=VQVAE):
    """The files of the model page under `folder / NAME`, each small one exactly as long as published."""
    root = folder / NAME
    for path, values in zip(SIZES, (INDEX, SCHEDULER, unet, vqvae)):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values).ljust(SIZES[path]))
        assert file.stat().st_size == SIZES[path]
    (root / "README.md").write_text("model card\n")
    paddle.seed(0)
    for component, kind, config in (("unet", UNet2DModel, unet), ("vqvae", VQModel, vqvae)):
        model = kind.from_config(config)
        save_pdparams(root / component / "model_state.pdparams", old_names(model.state_dict()))
    return root


def old_names(state):
    """As the files of 2022 call the attention layers."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = {}
    for name, value in state.items():
        for new, old in names.items():
            name = name.replace(f".{new}.", f".{old}.")
        arrays[name] = value.numpy()
    return arrays


def write_for_diffusers(root: Path, folder: Path):
    """The same model as diffusers would have saved it: its library name, torch's layout, today's names."""
    folder.mkdir(parents=True)
    index = {**INDEX, **{name: ["diffusers", INDEX[name][1]] for name in ("scheduler", "unet", "vqvae")}}
    (folder / "model_index.json").write_text(json.dumps(index))
    for component, kind in (("unet", UNet2DModel), ("vqvae", VQModel)):
        model = kind.from_pretrained(root, subfolder=component)
        transposed = linear_weights(model)
        arrays = {name: value.numpy() for name, value in model.state_dict().items()}
        arrays = {name: np.ascontiguousarray(x.T) if name in transposed else x for name, x in arrays.items()}
        save_safetensors(folder / component / "diffusion_pytorch_model.safetensors", arrays, {"format": "pt"})
        (folder / component / "config.json").write_text((root / component / "config.json").read_text())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return folder
