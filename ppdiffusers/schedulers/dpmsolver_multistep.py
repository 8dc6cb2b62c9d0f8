"""Multistep DPM-Solver (arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095), for the ODE and the SDE."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ppdiffusers.config import register_to_config
from ppdiffusers.random import Streams
from ppdiffusers.schedulers.ddpm import VARIANCE_TYPES
from ppdiffusers.schedulers.noise_schedule import require_one_of, spaced_sigmas, spaced_timesteps
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

ALGORITHMS = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")


def exponential_weights(h: float) -> tuple[float, float, float]:
    """Integrals over u from 0 to 1 of h e^{-h (1 - u)} u^j, for j = 0, 1, 2; h may be negative or infinite.

    In phi-functions of exponential integrators, j! h phi_{j + 1}(-h).
    """
    if h == math.inf:
        return 1.0, 1.0, 1.0
    if abs(h) < 1e-3:  # the closed forms lose their digits; the series of e^{-h (1 - u)} up to h^3
        return h - h**2 / 2 + h**3 / 6, h / 2 - h**2 / 6 + h**3 / 24, h / 3 - h**2 / 12 + h**3 / 60
    first = -math.expm1(-h)
    second = 1 - first / h
    return first, second, 1 - 2 * second / h


def polynomial(model_outputs: Sequence[Array], h: float, hs: Sequence[float]) -> list[Array]:
    """Newton's polynomial through past model outputs, as coefficients of u^0, u^1, u^2 for u = 0 ... 1 over the step.

    Args:
        model_outputs: m_0, m_1, m_2: one to three converted outputs, newest first.
        h: the coming step, lambda_t - lambda_s.
        hs: h_0, h_1: the steps in lambda between the outputs, newest first.
    """
    if len(model_outputs) == 1:
        return list(model_outputs)
    m0, m1 = model_outputs[:2]
    D1 = (m0 - m1) * (1 / hs[0])  # divided differences
    if len(model_outputs) == 2:
        return [m0, h * D1]
    D2 = (D1 - (m1 - model_outputs[2]) * (1 / hs[1])) * (1 / (hs[0] + hs[1]))
    return [m0, h * D1 + h * hs[0] * D2, h * h * D2]


class DPMSolverMultistepScheduler(SigmaScheduler):
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
        if solver_order not in (1, 2, 3):
            raise ValueError(f"solver_order {solver_order!r} is unknown; choose one of 1, 2, 3")
        require_one_of("algorithm_type", algorithm_type, ALGORITHMS)
        require_one_of("solver_type", solver_type, ("midpoint", "heun"))
        if variance_type is not None:
            require_one_of("variance_type", variance_type, VARIANCE_TYPES)
        for name, value in (("use_flow_sigmas", use_flow_sigmas), ("use_dynamic_shifting", use_dynamic_shifting)):
            if value:
                raise ValueError(f"{name} is for flow matching models, which are not supported; leave it out")
        if algorithm_type == "sde-dpmsolver" and final_sigmas_type == "zero":
            raise ValueError(
                "algorithm_type 'sde-dpmsolver' would end with noise at final_sigmas_type 'zero'; "
                "set final_sigmas_type='sigma_min', or algorithm_type='sde-dpmsolver++'"
            )
        require_thresholding(thresholding, dynamic_thresholding_ratio, sample_max_value)
        self._set_noise_schedule()
        self._set_final_sigma(final_sigmas_type)
        if use_lu_lambdas:
            if self._sigma_spacing is not None:
                raise ValueError(
                    f"use_lu_lambdas and use_{self._sigma_spacing}_sigmas exclude each other; set one of them"
                )
            self._sigma_spacing = "exponential"
        self._learned = variance_type in ("learned", "learned_range")
        self._predicts_x0 = algorithm_type.endswith("++")
        self._is_noisy = algorithm_type.startswith("sde")

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose timesteps and sigmas of a run of `num_inference_steps` steps, and forget the run before.

        Raises:
            TypeError: not an integer.
            ValueError: less than one step, or more than there are timesteps for.
        """
        count = self._checked_steps(num_inference_steps)
        spacing, offset = self.config.timestep_spacing, self.config.steps_offset
        if self._sigma_spacing is not None:
            sigma_min, sigma_max = float(self._train_sigmas[0]), float(self._train_sigmas[-1])
            sigmas = spaced_sigmas(self._sigma_spacing, sigma_max, sigma_min, count)
            timesteps = self._timesteps_of(sigmas)
        else:
            total = int(np.sum(-np.log(self._train_sigmas) >= self.config.lambda_min_clipped))
            if count > total:
                raise ValueError(
                    f"lambda_min_clipped {self.config.lambda_min_clipped} leaves {total} training timesteps for "
                    f"{count} steps; take fewer steps"
                )
            if spacing == "trailing":
                timesteps = spaced_timesteps(spacing, total, count)
            elif count == total:
                raise ValueError(f"{spacing} spacing has {total - 1} steps at most; take fewer than {count}")
            else:
                timesteps = spaced_timesteps(spacing, total, count + 1, offset)[:-1]
            sigmas = self._train_sigmas[timesteps]
        self._start_sigma_run(count, timesteps, sigmas)
        self._model_outputs: list[Array] = []  # converted, newest first

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
            generator: where the noise of the `sde-` algorithms comes from: a `Generator` or one of
                torch's, a list of them with one an image, or None, which leaves it to `paddle.seed`.
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
        self._model_outputs = [converted, *self._model_outputs][: self.config.solver_order]
        x_t = self._update(x_s, index, self._model_outputs[: self._order(index)], noise).astype(sample.dtype)
        self._next = index + 1
        return SchedulerOutput(x_t) if return_dict else (x_t,)

    def _converted(self, model_output: Array, sample: Array, index: int) -> Array:
        """The predicted x_0 (`++`) or epsilon, through which the polynomial goes."""
        alpha_t, sigma_t = sigma_to_alpha_sigma_t(float(self.sigmas[index]))
        x0, epsilon = predicted_x0_and_epsilon(self.config.prediction_type, model_output, sample, alpha_t, sigma_t)
        if self.config.thresholding:
            x0 = threshold_dynamically(x0, self.config.dynamic_thresholding_ratio, self.config.sample_max_value)
            epsilon = (sample - alpha_t * x0) / sigma_t
        return x0 if self._predicts_x0 else epsilon

    def _order(self, index: int) -> int:
        config, count = self.config, len(self.timesteps)
        lower = config.lower_order_final and count < 15
        if index == count - 1 and (config.euler_at_final or lower or self._final_sigma == 0):
            return 1
        return 2 if index == count - 2 and lower else 3

    def _update(self, sample: Array, index: int, model_outputs: Sequence[Array], noise: Array | None) -> Array:
        """x_t of x_s: step `index` (proposition 3.1 of arXiv 2206.00927 for epsilon, 4.1 of 2211.01095 for x_0)."""
        sigma, sigma_next = self.sigmas[index : index + 2].tolist()
        (alpha_s, sigma_s), (alpha_t, sigma_t) = sigma_to_alpha_sigma_t(sigma), sigma_to_alpha_sigma_t(sigma_next)
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf  # lambda_t - lambda_s, lambda = -log(sigma)
        drift = 2 if self._is_noisy else 1  # the SDE's pull of the model is twice the ODE's
        if self._predicts_x0:
            # ... and so is the decay of the sample.
            sample_coeff = sigma_t / sigma_s * (math.exp(-h) if self._is_noisy else 1.0)
            weights = [alpha_t * weight for weight in exponential_weights(drift * h)]
            std_dev = sigma_t * math.sqrt(-math.expm1(-2 * h))
        else:
            sample_coeff = alpha_t / alpha_s
            weights = self._epsilon_weights(h, sigma_t, alpha_t * sigma, drift)
            std_dev = alpha_t * sigma * math.sqrt(-math.expm1(-2 * h))
        if len(model_outputs) == 2 and self.config.solver_type == "midpoint":
            weights[1] = weights[0] / 2
        hs = (-np.diff(np.log(self.sigmas[index - len(model_outputs) + 1 : index + 1])))[::-1].tolist()
        x_t = sample_coeff * sample
        for weight, coefficient in zip(weights, polynomial(model_outputs, h, hs)):
            x_t = x_t + weight * coefficient
        return x_t if noise is None else x_t + std_dev * noise

    @staticmethod
    def _epsilon_weights(h: float, sigma_t: float, sigma_t_exp_h: float, drift: int) -> list[float]:
        """Integrals of epsilon's polynomial; `sigma_t_exp_h` is sigma_t e^h, finite where h is not."""
        if h == math.inf:
            return [-drift * sigma_t_exp_h]
        # Integral of h e^{h (1 - u)} u^j, by the weights of -h.
        return [drift * sigma_t * weight for weight in exponential_weights(-h)]
