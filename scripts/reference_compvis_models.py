"""The original's other models in torch, beside reference_compvis_unet.py and as plain."""

import math

import torch
import torch.nn.functional as F
from reference_compvis_unet import UNetModel, Upsample, attend, norm
from torch import nn


class ResnetBlock(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.norm1, self.conv1 = norm(channels, 1e-6), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = norm(out, 1e-6), nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = attend(query, key, value, 1).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


def middle(channels, attn_type):
    parts = nn.Module()
    parts.block_1, parts.block_2 = ResnetBlock(channels, channels), ResnetBlock(channels, channels)
    parts.attn_1 = AttnBlock(channels) if attn_type == "vanilla" else nn.Identity()
    return parts


class Half(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Coder(nn.Module):
    """Encoder or decoder of the VQGAN code."""

    def __init__(
        self, ch, out_ch, ch_mult, num_res_blocks, attn_resolutions, in_channels, resolution, z_channels, double_z,
        dropout=0.0, attn_type="vanilla", decoding=False,
    ):  # fmt: skip
        super().__init__()
        levels = len(ch_mult)
        widths = [ch * multiple for multiple in ch_mult]
        sides = [resolution // 2**level for level in range(levels)]

        def stack(level, channels, count):
            part, out = nn.Module(), widths[level]
            attending = sides[level] in attn_resolutions and attn_type == "vanilla"
            part.block = nn.ModuleList([ResnetBlock(channels if i == 0 else out, out) for i in range(count)])
            part.attn = nn.ModuleList([AttnBlock(out) for _ in range(count)] if attending else [])
            return part

        if decoding:
            channels = widths[-1]
            self.conv_in = nn.Conv2d(z_channels, channels, 3, padding=1)
            self.mid = middle(channels, attn_type)
            up = {}
            for level in reversed(range(levels)):
                up[level] = stack(level, channels, num_res_blocks + 1)
                channels = widths[level]
                if level:
                    up[level].upsample = Upsample(channels)
            self.up = nn.ModuleList([up[level] for level in range(levels)])
            out = out_ch
        else:
            channels = ch
            self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
            self.down = nn.ModuleList()
            for level in range(levels):
                part = stack(level, channels, num_res_blocks)
                channels = widths[level]
                if level != levels - 1:
                    part.downsample = Half(channels)
                self.down.append(part)
            self.mid = middle(channels, attn_type)
            out = 2 * z_channels if double_z else z_channels
        self.norm_out = norm(channels, 1e-6)
        self.conv_out = nn.Conv2d(channels, out, 3, padding=1)

    def forward(self, x):
        def run(part, x):
            for i, block in enumerate(part.block):
                x = block(x)
                if len(part.attn):
                    x = part.attn[i](x)
            for resample in ("downsample", "upsample"):
                x = getattr(part, resample)(x) if hasattr(part, resample) else x
            return x

        x = self.conv_in(x)
        for part in self.down if hasattr(self, "down") else ():
            x = run(part, x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        for part in reversed(self.up) if hasattr(self, "up") else ():
            x = run(part, x)
        return self.conv_out(F.silu(self.norm_out(x)))


class FirstStage(nn.Module):
    """`AutoencoderKL` where there are no codes."""

    def __init__(self, embed_dim, ddconfig, n_embed=None, lossconfig=None):
        super().__init__()
        z, moments = ddconfig["z_channels"], 2 if ddconfig["double_z"] else 1
        self.encoder, self.decoder = Coder(**ddconfig), Coder(**ddconfig, decoding=True)
        if n_embed is not None:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(moments * z, moments * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z, 1)

    def encode(self, pixels):
        """Latents that are not quantised, or the distribution's mean."""
        latents = self.quant_conv(self.encoder(pixels))
        return latents if hasattr(self, "quantize") else latents.chunk(2, dim=1)[0]

    def decode(self, latents):
        if hasattr(self, "quantize"):
            codes = self.quantize.embedding.weight
            flat = latents.movedim(1, -1)
            nearest = torch.cdist(flat.flatten(0, 2), codes).argmin(1).reshape(flat.shape[:-1])
            latents = codes[nearest].movedim(-1, 1)
        return self.decoder(self.post_quant_conv(latents))


class TokenAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, 512, bias=False) for _ in range(3))
        self.to_out = nn.Linear(512, width)

    def forward(self, x):
        return self.to_out(attend(self.to_q(x), self.to_k(x), self.to_v(x), 8))


class TokenFeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        up = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.net = nn.Sequential(up, nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class BERTEmbedder(nn.Module):
    def __init__(self, n_embed, n_layer, vocab_size=30522, max_seq_len=77, use_tokenizer=True):
        super().__init__()
        self.transformer = parts = nn.Module()
        parts.token_emb = nn.Embedding(vocab_size, n_embed)
        parts.pos_emb = nn.Module()
        parts.pos_emb.emb = nn.Embedding(max_seq_len, n_embed)
        parts.attn_layers = nn.Module()
        parts.attn_layers.layers = nn.ModuleList()
        for number in range(2 * n_layer):
            layer = TokenFeedForward(n_embed) if number % 2 else TokenAttention(n_embed)
            parts.attn_layers.layers.append(nn.ModuleList([nn.ModuleList([nn.LayerNorm(n_embed)]), layer]))
        parts.norm = nn.LayerNorm(n_embed)
        parts.to_logits = nn.Linear(n_embed, vocab_size)

    def forward(self, tokens):
        parts = self.transformer
        x = parts.token_emb(tokens) + parts.pos_emb.emb.weight[: tokens.shape[1]]
        for norms, layer in parts.attn_layers.layers:
            x = x + layer(norms[0](x))
        return parts.norm(x)


class ClassEmbedder(nn.Module):
    def __init__(self, embed_dim, n_classes=1000, key="class"):
        super().__init__()
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, labels):
        return self.embedding(labels)[:, None]


class SpatialRescaler(nn.Module):
    def __init__(self, n_stages, in_channels, out_channels):
        super().__init__()
        self.stages = n_stages
        self.channel_mapper = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x):
        for _ in range(self.stages):
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        return self.channel_mapper(x)


class LatentDiffusion(nn.Module):
    """All parts under the names of a published checkpoint, its averages and its noise schedule included."""

    def __init__(
        self, linear_start, linear_end, timesteps, unet_config, first_stage_config, cond_stage_config, use_ema=True,
        scale_by_std=False, scale_factor=1.0, **ignored,
    ):  # fmt: skip
        super().__init__()
        self.model = nn.Module()
        self.model.diffusion_model = UNetModel(**unet_config["params"])
        self.first_stage_model = FirstStage(**first_stage_config["params"])
        if cond_stage_config == "__is_first_stage__":
            self.cond_stage_model = self.first_stage_model
        elif isinstance(cond_stage_config, dict) and "params" in cond_stage_config:
            kinds = {kind.__name__: kind for kind in (BERTEmbedder, ClassEmbedder, SpatialRescaler)}
            kind = kinds[cond_stage_config["target"].rpartition(".")[2]]
            self.cond_stage_model = kind(**cond_stage_config["params"])
        if use_ema:
            self.model_ema = nn.Module()
            for name, value in self.model.named_parameters():
                self.model_ema.register_buffer(name.replace(".", ""), value.detach().clone())
            self.model_ema.register_buffer("decay", torch.tensor(0.9999))
            self.model_ema.register_buffer("num_updates", torch.tensor(7, dtype=torch.int32))
        betas = torch.linspace(linear_start**0.5, linear_end**0.5, timesteps, dtype=torch.float64, device="cpu") ** 2
        self.register_buffer("betas", betas.float())
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0).float())
        self.alphas = (1 - betas).cumprod(0)
        self.scale_factor = scale_factor
        if scale_by_std:
            del self.scale_factor
            self.register_buffer("scale_factor", torch.tensor(1.0))

    def use_averages(self):
        for name, value in self.model.named_parameters():
            value.data = getattr(self.model_ema, name.replace(".", "")).clone()

    def sample(self, latents, steps, predict):
        """DDIM without noise, as the original runs it; `predict(latents, timesteps)` is epsilon."""
        total = len(self.alphas)
        chosen = [i + 1 for i in range(0, total, total // steps)]
        before = [self.alphas[0], *(self.alphas[i] for i in chosen[:-1])]
        for i, previous in zip(reversed(chosen), reversed(before)):
            epsilon = predict(latents, torch.full((len(latents),), i))
            alpha, previous = float(self.alphas[i]), float(previous)
            original = (latents - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
            latents = math.sqrt(previous) * original + math.sqrt(1 - previous) * epsilon
        return latents
