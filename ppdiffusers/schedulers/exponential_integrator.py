"""Exponential integrators in lambda, which DPM-Solver, DEIS and UniPC are.

The ODE (or SDE) has a linear part, solved exactly, and the model's output under an exponential. Along a step a
polynomial through outputs stands for the model, and its integral is exact. The solvers differ in the outputs that
they take, in what they take them for (x_0 or epsilon), and in one weight of the second order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppdiffusers.random import Streams
from ppdiffusers.schedulers.ddpm import VARIANCE_TYPES
from ppdiffusers.schedulers.noise_schedule import require_one_of, spaced_timesteps
from ppdiffusers.schedulers.scheduler import (
    Array,
    SchedulerOutput,
    Timestep,
    predicted_x0_and_epsilon,
    require_running,
    require_same_shape,
    require_thresholding,
    sigma_to_alpha_sigma_t,
    step_noise,
    threshold_dynamically,
    upcast,
)
from ppdiffusers.schedulers.sigma_scheduler import SigmaScheduler


def exponential_moments(h: float, count: int) -> list[float]:
    """Integrals over u from 0 to 1 of h e^{-h (1 - u)} u^j, for j = 0 ... count - 1; h may be negative or infinite.

    In phi-functions of exponential integrators, j! h phi_{j + 1}(-h).
    """
    if h == math.inf:
        return [1.0] * count
    if abs(h) < 1:  # the recursion loses digits by j! / h^j; the series of the exponential does not
        moments = []
        for j in range(count):
            term = moment = h / (j + 1)
            n = 1
            while abs(term) > 1e-17 * abs(moment):
                term *= -h / (n + j + 1)
                moment, n = moment + term, n + 1
            moments.append(moment)
        return moments
    moments = [-math.expm1(-h)]
    for j in range(1, count):
        moments.append(1 - j * moments[-1] / h)
    return moments


def output_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights w of outputs at `nodes`: for every polynomial p of lesser degree, sum w_k p(node_k) = sum p_j moments_j.

    Vandermonde's system, by Bjorck's and Pereyra's algorithm (Mathematics of Computation 24, 1970).
    """
    weights, count = list(moments), len(nodes)
    for k in range(count - 1):
        for i in range(count - 1, k, -1):
            weights[i] -= nodes[k] * weights[i - 1]
    for k in range(count - 2, -1, -1):
        for i in range(k + 1, count):
            weights[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, count - 1):
            weights[i] -= weights[i + 1]
    return weights


class ExponentialIntegrator(SigmaScheduler):
    """Base of the solvers in lambda_t = log(alpha_t / sigma_t), whose sample is alpha_t x_0 + sigma_t epsilon."""

    _predicts_x0: bool  # whether the polynomial goes through predictions of x_0, or else of epsilon
    _is_noisy = False  # the SDE
    _learned = False  # the model's output has a variance behind it

    def _set_solver(self, orders: Sequence[int] = (1, 2, 3), final_sigmas_type: str = "zero") -> None:
        """Checks of the config that all share, and the noise schedule."""
        config = self.config
        if config.solver_order not in orders or isinstance(config.solver_order, bool):
            known = ", ".join(map(str, orders))
            raise ValueError(f"solver_order {config.solver_order!r} is unknown; choose one of {known}")
        for key, methods in self._methods.items():
            require_one_of(key, config[key], methods)
        variance_type = config.get("variance_type", None)
        if variance_type is not None:
            require_one_of("variance_type", variance_type, VARIANCE_TYPES)
        self._learned = variance_type in ("learned", "learned_range")
        for name in ("use_flow_sigmas", "use_dynamic_shifting", "shift_terminal"):
            if config.get(name, None):
                raise ValueError(f"{name} is for flow matching models, which are not supported; leave it out")
        require_thresholding(config.thresholding, config.dynamic_thresholding_ratio, config.sample_max_value)
        self._lambda_min_clipped = config.get("lambda_min_clipped", -math.inf)
        self._set_noise_schedule()
        self._set_final_sigma(final_sigmas_type)

    def _spaced(self, count: int) -> np.ndarray:
        """One timestep more than asked for, and the lowest dropped; `trailing` has no need of that."""
        total = int(np.sum(-np.log(self._train_sigmas) >= self._lambda_min_clipped))
        spacing = self._timestep_spacing
        if count > total:
            raise ValueError(
                f"lambda_min_clipped {self._lambda_min_clipped} leaves {total} training timesteps for "
                f"{count} steps; take fewer steps"
            )
        if spacing == "trailing":
            return spaced_timesteps(spacing, total, count)
        if count == total:
            raise ValueError(f"{spacing} spacing has {total - 1} steps at most; take fewer than {count}")
        return spaced_timesteps(spacing, total, count + 1, self._steps_offset)[:-1]

    def _start_sigma_run(self, count: int, timesteps: np.ndarray, sigmas: np.ndarray, final_sigma: float) -> None:
        super()._start_sigma_run(count, timesteps, sigmas, final_sigma)
        self._outputs: list[tuple[int, Array]] = []  # place in `sigmas` and converted output, newest first

    def step(
        self,
        model_output: Array,
        timestep: Timestep,
        sample: Array,
        generator: Streams = None,
        variance_noise: Array | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Array]:
        """From the sample at `timestep` to that at the next one.

        float16 and bfloat16 samples are stepped in float32 and returned in their own type.

        Args:
            model_output: the model's prediction at `sample`, `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance.
            timestep: the next of `timesteps`, or any of them for a run's first step.
            sample: x_t, `[B, C, ...]`.
            generator: where the noise of an SDE comes from: a `Generator` or one of torch's, a list of them with
                one an image, or None, which leaves it to `paddle.seed`. Without an SDE nothing is drawn.
            variance_noise: the noise itself, `[B, C, ...]`, instead of a generator.
            return_dict: False returns the tuple (prev_sample,).

        Raises:
            ValueError: no `set_timesteps` before, a timestep out of order, a generator beside
                variance_noise, or shapes that differ.
            TypeError: a seed in place of a generator.
        """
        index = self._in_order(timestep)
        require_running(generator)
        if generator is not None and variance_noise is not None:
            raise ValueError("both generator and variance_noise were given; give one of them")
        if self._learned and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        require_same_shape(sample, model_output=model_output, variance_noise=variance_noise)
        x_s = upcast(sample)
        noise = None
        if self._is_noisy:
            noise = step_noise(x_s, generator) if variance_noise is None else upcast(variance_noise)
        converted = self._converted(upcast(model_output), x_s, index)
        x_t = self._advance(x_s, index, converted, noise).astype(sample.dtype)
        self._next = index + 1
        return SchedulerOutput(x_t) if return_dict else (x_t,)

    def _converted(self, model_output: Array, sample: Array, index: int) -> Array:
        """The predicted x_0 or epsilon, through which the polynomial goes."""
        alpha_t, sigma_t = sigma_to_alpha_sigma_t(float(self._sigmas[index]))
        x0, epsilon = predicted_x0_and_epsilon(self.config.prediction_type, model_output, sample, alpha_t, sigma_t)
        if self.config.thresholding:
            x0 = threshold_dynamically(x0, self.config.dynamic_thresholding_ratio, self.config.sample_max_value)
            epsilon = (sample - alpha_t * x0) / sigma_t
        return x0 if self._predicts_x0 else epsilon

    def _advance(self, sample: Array, index: int, converted: Array, noise: Array | None) -> Array:
        """The sample at `sigmas[index + 1]` from that at `sigmas[index]`."""
        raise NotImplementedError

    def _transition(
        self,
        sample: Array,
        start: int,
        end: int,
        outputs: Sequence[tuple[int, Array]],
        second_weight: str = "integral",
        noise: Array | None = None,
    ) -> Array:
        """x at `sigmas[end]` of x at `sigmas[start]`: arXiv 2206.00927, proposition 3.1; 2211.01095, 4.1 and 5.

        Args:
            outputs: places in `sigmas` and the converted outputs there, through which the polynomial goes.
            second_weight: of a slope that two outputs give: its `integral`, or an approximation of as high an order:
                the slope over half of the step's weight (`half`), or half of the step (`linear`).
            noise: of the SDE, shaped as the sample.
        """
        sigma, sigma_next = float(self._sigmas[start]), float(self._sigmas[end])
        (alpha_s, sigma_s), (alpha_t, sigma_t) = sigma_to_alpha_sigma_t(sigma), sigma_to_alpha_sigma_t(sigma_next)
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf  # lambda_t - lambda_s, lambda = -log(sigma)
        drift = 2 if self._is_noisy else 1  # the SDE's pull of the model is twice the ODE's
        nodes = [math.log(sigma / self._sigmas[place]) for place, _ in outputs]
        if self._predicts_x0:
            # ... and so is the decay of the sample.
            x_t = sigma_t / sigma_s * (math.exp(-h) if self._is_noisy else 1.0) * sample
            scale, exponent = alpha_t, drift * h
        else:
            x_t = alpha_t / alpha_s * sample
            scale, exponent = (
                drift * sigma_t,
                -h,
            )  # of epsilon the integral of h e^{h (1 - u)} u^j, by the moments of -h
        if h == math.inf:  # one output: of epsilon sigma_t e^h is left, which is finite
            weights = [scale if self._predicts_x0 else -drift * alpha_t * sigma]
        else:
            moments = exponential_moments(exponent, len(nodes))
            if len(nodes) == 2 and second_weight != "integral":
                moments[1] = (moments[0] if second_weight == "half" else exponent) / 2
            weights = [scale * weight for weight in output_weights(nodes, [m * h**j for j, m in enumerate(moments)])]
        for weight, (_, output) in zip(weights, outputs):
            x_t = x_t + weight * output
        if noise is None:
            return x_t
        deviation = sigma_t if self._predicts_x0 else alpha_t * sigma
        return x_t + deviation * math.sqrt(-math.expm1(-2 * h)) * noise

    def _is_last(self, index: int) -> bool:
        return index == len(self._timesteps) - 1

    def _ends_at_zero(self, index: int) -> bool:
        """Whether this step leads to sigma 0, where only the first order has a limit."""
        return self._is_last(index) and not self._sigmas[-1] > 0

    def _multistep_order(self, index: int, lower_order_final: bool, euler_at_final: bool = False) -> int:
        """How many outputs a multistep solver of order 3 takes for a step: few steps end with two, then one."""
        few = lower_order_final and len(self._timesteps) < 15
        if self._is_last(index) and (euler_at_final or few or self._ends_at_zero(index)):
            return 1
        return 2 if index == len(self._timesteps) - 2 and few else 3

    def _remember(self, index: int, converted: Array) -> list[tuple[int, Any]]:
        self._outputs = [(index, converted), *self._outputs][: self.config.solver_order]
        return self._outputs
