"""There and back again is the same, byte for byte; and what a target cannot hold is said."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import compvis_models
import numpy as np
import paddle
import pytest
import yaml

from ppdiffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    LDMPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from ppdiffusers.checkpoints import Pending, open_checkpoint, save_torch
from ppdiffusers.conversion import ConversionError, compvis, convert, unet_model, vqgan

FOR_DIFFUSERS = ("unconditional", "super-resolution", "text", "text-large")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors_of(file):
    with open_checkpoint(file) as checkpoint:
        return {name: np.array(checkpoint.read(name)) for name in checkpoint.keys()}


@pytest.mark.parametrize("name", compvis_models.CONFIGS)
def test_ours_to_compvis_and_back(name, ours, tmp_path):
    convert(ours(name), tmp_path / "compvis", "compvis")
    convert(tmp_path / "compvis", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(ours(name))


@pytest.mark.parametrize("name", ["unconditional", "churches", "classes", "text-large"])
def test_compvis_weights_come_back(name, original, ours, tmp_path):
    """The averaged weights as the weights, and a yaml that says so."""
    convert(ours(name), tmp_path / "compvis", "compvis")
    params = yaml.safe_load((tmp_path / "compvis" / "config.yaml").read_text())["model"]["params"]
    assert params["use_ema"] is False
    before, after = tensors_of(original(name) / "model.ckpt"), tensors_of(tmp_path / "compvis" / "model.ckpt")
    assert not any(key.startswith("model_ema") for key in after)
    for key, value in after.items():
        plain = key.replace("model.", "", 1)
        averaged = compvis_models.averaged(name) and key.startswith("model.diffusion_model.")
        np.testing.assert_array_equal(before["model_ema." + plain.replace(".", "") if averaged else key], value)


@pytest.mark.parametrize("name", FOR_DIFFUSERS)
def test_ours_to_diffusers_and_back(name, ours, tmp_path):
    convert(ours(name), tmp_path / "diffusers", "diffusers")
    assert (tmp_path / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (tmp_path / "diffusers" / "bert" / "model.safetensors").is_file() is name.startswith("text")
    convert(tmp_path / "diffusers", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(ours(name))


def test_diffusers_to_compvis_and_back(ours, tmp_path):
    convert(ours("text"), tmp_path / "diffusers", "diffusers")
    convert(tmp_path / "diffusers", tmp_path / "compvis", "compvis")
    convert(tmp_path / "compvis", tmp_path / "back", "diffusers")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "diffusers")


def test_the_index_of_a_diffusers_folder(ours, tmp_path):
    convert(ours("text"), tmp_path / "out", "diffusers")
    assert json.loads((tmp_path / "out" / "model_index.json").read_text()) == {
        "_class_name": "LDMTextToImagePipeline",
        "vqvae": ["diffusers", "VQModel"],
        "bert": ["latent_diffusion", "LDMBertModel"],
        "tokenizer": ["transformers", "BertTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    # diffusers divides latents by it, and those of a VQModel are unscaled.
    assert json.loads((tmp_path / "out" / "vqvae" / "config.json").read_text())["scaling_factor"] == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types(dtype, original, tmp_path):
    """Halved once, then kept by every conversion that is not told otherwise."""
    convert(original("unconditional"), tmp_path / "half", dtype=dtype)
    convert(tmp_path / "half", tmp_path / "compvis", "compvis")
    convert(tmp_path / "compvis", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "half")
    with open_checkpoint(tmp_path / "compvis" / "model.ckpt") as checkpoint:
        assert {checkpoint.dtype(name) for name in checkpoint.keys()} == {dtype}
    convert(tmp_path / "half", tmp_path / "full", dtype="float32")
    narrow, wide = (
        tensors_of(tmp_path / folder / "unet" / "diffusion_paddle_model.safetensors") for folder in ("half", "full")
    )
    for name, values in wide.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, narrow[name].astype(np.float32))


def small_unet(kind=UNet2DModel, **config):
    shape = {"block_out_channels": (32, 64), "layers_per_block": 1, "attention_head_dim": 8, "sample_size": 8}
    if kind is UNet2DModel:
        shape.update(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return kind(**{**shape, **config})


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        ({"block_out_channels": (32, 48), "norm_num_groups": 16}, "multiples of the first"),
        ({"norm_num_groups": 16}, "norm_num_groups=16.*could only be 32"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"add_attention": False}, "add_attention=False"),
        ({"num_class_embeds": 4}, "num_class_embeds=4"),
        ({"freq_shift": 1}, "freq_shift=1"),
        ({"sample_size": None}, "needs one sample_size"),
        ({"down_block_types": ("DownBlock2D", "AttnDownBlock2D")}, "up_block_types"),
    ],
)
def test_unets_that_the_original_does_not_have(unet, message):
    with paddle.LazyGuard():
        model = small_unet(**unet)
    with pytest.raises(ConversionError, match=message):
        unet_model.to_params(model)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"prediction_type": "v_prediction"}, "v_prediction"),
        ({"trained_betas": [0.1] * 1000}, "noise schedule"),
    ],
    ids=str,
)
def test_schedules_that_the_original_does_not_have(scheduler, message, ours, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(ours("unconditional"))
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **scheduler)
    pipeline.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "ours", tmp_path / "compvis", "compvis")


def test_a_model_of_our_own_through_the_original(tmp_path):
    """With other spellings and options than the published ones: one width of heads that is a number of them too."""
    unet = small_unet(attention_head_dim=[8, 16], down_block_types=("AttnDownBlock2D",) * 2,
                      up_block_types=("AttnUpBlock2D",) * 2, dropout=0.1)  # fmt: skip
    vqvae = VQModel(
        block_out_channels=(32,), num_vq_embeddings=8, sample_size=8, down_block_types=("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",),
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.001, beta_end=0.01)
    LDMPipeline(vqvae, unet, scheduler).save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "compvis", "compvis")
    params = yaml.safe_load((tmp_path / "compvis" / "config.yaml").read_text())["model"]["params"]
    assert params["unet_config"]["params"]["num_heads"] == 4
    convert(tmp_path / "compvis", tmp_path / "back")
    back = LDMPipeline.from_pretrained(tmp_path / "back")
    for found, wanted in ((back.unet, unet), (back.vqvae, vqvae)):
        state = found.state_dict()
        assert all(np.array_equal(state[name].numpy(), value.numpy()) for name, value in wanted.state_dict().items())
    assert {**back.unet.config} == {**unet.config}
    np.testing.assert_array_equal(back.scheduler.betas, scheduler.betas)


def test_what_diffusers_does_not_have(ours, tmp_path):
    with pytest.raises(ConversionError, match="diffusers has no LDMInpaintPipeline; it has LDMPipeline"):
        convert(ours("inpainting"), tmp_path / "out", "diffusers")
    with pytest.raises(ConversionError, match=r"one attention_head_dim .* this model has \[8, 16, 16\]"):
        convert(ours("churches"), tmp_path / "out", "diffusers")
    assert not list(tmp_path.iterdir())


def test_values_of_a_pipeline_are_kept(ours, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(ours("layout"))
    type(pipeline)(**pipeline.components, num_object_classes=8).save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tmp_path / "ours")


def test_models_that_only_look_alike(tmp_path, ours):
    pipeline = DiffusionPipeline.from_pretrained(ours("text-large"))
    crossing = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
    unet = small_unet(UNet2DConditionModel, cross_attention_dim=32, use_linear_projection=True,
                      down_block_types=crossing[0], up_block_types=crossing[1])  # fmt: skip
    assert isinstance(pipeline.vqvae, AutoencoderKL)
    type(pipeline)(**{**pipeline.components, "unet": unet}).save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match="use_linear_projection=True"):
        convert(tmp_path / "ours", tmp_path / "compvis", "compvis")


@pytest.mark.slow
def test_memory_is_that_of_the_largest_tensor(tmp_path):
    """In a process of its own: 300 MB of weights, of which a quarter on top of what the imports take."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    config = copy.deepcopy(compvis_models.CONFIGS["unconditional"])
    config["params"]["unet_config"]["params"].update(model_channels=256, channel_mult=[1, 2, 2], num_res_blocks=2)
    _, components = compvis.build(config)
    tables = {"model.diffusion_model.": unet_model.rows(components["unet"])}
    tables["first_stage_model."] = vqgan.rows(components["vqvae"])
    shapes = {
        prefix + row.theirs: row.rule.theirs_shape(table.shapes[row.ours[0]])
        for prefix, table in tables.items()
        for row in table
    }
    save_torch(
        tmp_path / "model.ckpt",
        {
            name: Pending("float32", shape, lambda shape=shape: np.ones(shape, np.float32))
            for name, shape in shapes.items()
        },
    )
    (tmp_path / "config.yaml").write_text(json.dumps({"model": config}))
    size = (tmp_path / "model.ckpt").stat().st_size
    assert size > 300 * 2**20
    code = (
        "import re, sys\n"
        "from ppdiffusers.conversion import convert\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "before = peak(); convert(sys.argv[1], sys.argv[1] + '/out', sys.argv[2]); print(peak() - before)\n"
    )
    for to in ("ours", "compvis", "diffusers"):
        command = [sys.executable, "-c", code, str(tmp_path), to]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        assert int(result.stdout.split()[-1]) < size / 4
        shutil.rmtree(tmp_path / "out")
