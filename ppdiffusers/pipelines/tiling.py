"""Large maps, a window at a time: windows overlap, and what they give is blended.

The noise and the scheduler's steps are those of the whole map. Only what the networks predict is computed by windows,
at every step anew, so that no window can go a way of its own (MultiDiffusion, arXiv 2302.08113). Group norms see the
whole map's statistics, see `ppdiffusers.layers.statistics`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Dict, Hashable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import paddle

from ppdiffusers.layers.statistics import WindowStatistics

OVERLAP = 16  # latents that neighbours share


class Span(NamedTuple):
    """A window along one axis: `start` to `stop`, of which it shares `before` and `after` with its neighbours."""

    start: int
    stop: int
    before: int
    after: int

    def scaled(self, factor: int) -> Span:
        return Span(*(factor * number for number in self))

    @property
    def weights(self) -> np.ndarray:
        """How much it counts at each place; those of all windows add up to 1."""
        weights = np.ones(self.stop - self.start, np.float32)
        if self.before:
            weights[: self.before] = (np.arange(self.before) + 0.5) / self.before
        if self.after:
            weights[-self.after :] *= 1 - (np.arange(self.after) + np.float32(0.5)) / self.after
        return weights


class Window(NamedTuple):
    rows: Span
    columns: Span

    def of(self, values: Any) -> Any:
        """Its part of a map `[B, C, H, W]`."""
        return values[:, :, self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    @property
    def weights(self) -> np.ndarray:
        return self.rows.weights[:, None] * self.columns.weights


Compute = Callable[[Window, int], paddle.Tensor]


def spans(length: int, most: int, overlap: int, multiple: int = 1) -> List[Span]:
    """As few windows of one size as cover `length`, all as small as can be.

    Args:
        most: no window is larger; itself a multiple.
        overlap: that neighbours share at least.
        multiple: of starts and sizes, and of `length`.
    """
    if length <= most:
        return [Span(0, length, 0, 0)]
    overlap = min(overlap, most // 3)
    count = -(-(length - overlap) // (most - overlap))
    while True:
        size = min(most, -(-(length + (count - 1) * overlap) // (count * multiple)) * multiple)
        starts = [(length - size) * i // ((count - 1) * multiple) * multiple for i in range(count)]
        shared = [a + size - b for a, b in zip(starts, starts[1:])]
        if min(shared) >= overlap:
            break
        count += 1  # rounding took some
    return [
        Span(start, start + size, before, after) for start, before, after in zip(starts, [0, *shared], [*shared, 0])
    ]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Of a map, row by row."""

    rows: List[Span]
    columns: List[Span]

    @property
    def shape(self) -> Tuple[int, int]:
        """Of each."""
        return self.rows[0].stop, self.columns[0].stop

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Window]:
        return (Window(rows, columns) for rows in self.rows for columns in self.columns)


def windows_of(height: int, width: int, pixels: float, overlap: int = OVERLAP, multiple: int = 1) -> Optional[Windows]:
    """Windows of about `pixels` at most; None where the map is no larger than that.

    Args:
        multiple: as of `spans`.
    """
    if height * width <= pixels:
        return None
    # A strip has longer windows than a square.
    most = (max(pixels**0.5, pixels / other) for other in (width, height))
    sides = [max(int(side) // multiple, 2) * multiple for side in most]
    return Windows(*(spans(length, side, overlap, multiple) for length, side in zip((height, width), sides)))


def patches(latents: paddle.Tensor, side: int, most: int) -> paddle.Tensor:
    """About `most` squares `[N * B, C, side, side]` of a map `[B, C, h, w]`, evenly spread over it."""
    height, width = latents.shape[2:]
    rows = max(1, round((most * height / width) ** 0.5))
    columns = max(1, most // rows)
    tops, lefts = (
        np.linspace(0, n - side, count).round().astype(int) for n, count in ((height, rows), (width, columns))
    )
    return paddle.concat([latents[:, :, y : y + side, x : x + side] for y in tops for x in lefts])


class Blend:
    """Computes maps by windows, pass after pass, and blends them.

    Args:
        compute: called with a window and its number, gives this part of the map, `[B, C, f * h, f * w]`.
    """

    def __init__(self, windows: Windows, statistics: Any = None):
        self.windows = windows
        self._statistics: Dict[Hashable, Any] = {} if statistics is None else {None: statistics}

    def look(self, compute: Compute, kind: Hashable = None) -> None:
        """A pass for the statistics alone."""
        statistics = self._statistics.setdefault(kind, WindowStatistics())
        for number, window in enumerate(self.windows):
            with statistics.window(number):
                compute(window, number)
        statistics.finish()

    def bands(self, compute: Compute, kind: Hashable = None) -> Iterator[paddle.Tensor]:
        """The map from its top to its bottom, in parts `[B, C, rows, f * W]` that are finished.

        Args:
            kind: of the pass; those of one kind run the same norms.
        """
        statistics = self._statistics.setdefault(kind, WindowStatistics())
        open_rows: Any = None  # which the next windows share
        numbers = iter(range(len(self.windows)))
        for rows in self.windows.rows:
            band: Any = None
            for columns in self.windows.columns:
                window, number = Window(rows, columns), next(numbers)
                with statistics.window(number):
                    values = compute(window, number).astype("float32")
                factor = values.shape[2] // (rows.stop - rows.start)
                if band is None:
                    width = factor * self.windows.columns[-1].stop
                    band = paddle.zeros([*values.shape[:3], width])
                    if open_rows is not None:
                        band[:, :, : open_rows.shape[2]] = open_rows
                scaled = Window(rows.scaled(factor), columns.scaled(factor))
                place = slice(scaled.columns.start, scaled.columns.stop)
                band[:, :, :, place] = band[:, :, :, place] + values * paddle.to_tensor(scaled.weights)
            finished = band.shape[2] - factor * rows.after
            open_rows = band[:, :, finished:] if rows.after else None
            band = band[:, :, :finished]
            yield band
        statistics.finish()

    def whole(self, compute: Compute, kind: Hashable = None) -> paddle.Tensor:
        """The map `[B, C, H, W]`."""
        return paddle.concat(list(self.bands(compute, kind)), axis=2)
