"""On Gaussian data, where score, ODE solution and distribution are known: orders of convergence, moments.

Data N(MEAN, SPREAD^2): x_t has variance a SPREAD^2 + 1 - a, and the probability-flow ODE keeps
(x_t - sqrt(a) MEAN) / deviation. Each run starts on a solution and is compared with it where it ends.

What the orders need:

- DDIM is first order everywhere; `leading` with the alpha of timestep 0 last ends at the data's end of the schedule.
- Euler, LMS and DPM-Solver end at the sigma of timestep 0 (`sigma_min`; LMS, which has no such option, is
  compared before its last step): from there to 0 is one step of the same length however many there are.
- Heun is compared before its last step, which is an Euler step to 0.
- Singlestep DPM-Solver needs steps that go into groups; its third order, the published one, a middle output at a third
  and at two thirds of lambda, so exponential sigmas.
- UniPC of order p converges with p + 1, by its corrector; the first steps' lower orders hold back what is higher.
- LMS and DPM-Solver of higher order go by Karras's or Lu's sigmas. Even timesteps of a latent diffusion
  schedule leave the last steps long in lambda (1.3 with 80 steps), and the order does not show yet:
  DPM-Solver++ 2M has a slope of 1.1 there.
- PNDM's coefficients take epsilon for smooth in t and the timesteps for even. Near t = 0 linear and scaled
  linear betas give sigma ~ sqrt(t) (a slope of 1.2), so only the cosine schedule, whose sigma is smooth
  there, shows the order; `leading`, because linspace rounds; and its last step has length zero.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from slow_schedulers import GROWING

import ppdiffusers
from ppdiffusers.random import Generator

MEAN, SPREAD = 0.4, 0.7
LATENT = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear"}
STARTS = np.array([[-1.3], [0.2], [0.9], [2.0]])
STEPS = (10, 20, 40, 80)
SIGMA_MIN = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
KARRAS, EVEN = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}  # EVEN in lambda
DEIS, SINGLE, UNIPC = "DEISMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"


def deviation(alpha):
    return math.sqrt(alpha * SPREAD**2 + 1 - alpha)


def on_solution(standard, alpha):
    return math.sqrt(alpha) * MEAN + deviation(alpha) * standard


def true_epsilon(x, alpha):
    return math.sqrt(1 - alpha) * (x - math.sqrt(alpha) * MEAN) / deviation(alpha) ** 2


def run(scheduler, steps, standard, generator=None, stop=None):
    """The sample after `timesteps[:stop]`, unscaled, and the alpha that it is at."""
    scheduler.set_timesteps(steps)
    sigmas, growing = getattr(scheduler, "sigmas", None), type(scheduler).__name__ in GROWING
    table = scheduler.alphas_cumprod if sigmas is None else None

    def alpha_at(t):
        return float(table[t]) if sigmas is None else 1 / (1 + sigmas[scheduler.position(t)] ** 2)

    timesteps = scheduler.timesteps
    x = on_solution(standard, alpha_at(timesteps[0]))
    x = x / math.sqrt(alpha_at(timesteps[0])) if growing else x
    for t in timesteps[:stop]:
        epsilon = true_epsilon(scheduler.scale_model_input(x, t), alpha_at(t))
        x = scheduler.step(epsilon, t, x, generator=generator).prev_sample
    if sigmas is not None:
        last = 1 / (1 + sigmas[len(timesteps[:stop])] ** 2)
    else:
        last = getattr(scheduler, "final_alpha_cumprod", 1.0)
    return (x * math.sqrt(last) if growing else x), last


def errors(name, config, stop=None, number_of_steps=STEPS):
    values = []
    for steps in number_of_steps:
        x, alpha = run(getattr(ppdiffusers, name)(**{**LATENT, **config}), steps, STARTS, stop=stop)
        values.append(np.abs(x - on_solution(STARTS, alpha)).max())
    return values


@pytest.mark.parametrize(
    ("name", "config", "order"),
    [
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, 0.9),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, 0.9),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}, 0.99),
        ("LMSDiscreteScheduler", {"use_karras_sigmas": True}, 1.8),
        ("LMSDiscreteScheduler", {"use_exponential_sigmas": True}, 1.8),
        ("PNDMScheduler", {"skip_prk_steps": True, "beta_schedule": "squaredcos_cap_v2"}, 1.8),
        ("PNDMScheduler", {"skip_prk_steps": False, "beta_schedule": "squaredcos_cap_v2"}, 1.8),
        *[
            (
                "DPMSolverMultistepScheduler",
                {**SIGMA_MIN, "algorithm_type": kind, "solver_order": order, **spacing},
                least,
            )
            for kind in ("dpmsolver++", "dpmsolver")
            for spacing in ({"use_karras_sigmas": True}, {"use_lu_lambdas": True})
            for order, least in ((1, 0.9), (2, 1.8))
        ],
        *[
            (
                "DPMSolverMultistepScheduler",
                {**SIGMA_MIN, "algorithm_type": kind, "solver_type": "heun", **spacing},
                1.8,
            )
            for kind in ("dpmsolver++", "dpmsolver")
            for spacing in ({"use_karras_sigmas": True}, {"use_lu_lambdas": True})
        ],
        *[
            (
                "DPMSolverMultistepScheduler",
                {**SIGMA_MIN, "algorithm_type": kind, "solver_order": 3, "use_lu_lambdas": True},
                2.8,
            )
            for kind in ("dpmsolver++", "dpmsolver")
        ],
        *[("HeunDiscreteScheduler", spacing, 1.8) for spacing in (KARRAS, EVEN)],
        *[
            (DEIS, {"lower_order_final": False, "solver_order": order, **spacing}, order - 0.2)
            for order, spacing in ((1, KARRAS), (2, KARRAS), (2, EVEN), (3, EVEN))
        ],
        *[
            (
                SINGLE,
                {**SIGMA_MIN, "algorithm_type": kind, "solver_type": solver, "solver_order": order, **EVEN},
                order - 0.2,
            )
            for kind in ("dpmsolver++", "dpmsolver")
            for order, solver in ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"))
        ],
        *[
            (
                UNIPC,
                {**SIGMA_MIN, "predict_x0": data, "solver_type": solver, "solver_order": order, **KARRAS},
                order + 0.8,
            )
            for data in (True, False)
            for order, solver in ((1, "bh2"), (2, "bh1"), (3, "bh2"))
        ],
    ],
    ids=str,
)
def test_order_of_convergence(name, config, order):
    number = tuple(steps * 6 // 5 for steps in STEPS) if name == SINGLE else STEPS
    values = errors(name, config, -1 if name in ("LMSDiscreteScheduler", "HeunDiscreteScheduler") else None, number)
    slope = -np.polyfit(np.log(number), np.log(values), 1)[0]
    assert slope >= order, values
    first = -np.polyfit(np.log(number[:3]), np.log(values[:3]), 1)[0]  # no luck in the smallest error
    assert first >= 0.9 * order, values


def test_ddim_inverse_follows_the_ode_upwards_and_ddim_leads_back():
    there, back, number = [], [], (40, 80, 160, 320)
    for steps in number:
        inverse = ppdiffusers.DDIMInverseScheduler(**LATENT, clip_sample=False, set_alpha_to_one=False)
        forwards = ppdiffusers.DDIMScheduler.from_config(inverse.config)
        x = start = on_solution(STARTS, float(inverse.alphas_cumprod[0]))
        for scheduler in (inverse, forwards):
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                x = scheduler.step(true_epsilon(x, float(scheduler.alphas_cumprod[int(t)])), t, x).prev_sample
            if scheduler is inverse:
                there.append(np.abs(x - on_solution(STARTS, float(scheduler.alphas_cumprod[int(t)]))).max())
        back.append(np.abs(x - start).max())
    for values in (there, back):
        assert -np.polyfit(np.log(number), np.log(values), 1)[0] >= 0.9, values


def test_pndm_is_second_order_for_v_prediction_too():
    """An epsilon from each v: with sums of v's it would be first order."""
    values = []
    for steps in STEPS[:3]:
        scheduler = ppdiffusers.PNDMScheduler(
            beta_schedule="squaredcos_cap_v2", skip_prk_steps=True, prediction_type="v_prediction"
        )
        scheduler.set_timesteps(steps)
        x = on_solution(STARTS, scheduler.alphas_cumprod[scheduler.timesteps[0]])
        for t in scheduler.timesteps:
            alpha = float(scheduler.alphas_cumprod[t])
            epsilon = true_epsilon(x, alpha)
            v = (epsilon - math.sqrt(1 - alpha) * x) / math.sqrt(alpha)
            x = scheduler.step(v, t, x).prev_sample
        values.append(np.abs(x - on_solution(STARTS, scheduler.final_alpha_cumprod)).max())
    assert -np.polyfit(np.log(STEPS[:3]), np.log(values), 1)[0] >= 1.8


@pytest.mark.parametrize(
    ("name", "config", "steps"),
    [
        ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}, 1000),
        ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_large"}, 1000),
        ("EulerAncestralDiscreteScheduler", {}, 1000),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, 1000),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, 100),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, "solver_order": 3},
            100,
        ),
    ],
    ids=str,
)
def test_mean_and_variance_of_noisy_samplers(name, config, steps):
    count = 4000
    scheduler = getattr(ppdiffusers, name)(**{**LATENT, **config})
    generator = Generator(0)
    standard = generator.randn([count, 1]).astype(np.float64)
    x, alpha = run(scheduler, steps, standard, generator)
    assert alpha == 1
    assert abs(x.mean() - MEAN) < 3 * SPREAD / math.sqrt(count)
    assert abs(x.var() - SPREAD**2) < 3 * SPREAD**2 * math.sqrt(2 / count)
