"""The papers' formulas, computed slowly in float64 with nothing of the package, and the package on the same model.

The model of all runs is 0.3 x + 0.1 sin(t / 100), on what the scheduler would show it.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import paddle

import ppdiffusers
from ppdiffusers.random import Generator

SHAPE = (2, 2, 2, 3)
LATENT = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear"}
GROWING = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
)
EXPONENTIAL = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)


def difference(ours, other):
    """The largest deviation of the whole trajectory, as a part of the largest value."""
    return np.abs(ours - other).max() / np.abs(other).max()


# Noise schedules and timesteps.


def slow_alphas(config):
    total = config.get("num_train_timesteps", 1000)
    first, last = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    schedule = config.get("beta_schedule", "linear")
    alphas, product = [], 1.0
    for i in range(total):
        fraction = i / (total - 1)
        if config.get("trained_betas"):
            beta = config["trained_betas"][i]
        elif schedule == "linear":
            beta = first + fraction * (last - first)
        elif schedule == "scaled_linear":
            beta = (math.sqrt(first) + fraction * (math.sqrt(last) - math.sqrt(first))) ** 2
        elif schedule == "sigmoid":
            beta = first + (last - first) / (1 + math.exp(6 - 12 * fraction))
        else:
            here, there = (math.cos((k / total + 0.008) / 1.008 * math.pi / 2) ** 2 for k in (i, i + 1))
            beta = min(1 - there / here, 0.999)
        product *= 1 - beta
        alphas.append(product)
    if config.get("rescale_betas_zero_snr"):
        low, high = math.sqrt(alphas[-1]), math.sqrt(alphas[0])
        alphas = [((math.sqrt(alpha) - low) * high / (high - low)) ** 2 for alpha in alphas]
    return alphas


def slow_timesteps(config, steps, spacing="leading"):
    total = config.get("num_train_timesteps", 1000)
    spacing = config.get("timestep_spacing", spacing)
    timesteps = []
    for i in range(steps):
        if spacing == "leading":
            timesteps.append(i * (total // steps) + config.get("steps_offset", 0))
        elif spacing == "linspace":
            timesteps.append(round(i * (total - 1) / (steps - 1)) if steps > 1 else 0)
        else:
            timesteps.append(round(total - (steps - 1 - i) * total / steps) - 1)
    return timesteps[::-1]


def slow_spaced_sigmas(config, high, low, steps):
    sigmas = []
    for i in range(steps):
        part = i / (steps - 1)
        if config.get("use_karras_sigmas"):
            sigmas.append(((1 - part) * high ** (1 / 7) + part * low ** (1 / 7)) ** 7)
        else:  # exponential, and Lu's
            sigmas.append(high ** (1 - part) * low**part)
    return sigmas


def slow_sigmas(name, config, steps):
    """Timesteps, and sigmas with the last one."""
    table = [math.sqrt((1 - a) / a) if a > 0 else math.sqrt(2**24 - 1) for a in slow_alphas(config)]
    total, spacing = len(table), config.get("timestep_spacing", "linspace")
    if name == "DPMSolverSinglestepScheduler":
        spacing = "linspace"
    if name in EXPONENTIAL:
        total = sum(-math.log(sigma) >= config.get("lambda_min_clipped", -math.inf) for sigma in table)
        extra = spacing != "trailing"
        timesteps = slow_timesteps({**config, "num_train_timesteps": total}, steps + extra, spacing)[:steps]
        sigmas, ends = [table[t] for t in timesteps], (table[-1], table[0])
        ends = config.get("sigma_max") or ends[0], config.get("sigma_min") or ends[1]
    else:
        if spacing == "linspace":
            timesteps = [(total - 1) * (steps - 1 - i) / max(steps - 1, 1) for i in range(steps)]
        else:
            timesteps = slow_timesteps(config, steps, spacing)
        sigmas = []
        for t in timesteps:
            low, part = min(math.floor(t), total - 2), t - min(math.floor(t), total - 2)
            if config.get("interpolation_type") == "log_linear":
                sigmas.append(table[low] ** (1 - part) * table[low + 1] ** part)
            else:
                sigmas.append((1 - part) * table[low] + part * table[low + 1])
        ends = config.get("sigma_max") or sigmas[0], config.get("sigma_min") or sigmas[-1]
    if any(config.get(f"use_{kind}") for kind in ("karras_sigmas", "exponential_sigmas", "lu_lambdas")):
        sigmas = slow_spaced_sigmas(config, *ends, steps)
        timesteps = []
        for sigma in sigmas:
            low = max(i for i in range(len(table) - 1) if i == 0 or table[i] <= sigma * (1 + 1e-12))
            timesteps.append(low + math.log(sigma / table[low]) / math.log(table[low + 1] / table[low]))
    if config.get("timestep_type") == "continuous":
        timesteps = [math.log(sigma) / 4 for sigma in sigmas]
    to_least = config.get("final_sigmas_type") == "sigma_min" or name == "DEISMultistepScheduler"
    return timesteps, sigmas + [table[0] if to_least else 0.0]


# Predictions.


def slow_model(x, t):
    return 0.3 * x + 0.1 * math.sin(t / 100)


def slow_read(kind, output, x, a):
    """x_0 and epsilon of x = sqrt(a) x_0 + sqrt(1 - a) epsilon."""
    if kind == "epsilon":
        return (x - math.sqrt(1 - a) * output) / math.sqrt(a), output
    if kind == "sample":
        return output, (x - math.sqrt(a) * output) / math.sqrt(1 - a)
    return math.sqrt(a) * x - math.sqrt(1 - a) * output, math.sqrt(1 - a) * x + math.sqrt(a) * output


def slow_restrict(image, config):
    if config.get("thresholding"):
        sizes = sorted(abs(value) for value in image)
        place = config.get("dynamic_thresholding_ratio", 0.995) * (len(sizes) - 1)
        low = math.floor(place)
        bound = sizes[low] + (place - low) * (sizes[min(low + 1, len(sizes) - 1)] - sizes[low])
        bound = min(max(bound, 1.0), config.get("sample_max_value", 1.0))
        return [max(-bound, min(bound, value)) / bound for value in image]
    if config.get("clip_sample", True):
        edge = config.get("clip_sample_range", 1.0)
        return [max(-edge, min(edge, value)) for value in image]
    return image


def slow_restrict_all(x0, config):
    return np.array([slow_restrict(image, config) for image in x0.reshape(len(x0), -1).tolist()]).reshape(x0.shape)


# Samplers: the samples after every step.


def slow_ddpm(config, steps, x, noises, begin):
    alphas, timesteps = slow_alphas(config), slow_timesteps(config, steps)
    kind, samples = config.get("variance_type", "fixed_small"), []
    for i in range(begin, steps):
        t, last = timesteps[i], i == steps - 1
        a, a_prev = alphas[t], 1.0 if last else alphas[timesteps[i + 1]]
        x0, _ = slow_read(config.get("prediction_type", "epsilon"), slow_model(x, t), x, a)
        x0 = slow_restrict_all(x0, config)
        if last:
            samples.append(x0)
            break
        # Bayes: prior N(sqrt(a_prev) x_0, 1 - a_prev), likelihood N(sqrt(r) x_prev, 1 - r) of x.
        r = a / a_prev
        precision = 1 / (1 - a_prev) + r / (1 - r)
        mean = (math.sqrt(a_prev) * x0 / (1 - a_prev) + math.sqrt(r) * x / (1 - r)) / precision
        if kind == "learned":
            variance = slow_variance(x)
        elif kind == "learned_range":
            part = (slow_variance(x) + 1) / 2
            variance = (1 - r) ** part * precision ** (part - 1)
        else:
            variance = 1 - r if kind.startswith("fixed_large") else 1 / precision
        x = mean + np.sqrt(variance) * next(noises)
        samples.append(x)
    return timesteps[begin:], samples


def slow_variance(x):
    return 0.05 + 0.04 * np.sin(x)


def slow_transfer(x, epsilon, a, b):
    """Equation 9 of arXiv 2202.09778 as it is printed."""
    below = math.sqrt(a) * (math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b))
    return math.sqrt(b / a) * x - (b - a) / below * epsilon


def slow_pndm(config, steps, x, noises, begin):
    alphas, spaced = slow_alphas(config), slow_timesteps(config, steps)
    final = 1.0 if config.get("set_alpha_to_one") else alphas[0]
    timesteps, samples, past = [], [], []

    def epsilon_at(x, t):
        timesteps.append(t)
        return slow_read(config.get("prediction_type", "epsilon"), slow_model(x, t), x, alphas[t])[1]

    for i in range(begin, steps):
        t, a = spaced[i], alphas[spaced[i]]
        b = alphas[spaced[i + 1]] if i + 1 < steps else final
        first = epsilon_at(x, t)
        past = [first, *past[:3]]
        if not config.get("skip_prk_steps") and i < min(3, steps - 1):  # equation 13
            middle = (t + spaced[i + 1]) // 2
            samples.append(slow_transfer(x, first, a, alphas[middle]))
            second = epsilon_at(samples[-1], middle)
            samples.append(slow_transfer(x, second, a, alphas[middle]))
            third = epsilon_at(samples[-1], middle)
            samples.append(slow_transfer(x, third, a, b))
            fourth = epsilon_at(samples[-1], spaced[i + 1])
            epsilon = (first + 2 * second + 2 * third + fourth) / 6
        elif config.get("skip_prk_steps") and i == 0 and steps > 1:
            samples.append(slow_transfer(x, first, a, b))
            epsilon = (first + epsilon_at(samples[-1], spaced[1])) / 2
        else:  # equation 12
            table = {1: [1], 2: [3, -1], 3: [23, -16, 5], 4: [55, -59, 37, -9]}[len(past)]
            epsilon = sum(c * e for c, e in zip(table, past)) / sum(table)
        x = slow_transfer(x, epsilon, a, b)
        samples.append(x)
    return timesteps, samples


def slow_growing(name, config, steps, x, noises, begin, order=4):
    timesteps, sigmas = slow_sigmas(name, config, steps)
    samples, slopes = [], []
    for i in range(begin, steps):
        sigma, following = sigmas[i], sigmas[i + 1]
        a = 1 / (1 + sigma**2)
        output = slow_model(x * math.sqrt(a), timesteps[i])
        x0, epsilon = slow_read(config.get("prediction_type", "epsilon"), output, x * math.sqrt(a), a)
        slopes = [epsilon, *slopes][:order]
        if name == "EulerDiscreteScheduler":
            x = x + (following - sigma) * epsilon
        elif name == "LMSDiscreteScheduler":
            nodes = [sigmas[i - k] for k in range(len(slopes))]
            for node, slope in zip(nodes, slopes):
                lagrange = np.polynomial.Polynomial([1.0])
                for other in nodes:
                    if other != node:
                        lagrange = lagrange * np.polynomial.Polynomial([-other, 1.0]) / (node - other)
                whole = lagrange.integ()
                x = x + (whole(following) - whole(sigma)) * slope
        else:  # q(x_next | x, x_0), by Bayes
            noise = next(noises)
            if following == 0:
                x = x0
            else:
                precision = 1 / following**2 + 1 / (sigma**2 - following**2)
                mean = (x0 / following**2 + x / (sigma**2 - following**2)) / precision
                x = mean + noise / math.sqrt(precision)
        samples.append(x)
    return timesteps[begin:], samples


def slow_heun(config, steps, x, noises, begin):
    """The trapezoidal rule, with an Euler step for the unknown end."""
    timesteps, sigmas = slow_sigmas("HeunDiscreteScheduler", config, steps)

    def slope(x, i):
        a = 1 / (1 + sigmas[i] ** 2)
        output = slow_model(x * math.sqrt(a), timesteps[i])
        x0, _ = slow_read(config.get("prediction_type", "epsilon"), output, x * math.sqrt(a), a)
        if config.get("clip_sample"):
            x0 = slow_restrict_all(x0, config)
        return (x - x0) / sigmas[i]

    called, samples = [], []
    for i in range(begin, steps):
        first = slope(x, i)
        called.append(timesteps[i])
        samples.append(x + (sigmas[i + 1] - sigmas[i]) * first)
        if i + 1 < steps:
            called.append(timesteps[i + 1])
            second = slope(samples[-1], i + 1)
            samples.append(x + (sigmas[i + 1] - sigmas[i]) * (first + second) / 2)
        x = samples[-1]
    return called, samples


def slow_lcm(config, steps, x, noises, begin):
    alphas, samples = (
        slow_alphas({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **config}),
        [],
    )
    original = config.get("original_inference_steps", 50)
    distilled = [(k + 1) * (len(alphas) // original) - 1 for k in range(original)][::-1]
    timesteps = [distilled[i * original // steps] for i in range(steps)]
    for i in range(begin, steps):
        t = timesteps[i]
        x0, _ = slow_read(config.get("prediction_type", "epsilon"), slow_model(x, t), x, alphas[t])
        x0 = slow_restrict_all(x0, {"clip_sample": False, **config})
        far = t * config.get("timestep_scaling", 10.0) / 0.5  # in units of the data's deviation
        x = far / math.sqrt(far**2 + 1) * x0 + x / (far**2 + 1)
        if i < steps - 1:
            a = alphas[timesteps[i + 1]]
            x = math.sqrt(a) * x + math.sqrt(1 - a) * next(noises)
        samples.append(x)
    return timesteps[begin:], samples


def slow_ddim_inverse(config, steps, x, noises, begin):
    alphas, samples = slow_alphas(config), []
    timesteps = slow_timesteps(config, steps)[::-1]
    a = alphas[timesteps[begin - 1]] if begin else 1.0 if config.get("set_alpha_to_one", True) else alphas[0]
    for t in timesteps[begin:]:
        x0, epsilon = slow_read(config.get("prediction_type", "epsilon"), slow_model(x, t), x, a)
        a = alphas[t]
        x = math.sqrt(a) * slow_restrict_all(x0, config) + math.sqrt(1 - a) * epsilon
        samples.append(x)
    return timesteps[begin:], samples


POINTS, WEIGHTS = np.polynomial.legendre.leggauss(40)


def slow_polynomial(used, place):
    """Lagrange's through pairs of place and value."""
    return sum(
        value * math.prod((place - other) / (at - other) for other, _ in used if other != at) for at, value in used
    )


def slow_converted(config, x, s, t, data):
    """The predicted x_0 or epsilon at the sigma s, for the model at t."""
    alpha_s = 1 / math.sqrt(1 + s * s)
    x0, epsilon = slow_read(config.get("prediction_type", "epsilon"), slow_model(x, t), x, alpha_s**2)
    if config.get("thresholding"):
        x0 = slow_restrict_all(x0, config)
        epsilon = (x - alpha_s * x0) / (alpha_s * s)
    return x0 if data else epsilon


def slow_integral(x, s, t, used, data, noisy, noise, midpoint):
    """Variation of constants from the sigma s to t, with a polynomial in lambda integrated by quadrature."""
    alpha_s, alpha_t = 1 / math.sqrt(1 + s * s), 1 / math.sqrt(1 + t * t)
    if t == 0:
        return used[0][1] if data else (x - alpha_s * s * used[0][1]) / alpha_s
    start, end = -math.log(s), -math.log(t)
    places = (start + end) / 2 + (end - start) / 2 * POINTS
    values = [slow_polynomial(used, (start + end) / 2 if midpoint and len(used) == 2 else place) for place in places]
    # d(x / spread) = e^lambda x_0 dlambda, d(x / signal) = -e^-lambda epsilon dlambda; the SDE
    # doubles what comes from the model, adds noise, and for x_0 decays x once more.
    if data:
        k = 2 if noisy else 1
        kernel = [k * math.exp(-k * (end - place)) for place in places]
        integral = sum(w * g * v for w, g, v in zip(WEIGHTS, kernel, values)) * (end - start) / 2
        x = alpha_t * t / (alpha_s * s) * math.exp((start - end) * (k - 1)) * x + alpha_t * integral
        return x + (alpha_t * t * math.sqrt(1 - math.exp(2 * (start - end))) * noise if noisy else 0)
    kernel = [math.exp(-place) for place in places]
    integral = sum(w * g * v for w, g, v in zip(WEIGHTS, kernel, values)) * (end - start) / 2
    x = alpha_t / alpha_s * x - alpha_t * (2 if noisy else 1) * integral
    return x + (alpha_t * t * math.sqrt(math.exp(2 * (end - start)) - 1) * noise if noisy else 0)


def slow_order(config, steps, i, t):
    """Of a multistep solver, where it has to be lower."""
    few = config.get("lower_order_final", True) and steps < 15
    if i == steps - 1 and (few or t == 0 or config.get("euler_at_final")):
        return 1
    return 2 if i == steps - 2 and few else 3


def slow_dpm(config, steps, x, noises, begin):
    timesteps, sigmas = slow_sigmas("DPMSolverMultistepScheduler", config, steps)
    algorithm = config.get("algorithm_type", "dpmsolver++")
    noisy, data = algorithm.startswith("sde"), algorithm.endswith("++")
    midpoint = config.get("solver_type", "midpoint") == "midpoint"
    samples, past = [], []
    for i in range(begin, steps):
        s, t = sigmas[i], sigmas[i + 1]
        past = [(-math.log(s), slow_converted(config, x, s, timesteps[i], data)), *past][
            : config.get("solver_order", 2)
        ]
        noise = next(noises) if noisy else 0.0
        x = slow_integral(x, s, t, past[: slow_order(config, steps, i, t)], data, noisy, noise, midpoint)
        samples.append(x)
    return timesteps[begin:], samples


def slow_deis(config, steps, x, noises, begin):
    """d(x / alpha) = epsilon drho, with Lagrange's polynomial in log(rho) and quadrature in rho."""
    timesteps, sigmas = slow_sigmas("DEISMultistepScheduler", config, steps)
    samples, past = [], []
    for i in range(begin, steps):
        s, t = sigmas[i], sigmas[i + 1]
        past = [(math.log(s), slow_converted(config, x, s, timesteps[i], False)), *past][
            : config.get("solver_order", 2)
        ]
        used = past[: slow_order(config, steps, i, t)]
        integral = 0.0
        for low, high in zip(np.geomspace(s, t, 9), np.geomspace(s, t, 9)[1:]):
            places = (low + high) / 2 + (high - low) / 2 * POINTS
            integral = integral + (high - low) / 2 * sum(
                w * slow_polynomial(used, math.log(place)) for w, place in zip(WEIGHTS, places)
            )
        x = (x * math.sqrt(1 + s * s) + integral) / math.sqrt(1 + t * t)
        samples.append(x)
    return timesteps[begin:], samples


def slow_singlestep(config, steps, x, noises, begin):
    timesteps, sigmas = slow_sigmas("DPMSolverSinglestepScheduler", config, steps)
    algorithm, size = config.get("algorithm_type", "dpmsolver++"), config.get("solver_order", 2)
    noisy, data = algorithm.startswith("sde"), algorithm.endswith("++")
    midpoint = config.get("solver_type", "midpoint") == "midpoint"
    orders = [1 + i % size for i in range(steps)]
    if config.get("lower_order_final") or steps % size or sigmas[-1] == 0:
        if steps % size == 0 and size > 1:
            orders[-1] = 1  # the last group ends a step early
        if sigmas[-1] == 0:
            orders[-1] = 1
    samples, group = [], []
    for i in range(begin, steps):
        order = min(orders[i], len(group) + 1)
        if order == 1:
            group, first = [], i
            start = x
        group.append((-math.log(sigmas[i]), slow_converted(config, x, sigmas[i], timesteps[i], data)))
        used = [group[0], group[-1]] if midpoint and order > 2 else group
        noise = next(noises) if noisy else 0.0
        x = slow_integral(start, sigmas[first], sigmas[i + 1], used, data, noisy, noise, midpoint and order == 2)
        samples.append(x)
    return timesteps[begin:], samples


def slow_unipc(config, steps, x, noises, begin):
    """Algorithms 5 to 8 of arXiv 2302.04867, with its linear systems, and the phi-functions by quadrature."""
    timesteps, sigmas = slow_sigmas("UniPCMultistepScheduler", config, steps)
    data, highest = config.get("predict_x0", True), config.get("solver_order", 2)
    samples, past, last = [], [], None  # past: pairs of place and value, newest first

    def update(x, i, j, used):
        """From sigma i to j; the first of `used` is at i."""
        s, t = sigmas[i], sigmas[j]
        alpha_s, alpha_t = 1 / math.sqrt(1 + s * s), 1 / math.sqrt(1 + t * t)
        if t == 0:
            return used[0][1] if data else (x - alpha_s * s * used[0][1]) / alpha_s
        h = math.log(s / t)
        z, sign, scale = (-h, -1, alpha_t) if data else (h, -1, alpha_t * t)
        growth = math.exp(z) - 1
        B = z if config.get("solver_type") == "bh1" else growth
        ratios = [(math.log(s) - math.log(place)) / h for place, _ in used[1:]]
        differences = [(value - used[0][1]) / r for r, (_, value) in zip(ratios, used[1:])]
        rhos = [0.5]
        if len(ratios) > 1:
            u = (POINTS + 1) / 2
            phi = [sum(WEIGHTS / 2 * np.exp((1 - u) * z) * u**k / math.factorial(k)) for k in range(1, len(ratios) + 1)]
            b = [z * value * math.factorial(k + 1) / B for k, value in enumerate(phi)]
            rhos = np.linalg.solve([[r**k for r in ratios] for k in range(len(ratios))], b)
        linear = alpha_t * t / (alpha_s * s) if data else alpha_t / alpha_s
        x = linear * x + sign * scale * growth * used[0][1]
        return x + sign * scale * B * sum(rho * d for rho, d in zip(rhos, differences))

    for i in range(begin, steps):
        new = (sigmas[i], slow_converted(config, x, sigmas[i], timesteps[i], data))
        if last is not None and i - 1 not in config.get("disable_corrector", ()):
            x = update(last[0], i - 1, i, [*past[: last[1]], new])
        past = [new, *past][:highest]
        order = min(len(past), steps - i if config.get("lower_order_final", True) else highest)
        order = 1 if sigmas[i + 1] == 0 else order
        last = x, order
        x = update(x, i, i + 1, past[:order])
        samples.append(x)
    return timesteps[begin:], samples


SLOW = {
    "DDIMInverseScheduler": slow_ddim_inverse,
    "DDPMScheduler": slow_ddpm,
    "DEISMultistepScheduler": slow_deis,
    "DPMSolverMultistepScheduler": slow_dpm,
    "DPMSolverSinglestepScheduler": slow_singlestep,
    "HeunDiscreteScheduler": slow_heun,
    "LCMScheduler": slow_lcm,
    "PNDMScheduler": slow_pndm,
    "UniPCMultistepScheduler": slow_unipc,
}


def slow_run(name, config, steps, begin=0):
    """Timesteps and samples `[calls, *SHAPE]`, noise from the streams of seeds 0 (start) and 1 (steps)."""
    x = np.random.RandomState(0).standard_normal(SHAPE).astype(np.float32).astype(np.float64)
    stream = Generator(1)
    noises = (stream.randn(SHAPE).astype(np.float64) for _ in itertools.count())
    if name in GROWING:
        highest = slow_sigmas(name, config, steps)[1][0]
        x = x * (math.hypot(highest, 1) if config.get("timestep_spacing") == "leading" else highest)
    if name in SLOW:
        timesteps, samples = SLOW[name](config, steps, x, noises, begin)
    else:
        timesteps, samples = slow_growing(name, config, steps, x, noises, begin)
    return timesteps, np.stack(samples)


# The package.


def our_run(name, config, steps, begin=0, library=paddle.to_tensor):
    """As `slow_run`; `begin` is an index of `timesteps`."""
    scheduler = getattr(ppdiffusers, name)(**config)
    scheduler.set_timesteps(**(steps if isinstance(steps, dict) else {"num_inference_steps": steps}))
    x = library(np.random.RandomState(0).standard_normal(SHAPE).astype(np.float32)) * scheduler.init_noise_sigma
    stream, samples = Generator(1), []
    for t in scheduler.timesteps[begin:]:
        output = slow_model(scheduler.scale_model_input(x, t), float(t))
        if str(config.get("variance_type")).startswith("learned"):
            spread = library(slow_variance(np.asarray(x)).astype(np.float32))
            output = (
                np.concatenate([output, spread], 1) if library is np.asarray else paddle.concat([output, spread], 1)
            )
        x = scheduler.step(output, t, x, generator=stream).prev_sample
        samples.append(np.asarray(x))
    return scheduler.timesteps[begin:].tolist(), np.stack(samples)


def assert_follows_paper(name, config, steps, begin=0, our_begin=None):
    """`begin` counts steps, `our_begin` entries of `timesteps` where those differ."""
    timesteps, expected = slow_run(name, config, steps, begin)
    our_timesteps, ours = our_run(name, config, steps, begin if our_begin is None else our_begin)
    assert np.allclose(our_timesteps, timesteps, rtol=1e-6, atol=1e-4)
    assert difference(ours, expected) < 1e-5
