"""Self-attention over the pixels of a feature map."""

from __future__ import annotations

import math
from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.layers.basic import GroupNorm, Linear, attention
from ppdiffusers.layers.shapes import sizes

# Query rows times key rows whose scores are held at once: 16 Mi scores are 64 MB in float32.
_SCORES_AT_ONCE = 1 << 24
_EXPORTED_BLOCKS = 8


class Attention(nn.Layer):
    """Multi-head self-attention with a residual, on `[B, C, H, W]`.

    Args:
        channels: C.
        head_dim: width of a head; there are C // head_dim of them.
        groups: of the group norm in front; None for no norm.
        rescale_output_factor: the sum with the residual is divided by it.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        groups: Optional[int],
        eps: float = 1e-5,
        rescale_output_factor: float = 1.0,
    ):
        super().__init__()
        self.heads = channels // head_dim
        if self.heads == 0:
            raise ValueError(f"attention_head_dim {head_dim} is more than the {channels} channels it is to divide")
        self.rescale_output_factor = rescale_output_factor
        inner = self.heads * head_dim
        self.group_norm = GroupNorm(groups, channels, epsilon=eps) if groups is not None else None
        self.to_q = Linear(channels, inner)
        self.to_k = Linear(channels, inner)
        self.to_v = Linear(channels, inner)
        self.to_out = nn.LayerList([Linear(inner, channels)])

    def forward(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        residual = hidden_states
        batch, channels, height, width = sizes(hidden_states)
        if self.group_norm is not None:
            hidden_states = self.group_norm(hidden_states)
        tokens = hidden_states.reshape([batch, channels, height * width]).transpose([0, 2, 1])  # [B, HW, C]
        projections = (self.to_q, self.to_k, self.to_v)
        query, key, value = (split_heads(project(tokens), self.heads) for project in projections)
        tokens = merge_heads(attend(query, key, value))
        hidden_states = self.to_out[0](tokens).transpose([0, 2, 1]).reshape([batch, channels, height, width])
        return (hidden_states + residual) / self.rescale_output_factor


def split_heads(tokens: paddle.Tensor, heads: int) -> paddle.Tensor:
    """`[B, T, heads * d]` to `[B, heads, T, d]`."""
    batch, length, inner = sizes(tokens)
    return tokens.reshape([batch, length, heads, inner // heads]).transpose([0, 2, 1, 3])


def merge_heads(tokens: paddle.Tensor) -> paddle.Tensor:
    """`[B, heads, T, d]` to `[B, T, heads * d]`."""
    batch, heads, length, head_dim = sizes(tokens)
    return tokens.transpose([0, 2, 1, 3]).reshape([batch, length, heads * head_dim])


def attend(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """softmax(Q K^T / sqrt(d)) V for `[B, heads, T, d]` tensors; T of the queries may be another one.

    On a GPU that is paddle's fused kernel, on a CPU kernels of oneDNN where they run. Elsewhere queries go in blocks.
    With these memory grows with T and not with its square: the decoder of a 128x128 latent would otherwise hold 1 GB
    of scores.
    """
    if paddle.in_dynamic_mode() and query.place.is_gpu_place():
        return attend_fused(query, key, value)
    query = query * (1 / math.sqrt(query.shape[-1]))
    found = attention(query, key, value)
    if found is not None:
        return found

    def rows(part: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(F.softmax(paddle.matmul(part, key, transpose_y=True), axis=-1), value)

    if not paddle.in_dynamic_mode():  # exported, with symbolic sizes: a fixed number of blocks
        if query.shape[1] != 1:  # the single head of an autoencoder meets the longest sequences
            return rows(query)
        length = paddle.shape(query)[2]
        query = paddle.concat([query] + [query[:, :, :1]] * _EXPORTED_BLOCKS, axis=2)  # so that no block is empty
        bounds = [(length + _EXPORTED_BLOCKS) * i // _EXPORTED_BLOCKS for i in range(_EXPORTED_BLOCKS + 1)]
        blocks = [rows(query[:, :, start:end]) for start, end in zip(bounds, bounds[1:])]
        return paddle.concat(blocks, axis=2)[:, :, :length]
    batch, heads, length, _ = query.shape
    block = max(1, _SCORES_AT_ONCE // (batch * heads * key.shape[2]))
    if length <= block:
        return rows(query)
    return paddle.concat([rows(query[:, :, start : start + block]) for start in range(0, length, block)], axis=2)


def attend_fused(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """`attend` by paddle's own operator, which takes flash attention where the device and the type have it."""
    heads_second = (each.transpose([0, 2, 1, 3]) for each in (query, key, value))  # [B, T, heads, d]
    return F.scaled_dot_product_attention(*heads_second).transpose([0, 2, 1, 3])
