"""Golden values of the scheduler and generator tests, made by diffusers 0.42.1 and torch 2.13.

    python scripts/make_reference_schedulers.py TESTS

writes `TESTS/schedulers/golden_ddim.npz` and `TESTS/golden_torch_normals.npz` (an environment with
torch and diffusers; the tests need neither).

golden_ddim.npz holds `cases`, a JSON list of {name, config, steps, eta, use_clipped_model_output},
and for each case `<name>.timesteps` and `<name>.samples` (`[steps, 2, 3, 3, 3]`, the prev_sample of
every step). The model is 0.3 x + 0.1 sin(t / 100); the initial noise and, where eta > 0, each step's
noise are float32 `numpy.random.RandomState(0).standard_normal`, drawn in that order.

golden_torch_normals.npz holds `shapes`, a JSON list, and for each seed the draws of these shapes
from one torch generator, one after the other: `<seed>.<index>`, flat; of draws over 200 values only
every 97th and the last 32. `tail.index` and `tail.value` are the 256 pairs of the largest radii among
2**18 draws of seed 0: there the rounding of the angle shows most.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler

SHAPE = (2, 3, 3, 3)
LATENT = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear", "clip_sample": False}
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

SEEDS = (0, 42, -1, 2**32 + 5, 2**63 - 1)
SHAPES = [[16], [17], [31], [33], [5], [100], [3], [3, 64, 64], [1], [4, 3, 17, 19], [2], [15], [16], [], [7]]


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
    np.savez_compressed(folder / "golden_torch_normals.npz", shapes=json.dumps(SHAPES), **values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path, metavar="TESTS")
    tests = parser.parse_args().tests
    ddim(tests)
    normals(tests)
