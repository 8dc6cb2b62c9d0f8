"""Denoising diffusion probabilistic models (arXiv 2006.11239)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.noise_schedule import TIMESTEP_SPACINGS, require_one_of
from ppdiffusers.schedulers.scheduler import (
    PREDICTION_TYPES,
    Array,
    Scheduler,
    SchedulerOutput,
    Timestep,
    predicted_x0_and_epsilon,
    require_running,
    require_same_shape,
    require_thresholding,
    step_noise,
    threshold_dynamically,
    upcast,
)

VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")


def posterior(alpha_prod_t: float, alpha_prod_t_prev: float) -> tuple[float, float, float, float]:
    """Factors of x_0 and x_t in the mean of q(x_{t-1} | x_t, x_0), its variance, and beta_t (equation 7).

    alpha_prod_t and alpha_prod_t_prev are `alphas_cumprod` at t and at the timestep that the step leads to.
    """
    beta = 1 - alpha_prod_t / alpha_prod_t_prev
    x0_coeff = math.sqrt(alpha_prod_t_prev) * beta / (1 - alpha_prod_t)
    sample_coeff = math.sqrt(alpha_prod_t / alpha_prod_t_prev) * (1 - alpha_prod_t_prev) / (1 - alpha_prod_t)
    return x0_coeff, sample_coeff, (1 - alpha_prod_t_prev) / (1 - alpha_prod_t) * beta, beta


class DDPMScheduler(Scheduler):
    """DDPM (arXiv 2006.11239): ancestral sampling of the training's own Markov chain, or of a part of its steps.

    Each step goes to the timestep that follows in `timesteps`, and the last one to x_0, without noise.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        variance_type: the variance of a step's noise. `fixed_small` is that of the posterior and
            `fixed_large` beta_t (section 3.2; with `_log` the same, by another way of computing);
            `learned` takes it from the second half of the model's output, `learned_range` the place
            between the two in the logarithm (arXiv 2102.09672, equation 15). None means `fixed_small`.
        clip_sample: clip the predicted x_0 to `clip_sample_range` on both sides (pixels; no latents).
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0 instead of clipping, with
            `dynamic_thresholding_ratio` and `sample_max_value`; see `threshold_dynamically`.
        timestep_spacing, steps_offset: see `spaced_timesteps`.
        rescale_betas_zero_snr: let the last training step be pure noise; see `rescale_to_zero_terminal_snr`.

    Raises:
        ValueError: an unknown schedule, spacing, variance or prediction type, or a number out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        variance_type: str | None = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ):
        require_one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        self.variance_type = "fixed_small" if variance_type is None else variance_type
        require_one_of("variance_type", self.variance_type, VARIANCE_TYPES)
        require_thresholding(thresholding, dynamic_thresholding_ratio, sample_max_value)
        self._set_noise_schedule()

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array, Array]:
        """From x_t to x_{t-1}, the next of `timesteps` (equations 7 and 11).

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at x_t, `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance.
            timestep: t, one of `timesteps`.
            sample: x_t, `[B, C, ...]`.
            generator: where the noise comes from: a `Generator` or one of torch's, a list of them with
                one an image, or None, which leaves it to `paddle.seed`.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep that is not in it, or shapes that do not agree.
            TypeError: a seed in place of a generator.
        """
        index = self.position(timestep)
        require_running(generator)
        channels, learned = sample.shape[1], self.variance_type.startswith("learned")
        if learned and model_output.shape[1] != 2 * channels:
            raise ValueError(
                f"variance_type {self.variance_type!r} needs a model_output of {2 * channels} channels for a sample "
                f"of {channels}, not {model_output.shape[1]}; take variance_type 'fixed_small'"
            )
        mean_output = model_output[:, :channels] if learned else model_output
        require_same_shape(sample, model_output=mean_output)

        last = index == len(self._timesteps) - 1
        alpha_prod_t = float(self._alphas_cumprod[self._timesteps[index]])
        alpha_prod_t_prev = 1.0 if last else float(self._alphas_cumprod[self._timesteps[index + 1]])
        x_t = upcast(sample)
        alpha_t, sigma_t = math.sqrt(alpha_prod_t), math.sqrt(1 - alpha_prod_t)
        x0, _ = predicted_x0_and_epsilon(self.config.prediction_type, upcast(mean_output), x_t, alpha_t, sigma_t)
        if self.config.thresholding:
            x0 = threshold_dynamically(x0, self.config.dynamic_thresholding_ratio, self.config.sample_max_value)
        elif self.config.clip_sample:
            x0 = x0.clip(-self.config.clip_sample_range, self.config.clip_sample_range)
        x0_coeff, sample_coeff, variance, beta = posterior(alpha_prod_t, alpha_prod_t_prev)
        x_prev = x0_coeff * x0 + sample_coeff * x_t
        if not last:  # algorithm 2: z = 0 in the last step
            predicted = upcast(model_output[:, channels:]) if learned else None
            x_prev = x_prev + self._deviation(variance, beta, predicted) * step_noise(x_t, generator)

        x_prev, x0 = x_prev.astype(sample.dtype), x0.astype(sample.dtype)
        return SchedulerOutput(x_prev, x0) if return_dict else (x_prev, x0)

    def _deviation(self, variance: float, beta: float, predicted: Array | None) -> float | Array:
        if self.variance_type == "learned":
            return predicted**0.5  # type: ignore[operator]
        if self.variance_type == "learned_range":
            part = (predicted + 1) / 2  # type: ignore[operator]
            return math.sqrt(variance) * math.sqrt(beta / variance) ** part
        return math.sqrt(beta if self.variance_type.startswith("fixed_large") else variance)
