"""What a model makes of pictures that it did not learn from, in numbers and on a sheet."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle

from ppdiffusers.pictures import ImageError
from ppdiffusers.training.batches import collate
from ppdiffusers.training.configuration import Configuration
from ppdiffusers.training.losses import LPIPS, frechet_distance, open_lpips, psnr, ssim, to_tensor
from ppdiffusers.training.pictures import DataError, Pictures, Sample
from ppdiffusers.training.prepared import Crops

_RESTORING = ("vq", "kl", "super-resolution", "inpainting")  # tasks whose pictures are to be those that were given
_AT_ONCE = 8  # pictures
_SHOWN = 4
_NETWORKS = {"alex": "alexnet", "vgg": "vgg16"}  # as the Fréchet distance names its features


class Validation:
    """The figures of a stage on the same pictures, crops and noise every time.

    Args:
        source: of pictures; every process takes its share of the first `config.validation_pictures`.
        rank, world: of this process, and the number of all.
    """

    def __init__(self, config: Configuration, stage: Any, source: Any, rank: int = 0, world: int = 1):
        self.config, self.stage, self.world = config, stage, world
        if isinstance(source, Pictures):
            source = Fixed(source)
        self._source = source
        self._numbers = range(rank, config.validation_pictures, world)
        self._samples: Optional[List[Tuple[int, Sample]]] = None
        self.lpips: Optional[LPIPS] = open_lpips(config.lpips) if config.lpips else None

    def samples(self) -> List[Tuple[int, Sample]]:
        """Of this process, with their numbers among those of all; read once."""
        if self._samples is None:
            self._samples = []
            for number in self._numbers:
                random = np.random.default_rng([self.config.seed, number, 2])
                if isinstance(self._source, Crops):
                    self._samples.append((number, Sample(self._source.draw(random))))
                elif number < len(self._source):
                    with contextlib.suppress(ImageError):
                        self._samples.append((number, self._source.read(number)))
            if not self._samples and self.world == 1:
                raise DataError(
                    "none of the pictures for validation can be used; see data.validation and data.held_out"
                )
        return self._samples

    @paddle.no_grad()
    def loss(self) -> float:
        """Of the objective, with noise and timesteps that are the same every time."""
        total = pictures = 0.0
        objective = next(iter(self.stage.objectives.values()))
        for part in self._parts():
            draws = [np.random.default_rng([self.config.seed, number, 3]) for number, _ in part]
            items = [self.stage.item(sample, random) for (_, sample), random in zip(part, draws)]
            batch = {name: paddle.to_tensor(value) for name, value in collate(items).items()}
            total += float(objective(batch)[0]) * len(part)
            pictures += len(part)
        total, pictures = self._sum([total, pictures])
        return total / max(pictures, 1)

    @paddle.no_grad()
    def figures(self, sheet: bool = True) -> Tuple[Dict[str, float], List[List[np.ndarray]]]:
        """PSNR, SSIM and LPIPS where the pictures are to come back, else the Fréchet distance where LPIPS has weights;
        and rows for a sheet: pictures, and what was made."""
        sums: Dict[str, float] = {}
        rows: List[List[np.ndarray]] = []
        features: List[Tuple[np.ndarray, np.ndarray]] = []
        count = 0
        for part in self._parts():
            made = self.stage.generate([sample for _, sample in part], seed=part[0][0])
            real = np.stack([sample.pixels for _, sample in part])
            count += len(part)
            if len(rows) < 2 * _SHOWN:
                rows += [[a, b] for a, b in zip(real, made)][: 2 * _SHOWN - len(rows)]
            if self.config.task in _RESTORING:
                found = {"psnr": psnr(made, real).sum()}
                if min(real.shape[1:3]) >= 11:
                    found["ssim"] = ssim(made, real).sum()
                if self.lpips is not None:
                    found["lpips"] = float(self.lpips(to_tensor(made), to_tensor(real)).sum())
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
            elif self.lpips is not None:
                features.append(
                    (self.lpips.features(to_tensor(real)).numpy(), self.lpips.features(to_tensor(made)).numpy())
                )
        figures: Dict[str, float] = {}
        if self.config.task in _RESTORING:
            names = sorted(sums) or ["psnr"]
            *totals, pictures = self._sum([*(sums.get(name, 0.0) for name in names), count])
            figures = {name: total / max(pictures, 1) for name, total in zip(names, totals)}
        elif self.lpips is not None:
            real, made = (np.concatenate([pair[i] for pair in self._gather(features)]) for i in range(2))
            network = next(name for net, name in _NETWORKS.items() if net in str(self.config.lpips))
            if len(real) > 1:
                figures[f"frechet_{network}"] = frechet_distance(real, made)
        return figures, rows

    def _parts(self) -> Iterator[List[Tuple[int, Sample]]]:
        """A few at once, of one size."""
        by_size: Dict[Tuple[int, ...], List[Tuple[int, Sample]]] = {}
        for number, sample in self.samples():
            by_size.setdefault(sample.pixels.shape, []).append((number, sample))
        for group in by_size.values():
            yield from (group[i : i + _AT_ONCE] for i in range(0, len(group), _AT_ONCE))

    def _sum(self, values: List[float]) -> List[float]:
        if self.world == 1:
            return values
        total = paddle.to_tensor(values, dtype="float64")
        paddle.distributed.all_reduce(total)
        return [float(value) for value in total.numpy()]

    def _gather(self, found: List[Any]) -> List[Any]:
        if self.world == 1:
            return found
        parts: List[Any] = []
        paddle.distributed.all_gather_object(parts, found)
        return [item for part in parts for item in part]


class Fixed:
    """Pictures without chance: the middle of each, never mirrored."""

    def __init__(self, source: Pictures):
        self._source = source
        self._data = dataclasses.replace(source.data, crop="centre", flip=False, zoom=(1.0, 1.0))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> Sample:
        kept, self._source.data = self._source.data, self._data
        try:
            return self._source.read(index, np.random.default_rng(0))
        finally:
            self._source.data = kept


@contextlib.contextmanager
def averaged(stage: Any, averages: Dict[str, paddle.Tensor]) -> Iterator[None]:
    """The averaged weights in place of the current ones, and no dropout."""
    state = stage.trained.state_dict()
    current = {name: state[name].clone() for name in averages}
    modes = [(layer, layer.training) for o in stage.objectives.values() for layer in o.sublayers(include_self=True)]
    with paddle.no_grad():
        for name, value in averages.items():
            paddle.assign(value, state[name])
    for layer, _ in modes:
        layer.training = False
    try:
        yield
    finally:
        with paddle.no_grad():
            for name, value in current.items():
                paddle.assign(value, state[name])
        for layer, training in modes:
            layer.training = training
