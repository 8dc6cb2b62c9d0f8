"""The KL-regularised first stage (arXiv 2112.10752, section 3.1, KL-reg)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence, Tuple, Union

import paddle

from ppdiffusers.config import register_to_config
from ppdiffusers.layers.basic import Conv2D
from ppdiffusers.layers.blocks import check_levels
from ppdiffusers.layers.gaussian import DiagonalGaussianDistribution
from ppdiffusers.models.autoencoder import Decoder, DecoderOutput, Encoder
from ppdiffusers.models.model import Model
from ppdiffusers.outputs import Output


@dataclass
class AutoencoderKLOutput(Output):
    """`latent_dist`: the distribution of the latents; diffusion runs on a draw of it times `scaling_factor`."""

    latent_dist: DiagonalGaussianDistribution


class AutoencoderKL(Model):
    """Autoencoder whose encoder returns a normal distribution for every latent value.

    Arguments are diffusers' config keys.

    Args:
        down_block_types: from `DownEncoderBlock2D`, `AttnDownEncoderBlock2D`.
        up_block_types: from `UpDecoderBlock2D`, `AttnUpDecoderBlock2D`.
        block_out_channels: one width a level; f = 2 ** (levels - 1).
        sample_size: side in pixels that it was trained on; informative.
        scaling_factor: brings latents to unit variance. Pipelines multiply and divide by it; nothing here does.
        use_quant_conv, use_post_quant_conv: a 1x1 convolution after the encoder, and before the decoder.
        mid_block_add_attention: attention in the middle of encoder and decoder.
    """

    _fixed_config_keys = {"shift_factor": None, "latents_mean": None, "latents_std": None}
    _legacy_config_keys = {
        **dict.fromkeys(_fixed_config_keys, "of later models, which scale latents otherwise"),
        "force_upcast": "asks diffusers to run in float32; types are never changed here",
    }

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
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
    ):
        super().__init__()
        check_levels(block_out_channels, down_block_types, up_block_types)
        moments = 2 * latent_channels
        self.encoder = Encoder(self.config, moments)
        self.quant_conv = Conv2D(moments, moments, 1) if use_quant_conv else None
        self.post_quant_conv = Conv2D(latent_channels, latent_channels, 1) if use_post_quant_conv else None
        self.decoder = Decoder(self.config, latent_channels)

    def encode(
        self, x: paddle.Tensor, return_dict: bool = True
    ) -> Union[AutoencoderKLOutput, Tuple[DiagonalGaussianDistribution]]:
        """Pixels in [-1, 1], `[B, in_channels, f * h, f * w]`, to a distribution over `[B, latent_channels, h, w]`."""
        posterior = DiagonalGaussianDistribution(self._to_moments(x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: paddle.Tensor, return_dict: bool = True) -> Union[DecoderOutput, Tuple[paddle.Tensor]]:
        """Latents `[B, latent_channels, h, w]`, divided by `scaling_factor`, to `[B, out_channels, f * h, f * w]`.

        Its pixels are near [-1, 1] but not clipped.
        """
        sample = self._to_pixels(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _to_moments(self, x: paddle.Tensor) -> paddle.Tensor:
        moments = self.encoder(x)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _to_pixels(self, z: paddle.Tensor) -> paddle.Tensor:
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def forward(
        self,
        sample: paddle.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Any = None,
    ) -> Union[DecoderOutput, Tuple[paddle.Tensor]]:
        """Encode and decode `[B, C, H, W]`.

        Args:
            sample_posterior: decode a draw from the distribution, not its mean.
            generator: of the draw, as in `ppdiffusers.random.randn_tensor`.
        """
        posterior = self.encode(sample)[0]
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)
