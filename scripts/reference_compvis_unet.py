"""The original's `UNetModel` in torch, for scripts/make_reference_compvis.py: plain, slow, and apart from the package.

Written from the names and shapes of the published state dicts and the papers; nothing here is imported by ppdiffusers.
Dropout is left out, except where it counts in the numbers of the names.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def norm(channels, eps=1e-5):
    return nn.GroupNorm(32, channels, eps=eps)


def attend(query, key, value, heads):
    """Softmax attention of `[B, T, heads * d]`, heads being consecutive blocks of channels."""
    query, key, value = (x.unflatten(2, (heads, -1)) for x in (query, key, value))
    scores = torch.einsum("bthd,bshd->bhts", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), value).flatten(2)


class ResBlock(nn.Module):
    def __init__(self, channels, out_channels, embedding, scale_shift, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels * (2 if scale_shift else 1)))
        convolution = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.out_layers = nn.Sequential(norm(out_channels), nn.SiLU(), nn.Identity(), convolution)
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, embedding, context):
        h = self.in_layers[:2](x)
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = F.interpolate(h, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)
        h = self.in_layers[2](h)
        embedding = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedding.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + embedding)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, embedding, context):
        batch, channels, height, width = x.shape
        rows = self.qkv(self.norm(x).flatten(2))  # [B, heads * (q, k, v) * d, T]
        rows = rows.reshape(batch, self.heads, 3, -1, height * width)
        query, key, value = (rows[:, :, i].flatten(1, 2).transpose(1, 2) for i in range(3))
        h = attend(query, key, value, self.heads).transpose(1, 2)
        return x + self.proj_out(h).reshape(x.shape)


class CrossAttention(nn.Module):
    def __init__(self, width, context_width, heads, head_dim):
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width, inner, bias=False)
        self.to_v = nn.Linear(context_width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Identity())

    def forward(self, x, context):
        return self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GEGLU(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width, heads, head_dim, context_width):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads, head_dim)
        self.attn2 = CrossAttention(width, context_width, heads, head_dim)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, context):
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels, heads, depth, context_width):
        super().__init__()
        self.norm = norm(channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        blocks = [TransformerBlock(channels, heads, channels // heads, context_width) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, embedding, context):
        h = self.proj_in(self.norm(x))
        shape, h = h.shape, h.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h.transpose(1, 2).reshape(shape))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, embedding, context):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, embedding=None, context=None):
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Convolution(nn.Conv2d):
    def forward(self, x, embedding, context):
        return super().forward(x)


class UNetModel(nn.Module):
    def __init__(
        self, image_size, in_channels, model_channels, out_channels, num_res_blocks, attention_resolutions,
        channel_mult=(1, 2, 4, 8), num_heads=-1, num_head_channels=-1, use_scale_shift_norm=False,
        resblock_updown=False, use_spatial_transformer=False, transformer_depth=1, context_dim=None, legacy=True,
    ):  # fmt: skip
        super().__init__()
        self.width = model_channels
        features = 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, features), nn.SiLU(), nn.Linear(features, features))

        def block(channels, out, resample=None):
            return ResBlock(channels, out, features, use_scale_shift_norm, resample)

        def attention(channels):
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            if use_spatial_transformer:
                return SpatialTransformer(channels, heads, transformer_depth, context_dim)
            return AttentionBlock(channels, heads)

        channels, factor = model_channels, 1
        self.input_blocks = nn.ModuleList([nn.ModuleList([Convolution(in_channels, channels, 3, padding=1)])])
        widths = [channels]
        for level, multiple in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [block(channels, multiple * model_channels)]
                channels = multiple * model_channels
                if factor in attention_resolutions:
                    layers.append(attention(channels))
                self.input_blocks.append(nn.ModuleList(layers))
                widths.append(channels)
            if level != len(channel_mult) - 1:
                down = block(channels, channels, "down") if resblock_updown else Downsample(channels)
                self.input_blocks.append(nn.ModuleList([down]))
                widths.append(channels)
                factor *= 2
        self.middle_block = nn.ModuleList([block(channels, channels), attention(channels), block(channels, channels)])
        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                layers = [block(channels + widths.pop(), multiple * model_channels)]
                channels = multiple * model_channels
                if factor in attention_resolutions:
                    layers.append(attention(channels))
                if level and i == num_res_blocks:
                    layers.append(block(channels, channels, "up") if resblock_updown else Upsample(channels))
                    factor //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, x, timesteps, context=None):
        half = self.width // 2
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        skips = []

        def run(layers, x):
            for layer in layers:
                x = layer(x, embedding, context)
            return x

        for layers in self.input_blocks:
            x = run(layers, x)
            skips.append(x)
        x = run(self.middle_block, x)
        for layers in self.output_blocks:
            x = run(layers, torch.cat([x, skips.pop()], dim=1))
        return self.out(x)
