"""What all schedulers share: timesteps, adding noise, files, swapping of configs."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

import model_zoo
from ppdiffusers.config import ConfigError
from ppdiffusers.schedulers import DDIMScheduler

# As published for the super-resolution model, with keys of the first releases.
PUBLISHED = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.2.4",
    "beta_end": 0.0155,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "tensor_format": "pt",
    "timestep_values": None,
    "trained_betas": None,
}


def test_before_set_timesteps_all_timesteps_stand():
    scheduler = DDIMScheduler(num_train_timesteps=5)
    assert scheduler.timesteps.tolist() == [4, 3, 2, 1, 0]
    assert scheduler.num_inference_steps is None
    assert len(scheduler) == 5
    assert (scheduler.order, scheduler.init_noise_sigma) == (1, 1.0)


def test_timesteps_are_integers_that_paddle_takes():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(np.int64(4))
    assert scheduler.num_inference_steps == 4
    assert [int(t) for t in scheduler.timesteps] == [750, 500, 250, 0]
    tensor = paddle.to_tensor(scheduler.timesteps)
    assert tensor.dtype == paddle.int64 and tensor.tolist() == [750, 500, 250, 0]


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (0, ValueError, "num_inference_steps 0 is less than 1"),
        (-3, ValueError, "num_inference_steps -3"),
        (1001, ValueError, "num_inference_steps 1001 is more than the 1000"),
        (10.0, TypeError, "num_inference_steps is an integer, not 10.0"),
        ("10", TypeError, "not '10'"),
        (True, TypeError, "not True"),
        (None, TypeError, "not None"),
    ],
)
def test_wrong_numbers_of_steps(steps, error, message):
    with pytest.raises(error, match=message):
        DDIMScheduler().set_timesteps(steps)


def test_the_model_input_is_the_sample_itself():
    x = paddle.ones([1, 3, 2, 2])
    assert DDIMScheduler().scale_model_input(x, 500) is x


@pytest.mark.parametrize("library", ["numpy", "paddle"])
@pytest.mark.parametrize("timesteps", [[3, 999], [7], 7, "tensor", "array"])
def test_noise_and_velocity_of_each_sample_by_its_own_timestep(library, timesteps):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear")
    x0, noise = np.random.RandomState(0).standard_normal((2, 2, 3, 4, 4)).astype(np.float32)
    timesteps = {"tensor": paddle.to_tensor([3, 999]), "array": np.array([3, 999])}.get(str(timesteps), timesteps)
    each = np.broadcast_to(np.asarray(timesteps), [2])
    wrap = paddle.to_tensor if library == "paddle" else np.asarray
    noisy = scheduler.add_noise(wrap(x0), wrap(noise), timesteps)
    velocity = scheduler.get_velocity(wrap(x0), wrap(noise), timesteps)
    assert type(noisy) is type(velocity) is type(wrap(x0))
    assert noisy.dtype == velocity.dtype == wrap(x0).dtype
    for index, t in enumerate(each):
        alpha = 1.0
        for i in range(t + 1):
            alpha *= 1 - (0.0001**0.5 + i / 999 * (0.02**0.5 - 0.0001**0.5)) ** 2
        expected = alpha**0.5 * x0[index].astype(float) + (1 - alpha) ** 0.5 * noise[index]
        assert np.abs(np.asarray(noisy)[index] - expected).max() < 1e-6
        expected = alpha**0.5 * noise[index].astype(float) - (1 - alpha) ** 0.5 * x0[index]
        assert np.abs(np.asarray(velocity)[index] - expected).max() < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_noise_is_added_in_float32_to_half_precision(dtype):
    x = paddle.to_tensor(np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2)).astype(dtype)
    noisy = DDIMScheduler().add_noise(x, x, [5, 500])
    full = DDIMScheduler().add_noise(x.astype("float32"), x.astype("float32"), [5, 500])
    assert noisy.dtype == x.dtype
    assert np.array_equal(noisy.astype("float32").numpy(), full.astype(dtype).astype("float32").numpy())


@pytest.mark.parametrize(
    ("timesteps", "error", "message"),
    [
        ([0, 1000], ValueError, "timestep 1000 is not in 0 ... 999"),
        ([-1, 5], ValueError, "timestep -1 is not in"),
        ([1, 2, 3], ValueError, r"shape \[3\] for 2 samples"),
        ([[1], [2]], ValueError, r"shape \[2, 1\] for 2 samples"),
        ([0.5, 1.0], TypeError, "timesteps are integers, not float64"),
    ],
)
def test_wrong_timesteps_of_adding_noise(timesteps, error, message):
    x = np.ones((2, 3, 2, 2), np.float32)
    for method in (DDIMScheduler().add_noise, DDIMScheduler().get_velocity):
        with pytest.raises(error, match=message):
            method(x, x, timesteps)


def test_a_published_config_loads_from_folder_and_subfolder(tmp_path):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(PUBLISHED))
    for scheduler in (
        DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler"),
        DDIMScheduler.from_pretrained(str(tmp_path / "scheduler")),
    ):
        assert scheduler.config.beta_schedule == "scaled_linear"
        assert scheduler.final_alpha_cumprod == pytest.approx(1 - 0.0015, rel=1e-12)
        assert float(scheduler.alphas_cumprod[0]) == scheduler.final_alpha_cumprod  # all digits, of a float32 tensor


def test_saving_and_loading_gives_the_same_scheduler(tmp_path):
    betas = np.linspace(0.01, 0.3, 7, dtype=np.float32)
    scheduler = DDIMScheduler(num_train_timesteps=7, trained_betas=betas, timestep_spacing="trailing")
    scheduler.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "scheduler_config.json").read_text())["_class_name"] == "DDIMScheduler"
    again = DDIMScheduler.from_pretrained(tmp_path / "new")
    assert again.config == scheduler.config
    assert np.array_equal(again.betas, scheduler.betas)
    betas[0] = 0.5  # the config is frozen: the caller's array is not part of it
    assert scheduler.config.trained_betas[0] == pytest.approx(0.01)


def test_keys_of_sister_schedulers_survive_a_swap(tmp_path):
    sister = {**PUBLISHED, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "solver_order": 3}
    scheduler = DDIMScheduler.from_config(sister)
    assert scheduler.config.skip_prk_steps is True
    scheduler.save_pretrained(tmp_path)
    assert DDIMScheduler.from_pretrained(tmp_path).config.solver_order == 3


def test_an_unknown_key_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match=r"'beta_shedule' \(did you mean 'beta_schedule'\?\)"):
        DDIMScheduler.from_config({**PUBLISHED, "beta_shedule": "linear"})


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(model_zoo.ModelZooError, match="nowhere does not exist"):
        DDIMScheduler.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="scheduler_config.json does not exist"):
        DDIMScheduler.from_pretrained(tmp_path)


def test_overrides_win_over_the_file(tmp_path):
    DDIMScheduler(beta_end=0.015).save_pretrained(tmp_path)
    scheduler = DDIMScheduler.from_pretrained(tmp_path, timestep_spacing="trailing", use_safetensors=True)
    assert (scheduler.config.timestep_spacing, scheduler.config.beta_end) == ("trailing", 0.015)
    with pytest.raises(ConfigError, match="did you mean 'timestep_spacing'"):
        DDIMScheduler.from_pretrained(tmp_path, timestep_spacin="trailing")
