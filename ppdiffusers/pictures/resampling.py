"""Averages over areas."""

from __future__ import annotations

import numpy as np


def area_resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each pixel of the result is the mean of the area that it covers, parts of pixels counted as such.

    Args:
        values: `[H, W, C]`, floats; with C 2 or 4 the last channel is alpha, and colours are weighted by it.
        height, width: of the result, at most those of `values`.

    Returns:
        `[height, width, C]`, float32.
    """
    values = np.asarray(values, np.float32)
    if values.shape[2] in (2, 4):
        alpha = values[..., -1:]
        means = _axis(_axis(np.concatenate([values[..., :-1] * alpha, values], axis=-1), height, 0), width, 1)
        colours, count = means[..., : values.shape[2] - 1], values.shape[2] - 1
        weight, plain = means[..., -1:], means[..., count : 2 * count]
        weighted = np.where(weight > 1e-6, colours / np.maximum(weight, 1e-6), plain)
        return np.concatenate([weighted, weight], axis=-1)
    return _axis(_axis(values, height, 0), width, 1)


def _axis(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    before = values.shape[axis]
    if before == length:
        return values
    ends = np.arange(length + 1) * (before / length)
    first = np.floor(ends[:-1] + 1e-9).astype(int)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    total = np.zeros([length if i == axis else n for i, n in enumerate(values.shape)], np.float32)
    for step in range(int(np.ceil(before / length)) + 1):
        index = first + step
        covered = np.clip(np.minimum(ends[1:], index + 1) - np.maximum(ends[:-1], index), 0, 1)
        weight = (covered * (length / before)).astype(np.float32).reshape(shape)
        total += weight * np.take(values, np.minimum(index, before - 1), axis=axis)
    return total
