"""Heun's method for the probability-flow ODE in sigma (arXiv 2206.00364, algorithm 1 without churn)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.scheduler import (
    Array,
    SchedulerOutput,
    Timestep,
    require_running,
    require_same_shape,
    upcast,
)
from ppdiffusers.schedulers.sigma_scheduler import VarianceExplodingScheduler


class HeunDiscreteScheduler(VarianceExplodingScheduler):
    """Heun steps from sigma to sigma: an Euler step, and the same step again with the mean of both ends' slopes.

    `timesteps` holds one entry a model call: every timestep but the first stands there twice, once where it ends a
    step and once where it begins one. The last step, to sigma 0, is an Euler step. `sigmas` has an entry for each
    of them and one more.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas, not the timesteps;
            at most one of them, see `spaced_sigmas`.
        clip_sample: clip the predicted x_0 to `clip_sample_range` on both sides (pixels; no latents).
        timestep_spacing, steps_offset: see `spaced_timesteps`; `linspace` is not rounded.

    Raises:
        ValueError: an unknown value, options that exclude each other, or a number out of range.
    """

    order: ClassVar[int] = 2

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
    ):
        self._set_noise_schedule()

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        super()._start_sigma_run(count, timesteps, sigmas, final_sigma)
        # Predictions stand at even places, corrections at odd ones; a run may begin with a prediction only.
        self._timesteps = np.repeat(self._timesteps, 2)[1:]
        self._sigmas = np.append(np.repeat(sigmas, 2)[1:], final_sigma)
        self._position = {timestep: 2 * index for index, timestep in enumerate(self._timesteps[::2].tolist())}
        self._predicted_step: tuple[Array, Array] | None = None  # x_0 and epsilon where the step began

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array, Array]:
        """What to evaluate the model on at the next of `timesteps`.

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at `scale_model_input(sample, timestep)`, `[B, ...]`.
            timestep: the next of `timesteps`, or for a run's first step any of them.
            sample: what the step before returned, x_0 + sigma * noise, `[B, ...]`.
            generator: not drawn from; for a call that suits every scheduler.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep out of order, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self._in_order(timestep)
        require_running(generator)
        require_same_shape(sample, model_output=model_output)
        x = upcast(sample)
        sigma = float(self._sigmas[index])
        x0, epsilon = self._predicted(model_output, x, sigma)
        if self.config.clip_sample:
            x0 = x0.clip(-self.config.clip_sample_range, self.config.clip_sample_range)
            epsilon = (x - x0) / sigma
        if index % 2 == 0:
            self._predicted_step = x0, epsilon
            x_next = x0 + float(self._sigmas[index + 1]) * epsilon
        else:
            first_x0, first_epsilon = self._predicted_step  # type: ignore[misc]
            before = float(self._sigmas[index - 1])
            # From the first x_0, as of Euler: the step from the sample is a difference of large numbers.
            x_next = first_x0 + (before + sigma) / 2 * first_epsilon - (before - sigma) / 2 * epsilon
        self._next = index + 1
        x_next, x0 = x_next.astype(sample.dtype), x0.astype(sample.dtype)
        return SchedulerOutput(x_next, x0) if return_dict else (x_next, x0)
