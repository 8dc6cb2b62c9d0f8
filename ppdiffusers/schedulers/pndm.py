"""Pseudo numerical methods for diffusion models (arXiv 2202.09778)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.ddim import previous_sample
from ppdiffusers.schedulers.noise_schedule import TIMESTEP_SPACINGS, require_one_of
from ppdiffusers.schedulers.scheduler import (
    PREDICTION_TYPES,
    Array,
    Scheduler,
    SchedulerOutput,
    Timestep,
    plain_number,
    predicted_x0_and_epsilon,
    require_running,
    require_same_shape,
    upcast,
)

# Adams-Bashforth, newest first, by the number of epsilons at hand (equation 12 and its shorter forms).
MULTISTEP = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
RUNGE_KUTTA_STEPS = 3


class Call(NamedTuple):
    """One evaluation of the model, at `timestep`, and the transfer from `alphas_cumprod` start to end after it."""

    timestep: int
    start: float
    end: float
    kind: str  # "multistep"; "predict" then "correct"; "runge-kutta 0" ... "runge-kutta 3"


def transfer(x: Array, epsilon: Array, start: float, end: float) -> Array:
    """From `alphas_cumprod` start to end along a constant epsilon: equation 9, which is DDIM's step."""
    x0 = (x - math.sqrt(1 - start) * epsilon) / math.sqrt(start)
    return previous_sample(x0, epsilon, end)


class PNDMScheduler(Scheduler):
    """PNDM (arXiv 2202.09778), a linear multistep method (PLMS) after three Runge-Kutta steps (PRK) or without.

    `timesteps` holds one entry a model call. With `skip_prk_steps` the second timestep stands there
    twice: its first evaluation corrects the first step. Otherwise each of the first three steps takes
    four calls, two of them halfway. The epsilons of the multistep formula are even in t only where the
    timesteps are, so `leading` spacing suits it best.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        skip_prk_steps: begin the multistep method with a corrected Euler step (Stable Diffusion's PLMS).
        set_alpha_to_one: whether the last step leads to alpha 1, no noise at all, or to that of timestep 0.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        timestep_spacing, steps_offset: see `spaced_timesteps`.

    Raises:
        ValueError: an unknown schedule, spacing or prediction type, or a number out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ):
        require_one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        self._set_noise_schedule()
        self.final_alpha_cumprod = 1.0 if set_alpha_to_one else float(self._alphas_cumprod[0])

    def _begin(self, timesteps: np.ndarray) -> None:
        spaced, count = timesteps.tolist(), len(timesteps)
        alphas = self._alphas_cumprod[spaced].tolist() + [self.final_alpha_cumprod]
        steps = list(zip(spaced, alphas, alphas[1:]))
        calls = []
        if self.config.skip_prk_steps and count > 1:
            calls += [Call(*steps[0], "predict"), Call(spaced[1], alphas[0], alphas[1], "correct")]
            steps = steps[1:]
        elif not self.config.skip_prk_steps:
            warm_up = min(RUNGE_KUTTA_STEPS, count - 1)
            for index in range(warm_up):
                (t, following), (start, end) = spaced[index : index + 2], alphas[index : index + 2]
                middle = (t + following) // 2
                halfway = float(self._alphas_cumprod[middle])
                places = ((t, halfway), (middle, halfway), (middle, end), (following, end))
                calls += [Call(at, start, to, f"runge-kutta {stage}") for stage, (at, to) in enumerate(places)]
            steps = steps[warm_up:]
        self._calls = calls + [Call(*step, "multistep") for step in steps]
        self._start_run(count, np.array([call.timestep for call in self._calls], dtype=np.int64))
        # A run may begin only where a step does; of two entries of a timestep that is the later one.
        beginnings = ("predict", "runge-kutta 0", "multistep")
        self._position = {call.timestep: i for i, call in enumerate(self._calls) if call.kind in beginnings}
        self._epsilons: list[Array] = []  # of the steps' beginnings, newest first
        self._sum: Array = 0.0  # of the Runge-Kutta stages so far
        self._start: Array = None  # the sample that the current step began with

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array]:
        """What to evaluate the model on at the next of `timesteps`.

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at `sample`, `[B, ...]`.
            timestep: the next of `timesteps`, or for a run's first step any at which a step begins.
            sample: what the step before returned, `[B, ...]`.
            generator: not drawn from; for a call that suits every scheduler.
            return_dict: False returns the tuple (prev_sample,).

        Raises:
            ValueError: no `set_timesteps` before, a timestep out of order, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        require_running(generator)
        require_same_shape(sample, model_output=model_output)
        if self._passes_over(timestep):
            return SchedulerOutput(sample) if return_dict else (sample,)
        index = self._in_order(timestep)
        call = self._calls[index]
        x_t = upcast(sample)
        alpha_prod_t = float(self._alphas_cumprod[call.timestep])
        # Each output is turned into an epsilon where it was predicted; sums of v or x_0 mean nothing.
        _, epsilon = predicted_x0_and_epsilon(
            self.config.prediction_type, upcast(model_output), x_t, math.sqrt(alpha_prod_t), math.sqrt(1 - alpha_prod_t)
        )
        if call.kind in ("predict", "multistep", "runge-kutta 0"):
            self._start = x_t
            self._epsilons = [epsilon, *self._epsilons[:3]]
        if call.kind == "correct":
            epsilon = (self._epsilons[0] + epsilon) / 2
        elif call.kind == "multistep":
            weights = MULTISTEP[len(self._epsilons)]
            epsilon = sum(weight * past for weight, past in zip(weights, self._epsilons))
        elif call.kind.startswith("runge-kutta"):
            stage = int(call.kind[-1])
            self._sum = (self._sum if stage else 0.0) + RUNGE_KUTTA[stage] * epsilon
            epsilon = self._sum if stage == 3 else epsilon
        x_prev = transfer(self._start, epsilon, call.start, call.end).astype(sample.dtype)
        self._next = index + 1
        return SchedulerOutput(x_prev) if return_dict else (x_prev,)

    def _passes_over(self, timestep: Timestep) -> bool:
        """Whether this is the doubled timestep again, in a run that began with it and had nothing to correct."""
        return (
            self._next == 3 and len(self._epsilons) == 1 and self._calls[1].kind == "correct"
            and plain_number(timestep) == self._calls[1].timestep
        )  # fmt: skip

    def position(self, timestep: Timestep) -> int:
        """Where in `timesteps` the step at a timestep begins.

        Raises:
            ValueError: no step begins there, or `set_timesteps` was not called.
        """
        value = plain_number(timestep)
        if self.num_inference_steps and value in self._timesteps and value not in self._position:
            raise ValueError(
                f"timestep {value} is halfway through a Runge-Kutta step; begin at one of "
                f"{', '.join(map(str, self._position))}, or set skip_prk_steps=True"
            )
        return super().position(timestep)
