"""Ancestral sampling with Euler steps: down to less than the next sigma, and noise back up to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.scheduler import (
    Array,
    SchedulerOutput,
    Timestep,
    require_same_shape,
    step_noise,
    upcast,
)
from ppdiffusers.schedulers.sigma_scheduler import VarianceExplodingScheduler


def ancestral_sigmas(sigma: float, sigma_next: float) -> tuple[float, float]:
    """(sigma_down, sigma_up): where to step to, and the noise to add there; squares add up to that of sigma_next.

    The noise is that of the posterior q(x_next | x, x_0) of x_0 + sigma * noise: with it DDPM's chain
    (arXiv 2006.11239, equation 7) is followed.
    """
    sigma_up = sigma_next * math.sqrt(max(1 - (sigma_next / sigma) ** 2, 0.0))
    return sigma_next**2 / sigma, sigma_up


class EulerAncestralDiscreteScheduler(VarianceExplodingScheduler):
    """Ancestral Euler steps from sigma to sigma, the last one to 0 without noise.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        timestep_spacing, steps_offset: see `spaced_timesteps`; `linspace` is not rounded.
        rescale_betas_zero_snr: let the last training step be all but pure noise.

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
        prediction_type: str = "epsilon",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ):
        self._set_noise_schedule()

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array, Array]:
        """From one sigma to the next, with fresh noise.

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at `scale_model_input(sample, timestep)`, `[B, ...]`.
            timestep: one of `timesteps`.
            sample: x_0 + sigma * noise, `[B, ...]`.
            generator: where the noise comes from: a `Generator` or one of torch's, a list of them with
                one an image, or None, which leaves it to `paddle.seed`. Every step draws, the last one too,
                where the noise counts nothing: so do diffusers' streams.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep that is not in it, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self.position(timestep)
        require_same_shape(sample, model_output=model_output)
        x = upcast(sample)
        noise = step_noise(x, generator)
        sigma, sigma_next = self._sigmas[index : index + 2].tolist()
        sigma_down, sigma_up = ancestral_sigmas(sigma, sigma_next)
        x0, epsilon = self._predicted(model_output, x, sigma)
        x_next = (x0 + sigma_down * epsilon + sigma_up * noise).astype(sample.dtype)
        x0 = x0.astype(sample.dtype)
        return SchedulerOutput(x_next, x0) if return_dict else (x_next, x0)
