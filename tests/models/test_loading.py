"""Saved models: every format, and every way in which a folder can be wrong."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ppdiffusers import CheckpointError, ConfigError, UNet2DModel, VQModel
from ppdiffusers.checkpoints import open_checkpoint, save_pdparams, save_safetensors
from ppdiffusers.models.model import linear_weights

CONFIG = dict(
    block_out_channels=(8, 8),
    norm_num_groups=4,
    layers_per_block=1,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)


@pytest.fixture
def model():
    paddle.seed(1)
    return UNet2DModel(**CONFIG)


def arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_same(a, b):
    left, right = arrays(a), arrays(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("safe_serialization", [True, False])
def test_round_trip(model, tmp_path, safe_serialization):
    model.save_pretrained(tmp_path, safe_serialization)
    again = UNet2DModel.from_pretrained(tmp_path)
    assert_same(model, again)
    assert again.config == model.config and not again.training
    x = paddle.ones([1, 3, 8, 8])
    model.eval()
    np.testing.assert_array_equal(model(x, 3).sample.numpy(), again(x, 3).sample.numpy())


def test_torch_layout_and_the_names_of_2022(model, tmp_path):
    model.save_config(tmp_path)
    transposed = linear_weights(model)
    state = {}
    for name, value in arrays(model).items():
        value = value.T if name in transposed else value
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = np.ascontiguousarray(value)
    assert any(".query." in name for name in state)
    save_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", state, {"format": "pt"})
    assert_same(model, UNet2DModel.from_pretrained(tmp_path))


def test_the_last_save_is_the_one_that_is_loaded(model, tmp_path):
    for safe_serialization in (False, True, False):
        with paddle.no_grad():
            model.conv_out.bias.set_value(paddle.rand([3]))
        model.save_pretrained(tmp_path, safe_serialization)
        assert_same(model, UNet2DModel.from_pretrained(tmp_path))


def test_types(model, tmp_path):
    model.save_pretrained(tmp_path)
    for dtype in ("float16", "bfloat16", paddle.float16, np.float32):
        loaded = UNet2DModel.from_pretrained(tmp_path, paddle_dtype=dtype)
        assert str(loaded.dtype).endswith(getattr(dtype, "__name__", str(dtype)).rpartition(".")[2])
    half = UNet2DModel.from_pretrained(tmp_path, paddle_dtype="bfloat16")
    full, rounded = (x.conv_in.weight.astype("float32").numpy() for x in (model, half))
    assert (np.abs(rounded - full) <= np.abs(full) * 2**-8).all() and (rounded != full).any()  # to nearest, not cut
    with pytest.raises(ValueError, match="int8"):
        UNet2DModel.from_pretrained(tmp_path, paddle_dtype="int8")


def test_one_error_names_every_missing_unexpected_and_misshaped_key(model, tmp_path):
    model.save_config(tmp_path)
    state = arrays(model)
    del state["conv_in.bias"]
    state["conv_inn.bias"] = np.zeros(8, np.float32)
    state["conv_out.weight"] = np.zeros((4, 8, 3, 3), np.float32)
    save_safetensors(tmp_path / "diffusion_paddle_model.safetensors", state, {"format": "pd"})
    with pytest.raises(CheckpointError) as error:
        UNet2DModel.from_pretrained(tmp_path)
    for part in ("missing: conv_in.bias", "unexpected: conv_inn.bias", "conv_out.weight is [4, 8, 3, 3]"):
        assert part in str(error.value)


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(block_out_chanels=[8]), "'block_out_chanels' .did you mean 'block_out_channels'"),
        (dict(down_block_types=["DownBlock2D", "SkipDownBlock2D"]), "SkipDownBlock2D"),
        (dict(act_fn="swoosh"), "swoosh"),
        (dict(resnet_time_scale_shift="spatial"), "spatial"),
        (dict(block_out_channels=[8]), "1, 2 and 2"),
        (dict(time_embedding_type="learnt"), "learnt"),
        (dict(downsample_type="pool"), "pool"),
        (dict(attention_head_dim=[4]), "attention_head_dim has 1 entries"),
        (dict(mid_block_type="Mid"), "Mid"),
        (dict(class_embed_type="simple"), "simple"),
    ],
)
def test_bad_configs(model, tmp_path, changes, message):
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        UNet2DModel.from_pretrained(tmp_path)


def test_bad_files(model, tmp_path):
    with pytest.raises(ConfigError, match="config.json does not exist"):
        UNet2DModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        UNet2DModel.from_pretrained(tmp_path)
    model.save_config(tmp_path)
    with pytest.raises(CheckpointError, match="model_state.pdparams"):
        UNet2DModel.from_pretrained(tmp_path)
    for safe_serialization in (True, False):
        model.save_pretrained(tmp_path, safe_serialization)
        file = next(file for file in tmp_path.iterdir() if file.suffix in (".safetensors", ".pdparams"))
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=file.name):
            UNet2DModel.from_pretrained(tmp_path)


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["model_state.pdparams", "diffusion_pytorch_model.bin"])
def test_a_pickle_that_runs_a_command_does_not(model, tmp_path, name):
    model.save_config(tmp_path)
    canary = tmp_path / "canary"
    payload = pickle.dumps({**arrays(model), "x": Hostile(f'{sys.executable} -c \'open("{canary}", "w")\'')})
    (tmp_path / name).write_bytes(payload)
    with pytest.raises(CheckpointError, match="system"):
        UNet2DModel.from_pretrained(tmp_path)
    assert not canary.exists()
    pickle.loads(payload)  # the test's own teeth: an ordinary reader runs it
    assert canary.exists()


def test_a_failed_save_leaves_the_old_files(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_config_is_frozen(model):
    with pytest.raises(AttributeError, match="read-only"):
        model.config.sample_size = 3
    with pytest.raises(TypeError):
        model.config["sample_size"] = 3
    with pytest.raises(AttributeError):
        model.config = {}
    assert model.config.block_out_channels == (8, 8) and dict(model.config)["in_channels"] == 3


def test_the_published_parameter_counts():
    import real_architecture

    with paddle.LazyGuard():  # shapes only
        counts = {
            "unet": UNet2DModel.from_config(real_architecture.UNET).num_parameters(),
            "vqvae": VQModel.from_config(real_architecture.VQVAE).num_parameters(),
        }
    assert counts == real_architecture.PARAMETERS


PEAKS = """
import re, sys
from ppdiffusers import UNet2DModel
import ppdiffusers.models
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
model = UNet2DModel.from_pretrained(sys.argv[1])
print(peak() - before)
model.save_pretrained(sys.argv[1])
print(peak() - before)
del model
model = UNet2DModel.from_pretrained(sys.argv[1])  # which is now mapped
before = peak()
model = UNet2DModel.from_pretrained(sys.argv[1])
print(peak() - before)
"""


def test_loading_and_saving_peak_at_little_more_than_the_weights(tmp_path):
    """In a process of its own: 80 MB of weights, at most a third on top beside what paddle takes."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc on this system")
    config = dict(CONFIG, block_out_channels=(256, 512), norm_num_groups=32, attention_head_dim=32)
    state = {}
    with paddle.LazyGuard():
        model = UNet2DModel(**config)
    for name, value in model.state_dict().items():
        state[name] = np.zeros(value.shape, np.float32)
    size = sum(value.nbytes for value in state.values())
    save_pdparams(tmp_path / "model_state.pdparams", state)
    model.save_config(tmp_path)
    command = [sys.executable, "-c", PEAKS, str(tmp_path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded, saved, mapped = map(int, result.stdout.split()[-3:])
    assert 0.9 * size < loaded < 1.34 * size and saved < 1.34 * size
    if sys.platform == "linux" and hasattr(paddle.Tensor, "__dlpack__"):
        assert mapped < 0.1 * size


def test_buffers_of_other_types_are_saved_as_they_are(model, tmp_path):
    model.register_buffer("step", paddle.to_tensor([7], dtype="int64"))
    model.save_pretrained(tmp_path)
    with open_checkpoint(tmp_path / "diffusion_paddle_model.safetensors") as checkpoint:
        assert checkpoint.dtype("step") == "int64" and checkpoint.read("step")[0] == 7
