"""Noise schedules and the timesteps taken of them, in float64 numpy.

Symbols, here and in the schedulers, are those of diffusers:

    betas, alphas           noise variances of the training steps, and 1 - betas
    alphas_cumprod          product of the alphas up to t (alpha-bar of arXiv 2006.11239, alpha of 2010.02502);
                            one value of it is alpha_prod_t, that of the next step alpha_prod_t_prev
    alpha_t, sigma_t        x_t = alpha_t x_0 + sigma_t epsilon; the roots of alpha_prod_t and 1 - alpha_prod_t
    lambda_t                log(alpha_t / sigma_t), half the log-SNR (arXiv 2206.00927)
    sigmas, sigma           sigma_t / alpha_t: the noise in x_t / alpha_t = x_0 + sigma epsilon (arXiv 2206.00364)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")
SIGMA_SPACINGS = ("karras", "exponential", "beta")


def require_one_of(name: str, value: object, accepted: Sequence[str]) -> None:
    """Raises ValueError, with the accepted values, where `value` is none of them."""
    if value not in accepted:
        raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(accepted)}")


def make_betas(
    schedule: str,
    beta_start: float,
    beta_end: float,
    num_train_timesteps: int,
    trained_betas: Sequence[float] | None = None,
) -> np.ndarray:
    """Noise variances of the training steps, float64 `[T]`.

    Args:
        schedule: `linear` (arXiv 2006.11239), `scaled_linear` (linear in the square root, that of
            latent diffusion), `squaredcos_cap_v2` (arXiv 2102.09672, equation 17, betas capped at 0.999;
            beta_start and beta_end have no part in it) or `sigmoid` (a logistic curve from -6 to 6
            between them, that of GeoDiff, arXiv 2203.02923).
        trained_betas: the variances themselves, instead of a schedule.

    Raises:
        ValueError: an unknown schedule; trained_betas of another length than T; a beta outside (0, 1].
    """
    require_one_of("beta_schedule", schedule, BETA_SCHEDULES)
    if trained_betas is not None:
        betas = np.asarray(trained_betas, dtype=np.float64)
        if betas.shape != (num_train_timesteps,):
            raise ValueError(
                f"trained_betas has shape {list(betas.shape)}, num_train_timesteps is {num_train_timesteps}; "
                "give one beta a timestep"
            )
    elif schedule == "linear":
        betas = np.linspace(beta_start, beta_end, num_train_timesteps)
    elif schedule == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2
    elif schedule == "sigmoid":
        betas = beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, num_train_timesteps)))
    else:
        times = np.arange(num_train_timesteps + 1) / num_train_timesteps
        alphas_cumprod = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)
    # A zero would make the step away from it 0 / 0; a one is the end of a zero-SNR schedule and of nothing else.
    wrong = ~((betas > 0) & (betas < 1))
    wrong[-1:] &= betas[-1:] != 1
    if wrong.any():
        raise ValueError(f"beta {betas[wrong][0]} at timestep {np.flatnonzero(wrong)[0]} is not between 0 and 1")
    return betas


def rescale_to_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Betas whose last step leaves nothing of the signal (arXiv 2305.08891, algorithm 1).

    The square roots of alphas_cumprod are shifted so that the last is zero, then scaled so that the
    first is what it was. The last beta becomes exactly 1.
    """
    roots = np.sqrt(np.cumprod(1 - betas))
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    alphas_cumprod = roots**2
    return 1 - np.concatenate([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


def spaced_timesteps(
    spacing: str, num_train_timesteps: int, num_inference_steps: int, steps_offset: int = 0
) -> np.ndarray:
    """The timesteps of a run, int64 `[n]`, from the noisiest down, all different and in 0 ... T - 1.

    Table 2 of arXiv 2305.08891, counted from zero: `leading` takes every (T // n)-th from
    `steps_offset` on, `linspace` both ends and what is evenly between, `trailing` every (T / n)-th
    back from the last.

    Raises:
        ValueError: an unknown spacing; a steps_offset that leads out of the training steps.
    """
    require_one_of("timestep_spacing", spacing, TIMESTEP_SPACINGS)
    total, count = num_train_timesteps, num_inference_steps
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, count).round()
    elif spacing == "trailing":
        timesteps = (np.arange(1, count + 1) * total / count).round() - 1
    else:
        timesteps = np.arange(count, dtype=np.float64) * (total // count) + steps_offset
        if timesteps[0] < 0 or timesteps[-1] >= total:
            raise ValueError(
                f"{count} steps with steps_offset {steps_offset} need the timesteps {timesteps[0]:.0f} ... "
                f"{timesteps[-1]:.0f} of 0 ... {total - 1}; take fewer steps or another steps_offset"
            )
    return timesteps[::-1].astype(np.int64)


def spaced_sigmas(spacing: str, sigma_max: float, sigma_min: float, count: int) -> np.ndarray:
    """`count` sigmas from sigma_max down to sigma_min, float64.

    `karras` is equation 5 of arXiv 2206.00364 with rho 7, `exponential` even in the logarithm, and
    `beta` the quantiles of Beta(0.6, 0.6), dense at both ends (arXiv 2407.12173).
    """
    require_one_of("sigma spacing", spacing, SIGMA_SPACINGS)
    ramp = np.linspace(0, 1, count)
    if spacing == "karras":
        rho = 7.0
        sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    elif spacing == "exponential":
        sigmas = np.exp(math.log(sigma_max) + ramp * (math.log(sigma_min) - math.log(sigma_max)))
    else:
        sigmas = sigma_min + _beta_quantiles(1 - ramp, 0.6) * (sigma_max - sigma_min)
    # A last bit off, and a step between equal sigmas would not be the step of length zero that it is.
    sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return sigmas


def timesteps_of_sigmas(sigmas: np.ndarray, train_sigmas: np.ndarray) -> np.ndarray:
    """Where sigmas stand in the training's (rising, one a timestep), interpolated in the logarithm."""
    return np.interp(np.log(sigmas), np.log(train_sigmas), np.arange(len(train_sigmas)))


def _beta_quantiles(probabilities: np.ndarray, a: float) -> np.ndarray:
    """Quantiles of the symmetric Beta(a, a): bisection on its distribution function's power series.

    The series x^a sum_k (1 - a)_k / (k! (a + k)) x^k converges like 2^-k on the lower half; the upper is its mirror.
    """
    coefficients, term = [], 1.0
    for k in range(60):
        coefficients.append(term / (a + k))
        term *= (1 - a + k) / (k + 1)
    whole = math.gamma(a) ** 2 / math.gamma(2 * a)
    lower = np.minimum(probabilities, 1 - probabilities)
    low, high = np.zeros_like(lower), np.full_like(lower, 0.5)
    for _ in range(100):
        middle = (low + high) / 2
        below = middle**a * np.polynomial.polynomial.polyval(middle, coefficients) / whole < lower
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(probabilities > 0.5, 1 - high, high)
