"""True to the input: an enlarged picture, averaged down, is the picture that it was made from.

What a result lacks against its input is enlarged and added, which is repeated (iterative back-projection, Irani and
Peleg, 1991). Where the input is smooth, a plane and nothing else, the result is smooth too: no detail is known there.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator, List

import numpy as np
from PIL import Image

INDEX_KEY = "_consistency"  # of `model_index.json`: the rounds that a model recommends
ROUNDS = 3  # a fourth changes nothing that is seen
_HALO = 10  # rows of the input on which a row of the result depends, above and below
_SMOOTH, _DETAILED = 1 / 255, 4 / 255  # deviation from a plane: below the first no detail is kept, above the second all
_BLOCK = 1 << 21  # values of the result that are worked on at once, about


def make_consistent(bands: Iterable[np.ndarray], low: np.ndarray, rounds: int = ROUNDS) -> Iterator[np.ndarray]:
    """Results that averaged down are `low`, in bands of rows as they come.

    Args:
        bands: `[B, rows, f * W, C]` in [0, 1], from the top of the results to their bottom, together `f * H` rows.
        low: the inputs, `[B, H, W, C]` in [0, 1].
        rounds: of back-projection; 0 returns `bands`.
    """
    if not rounds:
        yield from bands
        return
    height, width = low.shape[1:3]
    rows_at_once = max(_HALO, _BLOCK // (16 * low[:, 0].size))
    waiting: List[np.ndarray] = []  # rows of the results from `top * factor` on
    top = done = held = 0
    for band in bands:
        factor = band.shape[2] // width
        waiting.append(band)
        held += band.shape[1]
        known = top + held // factor  # rows of `low` whose results are there
        ready = known if known == height else known - _HALO
        while done < ready:
            stop = min(ready, done + rows_at_once)
            if len(waiting) > 1:
                waiting = [np.concatenate(waiting, axis=1)]
            first, last = max(0, done - _HALO), min(height, stop + _HALO)
            part = waiting[0][:, (first - top) * factor : (last - top) * factor]
            result = np.stack([_consistent(*pair, rounds) for pair in zip(part, low[:, first:last])])
            yield result[:, (done - first) * factor : (stop - first) * factor]
            done = stop
        drop = max(0, done - _HALO) - top
        if drop > 0 and waiting:
            waiting = [np.concatenate(waiting, axis=1)[:, drop * factor :]]
            top, held = top + drop, held - drop * factor


def check_rounds(rounds: Any) -> None:
    """Raises ValueError for what is no number of rounds."""
    if not isinstance(rounds, int) or isinstance(rounds, bool) or not 0 <= rounds <= 100:
        raise ValueError(f"consistency {rounds!r} is not a number of rounds; {ROUNDS} are usual, 0 is none")


def _consistent(result: np.ndarray, low: np.ndarray, rounds: int) -> np.ndarray:
    """Of one picture, `[f * H, f * W, C]` of `[H, W, C]`."""
    height, width, channels = low.shape
    factor = result.shape[0] // height
    smooth = 1 - _enlarged(_detail(low)[..., None], factor, Image.Resampling.BILINEAR)
    if smooth.max() > 0:
        result = result + np.clip(smooth, 0, 1) * (_enlarged(low, factor) - result)
    for _ in range(rounds):
        blocks = result.reshape(height, factor, width, factor, channels)
        lack = low - blocks.mean((1, 3), dtype=np.float32)
        result = np.clip(result + _enlarged(lack, factor), 0, 1)
    return result


def _detail(low: np.ndarray) -> np.ndarray:
    """`[H, W]` in [0, 1]: 0 where the picture near by is a plane, 1 where it has structure."""
    height, width = low.shape[:2]
    padded = np.pad(low, ((1, 1), (1, 1), (0, 0)), mode="reflect", reflect_type="odd")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    deviation = np.abs(low - (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9).max(-1)
    near = np.pad(deviation, 2, mode="edge")
    rows = np.max([near[i : i + height] for i in range(5)], axis=0)
    near = np.max([rows[:, i : i + width] for i in range(5)], axis=0)
    return np.clip((near - _SMOOTH) / (_DETAILED - _SMOOTH), 0, 1).astype(np.float32)


def _enlarged(values: np.ndarray, factor: int, kind: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    height, width, channels = values.shape
    size = factor * width, factor * height
    planes = [Image.fromarray(np.ascontiguousarray(values[..., i])).resize(size, kind) for i in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
