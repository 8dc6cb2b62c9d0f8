"""Halving and doubling of feature maps."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.layers.basic import Conv2D, doubled_convolution
from ppdiffusers.layers.shapes import sizes


class Downsample2D(nn.Layer):
    """Halve `[B, C, H, W]`: a 3x3 convolution of stride 2, or 2x2 averaging with `use_conv=False`.

    `padding=0` pads one row and one column at the bottom right only, as autoencoders are trained.
    """

    def __init__(self, channels: int, use_conv: bool = True, padding: int = 1):
        super().__init__()
        self.padding = padding
        self.conv = Conv2D(channels, channels, 3, stride=2, padding=padding) if use_conv else None

    def forward(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        if self.conv is None:
            return F.avg_pool2d(hidden_states, kernel_size=2, stride=2)
        if self.padding == 0:
            hidden_states = F.pad(hidden_states, [0, 1, 0, 1])  # left, right, top, bottom
        return self.conv(hidden_states)


def repeat_pixels(hidden_states: paddle.Tensor) -> paddle.Tensor:
    """Nearest-neighbour doubling, exact. Not `F.interpolate`, whose compiled form oneDNN refuses in paddle 3.3."""
    batch, channels, height, width = sizes(hidden_states)
    tiled = hidden_states.unsqueeze(-1).unsqueeze(-3).tile([1, 1, 1, 2, 1, 2])  # [B, C, H, 2, W, 2]
    return tiled.reshape([batch, channels, 2 * height, 2 * width])


class Upsample2D(nn.Layer):
    """Double `[B, C, H, W]` by repeating pixels, then a 3x3 convolution unless `use_conv=False`."""

    def __init__(self, channels: int, use_conv: bool = True):
        super().__init__()
        self.conv = Conv2D(channels, channels, 3, padding=1) if use_conv else None

    def forward(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        if self.conv is None:
            return repeat_pixels(hidden_states)
        at_once = doubled_convolution(self.conv, hidden_states)
        return self.conv(repeat_pixels(hidden_states)) if at_once is None else at_once
