"""Timestep embeddings."""

from __future__ import annotations

import math
from typing import Optional

import paddle
from paddle import nn

from ppdiffusers.layers.activations import get_activation
from ppdiffusers.layers.basic import Linear


def timestep_embedding(
    timesteps: paddle.Tensor,
    dim: int,
    flip_sin_to_cos: bool = False,
    freq_shift: float = 0,
    max_period: int = 10_000,
) -> paddle.Tensor:
    """Sinusoids of a timestep (arXiv 1706.03762, section 3.5): `[B]` to `[B, dim]`, float32.

    `dim // 2` frequencies fall geometrically from 1 to `1 / max_period`, which is reached after
    `dim // 2 - freq_shift` of them. Sines come first, or cosines with `flip_sin_to_cos`.
    """
    half = dim // 2
    exponents = paddle.arange(half, dtype="float32") * (-math.log(max_period) / (half - freq_shift))
    angles = timesteps.astype("float32").unsqueeze(-1) * paddle.exp(exponents).unsqueeze(0)  # [B, half]
    waves = [paddle.cos(angles), paddle.sin(angles)] if flip_sin_to_cos else [paddle.sin(angles), paddle.cos(angles)]
    if dim % 2:
        waves.append(paddle.zeros_like(angles[:, :1]))
    return paddle.concat(waves, axis=-1)


class Timesteps(nn.Layer):
    """`timestep_embedding` as a layer."""

    def __init__(self, num_channels: int, flip_sin_to_cos: bool, downscale_freq_shift: float):
        super().__init__()
        self.num_channels = num_channels
        self.flip_sin_to_cos = flip_sin_to_cos
        self.downscale_freq_shift = downscale_freq_shift

    def forward(self, timesteps: paddle.Tensor) -> paddle.Tensor:
        return timestep_embedding(timesteps, self.num_channels, self.flip_sin_to_cos, self.downscale_freq_shift)


class GaussianFourierProjection(nn.Layer):
    """Random Fourier features of noise levels (arXiv 2011.13456, appendix C): `[B]` to `[B, 2 * size]`.

    Args:
        log: take the logarithm of the levels first.
        flip_sin_to_cos: cosines first.
    """

    def __init__(self, embedding_size: int, scale: float, log: bool = True, flip_sin_to_cos: bool = False):
        super().__init__()
        self.log = log
        self.flip_sin_to_cos = flip_sin_to_cos
        self.weight = self.create_parameter([embedding_size], default_initializer=nn.initializer.Normal(0.0, scale))
        self.weight.stop_gradient = True

    def forward(self, levels: paddle.Tensor) -> paddle.Tensor:
        levels = levels.astype("float32")
        if self.log:
            levels = paddle.log(levels)
        angles = levels.unsqueeze(-1) * self.weight.astype("float32") * (2 * math.pi)  # [B, size]
        waves = [paddle.sin(angles), paddle.cos(angles)]
        return paddle.concat(waves[::-1] if self.flip_sin_to_cos else waves, axis=-1)


class TimestepEmbedding(nn.Layer):
    """Two linear layers on a timestep's features: `[B, in_channels]` to `[B, time_embed_dim]`."""

    def __init__(self, in_channels: int, time_embed_dim: int, act_fn: str = "silu", out_dim: Optional[int] = None):
        super().__init__()
        self.linear_1 = Linear(in_channels, time_embed_dim)
        self.act = get_activation(act_fn)
        self.linear_2 = Linear(time_embed_dim, out_dim or time_embed_dim)

    def forward(self, sample: paddle.Tensor) -> paddle.Tensor:
        return self.linear_2(self.act(self.linear_1(sample)))
