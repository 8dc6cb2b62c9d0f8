"""Models and pictures for tests/pipelines/test_class_conditional.py and test_layout_to_image.py.

diffusers has the models but neither pipeline, so the sampling is written out here as the papers have it: DDIM
(arXiv 2010.02502, equation 12) on the timesteps of CompVis's sampler, with classifier-free guidance.

Run in the reference environment (torch, diffusers, transformers):
PYTHONPATH=.:scripts:tests/models python scripts/make_reference_conditional_pipelines.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel, VQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from make_reference_models import fill
from make_reference_text_pipelines import autoencoder
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "tests" / "pipelines" / "golden_conditional"
WIDTH = 16  # of the condition
CLASSES = [1, 3]  # of five; the last one, 4, stands for none
VOCABULARY, OBJECTS = 101, 4  # a grid of 10 x 10 points, "none" is 100
# Class, then tokens of the corners (y * 10 + x, x and y in tenths of 9); missing objects; the crop.
LAYOUTS = [
    [7, 11, 58] + [3, 40, 99] + 6 * [100] + [0, 99],
    [2, 0, 99] + 9 * [100] + [0, 99],
]
NOTHING = 12 * [100] + [0, 99]
GUIDANCE, STEPS = 3.0, 10


def models():
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )
    # diffusers divides a VQModel's latents by the factor too, which published models do not survive: 1 here.
    vqvae = autoencoder(VQModel, 4, 8, 8, latent_channels=3, num_vq_embeddings=64, scaling_factor=1.0)
    encoder = LDMBertModel(
        LDMBertConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=3 * OBJECTS + 2,
            encoder_layers=2,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            head_dim=8,
            d_model=WIDTH,
        )
    )
    return fill(unet, 11), fill(vqvae, 12), fill(encoder, 13), fill(torch.nn.Embedding(5, WIDTH), 14)


def sample(unet, noise, positive, negative):
    """DDIM with eta 0 and guidance on `noise`; conditions `[B, T, D]`."""
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    timesteps = np.arange(0, 1000, 1000 // STEPS) + 1
    previous = np.concatenate([alphas[:1], alphas[timesteps[:-1]]])
    x = noise
    for t, alpha_prev in zip(timesteps[::-1].tolist(), previous[::-1]):
        unguided = unet(x, t, encoder_hidden_states=negative).sample
        guided = unet(x, t, encoder_hidden_states=positive).sample
        epsilon = unguided + GUIDANCE * (guided - unguided)
        alpha = alphas[t]
        x0 = (x - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
        x = alpha_prev**0.5 * x0 + (1 - alpha_prev) ** 0.5 * epsilon
    return x


def pictures(vqvae, latents):
    decoded = vqvae.decode(latents).sample / 2 + 0.5
    return (decoded.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def main():
    shutil.rmtree(GOLDEN, ignore_errors=True)
    unet, vqvae, encoder, embedding = models()
    for name, model in (("unet", unet), ("vqvae", vqvae), ("layout_encoder", encoder)):
        model.save_pretrained(GOLDEN / name)
    folder = GOLDEN / "class_embedder"
    folder.mkdir()
    save_file({"embedding.weight": embedding.weight.detach()}, folder / "diffusion_pytorch_model.safetensors")
    config = {"num_classes": 5, "embed_dim": WIDTH, "unconditional_class": 4}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(42))
    classes = embedding(torch.tensor(CLASSES))[:, None]
    no_class = embedding(torch.tensor([4, 4]))[:, None]
    layouts, nothing = (encoder(torch.tensor(ids)).last_hidden_state for ids in (LAYOUTS, [NOTHING, NOTHING]))
    outputs = {"tokens": np.array(LAYOUTS), "nothing": np.array(NOTHING)}
    for name, condition, none in (("classes", classes, no_class), ("layouts", layouts, nothing)):
        latents = sample(unet, noise, condition, none)
        swapped = sample(unet, noise, condition.flip(0), none)
        outputs[f"{name}/latents"], outputs[f"{name}/pictures"] = latents.numpy(), pictures(vqvae, latents)
        print(name, "latents", latents.abs().max().item(), "moved by the condition", (latents - swapped).abs().max())
        print(name, "pictures", outputs[f"{name}/pictures"].mean(), outputs[f"{name}/pictures"].std())
    np.savez_compressed(GOLDEN / "reference.npz", **outputs)


if __name__ == "__main__":
    main()
