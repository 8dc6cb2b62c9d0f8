"""Denoising diffusion implicit models (arXiv 2010.02502)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.outputs import Output
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.noise_schedule import TIMESTEP_SPACINGS, require_one_of
from ppdiffusers.schedulers.scheduler import (
    PREDICTION_TYPES,
    Array,
    Scheduler,
    Timestep,
    predicted_x0_and_epsilon,
    require_same_shape,
    require_thresholding,
    step_noise,
    threshold_dynamically,
    upcast,
)

if TYPE_CHECKING:
    import paddle


def std_dev(alpha_prod_t: float, alpha_prod_t_prev: float, eta: float) -> float:
    """sigma_t of equation 16: the standard deviation of the noise that a step adds.

    alpha_prod_t and alpha_prod_t_prev are the paper's alpha_t and alpha_{t-1} (`alphas_cumprod` in the code).
    """
    return (
        float(eta)
        * math.sqrt((1 - alpha_prod_t_prev) / (1 - alpha_prod_t))
        * math.sqrt(1 - alpha_prod_t / alpha_prod_t_prev)
    )


def previous_sample(
    x0: Array, epsilon: Array, alpha_prod_t_prev: float, std_dev_t: float = 0.0, noise: Array | None = None
) -> Array:
    """x_{t-1} of equation 12: predicted x_0, direction pointing to x_t, random noise."""
    # Never below zero on paper; in floating point by a last bit.
    direction = math.sqrt(max(1 - alpha_prod_t_prev - std_dev_t**2, 0.0))
    sample = math.sqrt(alpha_prod_t_prev) * x0 + direction * epsilon
    return sample if noise is None else sample + std_dev_t * noise


@dataclass
class DDIMSchedulerOutput(Output):
    """One step's result.

    Attributes:
        prev_sample: x_{t-1}, `[B, ...]`: the next step's sample.
        pred_original_sample: the predicted x_0, clipped as the config says, `[B, ...]`.
    """

    prev_sample: paddle.Tensor
    pred_original_sample: paddle.Tensor | None = None


class DDIMScheduler(Scheduler):
    """DDIM (arXiv 2010.02502), from deterministic (eta 0) to the noise of DDPM (eta 1).

    Each step goes to the timestep that follows in `timesteps`, and the last one to `final_alpha_cumprod`,
    for every spacing and number of steps.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        clip_sample: clip the predicted x_0 to `clip_sample_range` on both sides (pixels; no latents).
        set_alpha_to_one: whether the last step leads to alpha 1, no noise at all, or to that of timestep 0.
        steps_offset: added to the timesteps of `leading` spacing.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0 instead of clipping, with
            `dynamic_thresholding_ratio` and `sample_max_value`; see `threshold_dynamically`.
        timestep_spacing: `leading`, `linspace` or `trailing`; see `spaced_timesteps`.
        rescale_betas_zero_snr: let the last training step be pure noise; see `rescale_to_zero_terminal_snr`.

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
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
    ):
        require_one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        require_thresholding(thresholding, dynamic_thresholding_ratio, sample_max_value)
        self._set_noise_schedule()
        self.final_alpha_cumprod = 1.0 if set_alpha_to_one else float(self._alphas_cumprod[0])

    def _begin(self, timesteps: np.ndarray) -> None:
        super()._begin(timesteps)
        alphas_cumprod = self._alphas_cumprod[timesteps].tolist()
        # Pairs (alpha_t, alpha_{t-1}): where a step leads is fixed here and never derived from t again.
        self._alphas_of_steps = list(zip(alphas_cumprod, alphas_cumprod[1:] + [self.final_alpha_cumprod]))

    def step(
        self,
        model_output: paddle.Tensor,
        timestep: Timestep,
        sample: paddle.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Streams = None,
        variance_noise: paddle.Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[paddle.Tensor, paddle.Tensor]:
        """From x_t to x_{t-1}, the next of `timesteps` (equations 12 and 16).

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at x_t, `[B, ...]`.
            timestep: t, one of `timesteps`.
            sample: x_t, `[B, ...]`.
            eta: from 0, no noise, to 1, the noise of DDPM.
            use_clipped_model_output: derive epsilon anew from the clipped x_0.
            generator: where the noise comes from if eta > 0: a `Generator` or one of torch's, a list of
                them with one an image, or None, which leaves it to `paddle.seed`.
            variance_noise: the noise itself, `[B, ...]`, instead of a generator.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep that is not in it, eta outside [0, 1], a
                generator beside variance_noise, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self.position(timestep)
        alpha_prod_t, alpha_prod_t_prev = self._alphas_of_steps[index]
        if not isinstance(eta, numbers.Real) or not 0 <= eta <= 1:
            raise ValueError(f"eta {eta!r} is not between 0 (deterministic) and 1 (the noise of DDPM)")
        if generator is not None and variance_noise is not None:
            raise ValueError("both generator and variance_noise were given; give one of them")
        require_same_shape(sample, model_output=model_output, variance_noise=variance_noise)

        x_t, output = upcast(sample), upcast(model_output)
        noise = None
        if eta > 0:
            noise = step_noise(x_t, generator) if variance_noise is None else upcast(variance_noise)
        alpha_t, sigma_t = math.sqrt(alpha_prod_t), math.sqrt(1 - alpha_prod_t)
        x0, epsilon = predicted_x0_and_epsilon(self.config.prediction_type, output, x_t, alpha_t, sigma_t)
        if self.config.thresholding:
            x0 = threshold_dynamically(x0, self.config.dynamic_thresholding_ratio, self.config.sample_max_value)
        elif self.config.clip_sample:
            x0 = x0.clip(-self.config.clip_sample_range, self.config.clip_sample_range)
        if use_clipped_model_output:
            epsilon = (x_t - alpha_t * x0) / sigma_t
        x_prev = previous_sample(x0, epsilon, alpha_prod_t_prev, std_dev(alpha_prod_t, alpha_prod_t_prev, eta), noise)

        x_prev, x0 = x_prev.astype(sample.dtype), x0.astype(sample.dtype)
        return DDIMSchedulerOutput(x_prev, x0) if return_dict else (x_prev, x0)
