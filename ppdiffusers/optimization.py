"""Learning rates over the steps of a training, under the names of ppdiffusers 0.29 and diffusers."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Callable, Optional, Union

from paddle.optimizer.lr import LambdaDecay

Factor = Callable[[int], float]


class SchedulerType(Enum):
    """Names that `get_scheduler` knows."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


def _after_warmup(num_warmup_steps: int, num_training_steps: int, factor: Callable[[float], float]) -> Factor:
    """0 to 1 in a straight line over the warm-up, then `factor` of the part of the rest that is done, from 0 on."""
    rest = max(1, num_training_steps - num_warmup_steps)

    def learning_rate(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(1, num_warmup_steps)
        return factor((step - num_warmup_steps) / rest)

    return learning_rate


def get_constant_schedule(learning_rate: float, last_epoch: int = -1) -> LambdaDecay:
    """The learning rate as it is."""
    return LambdaDecay(learning_rate, lambda step: 1.0, last_epoch)


def get_constant_schedule_with_warmup(learning_rate: float, num_warmup_steps: int, last_epoch: int = -1) -> LambdaDecay:
    """Rising from 0 over the warm-up, then constant."""
    return LambdaDecay(learning_rate, _after_warmup(num_warmup_steps, 0, lambda done: 1.0), last_epoch)


def get_linear_schedule_with_warmup(
    learning_rate: float, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaDecay:
    """Rising from 0 over the warm-up, then falling in a straight line to 0."""
    factor = _after_warmup(num_warmup_steps, num_training_steps, lambda done: max(0.0, 1 - done))
    return LambdaDecay(learning_rate, factor, last_epoch)


def get_cosine_schedule_with_warmup(
    learning_rate: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaDecay:
    """Rising from 0 over the warm-up, then `num_cycles` waves of a cosine between 1 and 0; half of one falls to 0."""

    def factor(done: float) -> float:
        return max(0.0, (1 + math.cos(2 * math.pi * num_cycles * done)) / 2)

    return LambdaDecay(learning_rate, _after_warmup(num_warmup_steps, num_training_steps, factor), last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    learning_rate: float, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaDecay:
    """Rising from 0 over the warm-up, then `num_cycles` times half a cosine from 1 to 0."""

    def factor(done: float) -> float:
        return 0.0 if done >= 1 else (1 + math.cos(math.pi * (num_cycles * done % 1.0))) / 2

    return LambdaDecay(learning_rate, _after_warmup(num_warmup_steps, num_training_steps, factor), last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    learning_rate: float,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaDecay:
    """Rising from 0 over the warm-up, then falling by a power of what is left, to `lr_end`.

    Raises:
        ValueError: an `lr_end` that is not below the learning rate.
    """
    if not lr_end < learning_rate:
        raise ValueError(f"lr_end {lr_end} is not below the learning rate {learning_rate}")

    def factor(done: float) -> float:
        left = max(0.0, 1 - done) ** power
        return ((learning_rate - lr_end) * left + lr_end) / learning_rate

    return LambdaDecay(learning_rate, _after_warmup(num_warmup_steps, num_training_steps, factor), last_epoch)


TYPE_TO_SCHEDULER_FUNCTION: dict = {
    SchedulerType.LINEAR: get_linear_schedule_with_warmup,
    SchedulerType.COSINE: get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.POLYNOMIAL: get_polynomial_decay_schedule_with_warmup,
    SchedulerType.CONSTANT: get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: get_constant_schedule_with_warmup,
}


def get_scheduler(
    name: Union[str, SchedulerType],
    learning_rate: float = 0.1,
    num_warmup_steps: Optional[int] = None,
    num_training_steps: Optional[int] = None,
    num_cycles: int = 1,
    power: float = 1.0,
    last_epoch: int = -1,
    optimizer: Any = None,
) -> LambdaDecay:
    """A learning rate by the name of its course, for `paddle.optimizer.AdamW(learning_rate=...)`.

    Args:
        name: one of `SchedulerType`.
        learning_rate: its highest value.
        num_warmup_steps, num_training_steps: steps of the rise and of all, where the course has them.
        num_cycles: of `cosine_with_restarts`.
        power: of `polynomial`.
        last_epoch: steps that are done, less one.
        optimizer: whose learning rate is taken and then governed, as diffusers' code passes it.

    Raises:
        ValueError: an unknown name, or a number of steps that this course needs.
    """
    try:
        kind = SchedulerType(name)
    except ValueError:
        known = ", ".join(repr(kind.value) for kind in SchedulerType)
        raise ValueError(f"learning rate schedule {name!r} is not one of {known}") from None
    if optimizer is not None:
        learning_rate = optimizer.get_lr()
    options: dict = {"learning_rate": learning_rate, "last_epoch": last_epoch}
    needed = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    if kind is SchedulerType.CONSTANT:
        needed = {}
    elif kind is SchedulerType.CONSTANT_WITH_WARMUP:
        del needed["num_training_steps"]
    for key, value in needed.items():
        if value is None:
            raise ValueError(f"the schedule {kind.value!r} needs {key}")
        options[key] = value
    if kind is SchedulerType.COSINE_WITH_RESTARTS:
        options["num_cycles"] = num_cycles
    elif kind is SchedulerType.POLYNOMIAL:
        options["power"] = power
    schedule = TYPE_TO_SCHEDULER_FUNCTION[kind](**options)
    if optimizer is not None:
        optimizer.set_lr_scheduler(schedule)
    return schedule
