"""Levels of the U-Nets and autoencoders: residual blocks, optional attention, optional resampling.

One class a direction serves every published block type; which parts a type has is in `DOWN_BLOCKS`
and `UP_BLOCKS`. Attribute names are the community's state-dict names.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import nn

from ppdiffusers.layers.attention import Attention
from ppdiffusers.layers.resampling import Downsample2D, Upsample2D
from ppdiffusers.layers.resnet import ResnetBlock2D
from ppdiffusers.layers.transformer import Transformer2DModel


class BlockType(NamedTuple):
    attention: bool = False
    cross_attention: bool = False  # a transformer that also reads what the model is conditioned on
    resnet_resampling: bool = False  # a residual block resamples, instead of a convolution

    def resampling(self, configured: str) -> str:
        """ "conv" or "resnet": where there is attention, what the config says; elsewhere, what the type's name says."""
        return configured if self.attention else "resnet" if self.resnet_resampling else "conv"


DOWN_BLOCKS: Dict[str, BlockType] = {
    "DownBlock2D": BlockType(),
    "AttnDownBlock2D": BlockType(attention=True),
    "ResnetDownsampleBlock2D": BlockType(resnet_resampling=True),
}
UP_BLOCKS: Dict[str, BlockType] = {
    "UpBlock2D": BlockType(),
    "AttnUpBlock2D": BlockType(attention=True),
    "ResnetUpsampleBlock2D": BlockType(resnet_resampling=True),
}
CONDITION_DOWN_BLOCKS: Dict[str, BlockType] = {
    "DownBlock2D": BlockType(),
    "CrossAttnDownBlock2D": BlockType(cross_attention=True),
}
CONDITION_UP_BLOCKS: Dict[str, BlockType] = {
    "UpBlock2D": BlockType(),
    "CrossAttnUpBlock2D": BlockType(cross_attention=True),
}
ENCODER_BLOCKS: Dict[str, BlockType] = {
    "DownEncoderBlock2D": BlockType(),
    "AttnDownEncoderBlock2D": BlockType(attention=True),
}
DECODER_BLOCKS: Dict[str, BlockType] = {
    "UpDecoderBlock2D": BlockType(),
    "AttnUpDecoderBlock2D": BlockType(attention=True),
}


def block_types(names: Sequence[str], known: Dict[str, BlockType]) -> List[BlockType]:
    """Look up a config's block types.

    Raises:
        ValueError: a type that this model does not have.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"unknown block type {name!r}; use one of {', '.join(known)}")
    return [known[name] for name in names]


def check_levels(block_out_channels: Sequence[int], down: Sequence[str], up: Sequence[str]) -> None:
    """Raises ValueError unless a config's three lists have one entry a level."""
    if not len(block_out_channels) == len(down) == len(up):
        raise ValueError(
            "block_out_channels, down_block_types and up_block_types must be equally long, "
            f"but have {len(block_out_channels)}, {len(down)} and {len(up)} entries"
        )


def per_level(key: str, value: Any, levels: int) -> Tuple[Any, ...]:
    """A config's value for each level, of one for all of them or a list.

    Raises:
        ValueError: a list of another length.
    """
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
    if len(values) != levels:
        raise ValueError(f"{key} has {len(values)} entries; give one value, or one for each of the {levels} levels")
    return values


class DownBlock(nn.Layer):
    """`num_layers` residual blocks, then a halving unless `downsample` is None.

    Args:
        resnet: keyword arguments of every residual block (time embedding, norm, activation).
        head_dim: width of an attention head; None for no attention.
        downsample: "conv", "resnet" or None.
        transformer: keyword arguments of a `Transformer2DModel` after every residual block; excludes `head_dim`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int,
        resnet: Dict[str, Any],
        head_dim: Optional[int] = None,
        downsample: Optional[str] = "conv",
        downsample_padding: int = 1,
        transformer: Optional[Dict[str, Any]] = None,
    ):
        super().__init__()
        self.resnets = nn.LayerList(
            [ResnetBlock2D(in_channels if i == 0 else out_channels, out_channels, **resnet) for i in range(num_layers)]
        )
        self.attentions = _attentions(num_layers, out_channels, head_dim, resnet, transformer)
        self.cross_attention = transformer is not None
        self.resnet_resampling = downsample == "resnet"
        self.downsamplers = None
        if downsample == "resnet":
            self.downsamplers = nn.LayerList([ResnetBlock2D(out_channels, out_channels, down=True, **resnet)])
        elif downsample is not None:
            self.downsamplers = nn.LayerList([Downsample2D(out_channels, padding=downsample_padding)])
        self.num_layers = num_layers + (downsample is not None)  # each makes a skip connection

    def forward(
        self,
        hidden_states: paddle.Tensor,
        temb: Optional[paddle.Tensor] = None,
        context: Optional[paddle.Tensor] = None,
    ) -> Tuple[paddle.Tensor, List[paddle.Tensor]]:
        """The level's output, and what it hands to the skip connections."""
        skips = []
        for i in range(self.num_layers):
            hidden_states = self.layer(i, hidden_states, temb, context)
            skips.append(hidden_states)
        return hidden_states, skips

    def layer(
        self,
        i: int,
        hidden_states: paddle.Tensor,
        temb: Optional[paddle.Tensor] = None,
        context: Optional[paddle.Tensor] = None,
    ) -> paddle.Tensor:
        """A residual block and its attention; after the last one, the halving."""
        if self.downsamplers is not None and i == len(self.resnets):
            downsample = self.downsamplers[0]
            return downsample(hidden_states, temb) if self.resnet_resampling else downsample(hidden_states)
        hidden_states = self.resnets[i](hidden_states, temb)
        if self.attentions is not None:
            attention = self.attentions[i]
            hidden_states = attention(hidden_states, context) if self.cross_attention else attention(hidden_states)
        return hidden_states


class UpBlock(nn.Layer):
    """One residual block an entry of `skip_channels`, then a doubling unless `upsample` is None.

    Args:
        skip_channels: widths of the skip connections joined before each block; 0 for a decoder.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: List[int],
        resnet: Dict[str, Any],
        head_dim: Optional[int] = None,
        upsample: Optional[str] = "conv",
        transformer: Optional[Dict[str, Any]] = None,
    ):
        super().__init__()
        widths = [(in_channels if i == 0 else out_channels) + skip for i, skip in enumerate(skip_channels)]
        self.resnets = nn.LayerList([ResnetBlock2D(width, out_channels, **resnet) for width in widths])
        self.attentions = _attentions(len(skip_channels), out_channels, head_dim, resnet, transformer)
        self.cross_attention = transformer is not None
        self.resnet_resampling = upsample == "resnet"
        self.upsamplers = None
        if upsample == "resnet":
            self.upsamplers = nn.LayerList([ResnetBlock2D(out_channels, out_channels, up=True, **resnet)])
        elif upsample is not None:
            self.upsamplers = nn.LayerList([Upsample2D(out_channels)])
        self.num_layers = len(skip_channels)  # each takes a skip connection

    def forward(
        self,
        hidden_states: paddle.Tensor,
        temb: Optional[paddle.Tensor] = None,
        skips: Optional[List[paddle.Tensor]] = None,
        context: Optional[paddle.Tensor] = None,
    ) -> paddle.Tensor:
        """`skips` is consumed from its end."""
        for i in range(self.num_layers):
            hidden_states = self.layer(i, hidden_states, temb, None if skips is None else skips.pop(), context)
        return hidden_states

    def layer(
        self,
        i: int,
        hidden_states: paddle.Tensor,
        temb: Optional[paddle.Tensor] = None,
        skip: Optional[paddle.Tensor] = None,
        context: Optional[paddle.Tensor] = None,
    ) -> paddle.Tensor:
        """A residual block and its attention; with the last one, the doubling."""
        if skip is not None:
            hidden_states = paddle.concat([hidden_states, skip], axis=1)
        hidden_states = self.resnets[i](hidden_states, temb)
        if self.attentions is not None:
            attention = self.attentions[i]
            hidden_states = attention(hidden_states, context) if self.cross_attention else attention(hidden_states)
        if self.upsamplers is not None and i == self.num_layers - 1:
            upsample = self.upsamplers[0]
            hidden_states = upsample(hidden_states, temb) if self.resnet_resampling else upsample(hidden_states)
        return hidden_states


class MidBlock(nn.Layer):
    """A residual block, attention or a transformer if there is one, and a second residual block.

    Args:
        num_resnets: 1 leaves the second residual block out.
    """

    def __init__(
        self,
        channels: int,
        resnet: Dict[str, Any],
        head_dim: Optional[int] = None,
        attention_groups: Optional[int] = None,
        output_scale_factor: float = 1.0,
        transformer: Optional[Dict[str, Any]] = None,
        num_resnets: int = 2,
    ):
        super().__init__()
        resnet = {**resnet, "output_scale_factor": output_scale_factor}
        self.resnets = nn.LayerList([ResnetBlock2D(channels, channels, **resnet) for _ in range(num_resnets)])
        self.cross_attention = transformer is not None
        self.attentions = None
        if head_dim is not None:
            attention = Attention(channels, head_dim, attention_groups, resnet["eps"], output_scale_factor)
            self.attentions = nn.LayerList([attention])
        elif transformer is not None:
            self.attentions = nn.LayerList([Transformer2DModel(channels, **transformer)])

    def forward(
        self,
        hidden_states: paddle.Tensor,
        temb: Optional[paddle.Tensor] = None,
        context: Optional[paddle.Tensor] = None,
    ) -> paddle.Tensor:
        hidden_states = self.resnets[0](hidden_states, temb)
        if self.attentions is not None:
            attention = self.attentions[0]
            hidden_states = attention(hidden_states, context) if self.cross_attention else attention(hidden_states)
        return self.resnets[1](hidden_states, temb) if len(self.resnets) > 1 else hidden_states


def _attentions(
    count: int,
    channels: int,
    head_dim: Optional[int],
    resnet: Dict[str, Any],
    transformer: Optional[Dict[str, Any]],
) -> Optional[nn.LayerList]:
    if transformer is not None:
        return nn.LayerList([Transformer2DModel(channels, **transformer) for _ in range(count)])
    if head_dim is None:
        return None
    return nn.LayerList([Attention(channels, head_dim, resnet["groups"], resnet["eps"]) for _ in range(count)])
