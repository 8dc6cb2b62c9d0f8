"""Folders and pictures of diffusers for tests/pipelines (run in the reference environment: torch, diffusers).

PYTHONPATH=.:tests/models python scripts/make_reference_pipelines.py
"""

import shutil
from pathlib import Path

import configurations
import numpy as np
import torch
from diffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel
from make_reference_models import fill
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "tests" / "pipelines" / "golden"
UNET = dict(
    sample_size=16,
    in_channels=6,
    out_channels=3,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
SCHEDULER = dict(
    beta_start=0.0015,
    beta_end=0.0155,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    prediction_type="v_prediction",  # keeps an untrained model's latents in the range of the codes
)


def low_resolution_image():
    rows, columns = np.mgrid[0:32, 0:32]
    pixels = np.stack([8 * rows, 8 * columns, 255 - 4 * (rows + columns)], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@torch.no_grad()
def main():
    shutil.rmtree(GOLDEN, ignore_errors=True)
    vqvae = fill(VQModel(**{**configurations.VQ_MODELS["tiny"], "block_out_channels": (8, 8, 16)}), seed=1)
    vqvae.quantize.embedding.weight.mul_(0.7)  # codes spread as wide as the latents
    unet = fill(UNet2DModel(**UNET), seed=2)
    pipeline = LDMSuperResolutionPipeline(vqvae, unet, DDIMScheduler(**SCHEDULER))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(GOLDEN / "safetensors")
    pipeline.save_pretrained(GOLDEN / "bin", safe_serialization=False)

    outputs = {}
    decode = pipeline.vqvae.decode

    def recording(latents, *args, **kwargs):
        outputs["latents"] = latents.numpy()
        return decode(latents, *args, **kwargs)

    pipeline.vqvae.decode = recording

    def upscale():
        generator = torch.Generator().manual_seed(42)
        return pipeline(low_resolution_image(), num_inference_steps=20, eta=0, generator=generator).images[0]

    pipeline.scheduler = DDIMScheduler(**{**SCHEDULER, "prediction_type": "epsilon"})
    upscale()
    outputs["epsilon_latents"] = outputs["latents"]
    pipeline.scheduler = DDIMScheduler(**SCHEDULER)
    picture = upscale()
    low_resolution_image().save(GOLDEN / "low_resolution.png")
    np.savez_compressed(GOLDEN / "pictures.npz", picture=np.asarray(picture), **outputs)


if __name__ == "__main__":
    main()
