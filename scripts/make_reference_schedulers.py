"""Golden values of the scheduler and generator tests, made by diffusers 0.42.1 and torch 2.13.

    python scripts/make_reference_schedulers.py TESTS

writes `TESTS/schedulers/golden_ddim.npz`, `TESTS/schedulers/golden_family.npz` and
`TESTS/golden_torch_normals.npz` (an environment with torch and diffusers; the tests need neither).

golden_ddim.npz holds `cases`, a JSON list of {name, config, steps, eta, use_clipped_model_output},
and for each case `<name>.timesteps` and `<name>.samples` (`[steps, 2, 3, 3, 3]`, the prev_sample of
every step). The model is 0.3 x + 0.1 sin(t / 100); the initial noise and, where eta > 0, each step's
noise are float32 `numpy.random.RandomState(0).standard_normal`, drawn in that order.

golden_family.npz holds the other schedulers' `cases`, a JSON list of {name, scheduler, config, steps, begin}
(steps: a number, or other arguments of `set_timesteps`), and for each `<name>.timesteps`, `<name>.samples`
(of the first image, `[calls, 2, 2, 3]`) and, where the scheduler has them, `<name>.sigmas`. The model is the
same, on the scaled sample (a learned variance is 0.05 + 0.04 sin(x)); the run starts at index `begin` of the
timesteps, from the first draw above, `[2, 2, 2, 3]`, times init_noise_sigma, and each step draws from a torch
generator of seed 1.

golden_torch_normals.npz holds `shapes`, a JSON list, and for each seed the draws of these shapes
from one torch generator, one after the other: `<seed>.<index>`, flat; of draws over 200 values only
every 97th and the last 32. `tail.index` and `tail.value` are the 256 pairs of the largest radii among
2**18 draws of seed 0: there the rounding of the angle shows most. `states` are those of one torch generator
before each of `state_sizes` draws and after the last, `[draws + 1, 5056]` bytes; `state.<index>` are the draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler

SHAPE = (2, 3, 3, 3)
BETAS = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear"}
LATENT = {**BETAS, "clip_sample": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
TRAINED = {"trained_betas": [0.01 + 0.002 * i for i in range(40)]}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0}
V, X0 = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
AT_ZERO, OFFSET, ZERO_SNR = {"set_alpha_to_one": False}, {"steps_offset": 1}, {"rescale_betas_zero_snr": True}

# name: (config, steps, eta, use_clipped_model_output)
CASES = {
    # where diffusers computes the formula
    "leading-epsilon": ({**LATENT, **AT_ZERO}, 20, 0.0, False),
    "leading-epsilon-50": ({**LATENT, **AT_ZERO}, 50, 0.0, False),
    "leading-v-offset": ({**LATENT, **V, **OFFSET}, 50, 0.0, False),
    "leading-noise": (LATENT, 20, 1.0, False),
    "leading-half-noise": ({**LATENT, **V}, 50, 0.5, False),
    "leading-7": ({**LATENT, **V}, 7, 0.5, False),
    "trailing-sample": ({**LATENT, **X0, **TRAILING}, 20, 0.0, False),
    "trailing-v-noise": ({**LATENT, **V, **TRAILING, **AT_ZERO}, 50, 1.0, False),
    "clipped": ({}, 20, 0.5, False),
    "clipped-again": ({"clip_sample_range": 0.8}, 20, 0.5, True),
    "threshold": (THRESHOLD, 20, 0.0, False),
    "threshold-cosine": ({**COSINE, **V, **THRESHOLD}, 20, 1.0, True),
    "zero-snr": ({**LATENT, **V, **TRAILING, **ZERO_SNR}, 20, 0.5, False),
    "trained-betas": ({**TRAINED, "num_train_timesteps": 40}, 20, 0.0, False),
    # where it does not: see the table in the test
    "differs-linspace": ({**LATENT, **LINSPACE}, 20, 0.0, False),
    "differs-trailing-7": ({**LATENT, **V, **TRAILING}, 7, 0.0, False),
    "differs-trailing-13": ({"num_train_timesteps": 15, **TRAILING}, 13, 0.0, False),
    "differs-zero-snr": ({**LATENT, **TRAILING, **ZERO_SNR}, 5, 0.0, False),
    "differs-zero-snr-noise": ({**LATENT, **V, **TRAILING, **ZERO_SNR}, 20, 1.0, False),
    "differs-offset": ({"num_train_timesteps": 20, **OFFSET}, 12, 0.0, False),
}

FAMILY_SHAPE = (2, 2, 2, 3)
DDPM, PNDM, LMS, DPM = "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler"
EULER, ANCESTRAL = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
KARRAS, SIGMA_MIN, PLMS = {"use_karras_sigmas": True}, {"final_sigmas_type": "sigma_min"}, {"skip_prk_steps": True}
LEADING, SDE = {"timestep_spacing": "leading"}, {"algorithm_type": "sde-dpmsolver++"}
NOISE, NOISE_SDE = ({"algorithm_type": kind, **SIGMA_MIN} for kind in ("dpmsolver", "sde-dpmsolver"))
THREE, HEUN = {"solver_order": 3, "lower_order_final": False}, {"solver_type": "heun"}
SINGLE, DEIS, UNIPC = "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"
HEUNS, LCM, INVERSE = "HeunDiscreteScheduler", "LCMScheduler", "DDIMInverseScheduler"
ORDER_3 = {"solver_order": 3}
GIVEN = {"timesteps": [980, 700, 450, 200, 60, 1]}

# name: (scheduler, config, steps, begin)
FAMILY = {
    # where diffusers computes the formula
    "ddpm": (DDPM, {}, 10, 0),
    "ddpm-latent-trailing": (DDPM, {**LATENT, **V, **TRAILING}, 7, 0),
    "ddpm-linspace-large": (DDPM, {**LATENT, **LINSPACE, "variance_type": "fixed_large"}, 10, 0),
    "ddpm-learned": (DDPM, {"variance_type": "learned"}, 10, 0),
    "ddpm-learned-range": (DDPM, {"variance_type": "learned_range"}, 10, 0),
    "ddpm-threshold-sigmoid": (DDPM, {**THRESHOLD, "beta_schedule": "sigmoid"}, 10, 0),
    "pndm-plms": (PNDM, {**BETAS, **PLMS}, 10, 0),
    "pndm-plms-offset": (PNDM, {**BETAS, **PLMS, **OFFSET}, 20, 0),
    "pndm-runge-kutta": (PNDM, BETAS, 10, 0),
    "lms": (LMS, BETAS, 10, 0),
    "lms-karras": (LMS, {**BETAS, **V, **KARRAS}, 10, 0),
    "lms-beta": (LMS, {**BETAS, "use_beta_sigmas": True}, 10, 0),
    "lms-leading": (LMS, {**BETAS, **X0, **LEADING, **OFFSET}, 10, 0),
    "euler": (EULER, BETAS, 10, 0),
    "euler-leading": (EULER, {**BETAS, **LEADING, **OFFSET}, 20, 0),
    "euler-karras-middle": (EULER, {**BETAS, **KARRAS}, 10, 4),
    "euler-exponential": (EULER, {**BETAS, "use_exponential_sigmas": True, "sigma_min": 0.1, **SIGMA_MIN}, 10, 0),
    "euler-zero-snr": (EULER, {**BETAS, **V, **TRAILING, **ZERO_SNR}, 10, 0),
    "euler-continuous": (
        EULER,
        {**V, **KARRAS, "timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0},
        10,
        0,
    ),
    "ancestral": (ANCESTRAL, BETAS, 10, 0),
    "ancestral-v-trailing": (ANCESTRAL, {**BETAS, **V, **TRAILING}, 7, 0),
    "dpm": (DPM, BETAS, 20, 0),
    "dpm-few": (DPM, {**BETAS, **V, **SIGMA_MIN, "solver_order": 2}, 10, 0),
    "dpm-heun-leading": (DPM, {**BETAS, **HEUN, **LEADING, **OFFSET}, 10, 0),
    "dpm-middle": (DPM, {**BETAS, **TRAILING}, 10, 4),
    "dpm-first-order": (DPM, {**BETAS, **X0, "solver_order": 1}, 10, 0),
    "dpm-noise": (DPM, {**BETAS, **NOISE}, 10, 0),
    "dpm-noise-heun": (DPM, {**BETAS, **NOISE, **HEUN}, 10, 0),
    "dpm-sde": (DPM, {**BETAS, **SDE}, 10, 0),
    "dpm-sde-heun": (DPM, {**BETAS, **SDE, **HEUN}, 10, 0),
    "dpm-noise-sde": (DPM, {**BETAS, **NOISE_SDE}, 10, 0),
    "dpm-noise-sde-heun": (DPM, {**BETAS, **NOISE_SDE, **HEUN}, 10, 0),
    "dpm-cosine-clipped": (DPM, {**COSINE, **V, "lambda_min_clipped": -5.1}, 10, 0),
    "dpm-threshold": (DPM, {**THRESHOLD, **SIGMA_MIN}, 10, 0),
    "heun": (HEUNS, BETAS, 10, 0),
    "heun-karras": (HEUNS, {**BETAS, **V, **KARRAS}, 10, 0),
    "heun-leading": (HEUNS, {**BETAS, **X0, **LEADING, **OFFSET}, 10, 0),
    "heun-clipped": (HEUNS, {**BETAS, "clip_sample": True, "clip_sample_range": 0.5}, 10, 0),
    "heun-middle": (HEUNS, BETAS, 10, 4),
    "lcm": (LCM, BETAS, 4, 0),
    "lcm-v": (LCM, {**BETAS, **V, "original_inference_steps": 100, "timestep_scaling": 0.01}, 7, 0),
    "lcm-clipped": (LCM, {**BETAS, "clip_sample": True}, 8, 0),
    "lcm-strength": (LCM, BETAS, {"num_inference_steps": 4, "strength": 0.5}, 0),
    "unipc": (UNIPC, BETAS, 10, 0),
    "unipc-leading": (UNIPC, {**BETAS, **V, **LEADING, **OFFSET, **SIGMA_MIN}, 10, 0),
    "unipc-three": (UNIPC, {**BETAS, **ORDER_3}, 20, 0),
    "unipc-four": (UNIPC, {**BETAS, "solver_order": 4, "solver_type": "bh1", **TRAILING, **SIGMA_MIN}, 20, 0),
    "unipc-epsilon": (UNIPC, {**BETAS, **ORDER_3, "solver_type": "bh1", "predict_x0": False, **SIGMA_MIN}, 10, 0),
    "unipc-uncorrected": (UNIPC, {**BETAS, "disable_corrector": [0, 2]}, 10, 0),
    "unipc-middle": (UNIPC, {**BETAS, **X0}, 10, 4),
    "unipc-threshold": (UNIPC, {**THRESHOLD, **SIGMA_MIN}, 10, 0),
    "single": (SINGLE, BETAS, 10, 0),
    "single-odd": (SINGLE, {**BETAS, **V, **SIGMA_MIN}, 7, 0),
    "single-three": (SINGLE, {**BETAS, **ORDER_3, **SIGMA_MIN}, 12, 0),
    "single-three-heun": (SINGLE, {**BETAS, **ORDER_3, **HEUN, **SIGMA_MIN, "lower_order_final": True}, 11, 0),
    "single-noise": (SINGLE, {**BETAS, **NOISE, **ORDER_3}, 10, 0),
    "single-noise-heun": (SINGLE, {**BETAS, **NOISE, **HEUN, **ORDER_3}, 12, 0),
    "single-sde": (SINGLE, {**BETAS, **SDE, **ORDER_3}, 10, 0),
    "single-sde-heun": (SINGLE, {**BETAS, **SDE, **HEUN}, 10, 0),
    "single-middle": (SINGLE, {**BETAS, **ORDER_3}, 12, 4),
    "deis": (DEIS, BETAS, 10, 0),
    "deis-leading": (DEIS, {**BETAS, **V, **LEADING, **OFFSET}, 20, 0),
    "deis-three": (DEIS, {**BETAS, **ORDER_3}, 20, 0),
    "deis-first-order": (DEIS, {**BETAS, **X0, **TRAILING, "solver_order": 1}, 10, 0),
    "inverse": (INVERSE, {**LATENT, **AT_ZERO, **OFFSET}, 10, 0),
    "inverse-v-trailing": (INVERSE, {**LATENT, **V, **TRAILING}, 10, 0),
    "inverse-clipped": (INVERSE, {**BETAS, "clip_sample_range": 0.8}, 20, 0),
    "ddpm-given": (DDPM, {}, GIVEN, 0),
    "euler-given": (EULER, BETAS, GIVEN, 0),
    "euler-given-sigmas": (EULER, BETAS, {"sigmas": [20.0, 8.0, 3.0, 1.0, 0.2, 0.0]}, 0),
    "dpm-given": (DPM, BETAS, GIVEN, 0),
    "single-given": (SINGLE, BETAS, GIVEN, 0),
    "heun-given": (HEUNS, BETAS, GIVEN, 0),
    "lcm-given": (LCM, BETAS, {"timesteps": [999, 759, 499, 259]}, 0),
    # where it does not: see the table in the test
    "differs-inverse-odd": (INVERSE, {**LATENT, **AT_ZERO, **TRAILING}, 7, 0),
    "differs-single-sde-third": (SINGLE, {**BETAS, **SDE, **HEUN, **ORDER_3, **SIGMA_MIN}, 12, 0),
    "differs-single-karras": (SINGLE, {**BETAS, **KARRAS, **SIGMA_MIN}, 10, 0),
    "differs-deis-karras": (DEIS, {**BETAS, **KARRAS}, 10, 0),
    "differs-unipc-karras": (UNIPC, {**BETAS, **KARRAS}, 10, 0),
    "differs-unipc-bh1": (UNIPC, {**BETAS, "solver_type": "bh1"}, 10, 0),
    "differs-unipc-no-end": (UNIPC, {**BETAS, "lower_order_final": False}, 10, 0),
    "differs-ddpm-large-last": (DDPM, {**LATENT, **TRAILING, "variance_type": "fixed_large"}, 5, 0),
    "differs-ddpm-large-log": (DDPM, {**LATENT, "variance_type": "fixed_large_log"}, 5, 0),
    "differs-pndm-v": (PNDM, {**BETAS, **PLMS, **V}, 10, 0),
    "differs-pndm-linspace": (PNDM, {**BETAS, **PLMS, **LINSPACE}, 10, 0),
    "differs-pndm-odd": (PNDM, BETAS, 40, 0),
    "differs-pndm-middle": (PNDM, {**BETAS, **PLMS}, 10, 5),
    "differs-lms-middle": (LMS, BETAS, 10, 4),
    "differs-euler-log-linear": (EULER, {**BETAS, "interpolation_type": "log_linear"}, 10, 0),
    "differs-dpm-karras": (DPM, {**BETAS, **KARRAS}, 10, 0),
    "differs-dpm-lu": (DPM, {**BETAS, "use_lu_lambdas": True}, 10, 0),
    "differs-dpm-exponential": (DPM, {**BETAS, "use_exponential_sigmas": True}, 10, 0),
    "differs-dpm-third": (DPM, {**BETAS, **THREE}, 10, 0),
    "differs-dpm-third-noise": (DPM, {**BETAS, **THREE, **NOISE}, 10, 0),
    "differs-dpm-third-sde": (DPM, {**BETAS, **THREE, **SDE}, 10, 0),
    "differs-dpm-no-step": (DPM, {**BETAS, **KARRAS, **HEUN, **SIGMA_MIN}, 20, 0),
    "differs-dpm-clipped-karras": (DPM, {**BETAS, **KARRAS, "lambda_min_clipped": -2.0}, 10, 0),
    "differs-dpm-clipped-trailing": (DPM, {**COSINE, **V, **TRAILING, "lambda_min_clipped": -1.0}, 20, 0),
}

SEEDS = (0, 42, -1, 2**32 + 5, 2**63 - 1)
SHAPES = [[16], [17], [31], [33], [5], [100], [3], [3, 64, 64], [1], [4, 3, 17, 19], [2], [15], [16], [], [7]]
STATE_SIZES = (3, 1, 600, 3, 16, 700, 5)  # 3 leaves half a pair; 600 and 700 cross the 624 words of a round


def ddim(folder: Path) -> None:
    values = {}
    described = []
    for name, (config, steps, eta, again) in CASES.items():
        described.append(
            {"name": name, "config": config, "steps": steps, "eta": eta, "use_clipped_model_output": again}
        )
        scheduler = DDIMScheduler(**config)
        scheduler.set_timesteps(steps)
        random = np.random.RandomState(0)
        x = torch.from_numpy(random.standard_normal(SHAPE).astype(np.float32))
        samples = []
        for t in scheduler.timesteps:
            noise = torch.from_numpy(random.standard_normal(SHAPE).astype(np.float32)) if eta > 0 else None
            output = 0.3 * x + 0.1 * float(np.sin(int(t) / 100))
            x = scheduler.step(output, t, x, eta, again, variance_noise=noise).prev_sample
            samples.append(x.numpy())
        values[f"{name}.timesteps"] = scheduler.timesteps.numpy()
        values[f"{name}.samples"] = np.stack(samples)
    np.savez_compressed(folder / "schedulers" / "golden_ddim.npz", cases=json.dumps(described), **values)


def family(folder: Path) -> None:
    values = {}
    described = []
    for name, (scheduler_name, config, steps, begin) in FAMILY.items():
        described.append({"name": name, "scheduler": scheduler_name, "config": config, "steps": steps, "begin": begin})
        scheduler = getattr(diffusers, scheduler_name)(**config)
        scheduler.set_timesteps(**(steps if isinstance(steps, dict) else {"num_inference_steps": steps}))
        generator = torch.Generator().manual_seed(1)
        noise = np.random.RandomState(0).standard_normal(FAMILY_SHAPE).astype(np.float32)
        x = torch.from_numpy(noise) * scheduler.init_noise_sigma
        samples = []
        for t in scheduler.timesteps[begin:]:
            output = 0.3 * scheduler.scale_model_input(x, t) + 0.1 * float(np.sin(float(t) / 100))
            if config.get("variance_type", "").startswith("learned"):
                output = torch.cat([output, 0.05 + 0.04 * torch.sin(x)], dim=1)
            stream = {"generator": generator} if scheduler_name in (DDPM, ANCESTRAL, DPM, SINGLE, LCM) else {}
            x = scheduler.step(output, t, x, **stream).prev_sample
            samples.append(x[0].numpy())
        values[f"{name}.timesteps"] = scheduler.timesteps[begin:].numpy()
        values[f"{name}.samples"] = np.stack(samples)
        if hasattr(scheduler, "sigmas"):
            values[f"{name}.sigmas"] = scheduler.sigmas.numpy()
    np.savez_compressed(folder / "schedulers" / "golden_family.npz", cases=json.dumps(described), **values)


def normals(folder: Path) -> None:
    values = {}
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        for index, shape in enumerate(SHAPES):
            flat = torch.randn(shape, generator=generator).numpy().reshape(-1)
            if flat.size > 200:
                flat = np.concatenate([flat[::97], flat[-32:]])
            values[f"{seed}.{index}"] = flat
    many = torch.randn(2**18, generator=torch.Generator().manual_seed(0)).numpy()
    radii = np.square(many.reshape(-1, 2, 8)).sum(axis=1).reshape(-1)
    block, lane = np.divmod(np.argsort(-radii)[:256], 8)
    values["tail.index"] = np.concatenate([block * 16 + lane, block * 16 + 8 + lane])
    values["tail.value"] = many[values["tail.index"]]
    generator = torch.Generator().manual_seed(11)
    states = [generator.get_state().numpy()]
    for index, size in enumerate(STATE_SIZES):
        values[f"state.{index}"] = torch.randn(size, generator=generator).numpy()
        states.append(generator.get_state().numpy())
    values["states"], values["state_sizes"] = np.stack(states), np.array(STATE_SIZES)
    np.savez_compressed(folder / "golden_torch_normals.npz", shapes=json.dumps(SHAPES), **values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path, metavar="TESTS")
    tests = parser.parse_args().tests
    ddim(tests)
    family(tests)
    normals(tests)
