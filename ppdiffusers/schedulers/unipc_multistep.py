"""Unified predictor-corrector (arXiv 2302.04867)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.schedulers.exponential_integrator import ExponentialIntegrator
from ppdiffusers.schedulers.scheduler import Array


class UniPCMultistepScheduler(ExponentialIntegrator):
    """UniPC multistep: every step is corrected by the output at its end, which the next step needs anyway.

    Predictor (UniP) and corrector (UniC) go through past outputs, the corrector through the new one too, so that its
    order is one higher; none of them costs a call of the model.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        solver_order: outputs that the predictor builds on, 1 to 4; 2 suits guidance, 3 none.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0, with `dynamic_thresholding_ratio` and
            `sample_max_value`; see `threshold_dynamically`.
        predict_x0: whether the polynomial goes through predictions of x_0, or else of epsilon.
        solver_type: the paper's B(h) where two outputs give a slope: `bh1` is h, for few steps without guidance;
            `bh2` is e^h - 1.
        lower_order_final: the order falls to 1 towards the last step.
        disable_corrector: steps, counted from 0, that are not corrected: with strong guidance the first ones.
        solver_p: another predictor, which is not supported; None only.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas of the whole
            training, not the timesteps; at most one of them, see `spaced_sigmas`. The timesteps
            then lie between the training's.
        use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type, shift_terminal: flow matching, which
            is not supported; the defaults only.
        timestep_spacing, steps_offset: as `spaced_timesteps` for one timestep more, the lowest one
            dropped; `trailing` has no need of that.
        final_sigmas_type: the last step leads to sigma 0 (`zero`, always by order 1) or to that of
            timestep 0 (`sigma_min`).
        rescale_betas_zero_snr: let the last training step be all but pure noise.
        sigma_min, sigma_max: ends of a spacing of sigmas; without them, those of the training.

    Raises:
        ValueError: an unknown value, options that exclude each other or are not supported, or a number out of range.
    """

    _methods = {"solver_type": ("bh1", "bh2")}

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        predict_x0: bool = True,
        solver_type: str = "bh2",
        lower_order_final: bool = True,
        disable_corrector: Sequence[int] = (),
        solver_p: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        final_sigmas_type: str = "zero",
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        shift_terminal: float | None = None,
    ):
        if solver_p is not None:
            raise ValueError(f"solver_p {solver_p!r} is not supported; leave it out, and UniP predicts")
        self._set_solver((1, 2, 3, 4), final_sigmas_type)
        self._predicts_x0 = bool(predict_x0)
        self._second_weight = "linear" if solver_type == "bh1" else "half"

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        super()._start_sigma_run(count, timesteps, sigmas, final_sigma)
        self._last: tuple[Array, int] | None = None  # the sample that the last step began with, and its order

    def _advance(self, sample: Array, index: int, converted: Array, noise: Array | None) -> Array:
        if self._last is not None and index - 1 not in self.config.disable_corrector:
            before, order = self._last
            outputs = [*self._outputs[:order], (index, converted)]
            sample = self._transition(before, index - 1, index, outputs, self._second_weight)
        order = len(self._timesteps) - index if self.config.lower_order_final else self.config.solver_order
        outputs = self._remember(index, converted)[: 1 if self._ends_at_zero(index) else order]
        self._last = sample, len(outputs)
        return self._transition(sample, index, index + 1, outputs, self._second_weight)
