"""Group norms of a map that is computed window by window: each window is normed as the whole map would be.

A group norm sees the mean and the variance of all its map, the one thing besides attention that no window of a map has
by itself. They change little from step to step, relative to those of a window. So while the windows of one pass are
computed their statistics are collected, and in the next pass each window's own are corrected by how the window differed
from the whole.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

Moments = Tuple[np.ndarray, np.ndarray]  # mean and variance, `[B, G, 1]` each
Values = Callable[[int, int], np.ndarray]
_ACTIVE = threading.local()


class WindowStatistics:
    """Of the windows of one map, which all have one size. Norms are told apart by the order in which they run."""

    def __init__(self) -> None:
        self._collected: Dict[int, List[Moments]] = {}
        self._corrections: Dict[int, List[Moments]] = {}

    @contextlib.contextmanager
    def window(self, number: int) -> Iterator[None]:
        """What this thread computes in here is window `number`."""
        self._collected[number], self._correction = [], self._corrections.get(number)
        self._number = number
        with _activated(self):
            yield

    def moments(
        self, mean: np.ndarray, variance: np.ndarray, epsilon: float, size: Sequence[int], values: Values
    ) -> Moments:
        """What the next norm takes for mean and variance, `[B, G, 1]`, of a window that has these.

        Args:
            size: height and width.
            values: the window itself, `[B, C, h, w]`, without so many rows and columns at each edge.
        """
        seen = self._collected[self._number]
        seen.append((mean.copy(), variance + epsilon))
        if self._correction is None:
            return mean, variance
        shift, factor = self._correction[len(seen) - 1]
        deviation = np.sqrt(variance + epsilon)
        return mean + shift * deviation, (deviation * factor) ** 2 - epsilon

    def finish(self) -> None:
        """The pass over all windows is over: the next one is corrected by what was collected."""
        numbers = sorted(self._collected)
        corrections: Dict[int, List[Moments]] = {number: [] for number in numbers}
        for norm in zip(*(self._collected[number] for number in numbers)):
            means, variances = (np.stack(each) for each in zip(*norm))
            mean = means.mean(0)
            deviation = np.sqrt((variances + (means - mean) ** 2).mean(0))
            for number, own, spread in zip(numbers, means, np.sqrt(variances)):
                # In deviations of the window, so that it holds for another step's scale too.
                corrections[number].append(((mean - own) / spread, deviation / spread))
        self._corrections, self._collected = corrections, {}


class SampledStatistics:
    """Of patches all over a map, which run through the network together as one batch.

    They are normed together, by what is `margin` or more from their edges, as a share of their side: near an edge the
    padding shows. So each norm sees what it would see in the whole map, whatever is in front of it.
    """

    def __init__(self, margin: float):
        self._margin = margin
        self._found: List[Moments] = []
        self._at: Optional[int] = None

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """What this thread computes in here is the batch of patches."""
        self._at = None
        with _activated(self):
            yield

    @contextlib.contextmanager
    def window(self, number: int) -> Iterator[None]:
        """What this thread computes in here is a window: it is normed by what the patches had."""
        self._at = 0
        with _activated(self):
            yield

    def moments(
        self, mean: np.ndarray, variance: np.ndarray, epsilon: float, size: Sequence[int], values: Values
    ) -> Moments:
        """As of `WindowStatistics`."""
        if self._at is not None:
            found = self._found[self._at]
            self._at += 1
        else:
            inner = values(*(round(self._margin * side) for side in size))
            means, squares = inner.mean((0, 2, 3), dtype=np.float64), np.square(inner).mean((0, 2, 3), dtype=np.float64)
            groups = mean.shape[1]
            middle = means.reshape(groups, -1).mean(1)
            found = middle, np.maximum(squares.reshape(groups, -1).mean(1) - middle**2, 0)
            self._found.append(found)
        middle, spread = (np.broadcast_to(each.astype(np.float32)[:, None], mean.shape) for each in found)
        return middle, spread

    def finish(self) -> None:
        """As of `WindowStatistics`; nothing is corrected here."""


def paused() -> Any:
    """A context in which norms see what they are given, as where a program is compared with its layers."""
    return _activated(None)


@contextlib.contextmanager
def _activated(statistics: Any) -> Iterator[None]:
    before, _ACTIVE.statistics = getattr(_ACTIVE, "statistics", None), statistics
    try:
        yield
    finally:
        _ACTIVE.statistics = before


def active() -> Any:
    """Of the window that this thread computes; None where a map is whole."""
    return getattr(_ACTIVE, "statistics", None)
