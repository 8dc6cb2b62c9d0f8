"""Which pictures a step takes and what is drawn for them: functions of the seed, the step and the place in the batch.

Nothing else counts: not the number of processes that read, nor of devices that train, nor where a run was cut. Without
paddle, so that another framework can train on the same batches (scripts/train_reference_torch.py).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ppdiffusers.pictures import ImageError
from ppdiffusers.training.configuration import Configuration
from ppdiffusers.training.pictures import DataError, Pictures, Sample
from ppdiffusers.training.prepared import Crops

_TRIES = 64  # pictures that cannot be used, one after the other, before that is an error
Item = Dict[str, np.ndarray]


class Batches:
    """Items by step and place.

    Args:
        source: pictures, of which every one comes once an epoch, or crops that are drawn.
        prepare: `prepare(sample, random)` makes an item's arrays.
        size: pictures a batch.
        shapes: height and width of buckets; a batch is of one of them.
    """

    def __init__(
        self,
        source: Any,
        prepare: Callable[[Sample, np.random.Generator], Item],
        size: int,
        seed: int = 0,
        shapes: Sequence[Tuple[int, int]] = (),
    ):
        self.source, self.size, self.seed, self.shapes = source, size, seed, list(shapes)
        self._prepare = prepare
        self._members: List[np.ndarray] = []  # of each bucket
        if self.shapes:
            bucket = nearest_bucket(source.sizes(), self.shapes)
            self._members = [np.flatnonzero(bucket == number) for number in range(len(self.shapes))]
            counts = [-(-len(members) // size) for members in self._members]
            self._batches = np.repeat(np.arange(len(counts)), counts)  # the bucket of each batch of an epoch
            self._first = np.cumsum([0, *counts])[:-1]
        self._permutation = lru_cache(maxsize=4)(self._permute)

    def item(self, step: int, place: int) -> Item:
        """The arrays of one picture, and `skipped`: numbers of pictures that could not be used, -1 after the last.

        Raises:
            DataError: one after the other could not be used.
        """
        skipped = np.full(_TRIES, -1, np.int64)
        random = np.random.default_rng([self.seed, step, place])
        if isinstance(self.source, Crops):
            return {**self._prepare(Sample(self.source.draw(random)), random), "skipped": skipped}
        index, shape, members = self._scheduled(step, place)
        for attempt in range(_TRIES):
            try:
                sample = self.source.read(index, random, shape)
                return {**self._prepare(sample, random), "skipped": skipped}
            except ImageError as error:
                skipped[attempt], problem = index, error
            random = np.random.default_rng([self.seed, step, place, attempt])
            index = int(random.integers(len(self.source)) if members is None else random.choice(members))
        raise DataError(f"{_TRIES} pictures of {self.source.root} in a row cannot be used; the last one: {problem}")

    def batch(self, step: int) -> Item:
        """All items of a step, each array with a first axis more."""
        return collate([self.item(step, place) for place in range(self.size)])

    def _scheduled(self, step: int, place: int) -> Tuple[int, Optional[Tuple[int, int]], Optional[np.ndarray]]:
        """The number of a picture, its shape, and what could be in its place."""
        if not self.shapes:
            epoch, position = divmod(step * self.size + place, len(self.source))
            return int(self._permutation(len(self.source), epoch, 0)[position]), None, None
        epoch, position = divmod(step, len(self._batches))
        batch = int(self._permutation(len(self._batches), epoch, 0)[position])
        bucket = int(self._batches[batch])
        members = self._members[bucket]
        order = self._permutation(len(members), epoch, 1 + bucket)
        within = (batch - int(self._first[bucket])) * self.size + place
        return int(members[order[within % len(members)]]), self.shapes[bucket], members

    def _permute(self, count: int, epoch: int, stream: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, stream, 1]).permutation(count)


def collate(items: List[Item]) -> Item:
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def bucket_shapes(size: int, count: int, multiple: int) -> List[Tuple[int, int]]:
    """`count` heights and widths between 1:2 and 2:1 of about the same area, in multiples of `multiple`."""
    ratios = np.exp(np.linspace(-math.log(2), math.log(2), count)) if count > 1 else np.ones(1)
    sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in ratios]
    shapes = [(max(1, round(a / multiple)) * multiple, max(1, round(b / multiple)) * multiple) for a, b in sides]
    return sorted(set(shapes))


def nearest_bucket(sizes: np.ndarray, shapes: Sequence[Tuple[int, int]]) -> np.ndarray:
    """The bucket of each picture, `[N]`, for widths and heights `[N, 2]`: the one of the most similar aspect."""
    aspects = np.log(np.maximum(sizes[:, 0], 1) / np.maximum(sizes[:, 1], 1))
    wanted = np.log([width / height for height, width in shapes])
    nearest: np.ndarray = np.abs(aspects[:, None] - wanted).argmin(axis=1)
    return nearest


def open_sources(config: Configuration, needs: Sequence[str]) -> Tuple[Any, Optional[Any]]:
    """What is trained on, and what is validated on: `Pictures`, or `Crops` and nothing for prepared data.

    Raises:
        DataError: as `Pictures`.
    """
    from pathlib import Path

    data = config.data
    if (Path(data.path) / "index.json").is_file():
        if needs:
            raise DataError(f"{data.path} holds prepared pictures alone; the task needs {', '.join(needs)}")
        if data.cache_latents or data.buckets:
            raise DataError(
                f"{data.path} holds prepared pictures, which are cut anew; no data.cache_latents or buckets"
            )
        return Crops(data.path, "train", data.size, data.mix), Crops(data.path, "heldout", data.size, data.mix)
    source = Pictures(data, needs, held_out=False)
    if data.validation is not None:
        return source, Pictures(data, needs, path=data.validation).share_classes(source)
    return source, Pictures(data, needs, held_out=True).share_classes(source) if data.held_out else None
