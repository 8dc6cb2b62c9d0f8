"""What must hold for each scheduler alike: files, swaps, calls, order of steps, types."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import pickle

import fake_torch
import numpy as np
import paddle
import pytest
from slow_schedulers import EXPONENTIAL, GROWING, LATENT

import ppdiffusers
import ppdiffusers.schedulers.scheduler
from ppdiffusers.config import ConfigError
from ppdiffusers.random import Generator

NAMES = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "DDIMInverseScheduler",
    *EXPONENTIAL,
]
REMEMBERING = ["PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", *EXPONENTIAL]
NOISY = {"DDIMScheduler": {"eta": 1.0}, "DDPMScheduler": {}, "EulerAncestralDiscreteScheduler": {}, "LCMScheduler": {}}
WITHOUT_ZERO_SNR = ["PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "DEISMultistepScheduler"]
SHAPE = [2, 3, 2, 2]

# As published, with the keys of sister classes that such files carry.
PUBLISHED = {
    "PNDMScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
        "clip_sample": False,
    },
    "EulerDiscreteScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False,
    },
    "EulerAncestralDiscreteScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "timestep_spacing": "trailing", "trained_betas": None,
    },
    "DDPMScheduler": {
        "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2", "beta_start": 0.0001, "clip_sample": True,
        "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.95, "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "sample_max_value": 1.5, "thresholding": True, "trained_betas": None,
        "variance_type": "learned_range",
    },
    "LMSDiscreteScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "trained_betas": None,
    },
    "DPMSolverMultistepScheduler": {
        "algorithm_type": "dpmsolver++", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "clip_sample": False, "dynamic_thresholding_ratio": 0.995, "lower_order_final": True,
        "num_train_timesteps": 1000, "prediction_type": "v_prediction", "sample_max_value": 1.0,
        "set_alpha_to_one": False, "skip_prk_steps": True, "solver_order": 2, "solver_type": "midpoint",
        "steps_offset": 1, "thresholding": False, "trained_betas": None, "lambda_min_clipped": float("-inf"),
        "variance_type": None, "use_flow_sigmas": False, "flow_shift": 1.0, "predict_epsilon": False,
    },
    "UniPCMultistepScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "disable_corrector": (), "dynamic_thresholding_ratio": 0.995, "final_sigmas_type": "zero",
        "lower_order_final": True, "num_train_timesteps": 1000, "predict_x0": True, "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True, "solver_order": 2, "solver_p": None,
        "solver_type": "bh2", "steps_offset": 1, "thresholding": False, "timestep_spacing": "linspace",
        "trained_betas": None, "use_karras_sigmas": False,
    },
    "DPMSolverSinglestepScheduler": {
        "algorithm_type": "dpmsolver++", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "lambda_min_clipped": float("-inf"), "lower_order_final": True, "num_train_timesteps": 1000,
        "sample_max_value": 1.0, "solver_order": 2, "solver_type": "midpoint", "steps_offset": 1,
        "thresholding": False, "timestep_spacing": "leading", "trained_betas": None, "variance_type": None,
    },
    "DEISMultistepScheduler": {
        "algorithm_type": "deis", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "lower_order_final": True, "num_train_timesteps": 1000, "solver_order": 2, "solver_type": "logrho",
        "steps_offset": 1, "thresholding": False, "trained_betas": None, "use_karras_sigmas": False,
    },
    "HeunDiscreteScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "interpolation_type": "linear", "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "timestep_spacing": "linspace", "trained_betas": None, "use_karras_sigmas": True,
    },
    "LCMScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "clip_sample_range": 1.0, "num_train_timesteps": 1000, "original_inference_steps": 50,
        "rescale_betas_zero_snr": False, "sample_max_value": 1.0, "set_alpha_to_one": True, "steps_offset": 0,
        "thresholding": False, "timestep_scaling": 10.0, "timestep_spacing": "leading", "trained_betas": None,
    },
    "DDIMInverseScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
        "trained_betas": None,
    },
}  # fmt: skip


def make(name, **config):
    return getattr(ppdiffusers, name)(**{**LATENT, **config})


def started(name, steps=6, **config):
    scheduler = make(name, **config)
    scheduler.set_timesteps(steps)
    return scheduler


def walk(scheduler, x, timesteps, generator=None):
    for t in timesteps:
        x = scheduler.step(0.3 * scheduler.scale_model_input(x, t), t, x, generator=generator).prev_sample
    return x


# Configs, files, swaps.


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_loads(name, tmp_path):
    values = {"_class_name": name, "_diffusers_version": "0.6.0", **PUBLISHED[name]}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(values))
    scheduler = getattr(ppdiffusers, name).from_pretrained(tmp_path)
    for key, value in PUBLISHED[name].items():
        if key not in ("predict_epsilon", "prediction_type"):
            assert scheduler.config[key] == value
    assert scheduler.config.prediction_type == ("sample" if "predict_epsilon" in values else "epsilon")
    scheduler.save_pretrained(tmp_path / "again")
    assert getattr(ppdiffusers, name).from_pretrained(tmp_path / "again").config == scheduler.config


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_a_swap_takes_what_was_given_and_not_the_defaults(first, second):
    source = make(first, prediction_type="v_prediction")
    target = getattr(ppdiffusers, second).from_config(source.config)
    plain = make(second, prediction_type="v_prediction")
    assert target.config == plain.config
    back = getattr(ppdiffusers, first).from_config(target.config)
    assert back.config == source.config
    given = getattr(ppdiffusers, first).from_config({**LATENT, "timestep_spacing": "trailing", "steps_offset": 1})
    target = getattr(ppdiffusers, second).from_config(given.config)
    assert (target.config.timestep_spacing, target.config.steps_offset) == ("trailing", 1)


def test_a_ddim_file_without_a_spacing_gives_euler_its_own(tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler", **LATENT}))
    ddim = ppdiffusers.DDIMScheduler.from_pretrained(tmp_path)
    assert ddim.config.timestep_spacing == "leading"
    assert ppdiffusers.EulerDiscreteScheduler.from_config(ddim.config).config.timestep_spacing == "linspace"
    ddim = ppdiffusers.DDIMScheduler.from_config(ddim.config, timestep_spacing="leading")
    assert ppdiffusers.EulerDiscreteScheduler.from_config(ddim.config).config.timestep_spacing == "leading"


def test_copies_and_pickles_have_their_own_tensors():
    scheduler = started("EulerDiscreteScheduler")
    _ = scheduler.timesteps, scheduler.sigmas
    for twin in (scheduler.copy(), copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        twin.set_timesteps(3)
        assert len(twin.timesteps) == 3 and len(twin.sigmas) == 4
        assert len(scheduler.timesteps) == 6 and len(scheduler.sigmas) == 7


def test_options_of_a_sampler_survive_a_round_trip_through_one_without_them():
    config = {"use_karras_sigmas": True, "solver_order": 3, "algorithm_type": "sde-dpmsolver++"}
    first = make("DPMSolverMultistepScheduler", **config)
    config = first.config
    for name in (*[name for name in NAMES if name not in EXPONENTIAL], "DPMSolverMultistepScheduler"):
        scheduler = getattr(ppdiffusers, name).from_config(pickle.loads(pickle.dumps(config)))
        config = scheduler.config
        scheduler.set_timesteps(5)
    assert config == first.config
    # A carried option is not an option of the class that carries it.
    ancestral = ppdiffusers.EulerAncestralDiscreteScheduler.from_config(config)
    ancestral.set_timesteps(5)
    assert np.array_equal(ancestral.sigmas, started("EulerAncestralDiscreteScheduler", 5).sigmas)


def test_the_name_of_a_method_stays_with_its_scheduler():
    """`algorithm_type` and `solver_type` mean other things elsewhere: a sister takes its own default."""
    unipc = make("UniPCMultistepScheduler", solver_type="bh1", solver_order=3)
    deis = ppdiffusers.DEISMultistepScheduler.from_config(unipc.config)
    assert (deis.config.solver_type, deis.config.algorithm_type, deis.config.solver_order) == ("logrho", "deis", 3)
    dpm = ppdiffusers.DPMSolverMultistepScheduler.from_config(dict(deis.config))
    assert (dpm.config.solver_type, dpm.config.algorithm_type, dpm.config.solver_order) == (
        "midpoint",
        "dpmsolver++",
        3,
    )
    single = ppdiffusers.DPMSolverSinglestepScheduler.from_config(
        make(dpm.__class__.__name__, solver_type="heun").config
    )
    assert single.config.solver_type == "heun"  # the same method here
    with pytest.raises(ValueError, match="solver_type 'bh2'"):
        ppdiffusers.DEISMultistepScheduler.from_config(deis.config, solver_type="bh2")
    with pytest.raises(ValueError, match="solver_type 'hun'"):
        ppdiffusers.DEISMultistepScheduler.from_config({**LATENT, "solver_type": "hun"})


def test_trained_betas_survive_a_swap():
    betas = np.linspace(0.01, 0.3, 30, dtype=np.float32)
    first = ppdiffusers.DDPMScheduler(num_train_timesteps=30, trained_betas=betas)
    second = ppdiffusers.LMSDiscreteScheduler.from_config(first.config)
    assert np.array_equal(first.betas, second.betas)
    assert second.config.timestep_spacing == "linspace"


@pytest.mark.parametrize("name", WITHOUT_ZERO_SNR)
def test_a_swap_that_would_lose_how_the_model_was_trained_is_an_error(name):
    source = make("DDIMScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    with pytest.raises(ConfigError, match=f"{name} cannot do rescale_betas_zero_snr True"):
        getattr(ppdiffusers, name).from_config(source.config)
    source = make("EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(ConfigError, match="cannot do timestep_type 'continuous'"):
        getattr(ppdiffusers, name).from_config(source.config)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("DPMSolverMultistepScheduler", {"solver_order": 4}, "solver_order 4"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "deis"}, "algorithm_type 'deis'.*sde-dpmsolver"),
        ("DPMSolverMultistepScheduler", {"solver_type": "bh2"}, "solver_type 'bh2'"),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas.*not supported"),
        ("DPMSolverMultistepScheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting.*not supported"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"}, "final_sigmas_type='sigma_min'"),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "use_karras_sigmas": True}, "exclude each other"),
        ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 0.5}, "sample_max_value 0.5"),
        ("DPMSolverMultistepScheduler", {"variance_type": "huge"}, "variance_type 'huge'"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "one"}, "final_sigmas_type 'one'"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "exclude each other"),
        ("EulerDiscreteScheduler", {"interpolation_type": "cubic"}, "interpolation_type 'cubic'"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "'continuous'.*v_prediction"),
        ("EulerDiscreteScheduler", {"sigma_min": 0.1}, "sigma_min 0.1.*use_karras_sigmas"),
        ("DDPMScheduler", {"variance_type": "small"}, "variance_type 'small'"),
        ("DDPMScheduler", {"thresholding": True, "dynamic_thresholding_ratio": 2}, "dynamic_thresholding_ratio 2"),
        *[(name, {"prediction_type": "v"}, "prediction_type 'v'") for name in NAMES],
        *[(name, {"timestep_spacing": "even"}, "timestep_spacing") for name in NAMES],
        ("DEISMultistepScheduler", {"solver_order": 4}, "solver_order 4"),
        ("DEISMultistepScheduler", {"solver_type": "midpoint"}, "solver_type 'midpoint'.*logrho"),
        ("DEISMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type 'dpmsolver'.*deis"),
        ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver"}, "algorithm_type 'sde-dpmsolver'"),
        ("UniPCMultistepScheduler", {"solver_order": 5}, "solver_order 5"),
        ("UniPCMultistepScheduler", {"solver_type": "heun"}, "solver_type 'heun'.*bh1, bh2"),
        ("UniPCMultistepScheduler", {"solver_p": object()}, "solver_p.*not supported"),
        ("UniPCMultistepScheduler", {"shift_terminal": 0.1}, "shift_terminal.*not supported"),
        ("UniPCMultistepScheduler", {"sigma_min": 0.1}, "sigma_min 0.1.*use_karras_sigmas"),
        ("HeunDiscreteScheduler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "exclude each other"),
        ("LCMScheduler", {"original_inference_steps": 1001}, "original_inference_steps 1001.*50 as a rule"),
        ("DDIMInverseScheduler", {"prediction_type": "sample"}, "set set_alpha_to_one=False"),
        *[(name, {"beta_schedule": "laplace"}, "beta_schedule 'laplace'") for name in NAMES],
    ],
)
def test_wrong_arguments_of_the_constructor(name, config, message):
    with pytest.raises(ValueError, match=message):
        make(name, **config)


@pytest.mark.parametrize(
    ("name", "config", "steps", "message"),
    [
        *[(name, {}, 1001, "1001 is more than the 1000") for name in NAMES],
        *[(name, {}, 0, "0 is less than 1") for name in NAMES],
        ("DPMSolverMultistepScheduler", {}, 1000, "linspace spacing has 999 steps at most"),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": 3.0}, 50, "lambda_min_clipped 3.0 leaves"),
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "sigma_min": 0.001},
            10,
            "correct sigma_max and sigma_min",
        ),
        ("DDPMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 5, "999 has no signal"),
    ],
)
def test_wrong_numbers_of_steps(name, config, steps, message):
    with pytest.raises(ValueError, match=message):
        make(name, **config).set_timesteps(steps)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_steps_runs(name):
    for steps in (1, 2, 3, 999):
        scheduler = started(name, steps, **({"original_inference_steps": 1000} if name == "LCMScheduler" else {}))
        assert scheduler.num_inference_steps == steps
        assert scheduler.timesteps.dtype in (paddle.int64, paddle.float32)
        if steps < 4:
            assert np.isfinite(walk(scheduler, np.ones(SHAPE, np.float32), scheduler.timesteps)).all()


# Calls.


@pytest.mark.parametrize("name", NAMES)
def test_a_step_names_its_generator_and_takes_running_ones_only(name):
    assert "generator" in inspect.signature(getattr(ppdiffusers, name).step).parameters
    scheduler = started(name)
    x, t = paddle.ones(SHAPE), scheduler.timesteps[0]
    options = NOISY.get(name, {})
    for wrong in (42, [1, 2]):
        with pytest.raises(TypeError, match="as_generators"):
            scheduler.step(x, t, x, generator=wrong, **options)
    for right in (None, paddle.Generator(), Generator(0), [Generator(0), fake_torch.manual_seed(1)]):
        scheduler.set_timesteps(6)
        assert np.isfinite(scheduler.step(x, t, x, generator=right, **options).prev_sample.numpy()).all()


@pytest.mark.parametrize("name", [*NOISY, "DPMSolverMultistepScheduler"])
def test_the_seed_fixes_the_noise_one_stream_an_image(name):
    config = {"algorithm_type": "sde-dpmsolver++"} if name.startswith("DPM") else {}
    options = NOISY.get(name, {})
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal(SHAPE).astype(np.float32))

    def run(x, generator):
        scheduler = started(name, **config)
        for t in scheduler.timesteps:
            x = scheduler.step(0.3 * x, t, x, generator=generator, **options).prev_sample
        return x.numpy()

    together = run(x, [Generator(1), Generator(2)])
    assert np.array_equal(together[:1], run(x[:1], [Generator(1)]))
    assert np.array_equal(together[1:], run(x[1:], Generator(2)))
    assert np.array_equal(together, run(x, [fake_torch.manual_seed(1), Generator(2)]))  # torch's go on as well
    assert not np.array_equal(run(x, Generator(3)), run(x, Generator(4)))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_by_name_and_tuple(name):
    x = paddle.ones(SHAPE)
    first, second = started(name), started(name)
    t = first.timesteps[0]
    output = first.step(x, t, x, generator=Generator(0))
    as_tuple = second.step(x, t, x, generator=Generator(0), return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(output)
    assert len(output) == (1 if name in ("PNDMScheduler", *EXPONENTIAL) else 2)
    assert np.array_equal(output.prev_sample.numpy(), as_tuple[0].numpy())


@pytest.mark.parametrize("kind", ["number", "scalar", "array", "tensor", "single"])
@pytest.mark.parametrize("name", NAMES)
def test_a_timestep_is_any_kind_of_number(name, kind):
    x = np.ones(SHAPE, np.float32)
    plain, other = started(name), started(name)
    t = plain.timesteps[1]
    wrap = {"number": lambda t: t.item(), "scalar": lambda t: t, "array": np.array, "tensor": paddle.to_tensor}
    given = wrap.get(kind, lambda t: paddle.to_tensor([t]))(t)
    if name == "PNDMScheduler":
        plain, other = (started(name, skip_prk_steps=True) for _ in range(2))
        given, t = int(plain.timesteps[0]), plain.timesteps[0]
    assert np.array_equal(np.asarray(other.scale_model_input(x, given)), np.asarray(plain.scale_model_input(x, t)))
    ours = other.step(x, given, x, generator=Generator(0)).prev_sample
    assert np.array_equal(ours, plain.step(x, t, x, generator=Generator(0)).prev_sample)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_stepped_in_float32(name, dtype):
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal(SHAPE).astype(np.float32)).astype(dtype)
    half, full = started(name), started(name)
    t = half.timesteps[0]
    low = half.step(0.3 * x, t, x, generator=Generator(0)).prev_sample
    high = full.step((0.3 * x).astype("float32"), t, x.astype("float32"), generator=Generator(0)).prev_sample
    assert low.dtype == x.dtype == half.scale_model_input(x, t).dtype
    assert np.array_equal(low.astype("float32").numpy(), high.astype(dtype).astype("float32").numpy())


@pytest.mark.parametrize("name", NAMES)
def test_wrong_calls_of_a_step(name):
    x = paddle.ones(SHAPE)
    with pytest.raises(ValueError, match="call set_timesteps"):
        make(name).step(x, 999, x)
    scheduler = started(name)
    t = scheduler.timesteps[0]
    with pytest.raises(ValueError, match="timestep 17 is not in this schedule"):
        scheduler.step(x, 17, x)
    with pytest.raises(ValueError, match=r"model_output has shape \[2, 6, 2, 2\]"):
        scheduler.step(paddle.ones([2, 6, 2, 2]), t, x)
    scheduler.step(x, t, x, generator=Generator(0))  # nothing of the refused calls is left


@pytest.mark.parametrize(
    ("name", "config"), [*[(name, {}) for name in REMEMBERING], ("PNDMScheduler", {"skip_prk_steps": True})]
)
def test_a_step_out_of_order_is_an_error(name, config):
    scheduler, x = started(name, **config), np.ones(SHAPE, np.float32)
    first, second, third = scheduler.timesteps[:3]
    scheduler.step(x, first, x)
    with pytest.raises(ValueError, match=f"{first} is out of order: the next one is"):
        scheduler.step(x, first, x)
    with pytest.raises(ValueError, match="is out of order"):
        scheduler.step(x, scheduler.timesteps[-1], x)
    walk(scheduler, x, scheduler.timesteps[1:])
    with pytest.raises(ValueError, match="after the last step; call set_timesteps"):
        scheduler.step(x, first, x)


@pytest.mark.parametrize("name", REMEMBERING)
def test_set_timesteps_forgets_the_run_before(name):
    scheduler, x = started(name), np.ones(SHAPE, np.float32)
    expected = walk(scheduler, x, scheduler.timesteps)
    scheduler.set_timesteps(6)
    walk(scheduler, 5 * x, scheduler.timesteps[:3])
    scheduler.set_timesteps(6)
    assert np.array_equal(walk(scheduler, x, scheduler.timesteps), expected)


def test_runge_kutta_does_not_begin_halfway():
    scheduler, x = started("PNDMScheduler", 10), np.ones(SHAPE, np.float32)
    with pytest.raises(ValueError, match="850 is halfway through a Runge-Kutta step; begin at one of 900, 800"):
        scheduler.step(x, 850, x)


def test_learned_variances_need_twice_the_channels():
    scheduler, x = started("DDPMScheduler", variance_type="learned"), np.ones(SHAPE, np.float32)
    with pytest.raises(ValueError, match="needs a model_output of 6 channels for a sample of 3, not 3"):
        scheduler.step(x, scheduler.timesteps[0], x)
    plain, learned = (started("DPMSolverMultistepScheduler", variance_type=kind) for kind in (None, "learned_range"))
    t, wide = plain.timesteps[0], np.concatenate([x, 7 * x], 1)
    assert np.array_equal(learned.step(wide, t, x).prev_sample, plain.step(x, t, x).prev_sample)


# Noise.


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_added_as_the_run_goes_on_from_there(name):
    """Scaled for the model, x_0 and noise have the factors of the training's timestep."""
    scheduler = make(name)
    x0, noise = np.random.RandomState(0).standard_normal((2, *SHAPE)).astype(np.float32)
    for timesteps in ([3, 999], 500):
        alphas = scheduler.alphas_cumprod[np.broadcast_to(timesteps, 2)].numpy().reshape(2, 1, 1, 1)
        expected = np.sqrt(alphas) * x0 + np.sqrt(1 - alphas) * noise
        noisy = scheduler.add_noise(x0, noise, timesteps)
        assert noisy.dtype == np.float32
        assert np.allclose(noisy * np.sqrt(alphas) if name in GROWING else noisy, expected, atol=1e-5)
        velocity = np.sqrt(alphas) * noise - np.sqrt(1 - alphas) * x0
        assert np.allclose(scheduler.get_velocity(x0, noise, timesteps), velocity, atol=1e-5)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[4]
    noisy = scheduler.add_noise(paddle.to_tensor(x0), paddle.to_tensor(noise), paddle.to_tensor([t, t]))
    if hasattr(scheduler, "sigmas"):
        sigma = scheduler.sigmas[4]
        noisy = noisy if name in GROWING else noisy * float(np.hypot(sigma, 1))
        assert np.allclose(noisy.numpy(), x0 + sigma * noise, atol=1e-5)
    for wrong in (1000, -1):
        with pytest.raises(ValueError, match=f"timestep {wrong}"):
            scheduler.add_noise(x0, noise, wrong)
    with pytest.raises(ValueError, match=r"shape \[3\] for 2 samples"):
        scheduler.add_noise(x0, noise, [1, 2, 3])


@pytest.mark.parametrize("name", GROWING)
def test_a_growing_sample_is_scaled_to_variance_one(name):
    scheduler = started(name, timestep_spacing="leading")
    highest = scheduler.sigmas[0]
    assert scheduler.init_noise_sigma == pytest.approx(np.hypot(highest, 1))
    x = np.full(SHAPE, scheduler.init_noise_sigma, np.float32)
    assert np.allclose(scheduler.scale_model_input(x, scheduler.timesteps[0]), 1)
    assert started(name, timestep_spacing="trailing").init_noise_sigma == scheduler._train_sigmas[-1]
    with pytest.raises(ValueError, match="pass one of scheduler.timesteps"):
        scheduler.scale_model_input(x)


def test_continuous_timesteps_tell_sigma():
    config = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    scheduler = started("EulerDiscreteScheduler", **config)
    assert np.allclose(np.exp(4 * scheduler.timesteps.numpy()), scheduler.sigmas[:-1], rtol=1e-5)
    x = np.ones(SHAPE, np.float32)
    assert np.allclose(scheduler.add_noise(x, x, np.log(3.0) / 4), 4)


# Timesteps, sigmas and tables: as tensors, and as the caller gives them.


def deduplicated(values):
    return sorted({float(value) for value in values}, reverse=True)


@pytest.mark.parametrize("wrap", [list, tuple, np.array, paddle.to_tensor])
@pytest.mark.parametrize("name", NAMES)
def test_the_timesteps_of_a_run_may_be_given(name, wrap):
    config = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    spaced, given = started(name, **config), make(name, **config)
    given.set_timesteps(timesteps=wrap(deduplicated(spaced.timesteps)))
    assert given.num_inference_steps == 6 and given.timesteps.dtype == spaced.timesteps.dtype
    assert given.timesteps.tolist() == spaced.timesteps.tolist()
    x = np.random.RandomState(0).standard_normal(SHAPE).astype(np.float32)
    expected = walk(spaced, x, spaced.timesteps, Generator(0))
    assert np.allclose(walk(given, x, given.timesteps, Generator(0)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", [*GROWING, *EXPONENTIAL])
def test_the_sigmas_of_a_run_may_be_given(name):
    spaced, given = started(name), make(name)
    given.set_timesteps(sigmas=deduplicated(spaced.sigmas))
    assert np.allclose(given.timesteps, spaced.timesteps, atol=0.01)
    assert given.sigmas.tolist() == spaced.sigmas.tolist()
    assert given.init_noise_sigma == spaced.init_noise_sigma
    given.set_timesteps(sigmas=paddle.to_tensor([9.0, 1.0, 0.5]))
    assert [float(given.sigmas[0]), float(given.sigmas[-1])] == [9.0, 0.5] and given.num_inference_steps == 2
    x = np.ones(SHAPE, np.float32)
    assert np.isfinite(walk(given, x, given.timesteps)).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DDIMScheduler", {"num_inference_steps": 3, "timesteps": [5, 3]}, "were both given"),
        ("DDIMScheduler", {"timesteps": [5, 5]}, r"each less than the one before, not \[5.0, 5.0\]"),
        ("DDIMScheduler", {"timesteps": []}, "each less than the one before"),
        ("DDIMScheduler", {"timesteps": [1000, 3]}, "leave the training's, 999 to 0"),
        ("DDIMScheduler", {"timesteps": [3, -1]}, "leave the training's"),
        ("DDIMScheduler", {"timesteps": [3.5, 1]}, "are whole numbers"),
        ("EulerDiscreteScheduler", {"timesteps": [1000.5, 3]}, "leave the training's, 999 to 0"),
        ("EulerDiscreteScheduler", {"timesteps": [3], "sigmas": [3, 0]}, "timesteps and sigmas were both given"),
        ("EulerDiscreteScheduler", {"num_inference_steps": 3, "sigmas": [3, 0]}, "sigmas were both given"),
        ("EulerDiscreteScheduler", {"sigmas": [3]}, "at least two numbers, the last 0 or more"),
        ("EulerDiscreteScheduler", {"sigmas": [3, -1]}, "the last 0 or more"),
        ("EulerDiscreteScheduler", {"sigmas": [300, 0]}, "leave those of the training timesteps"),
        ("LCMScheduler", {"num_inference_steps": 51}, "more than the 50 that original_inference_steps"),
        ("LCMScheduler", {"num_inference_steps": 4, "strength": 1.5}, "strength 1.5"),
        ("LCMScheduler", {"num_inference_steps": 4, "original_inference_steps": 0}, "original_inference_steps 0"),
    ],
)
def test_wrong_timesteps_and_sigmas(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name).set_timesteps(**options)


def test_given_timesteps_exclude_a_spacing_of_sigmas():
    with pytest.raises(ValueError, match="use_karras_sigmas asks for others"):
        make("EulerDiscreteScheduler", use_karras_sigmas=True).set_timesteps(timesteps=[5, 3])


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_and_tables_are_tensors_and_numpy_takes_them_too(name):
    scheduler = make(name)
    for device in (None, "cpu", paddle.CPUPlace(), "cuda" if not paddle.is_compiled_with_cuda() else "gpu"):
        scheduler.set_timesteps(6, device=device)
        assert isinstance(scheduler.timesteps, paddle.Tensor) and isinstance(scheduler.alphas_cumprod, paddle.Tensor)
    t = scheduler.timesteps[1]
    assert isinstance(t, paddle.Tensor) and t.shape == [] and [t.item()] == scheduler.timesteps[1:2].tolist()
    assert [int(t) for t in scheduler.timesteps] == scheduler.timesteps.cast("int64").tolist()
    assert t.expand([2]).cast("float32").tolist() == [float(t)] * 2
    assert f"{t}" == str(t.item()) and f"{scheduler.alphas_cumprod[3]:.3f}" == f"{scheduler._alphas_cumprod[3]:.3f}"
    chosen = scheduler.alphas_cumprod[paddle.to_tensor([3, 999])]
    assert chosen.dtype == paddle.float32 == scheduler.betas.dtype == scheduler.alphas.dtype
    assert np.allclose(chosen.numpy(), scheduler._alphas_cumprod[[3, 999]], rtol=1e-6)
    assert float(scheduler.alphas_cumprod[999]) == scheduler._alphas_cumprod[999]
    array = np.ones([2, 2], np.float32) * scheduler.alphas_cumprod[3]  # numpy's beside numpy, Paddle's beside Paddle
    assert type(array) is np.ndarray and array.dtype == np.float32
    assert isinstance(paddle.ones([2, 2]) * scheduler.alphas_cumprod[3], paddle.Tensor)
    assert np.allclose(np.sqrt(scheduler.alphas_cumprod), np.sqrt(scheduler._alphas_cumprod), rtol=1e-6)
    if hasattr(scheduler, "sigmas"):
        assert scheduler.sigmas.dtype == paddle.float32 and len(scheduler.sigmas) == len(scheduler.timesteps) + 1


def test_a_tensor_that_was_written_into_is_read_from_where_it_is():
    timesteps = started("DDIMScheduler").timesteps
    timesteps[0] = 7
    assert (timesteps[0].item(), int(timesteps[0]), timesteps.tolist()[0], timesteps.numpy()[0]) == (7, 7, 7, 7)
    assert [int(t) for t in timesteps][0] == 7 and timesteps[:2].tolist()[0] == 7
    for write in (
        lambda table: table.set_value(np.full([1000], 0.5, np.float32)),
        lambda table: paddle.assign(paddle.full([1000], 0.5), table),
        lambda table: table.copy_(paddle.full([1000], 0.5), False),
        lambda table: table.scale_(0.0) + table.add_(paddle.full([1000], 0.5)),
    ):
        layer, table = paddle.nn.Layer(), started("DDIMScheduler").alphas_cumprod
        layer.register_buffer("table", table)
        write(table)
        assert float(table[3]) == 0.5 == table.tolist()[7] and np.asarray(table)[3] == 0.5
        assert layer.state_dict()["table"] is table


def test_what_may_be_assigned():
    scheduler = started("EulerDiscreteScheduler", 10)
    scheduler.timesteps = scheduler.timesteps[4:]  # image to image: the schedule stays
    assert len(scheduler.timesteps) == 6 and scheduler.position(scheduler.timesteps[0]) == 4
    x = np.ones(SHAPE, np.float32)
    expected = walk(started("EulerDiscreteScheduler", 10), x, started("EulerDiscreteScheduler", 10).timesteps[4:])
    assert np.array_equal(walk(scheduler, x, scheduler.timesteps), expected)
    scheduler.timesteps = [500, 20]
    assert scheduler.num_inference_steps == 2 and scheduler.timesteps.tolist() == [500, 20]
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.cpu()
    with pytest.raises(AttributeError, match="from_config.*trained_betas"):
        scheduler.alphas_cumprod = scheduler.alphas_cumprod * 0.5


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_run_may_be_told_where_it_begins(name):
    config = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler, x = started(name, **config), np.ones(SHAPE, np.float32)
    scheduler.set_begin_index(4)
    with pytest.raises(ValueError, match="is out of order"):
        scheduler.step(x, scheduler.timesteps[0], x)
    assert np.isfinite(walk(scheduler, x, scheduler.timesteps[4:])).all()
    with pytest.raises(ValueError, match="begin_index 99"):
        scheduler.set_begin_index(99)


def test_small_questions_that_diffusers_schedulers_answer():
    scheduler = started("DDIMScheduler")
    assert scheduler.num_train_timesteps == 1000 and scheduler.index_for_timestep(scheduler.timesteps[2]) == 2
    assert {cls.__name__ for cls in scheduler.compatibles} == set(NAMES)


# Several runs at once.


class Recorder(ppdiffusers.EulerDiscreteScheduler):
    """A user's scheduler: own attributes, a constructor of its own, a dictionary that its step writes into."""

    def __init__(self, label, **config):
        super().__init__(**config)
        self.label, self.model, self.seen = label, object(), {}

    def step(self, model_output, timestep, sample, **options):
        self.seen[int(timestep)] = float(sample.mean())
        return super().step(model_output, timestep, sample, **options)


@pytest.mark.parametrize(
    ("name", "config"), [*[(name, {}) for name in NAMES], ("PNDMScheduler", {"skip_prk_steps": True})]
)
def test_interleaved_copies_give_what_serial_runs_give(name, config):
    original, x = make(name, **config), np.random.RandomState(0).standard_normal((2, *SHAPE)).astype(np.float32)
    plans = [(5, x[0], 1), (8, x[1], 2)]
    expected = []
    for steps, sample, seed in plans:
        original.set_timesteps(steps)
        expected.append(walk(original, sample, original.timesteps, Generator(seed)))
    copies = [original.copy(), original.copy()]
    for scheduler, (steps, _, _) in zip(copies, plans):
        scheduler.set_timesteps(steps)
    samples, streams = [sample for _, sample, _ in plans], [Generator(seed) for _, _, seed in plans]
    for index in range(max(len(scheduler.timesteps) for scheduler in copies)):
        for run, scheduler in enumerate(copies):
            samples[run] = walk(scheduler, samples[run], scheduler.timesteps[index : index + 1], streams[run])
        if index == 1:
            copies.append(copies[1].copy())  # goes on from the middle of a run
            plans.append(plans[1]), samples.append(samples[1]), streams.append(Generator(2))
            streams[2].set_state(streams[1].get_state())
            expected.append(expected[1])
    assert all(np.array_equal(ours, serial) for ours, serial in zip(samples, expected))
    assert original.num_inference_steps == 8 and copies[0].config is original.config
    assert copies[0]._alphas_cumprod is original._alphas_cumprod


def test_a_users_subclass_survives_being_copied():
    original = Recorder("mine", **LATENT)
    original.note = lambda: "kept"
    original.scale_model_input = type(original).scale_model_input.__get__(original)  # patched on the instance
    first, second = original.copy(), original.copy()
    assert type(first) is Recorder and (first.label, first.model, first.note()) == ("mine", original.model, "kept")
    for scheduler, steps in ((first, 3), (second, 4)):
        scheduler.set_timesteps(steps)
        walk(scheduler, np.ones(SHAPE, np.float32), scheduler.timesteps)
    assert (len(original.seen), len(first.seen), len(second.seen)) == (0, 3, 4)
    assert original.num_inference_steps is None


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_run_reads_a_tensor_back(name, monkeypatch):
    """Each read makes the host wait for the GPU; tensors of the CPU stand in for its here."""
    scheduler, x = make(name, thresholding=True) if name[:3] == "DDP" else make(name), paddle.ones(SHAPE)
    timesteps = [paddle.to_tensor(values) for values in ([3, 999], [7])]
    wrong = paddle.to_tensor([-2, 1000])
    expected = [scheduler.add_noise(x, 2 * x, t).numpy() for t in timesteps]

    def refused(*arguments, **options):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(ppdiffusers.schedulers.scheduler, "is_on_host", lambda array: isinstance(array, np.ndarray))
    with monkeypatch.context() as patch:
        for method in ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__"):
            patch.setattr(paddle.Tensor, method, refused)
        noisy = [scheduler.add_noise(x, 2 * x, t) for t in timesteps]
        velocity = scheduler.get_velocity(x, 2 * x, wrong)
        scheduler.set_timesteps(5)
        for t in scheduler.timesteps.tolist():
            last = scheduler.step(scheduler.scale_model_input(x, t), t, x, **NOISY.get(name, {})).prev_sample
    assert all(np.array_equal(ours, host) for ours, host in zip(noisy, expected))
    assert np.isfinite(last.numpy()).all() and np.isnan(velocity.numpy()).all()
    if name in GROWING:  # timesteps of the run have its sigmas
        t = scheduler.timesteps[[1, 2]]
        noisy = scheduler.add_noise(x, x, paddle.to_tensor(t)).numpy()[:, 0, 0, 0]
        assert np.allclose(noisy, 1 + scheduler.sigmas[1:3], rtol=1e-6)


def test_log_linear_sigmas_reach_the_ends_of_the_training():
    config = {"interpolation_type": "log_linear", "use_karras_sigmas": True, "timestep_spacing": "trailing"}
    for betas in (LATENT, {}):
        scheduler = ppdiffusers.EulerDiscreteScheduler(**betas, **config)
        for steps in range(1, 60):
            scheduler.set_timesteps(steps)  # raised for some, over the last bit of a float
        assert scheduler.timesteps[0] == 999
    written = float(np.float32(scheduler._train_sigmas[-1] * (1 + 5e-7)))  # as a library in float32 writes it
    ppdiffusers.EulerDiscreteScheduler(use_karras_sigmas=True, sigma_max=written).set_timesteps(5)
