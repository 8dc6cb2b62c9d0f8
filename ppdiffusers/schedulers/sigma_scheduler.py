"""What the schedulers that go by sigmas share: the training's sigmas, spacings, variance-exploding samples."""

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
    Table,
    Timestep,
    beside,
    entries,
    falling,
    predicted_x0_and_epsilon,
    sigma_to_alpha_sigma_t,
    upcast,
)

# Stands for the zero of a zero-SNR schedule, whose sigma would be infinite; sigma is then 4096.
LEAST_ALPHA = 2.0**-24


class SigmaScheduler(Scheduler):
    """Base of the schedulers whose steps lead from one sigma, sigma_t / alpha_t, to the next.

    Attributes:
        sigmas: float32, `[n + 1]`: that of each of `timesteps`, and where the last step leads.
    """

    sigmas: Any = Table()
    _sigmas: np.ndarray
    _final_sigma: float = 0.0

    def _set_noise_schedule(self) -> None:
        config = self.config
        require_one_of("prediction_type", config.prediction_type, PREDICTION_TYPES)
        # A constructor's own: what a swap carries through the config comes in only later.
        self._timestep_spacing = config.get("timestep_spacing", "linspace")
        self._steps_offset = config.get("steps_offset", 0)
        require_one_of("timestep_spacing", self._timestep_spacing, TIMESTEP_SPACINGS)
        super()._set_noise_schedule()
        alphas_cumprod = self._alphas_cumprod.copy()
        if alphas_cumprod[-1] == 0:
            alphas_cumprod[-1] = LEAST_ALPHA
        self._train_sigmas = np.sqrt((1 - alphas_cumprod) / alphas_cumprod)  # [T], rising
        chosen = [name for name in SIGMA_SPACINGS if config.get(f"use_{name}_sigmas", False)]
        if len(chosen) > 1:
            raise ValueError(f"use_{chosen[0]}_sigmas and use_{chosen[1]}_sigmas exclude each other; set one of them")
        self._sigma_spacing = chosen[0] if chosen else None
        self._sigmas = np.append(self._train_sigmas[::-1], 0.0)
        self._given_ends = config.get("sigma_max", None), config.get("sigma_min", None)
        if self._sigma_spacing is None and self._given_ends != (None, None):
            raise ValueError(
                f"sigma_min {config.sigma_min} and sigma_max {config.sigma_max} are the ends of a spacing of sigmas; "
                "set use_karras_sigmas, use_exponential_sigmas or use_beta_sigmas, or leave them out"
            )

    def _set_final_sigma(self, final_sigmas_type: str) -> None:
        """Where the last step leads: `zero`, or `sigma_min`, the sigma of timestep 0."""
        require_one_of("final_sigmas_type", final_sigmas_type, ("zero", "sigma_min"))
        self._final_sigma = 0.0 if final_sigmas_type == "zero" else float(self._train_sigmas[0])

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Choose timesteps and sigmas of a run, before its first step, and forget the run before.

        Args:
            num_inference_steps: how many steps, spaced as the config says.
            device: where the tensor `timesteps` is to be; the current device when not given.
            timesteps: the timesteps themselves, from the noisiest down, instead of a number; fractions are taken.
            sigmas: the sigmas themselves, one more than steps, the last where the last step leads: 0 as a rule.

        Raises:
            TypeError: not an integer.
            ValueError: none of the three or more than one, a number out of range, values out of order or outside
                the training's, or timesteps beside a spacing of sigmas.
        """
        self._device = device
        if sigmas is not None:
            if timesteps is not None:
                raise ValueError("timesteps and sigmas were both given; give one of them")
            values = falling("sigmas", sigmas, num_inference_steps)
            if len(values) < 2 or values[-1] < 0:
                raise ValueError(f"sigmas are at least two numbers, the last 0 or more, not {values.tolist()}")
            self._start_sigma_run(len(values) - 1, self._timesteps_of(values[:-1]), values[:-1], values[-1])
        elif timesteps is not None:
            if self._sigma_spacing is not None:
                raise ValueError(
                    f"timesteps have their own sigmas, and use_{self._sigma_spacing}_sigmas asks for others; "
                    "leave one of them out"
                )
            places = self._checked_timesteps(num_inference_steps, timesteps)
            self._start_sigma_run(len(places), places, self._interpolated(places), self._final_sigma)
        else:
            count = self._checked_steps(num_inference_steps)
            if self._sigma_spacing is None:
                places = self._spaced(count)
                values = self._interpolated(places)
            else:
                values = spaced_sigmas(self._sigma_spacing, *self._sigma_ends(count), count)
                places = self._timesteps_of(values)
            self._start_sigma_run(count, places, values, self._final_sigma)

    def _checked_timesteps(self, num_inference_steps: Any, given: Any) -> np.ndarray:
        timesteps = falling("timesteps", given, num_inference_steps)
        if timesteps[-1] < 0 or timesteps[0] > len(self) - 1:
            raise ValueError(
                f"timesteps from {timesteps[0]:g} to {timesteps[-1]:g} leave the training's, {len(self) - 1} to 0"
            )
        return timesteps

    def _interpolated(self, timesteps: np.ndarray) -> np.ndarray:
        """Sigmas at timesteps."""
        return np.interp(timesteps, np.arange(len(self)), self._train_sigmas)

    def _sigma_ends(self, count: int) -> tuple[float, float]:
        """Highest and lowest of `count` spaced sigmas: those of the whole training, or of the config."""
        highest, lowest = self._given_ends
        return (
            float(self._train_sigmas[-1]) if highest is None else float(highest),
            float(self._train_sigmas[0]) if lowest is None else float(lowest),
        )

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
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
        self._sigmas = np.append(sigmas, final_sigma)

    def _timesteps_of(self, sigmas: np.ndarray) -> np.ndarray:
        """Timesteps of chosen sigmas.

        Raises:
            ValueError: sigmas for which the training has no timestep.
        """
        low, high = self._train_sigmas[0], self._train_sigmas[-1]
        tolerance = 1 + 1e-6  # configs tell sigma_min and sigma_max in float32; interpolation rounds in float64
        if sigmas[-1] * tolerance < low or sigmas[0] > high * tolerance:
            raise ValueError(
                f"sigmas from {sigmas[0]:.6g} to {sigmas[-1]:.6g} leave those of the training timesteps, "
                f"{high:.6g} to {low:.6g}; correct sigma_max and sigma_min"
            )
        return timesteps_of_sigmas(sigmas, self._train_sigmas)

    def _sigmas_at(self, timesteps: Array, library: Any) -> Array:
        """float64 sigmas of some of `timesteps`, or of any training timesteps, as `_factors`."""
        whole = library.round(timesteps)
        fractional = (timesteps != whole).astype("int64")
        sigmas = entries(self._train_sigmas, whole.astype("int64") * (1 - fractional) - fractional)
        if self.num_inference_steps is None:
            return sigmas
        run = beside(self._timesteps.astype(np.float64), timesteps)
        same = timesteps.reshape([-1, 1]) == run  # [n, steps]
        places = same.astype("int64").argmax(axis=1)
        return library.where(same.any(axis=1), entries(self._sigmas, places), sigmas)

    def _factors(self, timesteps: Array, library: Any) -> tuple[Array, Array]:
        sigmas = self._sigmas_at(timesteps.astype("float64"), library)
        alpha_t = 1 / library.sqrt(1 + sigmas * sigmas)
        return alpha_t, sigmas * alpha_t

    def _missing_timestep(self, timestep: Any) -> str:
        return f"timestep {timestep} is neither in scheduler.timesteps nor an integer in 0 ... {len(self) - 1}"


class VarianceExplodingScheduler(SigmaScheduler):
    """Base of the schedulers whose sample is x_0 + sigma * noise (arXiv 2206.00364); the model sees x_t."""

    def _set_noise_schedule(self) -> None:
        super()._set_noise_schedule()
        self._set_init_noise_sigma()

    def _set_init_noise_sigma(self) -> None:
        # `leading` begins as DDIM does, at variance 1 after scaling; the others at noise alone.
        highest = float(self._sigmas.max())
        noise_alone = self._timestep_spacing in ("linspace", "trailing")
        self.init_noise_sigma = highest if noise_alone else math.sqrt(highest**2 + 1)

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        super()._start_sigma_run(count, timesteps, sigmas, final_sigma)
        self._set_init_noise_sigma()

    def _spaced(self, count: int) -> np.ndarray:
        """`linspace` is not rounded here: timesteps may lie between the training's."""
        if self._timestep_spacing == "linspace":
            return np.linspace(0, len(self) - 1, count)[::-1]
        return spaced_timesteps(self._timestep_spacing, len(self), count, self._steps_offset).astype(np.float64)

    def _sigma_ends(self, count: int) -> tuple[float, float]:
        """Those of the spaced timesteps, or of the config."""
        sigmas = self._interpolated(self._spaced(count))
        highest, lowest = self._given_ends
        return (
            float(sigmas[0]) if highest is None else float(highest),
            float(sigmas[-1]) if lowest is None else float(lowest),
        )

    def scale_model_input(self, sample: Array, timestep: Timestep | None = None) -> Array:
        """The sample divided by sqrt(sigma^2 + 1), so that data of variance 1 has it again, in its own type.

        Only the noisy latents go through here, never what they are conditioned on.

        Raises:
            ValueError: no timestep, or one that is not in `timesteps`.
        """
        if timestep is None:
            raise ValueError(f"{type(self).__name__} scales by the timestep; pass one of scheduler.timesteps")
        alpha_t, _ = sigma_to_alpha_sigma_t(float(self._sigmas[self.position(timestep)]))
        return (upcast(sample) * alpha_t).astype(sample.dtype)

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """x_0 + sigma * noise.

        Args:
            original_samples, noise: `[B, ...]`, numpy or Paddle.
            timesteps: of `timesteps`, or integers in 0 ... num_train_timesteps - 1; one for all or `[B]`. A tensor
                on a GPU stays there; where nothing waits for its values, a wrong one makes its sample NaN.

        Raises:
            ValueError: a timestep outside the schedule, or another number of them.
        """
        x0, noise = upcast(original_samples), upcast(noise)
        alpha_t, sigma_t = self._alpha_t_and_sigma_t(timesteps, x0)
        return (x0 + sigma_t / alpha_t * noise).astype(original_samples.dtype)

    def _predicted(self, model_output: Array, sample: Array, sigma: float) -> tuple[Array, Array]:
        """The predicted (x_0, epsilon); epsilon is the slope of x_0 + sigma * epsilon."""
        alpha_t, sigma_t = sigma_to_alpha_sigma_t(sigma)
        x_t = alpha_t * sample
        return predicted_x0_and_epsilon(self.config.prediction_type, upcast(model_output), x_t, alpha_t, sigma_t)
