"""Pictures in memory: every kind that users have, as arrays that the networks take. Files are read in `pictures`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from ppdiffusers.pictures import MAX_PIXELS, ImageError, open_image
from ppdiffusers.pictures.reading import to_array

__all__ = [
    "MAX_PIXELS",
    "ImageError",
    "Picture",
    "bleed",
    "open_image",
    "pad_to_multiple",
    "sheet",
    "to_pictures",
    "to_pil",
]


@dataclass
class Picture:
    """One picture, taken apart.

    `rgb`: `[H, W, 3]` float32 in [-1, 1]. `unit`: what it came from, `[H, W, 1 to 4]` float32 in [0, 1], with the
    colours that transparency hides. `alpha`: `[H, W]` float32 in [0, 1], None without an alpha channel. `grey`:
    whether the original had no colours.
    """

    rgb: np.ndarray
    unit: np.ndarray
    alpha: Optional[np.ndarray] = None
    grey: bool = False

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width."""
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def is_transparent(self) -> bool:
        return self.alpha is not None and bool(self.alpha.min() < 1)


def to_pictures(image: Any) -> List[Picture]:
    """Take apart whatever a user calls a picture, or several.

    - PIL images of any mode; 16-bit grey keeps its precision.
    - arrays `[H, W]`, `[H, W, C]` or `[B, H, W, C]`, C = 1 to 4: uint8, uint16, or floats in [0, 1].
    - Paddle tensors `[C, H, W]` or `[B, C, H, W]` in [-1, 1], as diffusers takes them.
    - a list or tuple of those.

    Raises:
        ImageError: anything else, values out of range, NaN, or no pictures at all.
    """
    if isinstance(image, (list, tuple)):
        if not image:
            raise ImageError("the list of pictures is empty; give at least one")
        return [picture for item in image for picture in to_pictures(item)]
    if isinstance(image, Image.Image):
        return [_from_array(to_array(image))]
    if isinstance(image, np.ndarray):
        return [_from_array(item) for item in (image if image.ndim == 4 else [image])]
    if type(image).__module__.partition(".")[0] == "paddle":
        return _from_tensor(image)
    raise ImageError(
        f"cannot use a {type(image).__name__} as a picture; give a PIL image, a numpy array, a Paddle tensor "
        "or a list of them (ppdiffusers.open_image reads a file)"
    )


def _from_array(values: np.ndarray) -> Picture:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not 1 <= values.shape[2] <= 4 or 0 in values.shape:
        raise ImageError(f"an array of shape {list(values.shape)} is not a picture; use [H, W, C] with C from 1 to 4")
    if values.dtype == np.uint8:
        unit = values.astype(np.float32) / 255
    elif values.dtype == np.uint16:
        unit = values.astype(np.float32) / 65535
    elif values.dtype.kind == "f":
        unit = values.astype(np.float32)
        _check_range(unit, 0, 1)
    else:
        raise ImageError(f"an array of {values.dtype} is not a picture; use uint8, uint16, or floats in [0, 1]")
    channels = unit.shape[2]
    alpha = unit[..., -1] if channels in (2, 4) else None
    colours = unit[..., : channels - 1] if alpha is not None else unit
    if alpha is not None:
        colours = bleed(colours, alpha)
    rgb = np.repeat(colours, 3, axis=-1) if colours.shape[2] == 1 else colours
    return Picture(np.ascontiguousarray(rgb * 2 - 1), unit, alpha, grey=channels <= 2)


def _from_tensor(tensor: Any) -> List[Picture]:
    values = tensor.astype("float32").numpy()
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        raise ImageError(f"a tensor of shape {list(tensor.shape)} is not a picture; use [B, 3, H, W] in [-1, 1]")
    _check_range(values, -1, 1)
    grey = values.shape[1] == 1
    values = np.repeat(values, 3, axis=1) if grey else values
    pixels = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    return [Picture(item, item / 2 + np.float32(0.5), grey=grey) for item in pixels]


def _check_range(values: np.ndarray, low: float, high: float) -> None:
    if not np.isfinite(values).all():
        raise ImageError("the picture holds NaN or infinite values")
    slack = 1e-3
    if values.min() < low - slack or values.max() > high + slack:
        raise ImageError(
            f"the picture's values run from {values.min():.4g} to {values.max():.4g}; they must be in [{low}, {high}]"
        )


def bleed(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill in the colour of transparent pixels from opaque ones near by.

    What lies under transparency is arbitrary, often black, and would darken the edges when it is
    scaled. Averages of ever larger blocks, each weighted by alpha, fill what finer ones cannot.

    Args:
        colours: `[H, W, C]`; alpha: `[H, W]` in [0, 1].
    """
    height, width = alpha.shape
    weighted, weight = colours * alpha[..., None], alpha
    if min(height, width) > 1:
        odd = ((0, height % 2), (0, width % 2))
        halves = [np.pad(weighted, (*odd, (0, 0))), np.pad(weight, odd)]
        sums = [x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2] for x in halves]
        coarse = bleed(sums[0] / np.maximum(sums[1], 1e-8)[..., None], np.minimum(sums[1], 1))
        coarse = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    else:
        total = weight.sum()
        mean = weighted.sum(axis=(0, 1)) / total if total > 0 else colours.mean(axis=(0, 1))
        coarse = np.broadcast_to(mean, colours.shape)
    return (weighted + (1 - weight[..., None]) * coarse).astype(np.float32)


def pad_to_multiple(values: np.ndarray, multiple: int, mode: Any = "symmetric") -> np.ndarray:
    """`[B, H, W, C]` mirrored at the bottom and right until height and width divide by `multiple`.

    Args:
        mode: of `numpy.pad`; "edge" repeats the last pixels.
    """
    height, width = values.shape[1:3]
    rows, columns = -height % multiple, -width % multiple
    return np.pad(values, ((0, 0), (0, rows), (0, columns), (0, 0)), mode=mode)


def to_pil(values: np.ndarray, grey: bool = False) -> Image.Image:
    """`[H, W, 3 or 4]` in [0, 1], to an 8-bit PIL image; colours are averaged away with `grey`."""
    if grey:
        values = np.concatenate([values[..., :3].mean(axis=-1, keepdims=True), values[..., 3:]], axis=-1)
    levels = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def sheet(columns: Sequence[Tuple[str, Image.Image]], gap: int = 8) -> Image.Image:
    """Labelled pictures side by side on white."""
    from PIL import ImageDraw

    label_height = 16
    width = sum(image.width for _, image in columns) + gap * (len(columns) + 1)
    height = max(image.height for _, image in columns) + 2 * gap + label_height
    result = Image.new("RGB", (width, height), "white")
    draw, left = ImageDraw.Draw(result), gap
    for label, image in columns:
        draw.text((left, gap // 2), label, fill="black")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image.convert("RGBA"))
        result.paste(flat.convert("RGB"), (left, gap + label_height))
        left += image.width + gap
    return result
