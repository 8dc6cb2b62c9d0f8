"""The vector-quantised first stage (arXiv 2112.10752, section 3.1, VQ-reg)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple, Union

import paddle

from ppdiffusers.config import register_to_config
from ppdiffusers.layers.basic import Conv2D
from ppdiffusers.layers.blocks import check_levels
from ppdiffusers.layers.quantizer import VectorQuantizer
from ppdiffusers.models.autoencoder import Decoder, DecoderOutput, Encoder
from ppdiffusers.models.model import Model
from ppdiffusers.outputs import Output


@dataclass
class VQEncoderOutput(Output):
    """`latents`: `[B, vq_embed_dim, h, w]`, not quantised: what diffusion runs on."""

    latents: paddle.Tensor


class VQModel(Model):
    """Autoencoder whose decoder reads quantised latents.

    Arguments are diffusers' config keys.

    Args:
        down_block_types: from `DownEncoderBlock2D`, `AttnDownEncoderBlock2D`.
        up_block_types: from `UpDecoderBlock2D`, `AttnUpDecoderBlock2D`.
        block_out_channels: one width a level; f = 2 ** (levels - 1).
        sample_size: side in pixels that it was trained on; informative.
        num_vq_embeddings: codes.
        vq_embed_dim: channels of the codes; `latent_channels` when None.
        scaling_factor: informative; the LDM pipelines run on unscaled latents.
        norm_type: "group".
        mid_block_add_attention: attention in the middle of encoder and decoder.
        lookup_from_codebook: `decode(..., force_not_quantize=True)` is handed code numbers, not latents.
    """

    _legacy_config_keys = {"force_upcast": "asks diffusers to run in float32; types are never changed here"}

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("DownEncoderBlock2D",),
        up_block_types: Sequence[str] = ("UpDecoderBlock2D",),
        block_out_channels: Sequence[int] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 3,
        sample_size: int = 32,
        num_vq_embeddings: int = 256,
        norm_num_groups: int = 32,
        vq_embed_dim: Optional[int] = None,
        scaling_factor: float = 0.18215,
        norm_type: str = "group",
        mid_block_add_attention: bool = True,
        lookup_from_codebook: bool = False,
    ):
        super().__init__()
        if norm_type != "group":
            raise ValueError(f"norm_type {norm_type!r} is not of a latent diffusion model; use 'group'")
        check_levels(block_out_channels, down_block_types, up_block_types)
        dim = latent_channels if vq_embed_dim is None else vq_embed_dim
        self.encoder = Encoder(self.config, latent_channels)
        self.quant_conv = Conv2D(latent_channels, dim, 1)
        self.quantize = VectorQuantizer(num_vq_embeddings, dim)
        self.post_quant_conv = Conv2D(dim, latent_channels, 1)
        self.decoder = Decoder(self.config, latent_channels)

    def encode(self, x: paddle.Tensor, return_dict: bool = True) -> Union[VQEncoderOutput, Tuple[paddle.Tensor]]:
        """Pixels in [-1, 1], `[B, in_channels, f * h, f * w]`, to latents `[B, vq_embed_dim, h, w]`."""
        latents = self._to_latents(x)
        return VQEncoderOutput(latents=latents) if return_dict else (latents,)

    def decode(
        self, h: paddle.Tensor, force_not_quantize: bool = False, return_dict: bool = True
    ) -> Union[DecoderOutput, Tuple[paddle.Tensor, paddle.Tensor]]:
        """Latents to pixels `[B, out_channels, f * h, f * w]`, near [-1, 1] but not clipped.

        Args:
            h: `[B, vq_embed_dim, h, w]`, quantised first unless `force_not_quantize`.
        """
        if not force_not_quantize:
            latents, commit_loss, _ = self.quantize(h)
        else:
            latents = self.quantize.lookup(h) if self.config.lookup_from_codebook else h
            commit_loss = paddle.zeros([])
        sample = self._to_pixels(latents)
        return DecoderOutput(sample=sample, commit_loss=commit_loss) if return_dict else (sample, commit_loss)

    def _to_latents(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.quant_conv(self.encoder(x))

    def _to_pixels(self, latents: paddle.Tensor) -> paddle.Tensor:
        return self.decoder(self.post_quant_conv(latents))

    def forward(
        self, sample: paddle.Tensor, return_dict: bool = True
    ) -> Union[DecoderOutput, Tuple[paddle.Tensor, paddle.Tensor]]:
        """Encode, quantise and decode `[B, C, H, W]`."""
        return self.decode(self.encode(sample)[0], return_dict=return_dict)
