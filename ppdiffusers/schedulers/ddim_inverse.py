"""DDIM backwards: from a sample to the noise that it would be made of (arXiv 2010.02502, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.ddim import DDIMSchedulerOutput, previous_sample
from ppdiffusers.schedulers.noise_schedule import TIMESTEP_SPACINGS, require_one_of
from ppdiffusers.schedulers.scheduler import (
    PREDICTION_TYPES,
    Array,
    Scheduler,
    Timestep,
    predicted_x0_and_epsilon,
    require_running,
    require_same_shape,
    upcast,
)


class DDIMInverseScheduler(Scheduler):
    """DDIM (arXiv 2010.02502) with rising timesteps: deterministic noising, which DDIM steps undo.

    The step that leads to timestep t evaluates the model at t, on the sample of the timestep before: the mirror of
    DDIM's, whose step from t does. The first step begins at `initial_alpha_cumprod`.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        clip_sample: clip the predicted x_0 to `clip_sample_range` on both sides (pixels; no latents).
        set_alpha_to_one: whether the first step begins at alpha 1, no noise at all, or at that of timestep 0.
        steps_offset: added to the timesteps of `leading` spacing.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0; only with set_alpha_to_one=False, since
            x_0 tells nothing of the noise where there is none) or `v_prediction`.
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
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
    ):
        require_one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        if prediction_type == "sample" and set_alpha_to_one:
            raise ValueError(
                "prediction_type 'sample' tells nothing of the noise where there is none; set set_alpha_to_one=False"
            )
        self._set_noise_schedule()
        self.initial_alpha_cumprod = 1.0 if set_alpha_to_one else float(self._alphas_cumprod[0])
        self._timesteps = self._timesteps[::-1]

    def _begin(self, timesteps: np.ndarray) -> None:
        timesteps = timesteps[::-1].copy()
        self._start_run(len(timesteps), timesteps)
        alphas_cumprod = self._alphas_cumprod[timesteps].tolist()
        self._alphas_of_steps = list(zip([self.initial_alpha_cumprod, *alphas_cumprod], alphas_cumprod))

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Array, Array]:
        """To the sample at `timestep`, from that at the one before it (equation 12 with sigma 0, backwards).

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction for `sample` and `timestep`, `[B, ...]`.
            timestep: t, one of `timesteps`, where the step leads.
            sample: x at the timestep before, `[B, ...]`.
            generator: not drawn from; for a call that suits every scheduler.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep that is not in it, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self.position(timestep)
        start, end = self._alphas_of_steps[index]
        require_running(generator)
        require_same_shape(sample, model_output=model_output)
        x = upcast(sample)
        x0, epsilon = predicted_x0_and_epsilon(
            self.config.prediction_type, upcast(model_output), x, math.sqrt(start), math.sqrt(1 - start)
        )
        if self.config.clip_sample:
            x0 = x0.clip(-self.config.clip_sample_range, self.config.clip_sample_range)
        x_next, x0 = previous_sample(x0, epsilon, end).astype(sample.dtype), x0.astype(sample.dtype)
        return DDIMSchedulerOutput(x_next, x0) if return_dict else (x_next, x0)
