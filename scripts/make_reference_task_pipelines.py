"""Folders and results for tests/pipelines/test_inpaint.py and test_semantic_synthesis.py.

diffusers has no pipeline of these tasks: the algorithms of arXiv 2112.10752, appendix D, are spelt out here with its
models and its DDIM. Run in the reference environment (torch, diffusers):
PYTHONPATH=.:scripts:tests/models python scripts/make_reference_task_pipelines.py
"""

import json
import shutil
from pathlib import Path

import configurations
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel, VQModel
from make_reference_models import fill
from safetensors.torch import save_file
from torch import nn

GOLDEN = Path(__file__).parents[1] / "tests" / "pipelines" / "golden_tasks"
STEPS = 10
SIZE = (29, 37)  # no multiple of what the models take
FACTOR = 4 * 2  # of the autoencoder, and of the unet
CLASSES = 6
SCHEDULER = dict(
    beta_start=0.0015, beta_end=0.0205, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
    steps_offset=1,
)  # fmt: skip
UNET = dict(
    sample_size=16, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    attention_head_dim=8,
)  # fmt: skip
UNETS = {
    "inpaint": dict(
        in_channels=7,
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "semantic": dict(in_channels=6, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2),
}


def picture():
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    pixels = np.stack([8 * rows, 6 * columns, 255 - 4 * (rows + columns)], axis=-1)
    return pixels.clip(0, 255).astype(np.uint8)


def mask():
    """A disc, and a bar that runs out of the picture."""
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    return ((rows - 12) ** 2 + (columns - 13) ** 2 < 50) | ((columns > 30) & (rows > 20))


def label_map():
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    return ((rows // 7 + columns // 9) % CLASSES).astype(np.uint8)


def pad(tensor):
    """`[B, C, H, W]`, its last row and column repeated."""
    return F.pad(tensor, (0, -tensor.shape[-1] % FACTOR, 0, -tensor.shape[-2] % FACTOR), mode="replicate")


def denoise(unet, scheduler, noise, condition):
    scheduler.set_timesteps(STEPS)
    latents = noise
    for timestep in scheduler.timesteps:
        prediction = unet(torch.cat([latents, condition], dim=1), timestep).sample
        latents = scheduler.step(prediction, timestep, latents, eta=0.0).prev_sample
    return latents


def inpainting_condition(vqvae):
    image = pad(torch.from_numpy(picture()).permute(2, 0, 1)[None].float() / 255)
    hole = pad(torch.from_numpy(mask())[None, None].float())
    latents = vqvae.encode((1 - hole) * image * 2 - 1).latents
    return torch.cat([latents, F.interpolate(hole * 2 - 1, size=latents.shape[-2:])], dim=1)


def semantic_condition(rescaler):
    one_hot = pad(F.one_hot(torch.from_numpy(label_map()).long(), CLASSES).permute(2, 0, 1)[None].float())
    for _ in range(2):
        one_hot = F.interpolate(one_hot, scale_factor=0.5, mode="bilinear")
    return rescaler.channel_mapper(one_hot)


class Rescaler(nn.Module):
    def __init__(self):
        super().__init__()
        self.channel_mapper = nn.Conv2d(CLASSES, 3, 1, bias=False)


def save(folder, class_name, scheduler, **models):
    index = {"_class_name": class_name, "scheduler": ["diffusers", "DDIMScheduler"]}
    scheduler.save_pretrained(folder / "scheduler")
    for name, model in models.items():
        if isinstance(model, Rescaler):
            (folder / name).mkdir(parents=True)
            save_file(model.state_dict(), folder / name / "diffusion_pytorch_model.safetensors", {"format": "pt"})
            config = {"_class_name": "SpatialRescaler", "n_stages": 2, "in_channels": CLASSES, "out_channels": 3}
            (folder / name / "config.json").write_text(json.dumps(config, indent=2))
            index[name] = ["ppdiffusers", "SpatialRescaler"]
        else:
            model.save_pretrained(folder / name)
            index[name] = ["diffusers", type(model).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


@torch.no_grad()
def main():
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    vqvae = fill(VQModel(**{**configurations.VQ_MODELS["tiny"], "block_out_channels": (8, 8, 16)}), seed=1)
    vqvae.quantize.embedding.weight.mul_(0.7)  # codes spread as wide as the latents
    unets = {name: fill(UNet2DModel(**UNET, **options), seed=3) for name, options in UNETS.items()}
    rescaler = fill(Rescaler(), seed=4)
    outputs = {"picture": picture(), "mask": mask(), "labels": label_map()}
    conditions = {"inpaint": inpainting_condition(vqvae), "semantic": semantic_condition(rescaler)}
    noise = torch.from_numpy(np.random.RandomState(5).standard_normal((1, 3, 8, 10)).astype(np.float32))
    outputs["noise"] = noise.numpy()
    for name, condition in conditions.items():
        outputs[f"{name}/condition"] = condition.numpy()
        for prediction_type in ("v_prediction", "epsilon"):  # the first keeps an untrained model's latents in range
            scheduler = DDIMScheduler(**SCHEDULER, prediction_type=prediction_type)
            latents = denoise(unets[name], scheduler, noise, condition)
            outputs[f"{name}/{prediction_type}"] = latents.numpy()
            print(name, prediction_type, "latents up to", float(latents.abs().max()))
            if prediction_type == "v_prediction":
                decoded = vqvae.decode(latents).sample[..., : SIZE[0], : SIZE[1]]
                pixels = (decoded / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy()
                if name == "inpaint":
                    pixels = np.where(mask()[..., None], pixels, picture() / np.float32(255))
                outputs[f"{name}/result"] = np.round(255 * pixels).astype(np.uint8)
    np.savez_compressed(GOLDEN / "results.npz", **outputs)
    scheduler = DDIMScheduler(**SCHEDULER, prediction_type="v_prediction")
    save(GOLDEN / "inpaint", "LDMInpaintPipeline", scheduler, vqvae=vqvae, unet=unets["inpaint"])
    save(
        GOLDEN / "semantic", "LDMSemanticSynthesisPipeline", scheduler,
        vqvae=vqvae, rescaler=rescaler, unet=unets["semantic"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
