"""Euler's method for the probability-flow ODE in sigma (arXiv 2206.00364, algorithm 1 without its second half)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.noise_schedule import require_one_of
from ppdiffusers.schedulers.scheduler import (
    Array,
    SchedulerOutput,
    Timestep,
    require_running,
    require_same_shape,
    upcast,
)
from ppdiffusers.schedulers.sigma_scheduler import VarianceExplodingScheduler


class EulerDiscreteScheduler(VarianceExplodingScheduler):
    """Euler steps from sigma to sigma.

    The churn of arXiv 2206.00364 is not offered: its noise must be added before the model looks, which
    a `step` cannot do. `EulerAncestralDiscreteScheduler` is the noisy sibling.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        interpolation_type: sigmas between the training's timesteps, `linear` or `log_linear`.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas, not the timesteps;
            at most one of them, see `spaced_sigmas`.
        sigma_min, sigma_max: ends of such a spacing; without them, those of the timesteps.
        timestep_spacing, steps_offset: see `spaced_timesteps`; `linspace` is not rounded.
        timestep_type: what the model is told, the timestep (`discrete`) or log(sigma) / 4 (`continuous`,
            for v_prediction models trained so).
        rescale_betas_zero_snr: let the last training step be all but pure noise.
        final_sigmas_type: the last step leads to sigma 0 (`zero`) or to that of timestep 0 (`sigma_min`).

    Raises:
        ValueError: an unknown value, options that exclude each other, or a number out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        interpolation_type: str = "linear",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: str = "linspace",
        timestep_type: str = "discrete",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        final_sigmas_type: str = "zero",
    ):
        require_one_of("interpolation_type", interpolation_type, ("linear", "log_linear"))
        require_one_of("timestep_type", timestep_type, ("discrete", "continuous"))
        if timestep_type == "continuous" and prediction_type != "v_prediction":
            raise ValueError(
                f"timestep_type 'continuous' is for prediction_type 'v_prediction', not {prediction_type!r}"
            )
        self._set_noise_schedule()
        self._set_final_sigma(final_sigmas_type)
        self._continuous = timestep_type == "continuous"
        if self._continuous:
            self._timesteps = (np.log(self._train_sigmas[::-1]) / 4).astype(np.float32)

    def _interpolated(self, timesteps: np.ndarray) -> np.ndarray:
        if self.config.interpolation_type == "linear":
            return super()._interpolated(timesteps)
        return np.exp(np.interp(timesteps, np.arange(len(self)), np.log(self._train_sigmas)))

    def _timesteps_of(self, sigmas: np.ndarray) -> np.ndarray:
        # The model is told sigma itself, so it need not be one of the training's.
        return np.log(sigmas) / 4 if self._continuous else super()._timesteps_of(sigmas)

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        told = self._timesteps_of(sigmas) if self._continuous else timesteps
        super()._start_sigma_run(count, told, sigmas, final_sigma)

    def _sigmas_at(self, timesteps: Array, library: Any) -> Array:
        return library.exp(4 * timesteps) if self._continuous else super()._sigmas_at(timesteps, library)

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array, Array]:
        """From one sigma to the next along the predicted epsilon.

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at `scale_model_input(sample, timestep)`, `[B, ...]`.
            timestep: one of `timesteps`.
            sample: x_0 + sigma * noise, `[B, ...]`.
            generator: not drawn from; for a call that suits every scheduler.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep that is not in it, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self.position(timestep)
        require_running(generator)
        require_same_shape(sample, model_output=model_output)
        sigma, sigma_next = self._sigmas[index : index + 2].tolist()
        x0, epsilon = self._predicted(model_output, upcast(sample), sigma)
        # x + (sigma_next - sigma) * epsilon, but without the difference of large numbers at large sigmas.
        x_next, x0 = (x0 + sigma_next * epsilon).astype(sample.dtype), x0.astype(sample.dtype)
        return SchedulerOutput(x_next, x0) if return_dict else (x_next, x0)
