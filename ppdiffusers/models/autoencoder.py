"""Encoder and decoder that the first-stage models share (arXiv 2112.10752, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence

import paddle
from paddle import nn

from ppdiffusers.layers.basic import Conv2D, GroupNorm, Silu, normed_and_convolved
from ppdiffusers.layers.blocks import DECODER_BLOCKS, ENCODER_BLOCKS, DownBlock, MidBlock, UpBlock, block_type
from ppdiffusers.outputs import Output

_EPS = 1e-6  # of every norm in the published autoencoders


@dataclass
class DecoderOutput(Output):
    """`sample`: `[B, out_channels, H, W]`, pixels in [-1, 1]; `commit_loss`: of a vector-quantised model, else None."""

    sample: paddle.Tensor
    commit_loss: Optional[paddle.Tensor] = None


def _resnet(groups: int, act_fn: str) -> Dict[str, Any]:
    return {"temb_channels": None, "groups": groups, "eps": _EPS, "act_fn": act_fn}


class Encoder(nn.Layer):
    """Pixels `[B, in_channels, f * h, f * w]` to moments `[B, out_channels, h, w]`, f = 2 ** (levels - 1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        down_block_types: Sequence[str],
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
    ):
        super().__init__()
        resnet = _resnet(norm_num_groups, act_fn)
        self.conv_in = Conv2D(in_channels, block_out_channels[0], 3, padding=1)
        self.down_blocks = nn.LayerList()
        for i, (name, channels) in enumerate(zip(down_block_types, block_out_channels)):
            self.down_blocks.append(
                DownBlock(
                    block_out_channels[max(i - 1, 0)],
                    channels,
                    layers_per_block,
                    resnet,
                    head_dim=channels if block_type(name, ENCODER_BLOCKS).attention else None,
                    downsample=None if i == len(block_out_channels) - 1 else "conv",
                    downsample_padding=0,
                )
            )
        channels = block_out_channels[-1]
        self.mid_block = MidBlock(channels, resnet, channels if mid_block_add_attention else None, norm_num_groups)
        self.conv_norm_out = GroupNorm(norm_num_groups, channels, epsilon=_EPS)
        self.conv_act = Silu()  # whatever act_fn says: so are the published models
        self.conv_out = Conv2D(channels, out_channels, 3, padding=1)

    def forward(self, sample: paddle.Tensor) -> paddle.Tensor:
        hidden_states = self.conv_in(sample)
        for block in self.down_blocks:
            hidden_states, _ = block(hidden_states)
        hidden_states = self.mid_block(hidden_states)
        return normed_and_convolved(self.conv_norm_out, self.conv_act, self.conv_out, hidden_states)


class Decoder(nn.Layer):
    """Latents `[B, in_channels, h, w]` to pixels `[B, out_channels, f * h, f * w]`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        up_block_types: Sequence[str],
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
    ):
        super().__init__()
        resnet = _resnet(norm_num_groups, act_fn)
        previous = block_out_channels[-1]
        self.conv_in = Conv2D(in_channels, previous, 3, padding=1)
        self.mid_block = MidBlock(previous, resnet, previous if mid_block_add_attention else None, norm_num_groups)
        self.up_blocks = nn.LayerList()
        for i, (name, channels) in enumerate(zip(up_block_types, reversed(block_out_channels))):
            self.up_blocks.append(
                UpBlock(
                    previous,
                    channels,
                    [0] * (layers_per_block + 1),
                    resnet,
                    head_dim=channels if block_type(name, DECODER_BLOCKS).attention else None,
                    upsample=None if i == len(block_out_channels) - 1 else "conv",
                )
            )
            previous = channels
        self.conv_norm_out = GroupNorm(norm_num_groups, previous, epsilon=_EPS)
        self.conv_act = Silu()  # whatever act_fn says: so are the published models
        self.conv_out = Conv2D(previous, out_channels, 3, padding=1)

    def forward(self, latents: paddle.Tensor) -> paddle.Tensor:
        hidden_states = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            hidden_states = block(hidden_states)
        return normed_and_convolved(self.conv_norm_out, self.conv_act, self.conv_out, hidden_states)
