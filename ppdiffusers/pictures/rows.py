"""Pictures that are computed while they are written."""

from __future__ import annotations

import itertools
from typing import Any, Iterator, List, Tuple

import numpy as np


class Rows:
    """A picture `[H, W, C]` whose rows are computed when they are asked for: once, from the top.

    Either its rows are taken by slices, each going on where the one before ended, or all of it by `numpy.asarray`.

    Args:
        bands: `[rows, W, C]` of `dtype`, together `shape`.
    """

    def __init__(self, bands: Iterator[np.ndarray], shape: Tuple[int, int, int], dtype: Any):
        self._bands, self.shape, self.dtype = bands, shape, np.dtype(dtype)
        self._waiting = np.empty((0, *shape[1:]), dtype)
        self._next = 0  # row that is taken next

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        if start != self._next:
            raise ValueError(f"row {self._next} comes next, not {start}")
        parts: List[np.ndarray] = [self._waiting]
        while sum(map(len, parts)) < stop - start:
            parts.append(next(self._bands))
        together = np.concatenate(parts)
        self._waiting = together[stop - start :]
        self._next = stop
        return together[: stop - start]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        result = np.empty(self.shape, self.dtype)
        place = self._next
        for band in itertools.chain([self._waiting], self._bands):
            result[place : place + len(band)] = band
            place += len(band)
        self._waiting, self._bands = result, iter(())  # so that it can be asked for again
        self._next = 0
        return result if dtype is None else result.astype(dtype)
