"""Diffusion exponential integrator sampler (arXiv 2204.13902), of which this is tAB-DEIS in log(rho)."""

from __future__ import annotations

from collections.abc import Sequence

from ppdiffusers.config import register_to_config
from ppdiffusers.schedulers.exponential_integrator import ExponentialIntegrator
from ppdiffusers.schedulers.scheduler import Array


class DEISMultistepScheduler(ExponentialIntegrator):
    """DEIS multistep: the linear part solved exactly, a polynomial in log(rho) through past epsilons for the rest.

    rho is sigma here, and log(rho) = -lambda_t: the same integral as in DPM-Solver, of epsilon and taken exactly. The
    last step leads to the sigma of timestep 0.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        solver_order: epsilons that a step builds on, 1 to 3.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0, with `dynamic_thresholding_ratio` and
            `sample_max_value`; see `threshold_dynamically`.
        algorithm_type: `deis`. solver_type: `logrho`.
        lower_order_final: fewer than 15 steps end with order 2, then 1.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas of the whole
            training, not the timesteps; at most one of them, see `spaced_sigmas`. The timesteps
            then lie between the training's.
        use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type: flow matching, which is not
            supported; the defaults only.
        timestep_spacing, steps_offset: as `spaced_timesteps` for one timestep more, the lowest one
            dropped; `trailing` has no need of that.

    Raises:
        ValueError: an unknown value, options that exclude each other or are not supported, or a number out of range.
    """

    _methods = {"algorithm_type": ("deis",), "solver_type": ("logrho",)}
    _predicts_x0 = False

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
        algorithm_type: str = "deis",
        solver_type: str = "logrho",
        lower_order_final: bool = True,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ):
        self._set_solver(final_sigmas_type="sigma_min")

    def _advance(self, sample: Array, index: int, converted: Array, noise: Array | None) -> Array:
        outputs = self._remember(index, converted)[: self._multistep_order(index, self.config.lower_order_final)]
        return self._transition(sample, index, index + 1, outputs)
