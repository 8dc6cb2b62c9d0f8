"""What the schedulers that go by sigmas share: their table, their spacing, and samples that grow with the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppdiffusers.schedulers.noise_schedule import (
    SIGMA_SPACINGS,
    TIMESTEP_SPACINGS,
    require_one_of,
    spaced_sigmas,
    spaced_timesteps,
    timesteps_of_sigmas,
)
from ppdiffusers.schedulers.scheduler import (
    PREDICTION_TYPES,
    Array,
    Scheduler,
    Timestep,
    as_array_like,
    read_prediction,
    signal_and_spread,
    widened,
)

# Stands for the zero of a zero-SNR schedule, whose sigma would be infinite; sigma is then 4096.
LEAST_ALPHA = 2.0**-24


class SigmaScheduler(Scheduler):
    """Base of the schedulers whose steps lead from one sigma, the ratio of noise to signal, to the next.

    Attributes:
        sigmas: float64 numpy, `[n + 1]`: that of each of `timesteps`, and where the last step leads.
    """

    sigmas: np.ndarray
    _final_sigma: float = 0.0

    def _set_noise_schedule(self) -> None:
        config = self.config
        require_one_of("prediction_type", config.prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", config.timestep_spacing, TIMESTEP_SPACINGS)
        super()._set_noise_schedule()
        alphas_cumprod = self.alphas_cumprod.copy()
        if alphas_cumprod[-1] == 0:
            alphas_cumprod[-1] = LEAST_ALPHA
        self._table = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)  # [T], rising
        chosen = [name for name in SIGMA_SPACINGS if config.get(f"use_{name}_sigmas", False)]
        if len(chosen) > 1:
            raise ValueError(f"use_{chosen[0]}_sigmas and use_{chosen[1]}_sigmas exclude each other; set one of them")
        self._sigma_spacing = chosen[0] if chosen else None
        self.sigmas = np.append(self._table[::-1], 0.0)

    def _set_final_sigma(self, final_sigmas_type: str) -> None:
        """Where the last step leads: `zero`, or `sigma_min`, the sigma of timestep 0."""
        require_one_of("final_sigmas_type", final_sigmas_type, ("zero", "sigma_min"))
        self._final_sigma = 0.0 if final_sigmas_type == "zero" else float(self._table[0])

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray) -> None:
        """Take timesteps and sigmas of a run, `[n]` each."""
        if np.all(timesteps == np.round(timesteps)):
            timesteps = timesteps.astype(np.int64)
        else:
            timesteps = timesteps.astype(np.float32)
        if len(set(timesteps.tolist())) < len(timesteps):
            raise ValueError(
                f"{count} steps give the same timestep twice, so the model could not tell them apart; take fewer steps"
            )
        self._start_run(count, timesteps)
        self.sigmas = np.append(sigmas, self._final_sigma)

    def _timesteps_of(self, sigmas: np.ndarray) -> np.ndarray:
        """Timesteps of chosen sigmas.

        Raises:
            ValueError: sigmas for which the training has no timestep.
        """
        low, high = self._table[0], self._table[-1]
        if sigmas[-1] < low or sigmas[0] > high:
            raise ValueError(
                f"sigmas from {sigmas[0]:.6g} to {sigmas[-1]:.6g} leave those of the training timesteps, "
                f"{high:.6g} to {low:.6g}; correct sigma_max and sigma_min"
            )
        return timesteps_of_sigmas(sigmas, self._table)

    def _sigma_at(self, timestep: int | float) -> float:
        """The sigma of one of `timesteps`, or of any training timestep."""
        if self.num_inference_steps is not None and timestep in self._position:
            return float(self.sigmas[self._position[timestep]])
        if timestep != round(timestep) or not 0 <= timestep < len(self):
            raise ValueError(
                f"timestep {timestep} is neither in scheduler.timesteps nor an integer in 0 ... {len(self) - 1}"
            )
        return float(self._table[int(timestep)])

    def _signal_and_spread(self, timesteps: Timestep | Sequence[float], like: Array) -> tuple[Array, Array]:
        steps = np.asarray(timesteps)
        if steps.size not in (1, like.shape[0]) or steps.ndim > 1:
            raise ValueError(f"got timesteps of shape {list(steps.shape)} for {like.shape[0]} samples; give one each")
        factors = np.array([signal_and_spread(self._sigma_at(step)) for step in steps.reshape(-1).tolist()])
        factors = factors.T.reshape([2, -1] + [1] * (len(like.shape) - 1))
        return as_array_like(factors[0], like), as_array_like(factors[1], like)


class GrowingSampleScheduler(SigmaScheduler):
    """Base of the schedulers whose sample is x_0 + sigma * noise (arXiv 2206.00364); the model sees it scaled down."""

    def _set_noise_schedule(self) -> None:
        super()._set_noise_schedule()
        self._set_init_noise_sigma()

    def _set_init_noise_sigma(self) -> None:
        # `leading` begins as DDIM does, at variance 1 after scaling; the others at noise alone.
        highest = float(self.sigmas.max())
        noise_alone = self.config.timestep_spacing in ("linspace", "trailing")
        self.init_noise_sigma = highest if noise_alone else math.sqrt(highest**2 + 1)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose timesteps and sigmas of a run of `num_inference_steps` steps, and forget the run before.

        `linspace` is not rounded here: timesteps may lie between the training's.

        Raises:
            TypeError: not an integer.
            ValueError: less than one step, or more than the model was trained on; sigmas outside the training's.
        """
        count = self._checked_steps(num_inference_steps)
        spacing = self.config.timestep_spacing
        if spacing == "linspace":
            timesteps = np.linspace(0, len(self) - 1, count)[::-1]
        else:
            timesteps = spaced_timesteps(spacing, len(self), count, self.config.steps_offset).astype(np.float64)
        sigmas = self._interpolated(timesteps)
        if self._sigma_spacing is not None:
            sigmas = spaced_sigmas(self._sigma_spacing, *self._sigma_ends(sigmas), count)
            timesteps = self._timesteps_of(sigmas)
        self._start_sigma_run(count, timesteps, sigmas)
        self._set_init_noise_sigma()

    def _interpolated(self, timesteps: np.ndarray) -> np.ndarray:
        return np.interp(timesteps, np.arange(len(self)), self._table)

    def _sigma_ends(self, sigmas: np.ndarray) -> tuple[float, float]:
        return float(sigmas[0]), float(sigmas[-1])

    def scale_model_input(self, sample: Array, timestep: Timestep | None = None) -> Array:
        """The sample divided by sqrt(sigma^2 + 1), so that data of variance 1 has it again, in its own type.

        Only the noisy latents go through here, never what they are conditioned on.

        Raises:
            ValueError: no timestep, or one that is not in `timesteps`.
        """
        if timestep is None:
            raise ValueError(f"{type(self).__name__} scales by the timestep; pass one of scheduler.timesteps")
        signal, _ = signal_and_spread(float(self.sigmas[self.position(timestep)]))
        return (widened(sample) * signal).astype(sample.dtype)

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """x_0 + sigma * noise.

        Args:
            original_samples, noise: `[B, ...]`, numpy or Paddle.
            timesteps: of `timesteps`, or integers in 0 ... num_train_timesteps - 1; one for all or `[B]`.

        Raises:
            ValueError: a timestep outside the schedule, or another number of them.
        """
        x0, noise = widened(original_samples), widened(noise)
        signal, spread = self._signal_and_spread(timesteps, x0)
        return (x0 + spread / signal * noise).astype(original_samples.dtype)

    def _read(self, model_output: Array, sample: Array, sigma: float) -> tuple[Array, Array]:
        """The predicted (x_0, epsilon); epsilon is the slope of x_0 + sigma * epsilon."""
        signal, spread = signal_and_spread(sigma)
        return read_prediction(self.config.prediction_type, widened(model_output), signal * sample, signal, spread)
