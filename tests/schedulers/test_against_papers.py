"""Every scheduler but DDIM against its paper, over a grid of options."""

from __future__ import annotations

import numpy as np
import pytest
from slow_schedulers import LATENT, assert_follows_paper, difference, our_run

STEPS = [5, 20, 37]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["leading", "linspace", "trailing"]
EULER, ANCESTRAL, LMS = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"
DDPM, PNDM, DPM = "DDPMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"
SINGLE, DEIS, UNIPC = "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"
HEUN, LCM, INVERSE = "HeunDiscreteScheduler", "LCMScheduler", "DDIMInverseScheduler"
KARRAS, V, X0 = {"use_karras_sigmas": True}, {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
TRAILING, SIGMA_MIN = {"timestep_spacing": "trailing"}, {"final_sigmas_type": "sigma_min"}
COSINE, ZERO_SNR = {"beta_schedule": "squaredcos_cap_v2"}, {"rescale_betas_zero_snr": True}


def identify(value):
    return ",".join(f"{key}={value}" for key, value in value.items()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", [DDPM, PNDM, EULER, ANCESTRAL, LMS, DPM, HEUN, DEIS, UNIPC, INVERSE])
def test_every_spacing_and_prediction(name, spacing, prediction_type, steps):
    config = {**LATENT, "timestep_spacing": spacing, "prediction_type": prediction_type}
    if name in (DDPM, INVERSE):
        config["clip_sample"] = False
    if name == INVERSE and prediction_type == "sample":
        config["set_alpha_to_one"] = False
    assert_follows_paper(name, config, steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", [*SPACINGS, "karras"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"])
def test_dpm_solver(algorithm, spacing, order, steps):
    spaced = KARRAS if spacing == "karras" else {"timestep_spacing": spacing}
    config = {**LATENT, **spaced, "algorithm_type": algorithm, "solver_order": order, **SIGMA_MIN}
    assert_follows_paper(DPM, config, steps)


@pytest.mark.parametrize("steps", [5, 6, 20])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver", "sde-dpmsolver++"])
def test_dpm_solver_singlestep(algorithm, solver, order, final, steps):
    config = {"algorithm_type": algorithm, "solver_type": solver, "solver_order": order, "final_sigmas_type": final}
    assert_follows_paper(SINGLE, {**LATENT, **config}, steps)


@pytest.mark.parametrize("steps", [3, 5, 20])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("solver", ["bh1", "bh2"])
@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("spacing", [{}, KARRAS, SIGMA_MIN, {"lower_order_final": False}], ids=str)
def test_unipc(data, solver, order, spacing, steps):
    config = {"predict_x0": data, "solver_type": solver, "solver_order": order, **spacing}
    assert_follows_paper(UNIPC, {**LATENT, **config}, steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        *[(name, KARRAS) for name in (HEUN, DEIS, SINGLE)],
        *[(name, {"use_exponential_sigmas": True, **V}) for name in (HEUN, DEIS, SINGLE, UNIPC)],
        *[(DEIS, {"solver_order": order, **more}) for order in (1, 3) for more in ({}, {"lower_order_final": False})],
        (DEIS, {"beta_schedule": "sigmoid", **V}),
        (DEIS, {"thresholding": True, "sample_max_value": 2.0}),
        (HEUN, {"clip_sample": True, "clip_sample_range": 0.5}),
        (HEUN, {"timestep_spacing": "leading", "steps_offset": 1}),
        (SINGLE, {"lower_order_final": True, "solver_order": 3, **SIGMA_MIN}),
        (SINGLE, {**COSINE, **V, "lambda_min_clipped": -5.1}),
        *[(SINGLE, {"variance_type": kind}) for kind in ("learned", "learned_range")],
        (UNIPC, {"disable_corrector": [0, 2], "solver_order": 3}),
        (UNIPC, {**KARRAS, "sigma_min": 0.1, "sigma_max": 10.0}),
        (UNIPC, {**ZERO_SNR, **TRAILING, **V}),
        (UNIPC, {"thresholding": True, "sample_max_value": 2.0}),
        (LCM, {}),
        (LCM, {**V, "original_inference_steps": 100, "timestep_scaling": 0.01}),
        (LCM, {**X0, "clip_sample": True, "clip_sample_range": 0.5}),
        (LCM, {"thresholding": True, "sample_max_value": 2.0}),
        (INVERSE, {}),
        (INVERSE, {"clip_sample_range": 0.8, "steps_offset": 1}),
        (INVERSE, {**ZERO_SNR, **TRAILING, **V}),
        *[(name, {**KARRAS, **more}) for name in (EULER, LMS, DPM) for more in ({}, V, TRAILING)],
        *[(name, {"use_exponential_sigmas": True}) for name in (EULER, LMS, DPM)],
        *[(name, {**ZERO_SNR, **TRAILING, **V}) for name in (EULER, ANCESTRAL, DPM, DDPM)],
        *[(name, {**COSINE, **V}) for name in (DDPM, PNDM, EULER, ANCESTRAL, LMS)],
        *[(name, {"timestep_spacing": "leading", "steps_offset": 1}) for name in (DDPM, PNDM, EULER, ANCESTRAL, DPM)],
        (DDPM, {"beta_schedule": "sigmoid"}),
        *[(DDPM, {"variance_type": kind}) for kind in ("fixed_small_log", "fixed_large", "fixed_large_log")],
        *[(DDPM, {"variance_type": kind}) for kind in ("learned", "learned_range")],
        (DDPM, {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9}),
        (DDPM, {"clip_sample_range": 0.5, **V}),
        *[(PNDM, {"skip_prk_steps": True, **more}) for more in ({}, V, X0, TRAILING, {"set_alpha_to_one": True})],
        (PNDM, {"set_alpha_to_one": True, **V}),
        (EULER, SIGMA_MIN),
        (EULER, {"interpolation_type": "log_linear"}),
        (EULER, {**KARRAS, "sigma_min": 0.1, "sigma_max": 10.0}),
        (EULER, {**KARRAS, **V, "sigma_min": 0.002, "sigma_max": 700.0, "timestep_type": "continuous"}),
        (EULER, {**V, "timestep_type": "continuous"}),
        (DPM, {"use_lu_lambdas": True}),
        *[(DPM, {"solver_type": "heun", **SIGMA_MIN, "algorithm_type": kind}) for kind in ("dpmsolver++", "dpmsolver")],
        (DPM, {"solver_type": "heun", "algorithm_type": "sde-dpmsolver++"}),
        (DPM, {"solver_type": "heun", "algorithm_type": "sde-dpmsolver", **SIGMA_MIN}),
        (DPM, {"algorithm_type": "dpmsolver"}),
        (DPM, {"algorithm_type": "sde-dpmsolver++"}),
        (DPM, {"solver_order": 3, "lower_order_final": False, **SIGMA_MIN}),
        (DPM, {"solver_order": 3, "euler_at_final": True, **SIGMA_MIN}),
        (DPM, {**COSINE, **V, "lambda_min_clipped": -5.1}),
        (DPM, {**COSINE, **V, "lambda_min_clipped": -5.1, **TRAILING}),
        (DPM, {**COSINE, **V, "lambda_min_clipped": -5.1, **KARRAS}),
        *[
            (DPM, {"thresholding": True, "sample_max_value": 2.0, "algorithm_type": kind, **SIGMA_MIN})
            for kind in ("dpmsolver++", "dpmsolver")
        ],
    ],
    ids=identify,
)
def test_options(name, config, steps):
    assert_follows_paper(name, {**LATENT, **config}, steps)


@pytest.mark.parametrize("name", [DDPM, EULER, ANCESTRAL, LMS, DPM, PNDM, SINGLE, DEIS, UNIPC, HEUN, LCM, INVERSE])
@pytest.mark.parametrize("begin", [1, 2, 3, 7, 19])
def test_a_run_may_begin_in_the_middle(name, begin):
    if name == PNDM:  # whether the doubled timestep is met once or twice
        config = {**LATENT, "skip_prk_steps": True}
        assert_follows_paper(name, config, 20, begin, begin + 1)
    elif name == HEUN:  # at the second of a timestep's two entries
        assert_follows_paper(HEUN, LATENT, 20, begin, 2 * begin)
    else:
        assert_follows_paper(name, LATENT, 20, begin)


@pytest.mark.parametrize(("begin", "our_begin"), [(1, 4), (2, 8), (3, 12), (5, 14)])
def test_runge_kutta_may_begin_in_the_middle(begin, our_begin):
    assert_follows_paper(PNDM, LATENT, 20, begin, our_begin)


def test_the_doubled_timestep_is_passed_over_where_there_is_nothing_to_correct():
    config = {**LATENT, "skip_prk_steps": True}
    once, twice = our_run(PNDM, config, 20, 2)[1], our_run(PNDM, config, 20, 1)[1]
    assert np.array_equal(twice[0], twice[1])
    assert np.array_equal(once, twice[1:])


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_pndm_with_few_steps(skip, steps):
    assert_follows_paper(PNDM, {**LATENT, "skip_prk_steps": skip}, steps)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *[(name, {}) for name in (DDPM, PNDM, EULER, ANCESTRAL, LMS, DEIS, UNIPC, HEUN, LCM, INVERSE)],
        *[(name, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}) for name in (DPM, SINGLE)],
        *[(name, {"thresholding": True, "sample_max_value": 1.5}) for name in (DDPM, DPM)],
        *[(name, {"variance_type": kind}) for name in (DDPM, DPM) for kind in ("learned", "learned_range")],
    ],
    ids=identify,
)
def test_numpy_and_paddle_agree(name, config):
    config = {**LATENT, **config}
    tensors, arrays = our_run(name, config, 5)[1], our_run(name, config, 5, library=np.asarray)[1]
    assert arrays.dtype == np.float32
    assert difference(arrays, tensors) < 1e-6
