"""Transformers over the pixels of a feature map that read a condition (arXiv 2112.10752, section 3.3)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.layers.attention import attend, merge_heads, split_heads
from ppdiffusers.layers.basic import Conv2D, GroupNorm, Linear
from ppdiffusers.layers.shapes import sizes

_NORM_EPS = 1e-6  # of the group norm in front, whatever the U-Net's norm_eps says: so are the published models


class CrossAttention(nn.Layer):
    """Multi-head attention of tokens `[B, T, dim]` to a context `[B, S, context_dim]`.

    Args:
        upcast: attend in float32, whatever the type of the model.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, upcast: bool = False):
        super().__init__()
        self.heads = heads
        self.upcast = upcast
        inner = heads * head_dim
        self.to_q = Linear(dim, inner, bias_attr=False)
        self.to_k = Linear(context_dim, inner, bias_attr=False)
        self.to_v = Linear(context_dim, inner, bias_attr=False)
        self.to_out = nn.LayerList([Linear(inner, dim)])

    def forward(self, tokens: paddle.Tensor, context: paddle.Tensor) -> paddle.Tensor:
        projected = (self.to_q(tokens), self.to_k(context), self.to_v(context))
        query, key, value = (split_heads(part, self.heads) for part in projected)
        if self.upcast:
            dtype = query.dtype
            attended = attend(query.astype("float32"), key.astype("float32"), value.astype("float32")).astype(dtype)
        else:
            attended = attend(query, key, value)
        return self.to_out[0](merge_heads(attended))


class GEGLU(nn.Layer):
    """A linear layer whose one half, through GELU, gates the other (arXiv 2002.05202)."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = Linear(dim, 2 * inner)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        values, gate = paddle.chunk(self.proj(tokens), 2, axis=-1)
        return values * F.gelu(gate)


class FeedForward(nn.Layer):
    """GEGLU to four times the width and a linear layer back."""

    def __init__(self, dim: int):
        super().__init__()
        # The number of an entry is in the state-dict names; 1 is where training may drop out.
        self.net = nn.LayerList([GEGLU(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim)])

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        return self.net[2](self.net[0](tokens))


class BasicTransformerBlock(nn.Layer):
    """Self-attention, attention to the context and feed-forward, each normed in front and with a residual.

    Args:
        only_cross_attention: the first attention reads the context too.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int, only_cross_attention: bool, upcast: bool):
        super().__init__()
        self.only_cross_attention = only_cross_attention
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = CrossAttention(dim, context_dim if only_cross_attention else dim, heads, head_dim, upcast)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads, head_dim, upcast)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, tokens: paddle.Tensor, context: paddle.Tensor) -> paddle.Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, context if self.only_cross_attention else normed)
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        return tokens + self.ff(self.norm3(tokens))


class Transformer2DModel(nn.Layer):
    """Transformer blocks with a residual around them, on `[B, C, H, W]` and a context `[B, S, context_dim]`.

    Args:
        channels: C.
        heads: their width is C // heads.
        layers: blocks.
        groups: of the group norm in front.
        linear_projection: the projections in and out are linear layers, not 1x1 convolutions.
        only_cross_attention, upcast: as in `BasicTransformerBlock` and `CrossAttention`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        layers: int = 1,
        groups: int = 32,
        linear_projection: bool = False,
        only_cross_attention: bool = False,
        upcast: bool = False,
    ):
        super().__init__()
        head_dim = channels // heads
        if head_dim == 0:
            raise ValueError(f"attention_head_dim {heads}, the number of heads, is more than the {channels} channels")
        inner = heads * head_dim
        self.linear_projection = linear_projection
        self.norm = GroupNorm(groups, channels, epsilon=_NORM_EPS)
        self.proj_in = Linear(channels, inner) if linear_projection else Conv2D(channels, inner, 1)
        self.transformer_blocks = nn.LayerList(
            [
                BasicTransformerBlock(inner, heads, head_dim, context_dim, only_cross_attention, upcast)
                for _ in range(layers)
            ]
        )
        self.proj_out = Linear(inner, channels) if linear_projection else Conv2D(inner, channels, 1)

    def forward(self, hidden_states: paddle.Tensor, context: paddle.Tensor) -> paddle.Tensor:
        residual = hidden_states
        height, width = sizes(hidden_states)[2:]
        hidden_states = self.norm(hidden_states)
        if self.linear_projection:
            tokens = self.proj_in(_to_tokens(hidden_states))
        else:
            tokens = _to_tokens(self.proj_in(hidden_states))  # [B, HW, inner]
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        if self.linear_projection:
            hidden_states = _to_map(self.proj_out(tokens), height, width)
        else:
            hidden_states = self.proj_out(_to_map(tokens, height, width))
        return hidden_states + residual


def _to_tokens(hidden_states: paddle.Tensor) -> paddle.Tensor:
    batch, channels, height, width = sizes(hidden_states)
    return hidden_states.reshape([batch, channels, height * width]).transpose([0, 2, 1])


def _to_map(tokens: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    batch, _, channels = sizes(tokens)
    return tokens.transpose([0, 2, 1]).reshape([batch, channels, height, width])
