"""Multistep sampling of latent consistency models (arXiv 2310.04378)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    require_running,
    require_same_shape,
    require_thresholding,
    step_noise,
    threshold_dynamically,
    upcast,
)

SIGMA_DATA = 0.5  # of the distillation: standard deviation that latents were taken to have


@dataclass
class LCMSchedulerOutput(Output):
    """One step's result.

    Attributes:
        prev_sample: the sample at the next timestep, `[B, ...]`.
        denoised: what the consistency function gives, the predicted x_0, `[B, ...]`.
    """

    prev_sample: Array
    denoised: Array | None = None


def boundary_scalings(timestep: float, timestep_scaling: float) -> tuple[float, float]:
    """(c_skip, c_out) of the consistency function, the identity at timestep 0 (arXiv 2310.04378, section 3)."""
    scaled = timestep * timestep_scaling
    return SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2), scaled / math.hypot(scaled, SIGMA_DATA)


class LCMScheduler(Scheduler):
    """Consistency sampling: each step predicts x_0, and noises it again to the next timestep; the last one does not.

    Only for models that were distilled for it. The timesteps are some of the `original_inference_steps` of the
    distillation, from its highest down.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        original_inference_steps: steps that the distillation divided the training schedule into.
        clip_sample: clip the predicted x_0 to `clip_sample_range` on both sides (pixels; no latents).
        set_alpha_to_one, steps_offset, timestep_spacing: mean nothing here; the distillation's steps are even.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0 instead of clipping, with
            `dynamic_thresholding_ratio` and `sample_max_value`; see `threshold_dynamically`.
        timestep_scaling: how fast the consistency function leaves the identity.
        rescale_betas_zero_snr: let the last training step be pure noise; see `rescale_to_zero_terminal_snr`.

    Raises:
        ValueError: an unknown schedule, spacing or prediction type, or a number out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        original_inference_steps: int = 50,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        timestep_scaling: float = 10.0,
        rescale_betas_zero_snr: bool = False,
    ):
        require_one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        require_thresholding(thresholding, dynamic_thresholding_ratio, sample_max_value)
        self._set_noise_schedule()
        self._distilled(original_inference_steps)

    def _distilled(self, original_inference_steps: Any, strength: float = 1.0) -> np.ndarray:
        """The timesteps of the distillation, from the highest down, or its lower part `strength`."""
        if not isinstance(original_inference_steps, int) or not 1 <= original_inference_steps <= len(self):
            raise ValueError(
                f"original_inference_steps {original_inference_steps!r} is not between 1 and the {len(self)} "
                "timesteps of the training; take what the model was distilled with, 50 as a rule"
            )
        if not 0 < strength <= 1:
            raise ValueError(f"strength {strength!r} is not above 0 and at most 1")
        count = int(original_inference_steps * strength)
        return (np.arange(count, 0, -1) * (len(self) // original_inference_steps) - 1).astype(np.int64)

    def set_timesteps(  # type: ignore[override]  # diffusers' order of arguments
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        original_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        strength: float = 1.0,
    ) -> None:
        """Choose the timesteps of a run, before its first step.

        Args:
            num_inference_steps: how many of the distillation's.
            device: where the tensor `timesteps` is to be; the current device when not given.
            original_inference_steps: of the distillation, instead of the config's.
            timesteps: the timesteps themselves, from the noisiest down, instead of a number.
            strength: begin no noisier than this part of the distillation's timesteps (image to image).

        Raises:
            TypeError: not an integer.
            ValueError: both or none of number and timesteps, or a number out of range.
        """
        original = (
            self.config.original_inference_steps if original_inference_steps is None else original_inference_steps
        )
        self._choices = self._distilled(original, strength)
        if timesteps is not None:
            given = self._checked_timesteps(num_inference_steps, timesteps)
            timesteps, num_inference_steps = given[len(given) - int(len(given) * strength) :].tolist(), None
        super().set_timesteps(num_inference_steps, device, timesteps)

    def _spaced(self, count: int) -> np.ndarray:
        available = len(self._choices)
        if count > available:
            raise ValueError(
                f"num_inference_steps {count} is more than the {available} that original_inference_steps and strength "
                "leave; take fewer"
            )
        return self._choices[np.floor(np.arange(count) * (available / count)).astype(np.int64)]

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> LCMSchedulerOutput | tuple[Array, Array]:
        """From the sample at `timestep` to that at the next one (algorithm 3 of the paper).

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at x_t, `[B, ...]`.
            timestep: t, one of `timesteps`.
            sample: x_t, `[B, ...]`.
            generator: where the noise comes from: a `Generator` or one of torch's, a list of them with
                one an image, or None, which leaves it to `paddle.seed`.
            return_dict: False returns the tuple (prev_sample, denoised).

        Raises:
            ValueError: no `set_timesteps` before, a timestep that is not in it, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self.position(timestep)
        require_running(generator)
        require_same_shape(sample, model_output=model_output)
        config, t = self.config, int(self._timesteps[index])
        alpha_prod_t = float(self._alphas_cumprod[t])
        x_t = upcast(sample)
        x0, _ = predicted_x0_and_epsilon(
            config.prediction_type, upcast(model_output), x_t, math.sqrt(alpha_prod_t), math.sqrt(1 - alpha_prod_t)
        )
        if config.thresholding:
            x0 = threshold_dynamically(x0, config.dynamic_thresholding_ratio, config.sample_max_value)
        elif config.clip_sample:
            x0 = x0.clip(-config.clip_sample_range, config.clip_sample_range)
        c_skip, c_out = boundary_scalings(t, config.timestep_scaling)
        x_prev = denoised = c_out * x0 + c_skip * x_t
        if index < len(self._timesteps) - 1:
            alpha_prod_t_prev = float(self._alphas_cumprod[self._timesteps[index + 1]])
            noise = step_noise(x_t, generator)
            x_prev = math.sqrt(alpha_prod_t_prev) * denoised + math.sqrt(1 - alpha_prod_t_prev) * noise
        x_prev, denoised = x_prev.astype(sample.dtype), denoised.astype(sample.dtype)
        return LCMSchedulerOutput(x_prev, denoised) if return_dict else (x_prev, denoised)
