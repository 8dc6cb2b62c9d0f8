"""Golden outputs of diffusers for tests/models (run in the reference environment: torch, diffusers).

PYTHONPATH=.:tests/models python scripts/make_reference_models.py
"""

from pathlib import Path

import configurations
import numpy as np
import torch
from diffusers import UNet2DModel, VQModel
from diffusers.models.attention_processor import Attention

GOLDEN = Path(__file__).parents[1] / "tests" / "models" / "golden"


def fill(model, seed):
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights = configurations.torch_layout_weights(shapes, seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model.eval()


def build_unet(config):
    """diffusers' heads are equally wide at all levels; set afterwards, their number changes no weight."""
    head_dims = config.get("attention_head_dim")
    if not isinstance(head_dims, tuple):
        return UNet2DModel(**config)
    heads = {width // head_dim for width, head_dim in zip(config["block_out_channels"], head_dims)}
    assert len(heads) == 1
    model = UNet2DModel(**{**config, "attention_head_dim": config["block_out_channels"][0]})
    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.heads = next(iter(heads))
    return model


@torch.no_grad()
def main():
    GOLDEN.mkdir(exist_ok=True)
    outputs = {}
    for seed, (name, config) in enumerate(configurations.UNETS.items()):
        model = fill(build_unet(config), seed)
        inputs = [None if x is None else torch.from_numpy(x) for x in configurations.unet_inputs(name, config)]
        outputs[name] = model(*inputs).sample.numpy()
    np.savez_compressed(GOLDEN / "unet_2d.npz", **outputs)
    outputs = {}
    for seed, (name, config) in enumerate(configurations.VQ_MODELS.items()):
        model = fill(VQModel(**config), seed)
        latents = model.encode(torch.from_numpy(configurations.vq_input(config))).latents
        outputs[f"{name}/latents"] = latents.numpy()
        codes, loss, (_, _, indices) = model.quantize(latents)
        outputs[f"{name}/codes"] = codes.numpy()
        outputs[f"{name}/indices"] = indices.reshape(latents.shape[0], *latents.shape[2:]).numpy()
        outputs[f"{name}/loss"] = loss.numpy()
        outputs[f"{name}/decoded"] = model.decode(latents).sample.numpy()
        outputs[f"{name}/decoded-unquantised"] = model.decode(latents, force_not_quantize=True).sample.numpy()
    np.savez_compressed(GOLDEN / "vq_model.npz", **outputs)


if __name__ == "__main__":
    main()
