"""Compiled models compute what their layers compute, and give way where they do not."""

import logging

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdiffusers import (
    AutoencoderKL,
    LDMBertModel,
    LDMSuperResolutionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from ppdiffusers.inference import compile_model, worth_compiling
from ppdiffusers.inference import compiled as compiled_module
from ppdiffusers.inference.engines import (
    PaddleInferenceEngine,
    Setup,
    has_bfloat16,
    relative_error,
    setups,
)
from ppdiffusers.inference.programs import cached_program, save_parameters
from ppdiffusers.models.model import Model

EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")
ENGINES = ["onednn", "inference"]
PADDLE_3_3 = paddle.__version__.startswith("3.3.")  # which has the faults that are tested here

TWO = {"block_out_channels": (32, 64), "layers_per_block": 1}
CODER = {
    **TWO,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
MODELS = {
    "unet": lambda: UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        **TWO,
    ),
    "resampling unet": lambda: UNet2DModel(
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=4,
        **TWO,
    ),
    "conditional unet": lambda: UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=24,
        **TWO,
    ),
    "vq": lambda: VQModel(**CODER),
    "kl": lambda: AutoencoderKL(**CODER),
    "bert": lambda: LDMBertModel(
        vocab_size=50, encoder_layers=2, d_model=32, encoder_ffn_dim=64, encoder_attention_heads=2, head_dim=16
    ),
}


def image(channels, batch=1, height=12, width=20):
    values = np.random.default_rng(1).standard_normal([batch, channels, height, width])
    return paddle.to_tensor(values.astype("float32"))


CALLS = {
    "unet": lambda model, batch: model(image(3, batch), 7)[0],
    "resampling unet": lambda model, batch: model(image(3, batch), 7, class_labels=paddle.to_tensor([1] * batch))[0],
    "conditional unet": lambda model, batch: model(image(4, batch), 7, paddle.ones([batch, 3, 24]) * 0.2)[0],
    "vq": lambda model, batch: model.decode(model.encode(image(3, batch))[0], force_not_quantize=True)[0],
    "kl": lambda model, batch: model.decode(model.encode(image(3, batch))[0].mode())[0],
    "bert": lambda model, batch: model(paddle.to_tensor([[3, 4, 5, 6]] * batch))[0],
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / "home"))


def build(name):
    paddle.seed(0)
    model = MODELS[name]()
    model.eval()
    return model


def parts(model):
    return [model.__dict__[method] for method in model._programs()]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_programs_compute_what_the_layers_compute_at_any_size(name, engine):
    model = build(name)
    with paddle.no_grad():
        wanted = [CALLS[name](model, batch).numpy() for batch in (1, 3)]
        compile_model(model, engine, "fp32")
        got = [CALLS[name](model, batch).numpy() for batch in (1, 3)]
    assert all(part.setup == Setup(engine, "fp32") for part in parts(model))
    for a, b in zip(wanted, got):
        assert relative_error(a, b)[0] < 1e-5


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 arithmetic")
@pytest.mark.parametrize("engine", ENGINES)
def test_bfloat16_stays_near(engine):
    model = build("unet")
    with paddle.no_grad():
        wanted = CALLS["unet"](model, 1).numpy()
        compile_model(model, engine, "bf16")
        worst, rms = relative_error(wanted, CALLS["unet"](model, 1).numpy())
    assert parts(model)[0].setup == Setup(engine, "bf16")
    assert 1e-6 < rms < 0.02 and worst < 0.1  # not float32 under another name, and near


def test_a_compiled_model_has_its_class_config_type_and_errors():
    model = compile_model(build("unet"), "inference", "fp32")
    assert isinstance(model, UNet2DModel) and model.config.block_out_channels == (32, 64)
    assert model.dtype == paddle.float32
    with pytest.raises(ValueError, match="multiples of 2"):
        model(image(3, height=11), 7)
    with pytest.raises(ValueError, match="no classes"):
        model(image(3), 7, class_labels=paddle.to_tensor([1]))


def test_layers_of_a_model_from_files_are_given_up_and_read_again(tmp_path):
    build("unet").save_pretrained(tmp_path / "model")
    model = UNet2DModel.from_pretrained(tmp_path / "model")
    with paddle.no_grad():
        wanted = CALLS["unet"](model, 1).numpy()
        compile_model(model, "inference", "fp32")
        CALLS["unet"](model, 1)
        assert not hasattr(model, "down_blocks")
        model.save_pretrained(tmp_path / "again")
        assert relative_error(wanted, CALLS["unet"](model, 1).numpy())[0] < 1e-6
    saved = (tmp_path / "again" / "diffusion_paddle_model.safetensors").read_bytes()
    assert saved == (tmp_path / "model" / "diffusion_paddle_model.safetensors").read_bytes()


def test_training_a_model_from_files_keeps_what_it_learnt(tmp_path):
    build("unet").save_pretrained(tmp_path)
    model = UNet2DModel.from_pretrained(tmp_path)
    model.train()
    model.conv_out.bias.set_value(paddle.ones([3]))
    model.eval()
    with paddle.no_grad():
        wanted = CALLS["unet"](model, 1).numpy()
        compile_model(model, "inference", "fp32")
        assert relative_error(wanted, CALLS["unet"](model, 1).numpy())[0] < 1e-5
        assert np.array_equal(model.state_dict()["conv_out.bias"].numpy(), np.ones(3, np.float32))


def test_compiling_twice_and_undoing():
    model = build("vq")
    keys = set(model.state_dict())
    compile_model(compile_model(model, "inference", "fp32"), "inference", "fp32")
    CALLS["vq"](model, 1)
    compile_model(model, "eager")
    assert not any(method in model.__dict__ for method in model._programs())
    assert set(model.state_dict()) == keys


def test_programs_are_traced_once_and_hold_no_weights(monkeypatch, tmp_path):
    first = cached_program(build("unet"), "_network", build("unet")._programs()["_network"])
    monkeypatch.setattr(paddle.jit, "to_static", None)  # tracing again would fail
    again = cached_program(build("unet"), "_network", build("unet")._programs()["_network"])
    assert again == first
    files = [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4 * build("unet").num_parameters() / 10


def test_a_damaged_cache_is_made_again():
    model = build("unet")
    program = cached_program(model, "_network", model._programs()["_network"])
    program.file.with_suffix(".parameters.json").write_text("{")
    assert cached_program(model, "_network", model._programs()["_network"]).parameters == program.parameters


def test_a_right_program_is_not_compared_again_until_the_weights_change(tmp_path, monkeypatch):
    build("unet").save_pretrained(tmp_path / "model")

    def compared():
        seen = []
        monkeypatch.setattr(compiled_module, "relative_error", lambda *pair: seen.append(1) or relative_error(*pair))
        CALLS["unet"](compile_model(UNet2DModel.from_pretrained(tmp_path / "model"), "inference", "fp32"), 1)
        return len(seen)

    assert compared() == 1
    assert compared() == 0
    other = build("unet")
    other.conv_out.bias.set_value(paddle.ones([3]))
    other.save_pretrained(tmp_path / "model")
    assert compared() == 1


class Waves(Model):
    """One value that a sine and a cosine read: with `inplace_pass`, oneDNN's sine overwrites it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self._config = {}

    def _programs(self):
        return {"_waves": {"x": ([None, 8], "float32")}}

    def _waves(self, x):
        angles = self.linear(x)
        return paddle.concat([paddle.sin(angles), paddle.cos(angles)], axis=-1)


class Stretched(Model):
    """`F.interpolate`, which oneDNN refuses in programs of paddle 3.3."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 3, padding=1)
        self._config = {}

    def _programs(self):
        return {"_stretch": {"x": ([None, 3, None, None], "float32")}}

    def _stretch(self, x):
        return nn.functional.interpolate(self.conv(x), scale_factor=2, mode="nearest")


def test_the_check_catches_a_pass_that_makes_sine_overwrite_its_input(monkeypatch, caplog):
    with_the_fault = Setup("inference", "fp32", faulty_passes=())
    without = Setup("inference", "fp32")
    monkeypatch.setattr(compiled_module, "setups", lambda *_: [with_the_fault, without])
    model = compile_model(Waves())
    x = paddle.to_tensor(np.random.default_rng(2).standard_normal([4, 8]).astype("float32"))
    with paddle.no_grad(), caplog.at_level(logging.WARNING):
        wanted = Waves._waves(model, x).numpy()
        got = model._waves(x).numpy()
    assert relative_error(wanted, got)[0] < 1e-5
    if "is wrong by" in caplog.text or PADDLE_3_3:  # a later one may have mended it
        assert "is wrong by" in caplog.text
        assert model.__dict__["_waves"].setup == without
    else:
        assert model.__dict__["_waves"].setup == with_the_fault


def test_a_program_that_an_engine_refuses_runs_another_way(caplog):
    model = compile_model(Stretched(), "inference", "fp32")
    x = image(3)
    with paddle.no_grad(), caplog.at_level(logging.WARNING):
        wanted = Stretched._stretch(model, x).numpy()
        assert relative_error(wanted, model._stretch(x).numpy())[0] < 1e-5
    if PADDLE_3_3:
        assert model.__dict__["_stretch"].setup == Setup("inference", "fp32", onednn=False)


def test_wrong_everywhere_runs_the_layers(monkeypatch, caplog):
    monkeypatch.setattr(compiled_module, "relative_error", lambda *_: (1.0, 1.0))
    model = build("unet")
    with paddle.no_grad(), caplog.at_level(logging.WARNING):
        wanted = CALLS["unet"](model, 1).numpy()
        compile_model(model, "inference", "fp32")
        assert np.array_equal(CALLS["unet"](model, 1).numpy(), wanted)
    assert "no engine computes the same" in caplog.text


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [("tensorflow", "fp32", "'tensorflow' is unknown; use"), ("inference", "int3", "'int3' is unknown; use")],
)
def test_unknown_ways(engine, precision, message):
    with pytest.raises(ValueError, match=message):
        setups(engine, precision)


def test_bf16_where_the_cpu_has_none(monkeypatch):
    monkeypatch.setattr("ppdiffusers.inference.engines.has_bfloat16", lambda: False)
    assert {setup.precision for setup in setups("auto", "auto")} == {"fp32"}
    with pytest.raises(ValueError, match="no bfloat16 arithmetic; use 'fp32'"):
        setups("inference", "bf16")


@pytest.mark.parametrize("engine", ENGINES)
def test_pictures_of_the_embedded_model(engine):
    picture = np.random.default_rng(0).random([24, 20, 3], np.float32)
    call = {"num_inference_steps": 4, "generator": 3, "output_type": "np"}
    eager = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine="eager")(picture, **call).images
    pipeline = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine=engine, precision="fp32")
    images = pipeline(picture, **call).images
    assert (np.abs(np.rint(images * 255) - np.rint(eager * 255)) <= 1).mean() > 0.999
    if has_bfloat16():
        near = pipeline.compile(engine, "bf16")(picture, **call).images
        assert -10 * np.log10(np.mean((near - eager) ** 2)) > 40


def test_small_calls_stay_eager_and_large_ones_compile(monkeypatch):
    pipeline = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED)
    assert not worth_compiling(pipeline.unet, [1, 3, 32, 32], 10)
    assert worth_compiling(pipeline.unet, [1, 3, 256, 256], 20)
    monkeypatch.setattr(compiled_module, "WORTH_COMPILING", 1.0)
    picture = np.zeros([8, 8, 3], np.float32)
    pipeline(picture, num_inference_steps=1)
    assert pipeline.unet._restore is not None and pipeline.vqvae._restore is not None
    eager = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine="eager")
    eager(picture, num_inference_steps=1)
    assert eager.unet._restore is None


def test_weights_of_a_program_go_to_one_file(tmp_path):
    model = build("vq")
    program = cached_program(model, "_to_pixels", model._programs()["_to_pixels"])
    save_parameters(model, program, tmp_path / "weights.pdiparams")
    engine = PaddleInferenceEngine(program.file, tmp_path / "weights.pdiparams", Setup("inference", "fp32"))
    latents = image(3)
    with paddle.no_grad():
        wanted = model._to_pixels(latents).numpy()
    assert relative_error(wanted, engine({"latents": latents.numpy()}))[0] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inference", "fp16", "gpu"), "built without CUDA; install paddlepaddle-gpu"),
        (("inference", "auto", "gpu:1", True), "built without CUDA; install paddlepaddle-gpu"),
        (("onednn", "fp32", "gpu"), "does not run on a GPU; use 'inference'"),
        (("inference", "int8", "gpu"), "'int8' is unknown on a GPU"),
        (("inference", "fp32", "tpu"), "device 'tpu' is unknown"),
        (("inference", "fp32", "cpu", True), "give device='gpu' too"),
    ],
)
@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this paddle has CUDA")
def test_gpus_that_are_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        compile_model(build("unet"), *arguments)
