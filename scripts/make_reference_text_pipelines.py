"""Folders and pictures of diffusers for tests/pipelines/test_text_to_image.py and test_unconditional.py.

Run in the reference environment (torch, diffusers, transformers):
PYTHONPATH=.:scripts:tests/models python scripts/make_reference_text_pipelines.py
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMPipeline,
    LDMTextToImagePipeline,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from make_reference_models import fill
from transformers import BertTokenizer

GOLDEN = Path(__file__).parents[1] / "tests" / "pipelines" / "golden_text"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a painting of squirrel eating burger ##s the red boat , on lake cafe 松 鼠"
PROMPTS = [
    "A painting of a squirrel eating a burger",
    "Red boats, on THE lake: café 松鼠",
    "",
    "a red boat on the lake " * 20 + "squirrel",
]
SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
)
PLMS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
UNET = dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)


def autoencoder(kind, *widths, **options):
    return kind(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        norm_num_groups=4,
        **options,
    )


def text_pipeline():
    unet = UNet2DConditionModel(
        **UNET,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=len(WORDS.split()),
            encoder_layers=2,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            head_dim=8,
            d_model=16,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text(WORDS.replace(" ", "\n") + "\n")
        tokenizer = BertTokenizer.from_pretrained(folder)
    vqvae = autoencoder(AutoencoderKL, 4, 8, 8, 8)
    return LDMTextToImagePipeline(fill(vqvae, 1), fill(bert, 2), tokenizer, fill(unet, 3), DDIMScheduler(**SCHEDULER))


def unconditional_pipeline():
    # diffusers divides a VQModel's latents by the factor too, which published models do not survive: 1 here.
    vqvae = autoencoder(VQModel, 4, 8, 8, latent_channels=3, num_vq_embeddings=64, scaling_factor=1.0)
    unet = UNet2DModel(
        **UNET,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    return LDMPipeline(fill(vqvae, 4), fill(unet, 5), DDIMScheduler(**SCHEDULER, prediction_type="v_prediction"))


def record(pipeline, **arguments):
    """uint8 pictures, and the latents that were decoded, of the seed 42."""
    seen, decode = [], pipeline.vqvae.decode
    pipeline.vqvae.decode = lambda latents: (seen.append(latents), decode(latents))[1]
    images = pipeline(num_inference_steps=20, eta=0.0, generator=torch.Generator().manual_seed(42), **arguments).images
    pipeline.vqvae.decode = decode
    return np.stack([np.asarray(image) for image in images]), seen[0].numpy() * pipeline.vqvae.config.scaling_factor


@torch.no_grad()
def main():
    shutil.rmtree(GOLDEN, ignore_errors=True)
    pipeline = text_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(GOLDEN / "text")
    encoded = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True)
    outputs = {"prompts": np.array(PROMPTS), "ids": np.array(encoded.input_ids, dtype=np.int16)}
    schedulers = {
        "ddim": DDIMScheduler(**SCHEDULER),
        "ddim-v": DDIMScheduler(**SCHEDULER, prediction_type="v_prediction"),
        "pndm": PNDMScheduler(**PLMS),
    }
    for name, scheduler in schedulers.items():
        pipeline.scheduler = scheduler
        pictures, latents = record(pipeline, prompt=PROMPTS[:2], guidance_scale=6.0)
        outputs[f"{name}/pictures"], outputs[f"{name}/latents"] = pictures, latents
        print(name, "pictures", pictures.mean(), pictures.std(), "latents", np.abs(latents).max())
    np.savez_compressed(GOLDEN / "text.npz", **outputs)

    pipeline = unconditional_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(GOLDEN / "unconditional")
    pictures, latents = record(pipeline, batch_size=2)
    print("unconditional pictures", pictures.mean(), pictures.std(), "latents", np.abs(latents).max())
    np.savez_compressed(GOLDEN / "unconditional.npz", pictures=pictures, latents=latents)


if __name__ == "__main__":
    main()
