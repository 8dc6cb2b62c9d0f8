"""Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise."""

from __future__ import annotations

import math
import numbers
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
import paddle

from ppdiffusers.models import AutoencoderKL, VQModel
from ppdiffusers.models.model import Model
from ppdiffusers.pipelines.pipeline import DiffusionPipeline
from ppdiffusers.pipelines.results import check_count, check_latents, memory_for, to_output
from ppdiffusers.random import randn_tensor


class LatentDiffusionPipeline(DiffusionPipeline):
    """Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise.

    Raises:
        ValueError: models that do not fit each other.
    """

    vqvae: Union[AutoencoderKL, VQModel]
    unet: Any

    def __init__(self, **components: Any):
        super().__init__(**components)
        config = self.vqvae.config
        self._latent_channels = config.get("vq_embed_dim") or config.latent_channels
        taken, returned = self.unet.config.in_channels, self.unet.config.out_channels
        parts = {"latents": self._latent_channels, **self._condition_channels()}
        if taken != sum(parts.values()) or returned != self._latent_channels:
            wanted = " + ".join(f"{count} of {name}" for name, count in parts.items())
            raise ValueError(
                f"the unet takes {taken} channels and returns {returned}; "
                f"here it must take {wanted}, and return {self._latent_channels}"
            )

    def _condition_channels(self) -> Dict[str, int]:
        """What the unet sees beside the latents, and in how many channels."""
        return {}

    def _check_width(self, name: str, encoder: Model, key: str) -> None:
        """Raises ValueError where the component `name` makes conditions of another width than the unet attends to."""
        read, made = self.unet.config.cross_attention_dim, encoder.config[key]
        if read != made:
            raise ValueError(
                f"the unet reads a condition of width {read} (cross_attention_dim), and the {name} makes one of "
                f"{made} ({key}); take both from one model"
            )

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent, along one side."""
        return self.vqvae.downsampling_factor

    @property
    def _unet_multiple(self) -> int:
        """What the latents' height and width must divide by."""
        return self.unet.downsampling_factor

    def _size(self, height: Optional[int] = None, width: Optional[int] = None) -> Tuple[int, int]:
        """Height and width in pixels; for what is None, those that the unet's config names.

        Raises:
            ValueError: no multiple of `vae_scale_factor`, or nothing to go by.
        """
        factor = self.vae_scale_factor
        if height is None or width is None:
            trained = self.unet.config.sample_size
            if trained is None:
                raise ValueError("the unet's config has no sample_size; load the unet with one: from_pretrained(...)")
            sides = trained if isinstance(trained, tuple) else (trained, trained)
            height, width = (sides[i] * factor if side is None else side for i, side in enumerate((height, width)))
        for name, side in (("height", height), ("width", width)):
            check_count(name, side)
            if side % factor:
                near = max(factor, side // factor * factor)
                raise ValueError(f"{name} {side} is not a multiple of {factor}; take {near} or {near + factor}")
        return height, width

    def _noise(self, latents: Optional[Any], shape: List[int], generator: Any) -> paddle.Tensor:
        """Unit noise of `shape`: drawn, or the caller's own."""
        return randn_tensor(shape, generator) if latents is None else check_latents(latents, shape)

    def _latent_shape(self, count: int, size: Tuple[int, int]) -> List[int]:
        """Of `count` pictures: the unet works on whole multiples of its coarsest level."""
        step = self.vae_scale_factor * self._unet_multiple
        return [count, self._latent_channels, *(-(-side // step) * self._unet_multiple for side in size)]

    def _decode_to(
        self, latents: paddle.Tensor, size: Tuple[int, int], output_type: str, return_dict: bool = True
    ) -> Any:
        """What the caller gets; of the pictures' margin, which `_latent_shape` added, as much goes on every side."""
        if output_type == "latent":
            return to_output(latents, output_type, return_dict)
        top, left = ((side * self.vae_scale_factor - n) // 2 for side, n in zip(latents.shape[2:], size))
        decoded = self.decode_latents(latents)[:, top : top + size[0], left : left + size[1]]
        return to_output(list(decoded), output_type, return_dict)

    @paddle.no_grad()
    def decode_latents(self, latents: paddle.Tensor) -> np.ndarray:
        """Pictures `[B, H, W, C]` in [0, 1], float32, of latents `[B, C, h, w]`.

        Only those of an `AutoencoderKL` are divided by its `scaling_factor`: a `VQModel` was trained on unscaled
        ones, and the factor that diffusers puts into its config by default would drive them out of its codebook.
        """
        if isinstance(self.vqvae, AutoencoderKL):
            latents = latents / self.vqvae.config.scaling_factor
        vqvae = self._model("vqvae", "_to_pixels", latents.shape)
        with memory_for(latents, self.vae_scale_factor):
            sample = vqvae.decode(latents.astype(vqvae.dtype))[0]
            return np.clip(sample.astype("float32").numpy().transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)


def check_guidance(guidance_scale: Any) -> None:
    """Raises TypeError or ValueError for what is no finite number."""
    if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, numbers.Real):
        raise TypeError(f"guidance_scale must be a number, not {guidance_scale!r}")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale {guidance_scale} is not finite; 1.5 to 8 are usual, 1 is none")
