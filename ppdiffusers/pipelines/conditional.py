"""What the pipelines share whose U-Net attends to a condition: sizes and classifier-free guidance."""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any, Iterator, List, Optional, Tuple

import paddle

from ppdiffusers.models import UNet2DConditionModel
from ppdiffusers.models.model import Model
from ppdiffusers.pipelines.noise_to_image import NoiseToImagePipeline
from ppdiffusers.pipelines.results import DenoisingProgress, check_count


class ConditionalPipeline(NoiseToImagePipeline):
    """Base of the pipelines whose `unet` attends to what their `_encode` makes of the call's inputs
    (arXiv 2112.10752, section 3.3)."""

    unet: UNet2DConditionModel

    def _encode(self, inputs: List[Any]) -> paddle.Tensor:
        """The condition `[len(inputs), T, D]`."""
        raise NotImplementedError

    def _check_width(self, name: str, encoder: Model, key: str) -> None:
        """Raises ValueError where the component `name` makes conditions of another width than the unet reads."""
        read, made = self.unet.config.cross_attention_dim, encoder.config[key]
        if read != made:
            raise ValueError(
                f"the unet reads a condition of width {read} (cross_attention_dim), and the {name} makes one of "
                f"{made} ({key}); take both from one model"
            )

    def _size(self, height: Optional[int], width: Optional[int]) -> Tuple[int, int]:
        """Height and width in pixels; the trained one for what is None."""
        if height is None or width is None:
            trained = self._trained_size()
            height, width = trained[0] if height is None else height, trained[1] if width is None else width
        factor = self.vae_scale_factor
        for name, side in (("height", height), ("width", width)):
            check_count(name, side)
            if side % factor:
                near = max(factor, side // factor * factor)
                raise ValueError(f"{name} {side} is not a multiple of {factor}; take {near} or {near + factor}")
        return height, width

    def _generate_guided(
        self, positives: List[Any], negatives: Optional[List[Any]], guidance_scale: float, repeats: int, **run: Any
    ) -> Iterator[DenoisingProgress]:
        """The `stream` of `repeats` pictures of each input, led away from the negative of the same place.

        Args:
            negatives: None does without guidance, at half the work.
            run: the remaining arguments of `_generate`.
        """
        with paddle.no_grad():
            condition = self._encode(positives if negatives is None else negatives + positives)
            condition = condition.repeat_interleave(repeats, axis=0).astype(self.unet.dtype)
        predict = functools.partial(self._predict, condition, None if negatives is None else guidance_scale)
        yield from self._generate(len(positives) * repeats, predict=predict, **run)

    def _predict(
        self,
        condition: paddle.Tensor,
        guidance_scale: Optional[float],
        latents: paddle.Tensor,
        timestep: float,
        **options: Any,
    ) -> paddle.Tensor:
        """`condition` is `[2 * B, T, D]` with guidance, the negative half first, and `[B, T, D]` without."""
        latents = latents.astype(self.unet.dtype)
        if guidance_scale is None:
            return self.unet(latents, timestep, condition, **options)[0]
        prediction = self.unet(paddle.concat([latents, latents]), timestep, condition, **options)[0].astype("float32")
        negative, positive = prediction.chunk(2)
        return negative + guidance_scale * (positive - negative)  # arXiv 2207.12598, equation 6; the scale is 1 + w


def check_guidance(guidance_scale: Any) -> None:
    """Raises TypeError or ValueError for what is no finite number."""
    if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, numbers.Real):
        raise TypeError(f"guidance_scale must be a number, not {guidance_scale!r}")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale {guidance_scale} is not finite; 1.5 to 8 are usual, 1 is none")
