"""Masks: which pixels of a picture are painted anew, and how these join the ones that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Tuple

import numpy as np

from ppdiffusers.images import ImageError, Picture, to_pictures

BLENDS = ("seamless", "paste")

_MARGIN = 8  # pixels around a mask's bounding box where the painted picture is compared with the given one
_LARGEST_DIFFERENCE = 0.1  # from the median difference: more is no colour cast but an edge that the model moved
_SWEEPS = 16  # a level; what is then missing is below half an 8-bit level
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's mode L


@dataclass
class MaskedPicture:
    """`mask`: `[H, W]` bool, true where `picture` is to be painted anew."""

    picture: Picture
    mask: np.ndarray

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width."""
        return self.picture.size


def mask_pictures(image: Any, mask_image: Any) -> List[MaskedPicture]:
    """Pair pictures with masks; a single mask serves all pictures, and a single picture takes every mask in turn.

    Raises:
        ImageError: what `to_pictures` or `to_masks` cannot use, or sizes or numbers that differ.
    """
    pictures, masks = to_pictures(image), to_masks(mask_image)
    count = max(len(pictures), len(masks))
    if not {len(pictures), len(masks)} <= {1, count}:
        raise ImageError(f"{len(pictures)} pictures and {len(masks)} masks; give one mask, or one for each picture")
    pairs = zip(pictures * (count // len(pictures)), masks * (count // len(masks)))
    masked = [MaskedPicture(picture, mask) for picture, mask in pairs]
    for item in masked:
        (height, width), (rows, columns) = item.size, item.mask.shape
        if (height, width) != (rows, columns):
            raise ImageError(
                f"the picture is {width}x{height} pixels and the mask {columns}x{rows}; make the mask as large"
            )
    return masked


def to_masks(mask: Any) -> List[np.ndarray]:
    """Masks `[H, W]`, true where the given one is at least half white.

    - PIL images of any mode; transparency counts as black.
    - arrays `[H, W]`, `[H, W, C]` or `[B, H, W, C]`: bool, uint8, uint16, or floats in [0, 1].
    - Paddle tensors `[1, H, W]` or `[B, 1, H, W]` in [0, 1].
    - a list or tuple of those.

    Raises:
        ImageError: anything else, values out of range, NaN, or no masks at all.
    """
    if isinstance(mask, (list, tuple)) and mask:
        return [part for item in mask for part in to_masks(item)]
    if type(mask).__module__.partition(".")[0] == "paddle":
        mask = mask.astype("float32").numpy()
        if mask.ndim not in (3, 4) or mask.shape[-3] != 1:
            raise ImageError(f"mask_image: a tensor of shape {list(mask.shape)} is no mask; use [B, 1, H, W] in [0, 1]")
        mask = np.moveaxis(mask, -3, -1)
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = mask.astype(np.float32)
    try:
        return [_luminance(picture) >= 0.5 for picture in to_pictures(mask)]
    except ImageError as error:
        raise ImageError(f"mask_image: {error}") from None


def _luminance(mask: Picture) -> np.ndarray:
    if 0 < mask.unit.max() < 1.5 / 255:
        raise ImageError("the largest value is 1 of 255, which is black; use bool, or 255 where to paint")
    colours = mask.unit if mask.alpha is None else mask.unit[..., :-1]
    grey = colours[..., 0] if colours.shape[-1] == 1 else colours @ _LUMINANCE
    return grey if mask.alpha is None else grey * mask.alpha


def join(masked: MaskedPicture, painted: np.ndarray, blend: str = "seamless") -> np.ndarray:
    """The given picture where there is no mask, to the bit, and `painted` where there is.

    A decoder gives back even what it was shown with slightly other colours. "seamless" measures that where the
    mask ends and takes it out inside by a membrane (Perez et al., Poisson image editing, 2003): what was painted
    keeps its gradients and meets the given pixels without a step. Alpha is continued in the same manner.

    Args:
        painted: `[H, W, 3]` in [0, 1].
        blend: "seamless" or "paste".

    Returns:
        `[H, W, 3]` float32 in [0, 1], or `[H, W, 4]` for a picture with an alpha channel.
    """
    picture, mask = masked.picture, masked.mask
    colours = picture.unit if picture.alpha is None else picture.unit[..., :-1]
    if picture.grey:
        painted = np.repeat(painted.mean(axis=-1, keepdims=True), 3, axis=-1)
    layers = [np.where(mask[..., None], painted, colours)]
    if picture.alpha is not None:
        layers.append(np.where(mask, np.float32(1), picture.alpha)[..., None])
    result = np.concatenate(layers, axis=-1)
    if mask.all() or not mask.any():
        return result

    box = _bounding_box(mask)
    hole, part = mask[box], result[box]
    if blend == "seamless":
        difference = picture.rgb[box] / 2 + np.float32(0.5) - painted[box]
        centre = np.median(difference[~hole], axis=0)
        steady = centre + np.clip(difference - centre, -_LARGEST_DIFFERENCE, _LARGEST_DIFFERENCE)
        part[hole, :3] = np.clip(painted[box] + fill_smoothly(steady, ~hole), 0, 1)[hole]
    if picture.is_transparent:
        part[..., 3:] = fill_smoothly(part[..., 3:], ~hole)
    return result


def _bounding_box(mask: np.ndarray) -> Tuple[slice, slice]:
    """Of the mask and a margin, as far as the picture goes."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    first = [max(0, int(line[0]) - _MARGIN) for line in (rows, columns)]
    return slice(first[0], int(rows[-1]) + 1 + _MARGIN), slice(first[1], int(columns[-1]) + 1 + _MARGIN)


def fill_smoothly(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`values` where they are known, and between them the membrane that they span: every other pixel is the mean
    of its neighbours (Laplace's equation).

    Solved on ever finer grids, each from the coarser one's solution.

    Args:
        values: `[H, W, C]`, whatever where it is not known; known: `[H, W]` bool, true somewhere.
    """
    height, width = known.shape
    if known.all():
        return values
    if max(height, width) == 1:
        raise ValueError("nothing is known; give at least one pixel")
    odd = ((0, height % 2), (0, width % 2))
    weight = _sum_blocks(np.pad(known.astype(np.float32), odd))
    sums = _sum_blocks(np.pad(np.where(known[..., None], values, 0), (*odd, (0, 0))))
    coarse = fill_smoothly(sums / np.maximum(weight, 1)[..., None], weight > 0)
    filled = _double(_double(coarse, 0), 1)[:height, :width]
    count = _neighbours(np.ones((height, width, 1), np.float32))
    for _ in range(_SWEEPS):
        filled = np.where(known[..., None], values, _neighbours(filled) / count)
    return filled.astype(values.dtype)


def _sum_blocks(values: np.ndarray) -> np.ndarray:
    """Of 2 x 2."""
    return values[0::2, 0::2] + values[1::2, 0::2] + values[0::2, 1::2] + values[1::2, 1::2]


def _double(values: np.ndarray, axis: int) -> np.ndarray:
    """Twice as long along `axis`, linearly."""
    values = np.moveaxis(values, axis, 0)
    padded = np.concatenate([values[:1], values, values[-1:]])
    pairs = [0.75 * values + 0.25 * padded[:-2], 0.75 * values + 0.25 * padded[2:]]
    return np.moveaxis(np.stack(pairs, axis=1).reshape(-1, *values.shape[1:]), 0, axis)


def _neighbours(values: np.ndarray) -> np.ndarray:
    """The sum of the four, or fewer at the picture's border."""
    total = np.zeros_like(values)
    total[1:] += values[:-1]
    total[:-1] += values[1:]
    total[:, 1:] += values[:, :-1]
    total[:, :-1] += values[:, 1:]
    return total
