"""Multistep DPM-Solver (arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095), for the ODE and the SDE."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ppdiffusers.config import register_to_config
from ppdiffusers.schedulers.exponential_integrator import ExponentialIntegrator
from ppdiffusers.schedulers.scheduler import Array

ALGORITHMS = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")


class DPMSolverMultistepScheduler(ExponentialIntegrator):
    """DPM-Solver multistep: the linear part solved exactly, a polynomial through past predictions for the rest.

    The step is in lambda_t = log(alpha_t / sigma_t); what the model gives is taken as x_0 (`++`) or as epsilon.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        solver_order: predictions that a step builds on, 1 to 3; 2 suits guidance, 3 none.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0, with `dynamic_thresholding_ratio` and
            `sample_max_value`; see `threshold_dynamically`.
        algorithm_type: `dpmsolver++` or `dpmsolver`, with `sde-` before it for fresh noise at every step.
        solver_type: the second order's slope, at the `midpoint` or integrated exactly (`heun`).
        lower_order_final: fewer than 15 steps end with order 2, then 1.
        euler_at_final: the last step has order 1.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas of the whole
            training, not the timesteps; at most one of them, see `spaced_sigmas`. The timesteps
            then lie between the training's.
        use_lu_lambdas: steps even in lambda (arXiv 2206.00927): the exponential spacing by another name.
        use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type: flow matching, which is not
            supported; the defaults only.
        final_sigmas_type: the last step leads to sigma 0 (`zero`, always by order 1) or to that of
            timestep 0 (`sigma_min`).
        lambda_min_clipped: begin no noisier than this lambda_t (-5.1 for cosine betas), where timesteps are
            spaced; a spacing of sigmas takes the whole training, as in diffusers.
        variance_type: with `learned` or `learned_range`, the second half of the model's output is a
            variance and left alone; others mean nothing here.
        timestep_spacing, steps_offset: as `spaced_timesteps` for one timestep more, the lowest one
            dropped; `trailing` has no need of that.
        rescale_betas_zero_snr: let the last training step be all but pure noise.

    Raises:
        ValueError: an unknown value, options that exclude each other or are not supported, or a number out of range.
    """

    _methods = {"algorithm_type": ALGORITHMS, "solver_type": ("midpoint", "heun")}

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
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_lu_lambdas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -math.inf,
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ):
        if algorithm_type == "sde-dpmsolver" and final_sigmas_type == "zero":
            raise ValueError(
                "algorithm_type 'sde-dpmsolver' would end with noise at final_sigmas_type 'zero'; "
                "set final_sigmas_type='sigma_min', or algorithm_type='sde-dpmsolver++'"
            )
        self._set_solver(final_sigmas_type=final_sigmas_type)
        if use_lu_lambdas:
            if self._sigma_spacing is not None:
                raise ValueError(
                    f"use_lu_lambdas and use_{self._sigma_spacing}_sigmas exclude each other; set one of them"
                )
            self._sigma_spacing = "exponential"
        self._predicts_x0 = algorithm_type.endswith("++")
        self._is_noisy = algorithm_type.startswith("sde")
        self._second_weight = "half" if solver_type == "midpoint" else "integral"

    def _advance(self, sample: Array, index: int, converted: Array, noise: Array | None) -> Array:
        order = self._multistep_order(index, self.config.lower_order_final, self.config.euler_at_final)
        outputs = self._remember(index, converted)[:order]
        return self._transition(sample, index, index + 1, outputs, self._second_weight, noise)
