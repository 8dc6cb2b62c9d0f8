"""How the embedded models are trained: one literal a stage, read by every script that trains one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict

TINY_VQ_MODEL: Dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 48, 96),
    "layers_per_block": 1,
    "latent_channels": 3,
    "sample_size": 128,
    "num_vq_embeddings": 8192,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,  # fully convolutional: any picture size, linear memory
}

TINY_SR_UNET: Dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 6,  # noisy latents and the low-resolution picture
    "out_channels": 3,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
    "block_out_channels": (64, 96),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "add_attention": False,
}

TINY_SR_SCHEDULER: Dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0155,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,  # False would leave the first timestep's noise, 0.04, in the result
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",  # begins at pure noise, so that few steps are enough
}


@dataclass(frozen=True)
class AutoencoderRecipe:
    """First stage: L1 + perceptual reconstruction, latents kept near the low-resolution picture.

    The latents of an f=4 model with three channels have the shape of the low-resolution picture
    that conditions super-resolution. `anchor_weight` pulls them towards it, which is the KL term of
    the paper's section 3.1 with N(low_resolution, 1) in place of N(0, 1): what is left for the
    diffusion model is the detail that the low-resolution picture lacks.

    The first `continuous_fraction` of the steps is a plain autoencoder with latent noise; then the
    codebook is set by k-means over its latents, and training goes on quantised.
    """

    model: Dict[str, Any] = field(default_factory=lambda: dict(TINY_VQ_MODEL))
    steps: int = 6_800
    batch_size: int = 8
    crop_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.999
    perceptual_weight: float = 0.3
    anchor_weight: float = 0.05
    latent_noise: float = 0.1  # highest standard deviation of the noise added while continuous
    continuous_fraction: float = 0.6
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class SuperResolutionRecipe:
    """Second stage: the latents of the frozen first stage, denoised beside the low-resolution picture."""

    model: Dict[str, Any] = field(default_factory=lambda: dict(TINY_SR_UNET))
    scheduler: Dict[str, Any] = field(default_factory=lambda: dict(TINY_SR_SCHEDULER))
    steps: int = 8_000
    batch_size: int = 16
    crop_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    ema_decay: float = 0.999
    seed: int = 1


def learning_rate_at(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    import math

    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
