"""Linear multistep method (Adams-Bashforth for uneven steps) for the probability-flow ODE in sigma."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.scheduler import (
    Array,
    SchedulerOutput,
    Timestep,
    require_running,
    require_same_shape,
    upcast,
)
from ppdiffusers.schedulers.sigma_scheduler import VarianceExplodingScheduler


def multistep_coefficients(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of the Lagrange polynomials on `nodes`, one each.

    Gauss-Legendre quadrature with half as many points as nodes is exact for polynomials of their degree.
    """
    points, weights = np.polynomial.legendre.leggauss((len(nodes) + 1) // 2)
    places = (start + end) / 2 + (end - start) / 2 * points
    coefficients = []
    for node in nodes:
        factors = [(places - other) / (node - other) for other in nodes if other != node]
        values = np.prod([np.ones_like(places), *factors], axis=0)
        coefficients.append(float((end - start) / 2 * np.sum(weights * values)))
    return coefficients


class LMSDiscreteScheduler(VarianceExplodingScheduler):
    """Linear multistep from sigma to sigma: a polynomial through the last epsilons, integrated exactly.

    Args:
        num_train_timesteps: steps of the training schedule.
        beta_start, beta_end, beta_schedule, trained_betas: see `make_betas`.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: space the sigmas, not the timesteps;
            at most one of them, see `spaced_sigmas`.
        prediction_type: what the model returns: `epsilon`, `sample` (x_0) or `v_prediction`.
        timestep_spacing, steps_offset: see `spaced_timesteps`; `linspace` is not rounded.

    Raises:
        ValueError: an unknown value, options that exclude each other, or a number out of range.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
    ):
        self._set_noise_schedule()

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        super()._start_sigma_run(count, timesteps, sigmas, final_sigma)
        self._epsilons: list[Array] = []  # newest first

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        order: int = 4,
        generator: Streams = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array, Array]:
        """From one sigma to the next.

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at `scale_model_input(sample, timestep)`, `[B, ...]`.
            timestep: the next of `timesteps`, or any of them for a run's first step.
            sample: x_0 + sigma * noise, `[B, ...]`.
            order: how many epsilons the polynomial goes through at most, the newest ones.
            generator: not drawn from; for a call that suits every scheduler.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).

        Raises:
            ValueError: no `set_timesteps` before, a timestep out of order, an order below 1, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self._in_order(timestep)
        require_running(generator)
        require_same_shape(sample, model_output=model_output)
        if order < 1:
            raise ValueError(f"order {order} is less than 1")
        sigma, sigma_next = self._sigmas[index : index + 2].tolist()
        x0, epsilon = self._predicted(model_output, upcast(sample), sigma)
        self._epsilons = [epsilon, *self._epsilons][:order]
        nodes = self._sigmas[index - len(self._epsilons) + 1 : index + 1][::-1].tolist()
        coefficients = multistep_coefficients(nodes, sigma, sigma_next)
        coefficients[0] += sigma  # from x_0 instead of the sample: no difference of large numbers at large sigmas
        x_next = sum((factor * past for factor, past in zip(coefficients, self._epsilons)), start=x0)
        self._next = index + 1
        x_next, x0 = x_next.astype(sample.dtype), x0.astype(sample.dtype)
        return SchedulerOutput(x_next, x0) if return_dict else (x_next, x0)
