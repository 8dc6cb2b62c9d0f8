"""Singlestep DPM-Solver (arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095), for the ODE and the SDE."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.schedulers.exponential_integrator import ExponentialIntegrator
from ppdiffusers.schedulers.scheduler import Array


class DPMSolverSinglestepScheduler(ExponentialIntegrator):
    """DPM-Solver singlestep: groups of up to `solver_order` steps, each anew from where its group began.

    The k-th step of a group goes from the group's start by order k, and only outputs of its own group count: a
    Runge-Kutta method, which recovers faster from a change of the model (thresholding, strong guidance). Each entry
    of `timesteps` is one call of the model all the same.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        solver_order: steps in a group, 1 to 3; 2 suits guidance, 3 none.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        thresholding: dynamic thresholding of the predicted x_0, with `dynamic_thresholding_ratio` and
            `sample_max_value`; see `threshold_dynamically`.
        algorithm_type: `dpmsolver++` or `dpmsolver`, or `sde-dpmsolver++` with fresh noise at every step.
        solver_type: `midpoint`, of the third order the published method, which leaves the middle output out; or
            `heun`, the whole polynomial integrated.
        lower_order_final: end with smaller groups, so that any number of steps does, and the last step has order 1.
            Taken for True where the number does not go into groups, or the last step leads to sigma 0.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas of the whole
            training, not the timesteps; at most one of them, see `spaced_sigmas`. The timesteps
            then lie between the training's.
        use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type: flow matching, which is not
            supported; the defaults only.
        final_sigmas_type: the last step leads to sigma 0 (`zero`) or to that of timestep 0 (`sigma_min`).
        lambda_min_clipped: begin no noisier than this lambda_t, where timesteps are spaced.
        variance_type: with `learned` or `learned_range`, the second half of the model's output is a
            variance and left alone; others mean nothing here.

    Raises:
        ValueError: an unknown value, options that exclude each other or are not supported, or a number out of range.
    """

    _methods = {
        "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
    }

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
        lower_order_final: bool = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -math.inf,
        variance_type: str | None = None,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ):
        self._set_solver(final_sigmas_type=final_sigmas_type)
        self._predicts_x0 = algorithm_type.endswith("++")
        self._is_noisy = algorithm_type.startswith("sde")

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        super()._start_sigma_run(count, timesteps, sigmas, final_sigma)
        self._start: Array = None  # the sample that the group began with
        size = self.config.solver_order
        groups, rest = divmod(count, size)
        if not self.config.lower_order_final and not rest and final_sigma > 0:
            self._orders = [*range(1, size + 1)] * groups
            return
        if not rest:  # a whole group less, so that the last step is one of its own
            groups, rest = groups - 1, size
        whole = [*range(1, size + 1)] * groups
        self._orders = (
            [*whole, *range(1, rest), 1] if rest == size or final_sigma == 0 else [*whole, *range(1, rest + 1)]
        )

    def _advance(self, sample: Array, index: int, converted: Array, noise: Array | None) -> Array:
        order = min(self._orders[index], len(self._outputs) + 1)  # a run may begin within a group
        if order == 1:
            self._start, self._outputs = sample, []
        outputs = self._remember(index, converted)
        start = index + 1 - order
        if self.config.solver_type == "heun":
            return self._transition(self._start, start, index + 1, outputs, "integral", noise)
        ends = outputs[:: order - 1] if order > 1 else outputs
        return self._transition(self._start, start, index + 1, ends, "half" if order == 2 else "integral", noise)
