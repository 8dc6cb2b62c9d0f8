"""Batches as tensors: processes that read ahead, the share of each device, latents that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import paddle
from paddle.io import BatchSampler, DataLoader, Dataset

from ppdiffusers.config import ConfigError
from ppdiffusers.pictures import ImageError
from ppdiffusers.training.batches import Batches, collate
from ppdiffusers.training.configuration import Configuration
from ppdiffusers.training.pictures import Sample


class _Items(Dataset):
    def __init__(self, batches: Batches):
        self.batches = batches

    def __getitem__(self, key: Tuple[int, int]) -> Dict[str, np.ndarray]:
        return self.batches.item(*key)

    def __len__(self) -> int:
        return 1 << 60


class _Keys(BatchSampler):
    """(step, place) of what this process takes at once, from `start` on."""

    def __init__(self, start: int, steps: int, places: List[range]):
        self.start, self.steps, self.places = start, steps, places

    def __iter__(self) -> Iterator[List[Tuple[int, int]]]:
        for step in range(self.start, self.steps):
            for places in self.places:
                yield [(step, place) for place in places]

    def __len__(self) -> int:
        return (self.steps - self.start) * len(self.places)


def shares(config: Configuration, rank: int, world: int) -> List[range]:
    """Places in the step's batch that this process takes, one range after the other.

    Raises:
        ConfigError: the batch does not divide so.
    """
    micro = config.micro_batch or config.batch_size // world
    if micro < 1 or config.batch_size % (micro * world):
        raise ConfigError(
            f"batch_size {config.batch_size} does not divide by {world} processes times micro_batch {micro}; "
            "change one of them"
        )
    first = rank * (config.batch_size // world)
    return [range(first + i, first + i + micro) for i in range(0, config.batch_size // world, micro)]


def load(
    batches: Batches, config: Configuration, start: int, rank: int = 0, world: int = 1
) -> Iterator[List[Dict[str, paddle.Tensor]]]:
    """What this process computes on, step by step: a list of parts, whose gradients add up."""
    places = shares(config, rank, world)
    loader = DataLoader(
        _Items(batches), batch_sampler=_Keys(start, config.steps, places), collate_fn=collate,
        num_workers=config.data.workers, return_list=True,
    )  # fmt: skip
    parts: List[Dict[str, paddle.Tensor]] = []
    for part in loader:
        parts.append(part)
        if len(parts) == len(places):
            yield parts
            parts = []


class KeptLatents:
    """In place of `Pictures`: what the first stage made of each picture and of its mirror image, read from a file.

    The file is as long as all of them from the start; a second one says which are there, so that a pass that was cut
    goes on. Every process fills its share.

    Args:
        source: the pictures.
        stage: has the first stage.
        out: the folder of the two files.
    """

    def __init__(self, source: Any, stage: Any, out: Path, rank: int = 0, world: int = 1):
        self.source, self.root = source, source.root
        pixels = source.read(_first_usable(source), np.random.default_rng(0)).pixels
        shape = list(stage.moments(_batch([pixels])).shape[1:])
        self.views = 2 if source.data.flip else 1
        out.mkdir(parents=True, exist_ok=True)
        for turn in (rank == 0, rank != 0):  # the first process makes the files, the others open them
            if turn:
                self._moments = _memory(out / "latents.npy", (len(source) * self.views, *shape), np.float32)
                self._there = _memory(out / "latents-there.npy", (len(source) * self.views,), np.uint8)
            if world > 1:
                paddle.distributed.barrier()
        for index in range(rank, len(source), world):
            self._keep(index, stage)
        self._moments.flush()
        self._there.flush()
        if world > 1:
            paddle.distributed.barrier()

    def _keep(self, index: int, stage: Any) -> None:
        if self._there[index * self.views]:  # 1: it is there, 2: it cannot be used
            return
        places = slice(index * self.views, (index + 1) * self.views)
        try:
            sample = self.source.read(index, np.random.default_rng(0))
        except ImageError:
            self._there[places] = 2
            return
        upright = sample.pixels[:, ::-1] if sample.flipped else sample.pixels
        self._moments[places] = stage.moments(_batch([upright, upright[:, ::-1]][: self.views])).numpy()
        self._there[places] = 1

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, random: np.random.Generator, size: Any = None) -> Sample:
        """As `Pictures.read`, but for the pixels."""
        flipped = self.views == 2 and random.random() < 0.5
        place = index * self.views + int(flipped)
        if self._there[place] != 1:
            raise ImageError(f"{self.source.names[index]} could not be read")
        sample = Sample(np.empty((0, 0, 3), np.float32), index, flipped, moments=np.array(self._moments[place]))
        sample.caption = self.source.caption(index)
        if "classes" in self.source.needs:
            sample.class_number = self.source.class_number(index)
        if {"labels", "boxes"} & {*self.source.needs}:
            raise ConfigError("data.cache_latents keeps no label maps and boxes; set it to false")
        return sample


def _first_usable(source: Any) -> int:
    for index in range(len(source)):
        try:
            source.read(index, np.random.default_rng(0))
            return index
        except ImageError as error:
            problem = error
    raise ImageError(f"no picture of {source.root} can be used; the last one: {problem}")


def _batch(pictures: List[np.ndarray]) -> Dict[str, paddle.Tensor]:
    return {"pixels": paddle.to_tensor(np.stack([np.ascontiguousarray(x.transpose(2, 0, 1)) for x in pictures]))}


def _memory(file: Path, shape: Tuple[int, ...], dtype: Any) -> Any:
    """An array in a file; one of another shape is made anew."""
    if file.is_file():
        found = np.load(file, mmap_mode="r+")
        if found.shape == shape and found.dtype == dtype:
            return found
    return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
