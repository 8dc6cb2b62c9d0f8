"""Encoder and decoder that the first-stage models share (arXiv 2112.10752, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

import paddle
from paddle import nn

from ppdiffusers.config import FrozenConfig
from ppdiffusers.layers import blocks
from ppdiffusers.layers.basic import Conv2D, GroupNorm, Silu, normed_and_convolved
from ppdiffusers.layers.blocks import DownBlock, MidBlock, UpBlock, block_types
from ppdiffusers.outputs import Output

_EPS = 1e-6  # of every norm in the published autoencoders


@dataclass
class DecoderOutput(Output):
    """`sample`: `[B, out_channels, H, W]`, pixels in [-1, 1]; `commit_loss`: of a vector-quantised model, else None."""

    sample: paddle.Tensor
    commit_loss: Optional[paddle.Tensor] = None


def _resnet(config: FrozenConfig) -> Dict[str, Any]:
    return {"temb_channels": None, "groups": config.norm_num_groups, "eps": _EPS, "act_fn": config.act_fn}


def _middle(config: FrozenConfig) -> MidBlock:
    channels = config.block_out_channels[-1]
    head_dim = channels if config.mid_block_add_attention else None
    return MidBlock(channels, _resnet(config), head_dim, config.norm_num_groups)


class Encoder(nn.Layer):
    """Pixels `[B, in_channels, f * h, f * w]` to moments `[B, out_channels, h, w]`, f = 2 ** (levels - 1)."""

    def __init__(self, config: FrozenConfig, out_channels: int):
        super().__init__()
        channels, last = config.block_out_channels, len(config.block_out_channels) - 1
        self.conv_in = Conv2D(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.LayerList()
        for i, kind in enumerate(block_types(config.down_block_types, blocks.ENCODER_BLOCKS)):
            head_dim, downsample = channels[i] if kind.attention else None, None if i == last else "conv"
            widths = channels[max(i - 1, 0)], channels[i]
            block = DownBlock(*widths, config.layers_per_block, _resnet(config), head_dim, downsample, 0)
            self.down_blocks.append(block)
        self.mid_block = _middle(config)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[-1], epsilon=_EPS)
        self.conv_act = Silu()  # whatever act_fn says: so are the published models
        self.conv_out = Conv2D(channels[-1], out_channels, 3, padding=1)

    def forward(self, sample: paddle.Tensor) -> paddle.Tensor:
        hidden_states = self.conv_in(sample)
        for block in self.down_blocks:
            hidden_states, _ = block(hidden_states)
        hidden_states = self.mid_block(hidden_states)
        return normed_and_convolved(self.conv_norm_out, self.conv_act, self.conv_out, hidden_states)


class Decoder(nn.Layer):
    """Latents `[B, in_channels, h, w]` to pixels `[B, out_channels, f * h, f * w]`."""

    def __init__(self, config: FrozenConfig, in_channels: int):
        super().__init__()
        channels, last = config.block_out_channels[::-1], len(config.block_out_channels) - 1
        self.conv_in = Conv2D(in_channels, channels[0], 3, padding=1)
        self.mid_block = _middle(config)
        self.up_blocks = nn.LayerList()
        skips = [0] * (config.layers_per_block + 1)
        for i, kind in enumerate(block_types(config.up_block_types, blocks.DECODER_BLOCKS)):
            head_dim, upsample = channels[i] if kind.attention else None, None if i == last else "conv"
            block = UpBlock(channels[max(i - 1, 0)], channels[i], skips, _resnet(config), head_dim, upsample)
            self.up_blocks.append(block)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[-1], epsilon=_EPS)
        self.conv_act = Silu()  # whatever act_fn says: so are the published models
        self.conv_out = Conv2D(channels[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: paddle.Tensor) -> paddle.Tensor:
        hidden_states = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            hidden_states = block(hidden_states)
        return normed_and_convolved(self.conv_norm_out, self.conv_act, self.conv_out, hidden_states)
