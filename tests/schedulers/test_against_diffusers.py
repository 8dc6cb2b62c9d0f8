"""Every scheduler but DDIM against diffusers, where diffusers follows the papers, and where it does not.

Where diffusers 0.42.1 differs from the formulas (golden values `differs-...`), and what is right:

| case (golden values) | what diffusers does; what is done here |
|---|---|
| all | tables in float32, the smallest sigmas off by up to 2e-3 (zero-SNR cosine betas); in float64 |
| Euler, ancestral, LMS, sigmas in the thousands | sample + (sigma_next - sigma) epsilon loses digits; from x_0 |
| DDPM, last t > 0, fixed_large or learned (ddpm-large-last) | noise on the final x_0; none in the last step |
| DDPM fixed_large_log (ddpm-large-log) | the root of a negative logarithm, NaN; the deviation sqrt(beta_t) |
| PNDM, v-prediction (pndm-v) | sums v's of several timesteps; an epsilon from each, at its own sample |
| PNDM, linspace (pndm-linspace) | goes to t - T // n, not to the next timestep; pairs fixed beforehand |
| PNDM, Runge-Kutta, T // n odd (pndm-odd) | sample and model differ by one timestep halfway; one middle |
| PNDM, Runge-Kutta, fewer than 4 steps | ValueError on shapes; runs |
| PNDM from the middle (pndm-middle) | takes the second timestep for a doubled one, and lags; an Euler step |
| LMS from the middle (lms-middle) | coefficients of four slopes where it has one; as many as there are |
| Euler log_linear (euler-log-linear) | sigmas that are not the timesteps', ends short of 0; interpolates there |
| DPM, Karras (dpm-karras), Lu (dpm-lu) | rounds the timesteps: the model is told other sigmas; between them |
| DPM, any of these, two timesteps rounded to one | IndexError in the last step; runs |
| DPM, exponential (dpm-exponential) | cuts the timesteps' fractions off; between them, as its own Euler does |
| DPM, third order (dpm-third, dpm-third-noise) | half the quadratic term, so second order; the whole integral |
| DPM++ SDE, third order (dpm-third-sde) | a wrong sign in that term besides; the integral |
| DPM, Karras, sigma_min, Heun (dpm-no-step) | a last step of length zero is 0 / 0, NaN; it stays where it is |
| DPM, lambda clipped, Karras (dpm-clipped-karras) | ignores the clipping, and so does this; the timesteps as above |
| DPM, lambda clipped, trailing (dpm-clipped-trailing) | steps of T / n on fewer timesteps, not n of them; n steps |
| DPM SDE on epsilon, third order | UnboundLocalError; the same integral |
| DPM on epsilon, last sigma zero | refused; one first-order step, whose limit exists |
| DPM, learned variance | keeps three channels of the output; as many as the sample has |
| Euler, s_churn | adds noise after the model has seen the sample without it; not offered |
| Euler, get_velocity | takes a place in the schedule for a training timestep; that timestep's sigma |
| DDIM inverse, T / n no integer (inverse-odd) | comes from t - T // n; from the timestep before |
| DPM singlestep, SDE, third order, Heun (single-sde-third) | a wrong sign, as multistep; the integral |
| DPM singlestep, DEIS, UniPC, Karras (single-karras, deis-karras, unipc-karras) | rounds the timesteps, as DPM |
| UniPC, bh1, to sigma 0 (unipc-bh1) | infinity times 0, NaN; the limit, which is x_0 |
| UniPC, no lower order at the end, to sigma 0 (unipc-no-end) | infinite; the last step by order 1 |
| DPM singlestep, steps that do not go into groups | a changed config; the same steps, and the config as it was |
| ancestral Euler and PNDM, x_0 prediction | refused; works |
| a swap that loses zero-SNR betas, continuous timesteps or flow | silent; an error |
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from slow_schedulers import assert_follows_paper, difference, our_run, slow_run

import ppdiffusers

GOLDEN = np.load(Path(__file__).parent / "golden_family.npz")
CASES = {case["name"]: case for case in json.loads(str(GOLDEN["cases"]))}
DIFFERS = [name for name in CASES if name.startswith("differs")]
MIDDLE = {"differs-pndm-middle": 4}  # steps, where timesteps has an entry more


def arguments(name):
    case = CASES[name]
    return case["scheduler"], case["config"], case["steps"]


@pytest.mark.parametrize("name", [name for name in CASES if name not in DIFFERS])
def test_golden_trajectory_of_diffusers(name):
    timesteps, ours = our_run(*arguments(name), CASES[name]["begin"])
    assert np.allclose(timesteps, GOLDEN[f"{name}.timesteps"], rtol=1e-5, atol=1e-3)
    assert difference(ours[:, 0], GOLDEN[f"{name}.samples"]) < 1e-5


@pytest.mark.parametrize("name", DIFFERS)
def test_diffusers_leaves_the_paper_where_the_table_says(name):
    theirs = GOLDEN[f"{name}.samples"]
    begin = CASES[name]["begin"]
    _, expected = slow_run(*arguments(name), MIDDLE.get(name, begin))
    if len(theirs) == len(expected) and not np.isnan(theirs).any():
        assert difference(theirs, expected[:, 0]) > 2e-5
    assert_follows_paper(*arguments(name), MIDDLE.get(name, begin), begin)


@pytest.mark.parametrize("name", ["differs-ddpm-large-log", "differs-dpm-no-step", "differs-unipc-bh1"])
def test_diffusers_is_nan_where_the_table_says(name):
    assert np.isnan(GOLDEN[f"{name}.samples"]).any()


def test_diffusers_takes_another_number_of_steps_where_the_table_says():
    name = "differs-dpm-clipped-trailing"
    assert len(GOLDEN[f"{name}.timesteps"]) != CASES[name]["steps"]


OTHER_SIGMAS = {
    "differs-euler-log-linear": "not those of the timesteps",
    "differs-dpm-clipped-trailing": "another number of steps",
}


@pytest.mark.parametrize("name", [name for name in CASES if f"{name}.sigmas" in GOLDEN and name not in OTHER_SIGMAS])
def test_sigmas_are_those_of_diffusers(name):
    """Of trajectories that differ, too. Tables of float32 leave few digits to small sigmas, hence the tolerance."""
    scheduler, config, steps = arguments(name)
    ours = getattr(ppdiffusers, scheduler)(**config)
    ours.set_timesteps(**(steps if isinstance(steps, dict) else {"num_inference_steps": steps}))
    assert np.allclose(ours.sigmas, GOLDEN[f"{name}.sigmas"], rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "rounded"),
    [
        ("differs-dpm-karras", np.round),
        ("differs-dpm-clipped-karras", np.round),
        ("differs-dpm-lu", np.round),
        ("differs-dpm-exponential", np.floor),
        ("differs-single-karras", np.round),
        ("differs-deis-karras", np.round),
        ("differs-unipc-karras", np.round),
    ],
)
def test_diffusers_rounds_timesteps_where_the_table_says(name, rounded):
    ours, _ = our_run(*arguments(name))
    assert GOLDEN[f"{name}.timesteps"].tolist() == rounded(ours).tolist() != ours
