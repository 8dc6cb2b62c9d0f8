"""Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise."""

from __future__ import annotations

import math
import numbers
from math import prod
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import paddle

from ppdiffusers.layers.statistics import SampledStatistics
from ppdiffusers.memory import available
from ppdiffusers.models import AutoencoderKL, VQModel
from ppdiffusers.models.model import Model
from ppdiffusers.pipelines.pipeline import DiffusionPipeline
from ppdiffusers.pipelines.results import check_count, check_latents, memory_for, to_output
from ppdiffusers.pipelines.tiling import OVERLAP, Blend, Windows, patches, windows_of
from ppdiffusers.random import randn_tensor

AUTOMATIC = "auto"
_PATCH, _MARGIN = 48, 12  # latents a side that the decoder's norms see of a large map at each of many places
_AT_ONCE = 1 << 29  # bytes of maps, with as much as the models themselves take
_UNET_MAPS, _DECODER_MAPS = 9, 7  # of the outermost width, that are alive at the same time


class LatentDiffusionPipeline(DiffusionPipeline):
    """Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise.

    Raises:
        ValueError: models that do not fit each other.
    """

    vqvae: Union[AutoencoderKL, VQModel]
    unet: Any

    def __init__(self, **components: Any):
        super().__init__(**components)
        self._tile: Any = AUTOMATIC  # most latents along a side of a window; None: no windows
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

    def enable_tiling(self, tile: Optional[int] = None) -> None:
        """Compute large pictures by windows that overlap and are blended, at every step and in decoding.

        It bounds the memory that a picture takes, whatever its size. Pictures that take more than half a gigabyte at
        once are done so without being asked.

        Args:
            tile: the most pixels of the result along a side of a window; None chooses by what the models need, and
                smaller ones where little memory is free.

        Raises:
            ValueError: below the smallest window.
        """
        if tile is not None:
            check_count("tile", tile)
            least = self._least_window * self.vae_scale_factor
            if tile < least:
                raise ValueError(f"tile {tile} is too small for what neighbours share; give {least} or more pixels")
        self._tile = AUTOMATIC if tile is None else tile // self.vae_scale_factor

    def disable_tiling(self) -> None:
        """Compute every picture at once, however much memory that takes."""
        self._tile = None

    @property
    def _least_window(self) -> int:
        """Side of the smallest window, in latents."""
        return 4 * OVERLAP

    def _windows(self, name: str, shape: Sequence[int]) -> Optional[Windows]:
        if self._tile is None:
            return None
        if self._tile != AUTOMATIC:
            return self._cut(name, shape, self._tile**2)
        most = min(_AT_ONCE + self._bytes_of_weights(), available() / 2) / self._bytes_a_latent(name)
        return None if prod(shape) / shape[1] <= most else self._cut(name, shape, most / shape[0] / 2)

    def _smaller_windows(self, name: str, shape: Sequence[int], windows: Optional[Windows]) -> Optional[Windows]:
        if self._tile is None:
            return None
        before = prod(shape[2:] if windows is None else windows.shape)
        return self._cut(name, shape, before / 2) if before / 2 >= self._least_window**2 else None

    def _cut(self, name: str, shape: Sequence[int], latents: float) -> Optional[Windows]:
        overlap, multiple = (OVERLAP, self._unet_multiple) if name == "unet" else (OVERLAP // 2, 1)
        height, width = shape[2:]
        return windows_of(height, width, max(latents, self._least_window**2), overlap, multiple)

    def _bytes_a_latent(self, name: str) -> float:
        """That the network's maps take at once in float32, about: measured on the plans of oneDNN."""
        maps = _UNET_MAPS if name == "unet" else _DECODER_MAPS * self.vae_scale_factor**2
        return 4 * maps * self.components[name].config.block_out_channels[0]

    def _bytes_of_weights(self) -> int:
        """Of models that are layers."""
        models = [self.components[name] for name in ("unet", "vqvae")]
        return sum(
            4 * weight.size for model in models if not hasattr(model, "with_engine") for weight in model.parameters()
        )

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
        bands = list(self._decoded(latents))
        return bands[0] if len(bands) == 1 else np.concatenate(bands, axis=1)

    @paddle.no_grad()
    def _decoded(self, latents: paddle.Tensor) -> Iterator[np.ndarray]:
        """As `decode_latents`, in bands of rows from the top."""
        if isinstance(self.vqvae, AutoencoderKL):
            latents = latents / self.vqvae.config.scaling_factor
        windows = self._windows("vqvae", latents.shape)
        while True:
            done = 0
            try:
                for band in self._decoded_by(windows, latents):
                    done += 1
                    yield _to_unit(band)
                return
            except MemoryError:
                windows = self._smaller_windows("vqvae", latents.shape, windows)
                if done or windows is None:
                    with memory_for(latents, self.vae_scale_factor):
                        raise

    def _decoded_by(self, windows: Optional[Windows], latents: paddle.Tensor) -> Iterator[paddle.Tensor]:
        if windows is None:
            vqvae = self._model("vqvae", "_to_pixels", latents.shape)
            yield vqvae.decode(latents.astype(vqvae.dtype))[0]
            return
        vqvae = self._model("vqvae", "_to_pixels", [*latents.shape[:2], *windows.shape], len(windows))
        quantized = vqvae.quantize(latents.astype(vqvae.dtype))[0] if isinstance(vqvae, VQModel) else latents

        def decode(part: paddle.Tensor) -> paddle.Tensor:
            return vqvae._to_pixels(part.astype(vqvae.dtype))

        statistics = SampledStatistics(_MARGIN / _PATCH)
        with statistics.sampling():
            count = int(min(36, max(4, 1.5 * prod(windows.shape) / _PATCH**2)))  # in about a window's memory
            decode(patches(quantized, _PATCH, count))
        yield from Blend(windows, statistics).bands(lambda window, number: decode(window.of(quantized)))


def _to_unit(pixels: paddle.Tensor) -> np.ndarray:
    """`[B, C, H, W]` near [-1, 1] as `[B, H, W, C]` in [0, 1], with one copy in memory: it may be large."""
    values = pixels.astype("float32").numpy()
    values /= 2
    values += 0.5
    return np.clip(values, 0, 1, out=values).transpose(0, 2, 3, 1)


def cropped(bands: Iterable[np.ndarray], height: int, width: int) -> Iterator[np.ndarray]:
    """Bands `[B, rows, W, C]` without what lies right of `width` and below `height`."""
    for band in bands:
        band = band[:, :height, :width]
        if band.shape[1]:
            yield band
        height -= band.shape[1]


def check_guidance(guidance_scale: Any) -> None:
    """Raises TypeError or ValueError for what is no finite number."""
    if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, numbers.Real):
        raise TypeError(f"guidance_scale must be a number, not {guidance_scale!r}")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale {guidance_scale} is not finite; 1.5 to 8 are usual, 1 is none")
