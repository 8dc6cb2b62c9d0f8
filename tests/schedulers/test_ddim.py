"""DDIMScheduler against the paper, computed slowly, and against diffusers where diffusers follows the paper.

Where diffusers 0.42.1 differs from equations 12 and 16 along its own timesteps:

| case (golden values) | what diffusers does |
|---|---|
| linspace spacing (differs-linspace) | goes to t - T // n, which is not the next timestep unless n = T |
| trailing, n does not divide T (differs-trailing-7) | goes to t - T // n, a timestep too high: noise piles up |
| trailing, some n: 61 of T 1000, 13 of T 15 (differs-trailing-13) | takes one step more, at timestep -1 |
| leading, steps_offset >= T // n (differs-offset) | the last step leads to offset - T // n, not to the final alpha |
| zero-SNR betas, epsilon, from the last timestep (differs-zero-snr) | divides by zero: NaN (ours: an error) |
| zero-SNR betas, eta 1, from the last timestep (differs-zero-snr-noise) | takes the root of a negative last bit: NaN |

Elsewhere they agree: leading with every n, trailing and linspace where the difference of timesteps is T // n.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import paddle
import pytest
from slow_schedulers import difference, slow_alphas, slow_restrict, slow_timesteps

from ppdiffusers.random import Generator
from ppdiffusers.schedulers import DDIMScheduler
from ppdiffusers.schedulers.ddim import previous_sample, std_dev

SHAPE = (2, 3, 3, 3)
LATENT = {"beta_start": 0.0015, "beta_end": 0.0155, "beta_schedule": "scaled_linear", "clip_sample": False}
GOLDEN = np.load(Path(__file__).parent / "golden_ddim.npz")
CASES = {case["name"]: case for case in json.loads(str(GOLDEN["cases"]))}


# The paper, one number at a time: Python floats, no numpy, nothing of the package.


def slow_step(image, noise, a, a_prev, t, config, eta, again):
    """One image, a flat list of floats, from alpha a to a_prev under the model 0.3 x + 0.1 sin(t / 100)."""
    kind = config.get("prediction_type", "epsilon")
    x0s, epsilons = [], []
    for x in image:
        output = 0.3 * x + 0.1 * math.sin(t / 100)
        if kind == "epsilon":
            x0, epsilon = (x - math.sqrt(1 - a) * output) / math.sqrt(a), output
        elif kind == "sample":
            x0, epsilon = output, (x - math.sqrt(a) * output) / math.sqrt(1 - a)
        else:  # output = sqrt(a) epsilon - sqrt(1 - a) x0, solved with x = sqrt(a) x0 + sqrt(1 - a) epsilon
            x0 = math.sqrt(a) * x - math.sqrt(1 - a) * output
            epsilon = math.sqrt(1 - a) * x + math.sqrt(a) * output
        x0s.append(x0)
        epsilons.append(epsilon)
    x0s = slow_restrict(x0s, config)
    if again:
        epsilons = [(x - math.sqrt(a) * x0) / math.sqrt(1 - a) for x, x0 in zip(image, x0s)]
    spread = eta * math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    direction = math.sqrt(max(0.0, 1 - a_prev - spread * spread))
    return [math.sqrt(a_prev) * x0 + direction * epsilon + spread * z for x0, epsilon, z in zip(x0s, epsilons, noise)]


def slow_ddim(config, steps, eta=0.0, again=False):
    alphas, timesteps = slow_alphas(config), slow_timesteps(config, steps)
    final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0]
    noises = np.random.RandomState(0)
    images = noises.standard_normal(SHAPE).astype(np.float32).reshape(SHAPE[0], -1).tolist()
    trajectory = []
    for index, t in enumerate(timesteps):
        a, a_prev = alphas[t], alphas[timesteps[index + 1]] if index + 1 < steps else final
        noise = np.zeros(SHAPE, np.float32) if eta == 0 else noises.standard_normal(SHAPE).astype(np.float32)
        noise = noise.reshape(SHAPE[0], -1).tolist()
        images = [slow_step(x, z, a, a_prev, t, config, eta, again) for x, z in zip(images, noise)]
        trajectory.append(images)
    return timesteps, np.array(trajectory).reshape(steps, *SHAPE)


# The package on the same noise and model.


def our_ddim(config, steps, eta=0.0, again=False):
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    noises = np.random.RandomState(0)
    x = paddle.to_tensor(noises.standard_normal(SHAPE).astype(np.float32))
    trajectory = []
    for t in scheduler.timesteps:
        noise = paddle.to_tensor(noises.standard_normal(SHAPE).astype(np.float32)) if eta > 0 else None
        output = 0.3 * scheduler.scale_model_input(x, t) + 0.1 * math.sin(t / 100)
        x = scheduler.step(output, t, x, eta, again, variance_noise=noise).prev_sample
        trajectory.append(x.numpy())
    return scheduler.timesteps.tolist(), np.stack(trajectory)


def assert_follows_paper(config, steps, eta=0.0, again=False):
    timesteps, expected = slow_ddim(config, steps, eta, again)
    our_timesteps, ours = our_ddim(config, steps, eta, again)
    assert our_timesteps == timesteps
    assert difference(ours, expected) < 1e-5


@pytest.mark.parametrize("steps", [7, 20, 37])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_trajectory_is_the_papers(spacing, prediction_type, eta, steps):
    assert_follows_paper({**LATENT, "timestep_spacing": spacing, "prediction_type": prediction_type}, steps, eta)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(
    "config",
    [
        {"set_alpha_to_one": False},
        {"set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "v_prediction"},
        {"steps_offset": 1},
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.5, "prediction_type": "v_prediction"},
        {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.9},
        {"thresholding": True, "sample_max_value": 1.5, "prediction_type": "sample"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample"},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True},
    ],
    ids=lambda config: ",".join(f"{key}={value}" for key, value in config.items()),
)
def test_options_follow_the_paper(config, spacing, again):
    assert_follows_paper({**LATENT, **config, "timestep_spacing": spacing}, 20, eta=0.5, again=again)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("differs")])
def test_golden_trajectory_of_diffusers(name):
    case = CASES[name]
    timesteps, ours = our_ddim(case["config"], case["steps"], case["eta"], case["use_clipped_model_output"])
    assert timesteps == GOLDEN[f"{name}.timesteps"].tolist()
    assert difference(ours, GOLDEN[f"{name}.samples"]) < 1e-5


@pytest.mark.parametrize("name", ["differs-linspace", "differs-trailing-7", "differs-offset"])
def test_diffusers_leaves_the_paper_where_the_table_says(name):
    case, theirs = CASES[name], GOLDEN[f"{name}.samples"]
    timesteps, expected = slow_ddim(case["config"], case["steps"], case["eta"])
    assert timesteps == GOLDEN[f"{name}.timesteps"].tolist()
    assert difference(theirs, expected) > 1e-3
    assert difference(our_ddim(case["config"], case["steps"], case["eta"])[1], expected) < 1e-5


def test_diffusers_takes_a_step_too_many_where_the_table_says():
    case, timesteps = CASES["differs-trailing-13"], GOLDEN["differs-trailing-13.timesteps"]
    assert len(timesteps) == case["steps"] + 1 and timesteps[-1] == -1
    assert_follows_paper(case["config"], case["steps"])


def test_all_the_noise_and_no_signal_is_not_nan():
    case = CASES["differs-zero-snr-noise"]
    assert np.isnan(GOLDEN["differs-zero-snr-noise.samples"]).all()
    assert_follows_paper(case["config"], case["steps"], case["eta"])


def test_epsilon_without_signal_is_an_error_not_nan():
    case = CASES["differs-zero-snr"]
    assert np.isnan(GOLDEN["differs-zero-snr.samples"]).any()
    scheduler = DDIMScheduler(**case["config"])
    with pytest.raises(ValueError, match="timestep 999 has no signal"):
        scheduler.set_timesteps(case["steps"])
    leading = DDIMScheduler.from_config(scheduler.config, timestep_spacing="leading")
    leading.set_timesteps(case["steps"])
    assert leading.timesteps[0] < 999


def test_noise_comes_from_the_running_generator():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    x = paddle.zeros(SHAPE)
    generator, twin = Generator(3), Generator(3)
    for t in (900, 800):
        noise = paddle.to_tensor(twin.randn(SHAPE))
        drawn = scheduler.step(x, t, x, eta=1.0, generator=generator).prev_sample
        given = scheduler.step(x, t, x, eta=1.0, variance_noise=noise).prev_sample
        assert np.array_equal(drawn.numpy(), given.numpy())
        assert np.abs(drawn.numpy()).max() > 0.1


def test_batch_with_one_generator_an_image_equals_single_images():
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(5)

    def run(seeds):
        streams = [Generator(seed) for seed in seeds]
        x = paddle.to_tensor(np.stack([stream.randn(SHAPE[1:]) for stream in streams]))
        for t in scheduler.timesteps:
            x = scheduler.step(0.3 * x, t, x, eta=1.0, generator=streams).prev_sample
        return x.numpy()

    together = run([1, 2, 3])
    for index, seed in enumerate([1, 2, 3]):
        assert np.array_equal(together[index], run([seed])[0])


def test_without_a_generator_paddle_seed_governs():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    x = paddle.ones(SHAPE)
    results = []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        results.append(scheduler.step(x, 800, x, eta=1.0).prev_sample.numpy())
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_formula_is_the_same_on_numpy_and_paddle():
    x0, epsilon, noise = np.random.RandomState(1).standard_normal((3, *SHAPE)).astype(np.float32)
    sigma_t = std_dev(np.float64(0.3), np.float64(0.6), np.float64(0.7))
    assert sigma_t == pytest.approx(0.7 * math.sqrt(0.4 / 0.7 * 0.5))
    ours = previous_sample(x0, epsilon, 0.6, sigma_t, noise)
    expected = math.sqrt(0.6) * x0.astype(float) + math.sqrt(0.4 - sigma_t**2) * epsilon + sigma_t * noise
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 1e-6
    tensors = [paddle.to_tensor(value) for value in (x0, epsilon, noise)]
    assert np.allclose(previous_sample(*tensors[:2], 0.6, sigma_t, tensors[2]).numpy(), ours, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_noise_without_signal_is_stepped_to_finite_values(prediction_type):
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type=prediction_type, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(4)
    x = paddle.ones(SHAPE)
    result = scheduler.step(0.5 * x, 999, x, eta=1.0, variance_noise=x)
    assert scheduler.alphas_cumprod[999] == 0
    assert np.isfinite(result.prev_sample.numpy()).all()
    expected = 0.5 if prediction_type == "sample" else -0.5
    assert np.allclose(result.pred_original_sample.numpy(), expected)


@pytest.mark.parametrize("thresholding", [False, True])
def test_nan_stays_in_its_image(thresholding):
    scheduler = DDIMScheduler(thresholding=thresholding)
    scheduler.set_timesteps(5)
    x = np.ones(SHAPE, np.float32)
    clean = scheduler.step(paddle.to_tensor(x), 800, paddle.to_tensor(x)).prev_sample.numpy()
    x[0, 0, 0, 0] = np.nan
    spoilt = scheduler.step(paddle.to_tensor(x), 800, paddle.to_tensor(x)).prev_sample.numpy()
    assert np.isnan(spoilt[0, 0, 0, 0])
    assert np.array_equal(spoilt[1], clean[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("thresholding", [False, True])
def test_half_precision_is_stepped_in_float32(dtype, thresholding):
    scheduler = DDIMScheduler(thresholding=thresholding)
    scheduler.set_timesteps(5)
    x = paddle.to_tensor(np.random.RandomState(0).standard_normal(SHAPE).astype(np.float32)).astype(dtype)
    half = scheduler.step(0.3 * x, 800, x, eta=0.5, generator=Generator(0))
    output, sample = (0.3 * x).astype("float32"), x.astype("float32")
    full = scheduler.step(output, 800, sample, eta=0.5, generator=Generator(0))
    for name in ("prev_sample", "pred_original_sample"):
        assert half[name].dtype == x.dtype
        assert np.array_equal(half[name].astype("float32").numpy(), full[name].astype(dtype).astype("float32").numpy())


def test_outputs_by_name_index_and_tuple():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    x = paddle.ones(SHAPE)
    result = scheduler.step(x, 800, x)
    as_tuple = scheduler.step(x, 800, x, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 2
    assert np.array_equal(result.prev_sample.numpy(), as_tuple[0].numpy())
    assert np.array_equal(result[1].numpy(), as_tuple[1].numpy())


@pytest.mark.parametrize(
    "timestep", [800, np.int64(800), np.array(800), "tensor"], ids=["int", "numpy", "0-d array", "0-d tensor"]
)
def test_a_timestep_is_any_kind_of_integer(timestep):
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    x = paddle.ones(SHAPE)
    timestep = paddle.to_tensor(800) if isinstance(timestep, str) else timestep
    expected = scheduler.step(x, 800, x).prev_sample.numpy()
    assert np.array_equal(scheduler.step(x, timestep, x).prev_sample.numpy(), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"timestep": 801}, ValueError, "timestep 801 is not in this schedule of 5 steps"),
        ({"timestep": -1}, ValueError, "timestep -1"),
        ({"eta": 1.5}, ValueError, "eta 1.5"),
        ({"eta": -0.1}, ValueError, "eta -0.1"),
        ({"eta": float("nan")}, ValueError, "eta nan"),
        ({"generator": Generator(0), "variance_noise": np.ones(SHAPE)}, ValueError, "both generator and"),
        ({"model_output": np.ones((2, 6, 3, 3))}, ValueError, r"model_output has shape \[2, 6, 3, 3\]"),
        ({"variance_noise": np.ones((1, 3, 3, 3)), "eta": 1.0}, ValueError, "variance_noise has shape"),
        ({"generator": 42, "eta": 1.0}, TypeError, "42.*as_generators"),
        ({"generator": [Generator(seed) for seed in range(3)], "eta": 1.0}, ValueError, "3 generators for 2"),
    ],
)
def test_wrong_arguments_of_a_step(arguments, error, message):
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    given = {"model_output": np.ones(SHAPE), "timestep": 800, "sample": np.ones(SHAPE), **arguments}
    tensors = {key: paddle.to_tensor(value) if isinstance(value, np.ndarray) else value for key, value in given.items()}
    with pytest.raises(error, match=message):
        scheduler.step(**tensors)


def test_a_step_needs_set_timesteps():
    x = paddle.ones(SHAPE)
    with pytest.raises(ValueError, match="call set_timesteps"):
        DDIMScheduler().step(x, 999, x)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "v"}, "prediction_type 'v' is unknown; choose one of epsilon, sample, v_prediction"),
        ({"timestep_spacing": "even"}, "timestep_spacing 'even' is unknown; choose one of leading, linspace, trailing"),
        ({"beta_schedule": "cosine"}, "beta_schedule 'cosine'.*linear, scaled_linear, squaredcos_cap_v2"),
        ({"thresholding": True, "dynamic_thresholding_ratio": 2}, "dynamic_thresholding_ratio 2"),
        ({"thresholding": True, "sample_max_value": 0.5}, "sample_max_value 0.5"),
        ({"num_train_timesteps": 0}, "num_train_timesteps 0"),
        ({"beta_end": 1.5}, "beta 1.0.* at timestep"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas has shape \[2\], num_train_timesteps is 1000"),
    ],
)
def test_wrong_arguments_of_the_constructor(config, message):
    with pytest.raises(ValueError, match=message):
        DDIMScheduler(**config)
