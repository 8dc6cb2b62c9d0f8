"""GPUs, of which there was none: what is asked of Paddle, what is refused, and where a pipeline goes."""

import shutil
import sys
import types
from unittest.mock import Mock

import numpy as np
import paddle
import pytest
from small_models import MODELS, build, image, latents, tiny_pipeline, tiny_unet

from ppdiffusers import DiffusionPipeline, UNet2DModel
from ppdiffusers.inference import compile_model, gpu
from ppdiffusers.inference.deep_cache import shallow_part, whole_part
from ppdiffusers.inference.engines import PaddleInferenceEngine, Setup, example_arrays, relative_error, setups
from ppdiffusers.inference.exported import ExportError
from ppdiffusers.inference.parts import parts_of
from ppdiffusers.models.model import Model
from ppdiffusers.pipelines import devices

needs_programs = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, as far as this package asks Paddle."""
    cuda = types.SimpleNamespace(device_count=lambda: 2)
    fake = types.SimpleNamespace(
        is_compiled_with_cuda=lambda: True, device=types.SimpleNamespace(cuda=cuda), CPUPlace=paddle.CPUPlace
    )
    for module in (gpu, devices):
        monkeypatch.setattr(module, "paddle", fake)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inference", "fp16", "gpu"), "built without CUDA; install paddlepaddle-gpu"),
        (("inference", "auto", "gpu:1", True), "built without CUDA; install paddlepaddle-gpu"),
        (("onednn", "fp32", "gpu"), "does not run on a GPU; use 'inference'"),
        (("inference", "int8", "gpu"), "'int8' is unknown on a GPU; use 'fp32', 'fp16', 'bf16'"),
        (("inference", "fp32", "tpu"), "device 'tpu' is unknown"),
        (("inference", "fp32", "gpu:one"), "device 'gpu:one' is unknown"),
        (("inference", "fp32", "cpu", True), "give device='gpu' too"),
    ],
)
@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this paddle has CUDA")
def test_gpus_that_are_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        compile_model(build("unet"), *arguments)
    with pytest.raises(ValueError, match=message):
        tiny_pipeline().compile(*arguments)


def test_a_gpu_that_is_not_there_and_one_without_tensorrt(gpus, monkeypatch):
    gpu.require_gpu("fp16", device=1)
    with pytest.raises(ValueError, match="'gpu:2': paddle sees 2 GPUs, counted from 0"):
        gpu.require_gpu("fp16", device=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="tensorrt: this paddle is built without it; install"):
        gpu.require_gpu("fp16", tensorrt=True)


def test_ways_to_run_on_a_gpu(gpus, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert setups("auto", "auto", "gpu") == [Setup("inference", "fp16", gpu=0)]
    assert setups("inference", "bf16", "cuda:1") == [Setup("inference", "bf16", gpu=1)]
    plain = Setup("inference", "fp32", gpu=1)
    assert setups("inference", "fp32", "gpu:1", True) == [plain._replace(tensorrt=True), plain]
    assert str(plain) == "Paddle Inference (fp32, GPU 1)"


# Paddle Inference and TensorRT


@needs_programs
@pytest.mark.parametrize("setup", [Setup("inference", "fp16", gpu=1), Setup("inference", "bf16", gpu=0)])
def test_a_predictor_is_configured_for_its_gpu(setup, monkeypatch):
    from paddle import inference

    config = Mock(spec=inference.Config)
    monkeypatch.setattr(inference, "Config", lambda program, parameters: config)
    monkeypatch.setattr(inference, "create_predictor", lambda config: Mock(get_output_names=lambda: []))
    PaddleInferenceEngine("program", "parameters", setup)
    kinds = {"fp16": inference.PrecisionType.Half, "bf16": inference.PrecisionType.Bfloat16}
    config.enable_use_gpu.assert_called_once_with(256, setup.gpu, kinds[setup.precision])
    config.disable_mkldnn.assert_called_once_with()
    config.delete_pass.assert_called_once_with("inplace_pass")
    for name in ("disable_gpu", "enable_mkldnn_bfloat16", "enable_memory_optim"):
        assert not getattr(config, name).called


def parts_of_models():
    for name in MODELS:
        model = build(name)
        parts = list(parts_of(model).values())
        if "unet" in name:
            parts += [part(model, branch) for branch in range(4) for part in (whole_part, shallow_part)]
        yield from ((model.downsampling_factor, part) for part in parts)


def test_examples_lie_between_the_least_and_the_largest_shape_that_tensorrt_is_built_for():
    for factor, part in parts_of_models():
        arrays = example_arrays(part.inputs, factor)
        found = gpu.shapes(part.inputs, gpu.Sizes())
        assert found.keys() == arrays.keys() == part.inputs.keys()
        for name, (least, usual, most) in found.items():
            for a, b, c, size in zip(least, usual, most, arrays[name].shape):
                assert a <= size <= c and a <= b <= c


def test_shapes_for_tensorrt():
    sizes = gpu.Sizes(batch=4, side=64, length=77, multiple=8)
    assert gpu.shapes(parts_of(build("conditional unet"))["_network"].inputs, sizes) == {
        "sample": ([1, 4, 8, 8], [2, 4, 32, 32], [4, 4, 64, 64]),
        "temb": ([1, 64], [2, 64], [4, 64]),
        "encoder_hidden_states": ([1, 1, 24], [2, 38, 24], [4, 77, 24]),
    }
    unet = UNet2DModel(
        block_out_channels=(32, 64), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
    )
    found = gpu.shapes(shallow_part(unet, 3).inputs, sizes)
    assert found["deep"] == ([1, 64, 4, 4], [2, 64, 16, 16], [4, 64, 32, 32])
    assert list(found) == ["deep", "sample", "temb"]


class TensorRT(types.ModuleType):
    """What `paddle.tensorrt` of 3.x has of names and arguments; it converts to the program that it was given."""

    class PrecisionMode:
        FP32, FP16, BF16 = "FP32", "FP16", "BF16"

    class Input:
        def __init__(
            self, warmup_data=None, min_input_shape=None, max_input_shape=None, optim_input_shape=None,
            input_data_type="float32", input_range=None, name=None,
        ):  # fmt: skip
            assert warmup_data is None and input_range is None
            self.shapes = min_input_shape, optim_input_shape, max_input_shape
            self.type, self.name = input_data_type, name

    class TensorRTConfig:
        def __init__(self, inputs, min_subgraph_size=3, save_model_dir=None, disable_ops=None, precision_mode="FP32"):
            self.inputs, self.target, self.precision = inputs, save_model_dir, precision_mode

    def __init__(self):
        super().__init__("paddle.tensorrt")
        self.__spec__ = Mock()
        self.calls = []

    def convert(self, model_path, config):
        parameters = model_path.replace(".json", ".pdiparams")
        assert model_path.endswith(".json") and not {config.target, config.target + ".json"} & {model_path}
        shutil.copy(model_path, config.target + ".json")
        shutil.copy(parameters, config.target + ".pdiparams")
        self.calls.append(config)


@pytest.fixture
def tensorrt(gpus, monkeypatch):
    module = TensorRT()
    monkeypatch.setitem(sys.modules, "paddle.tensorrt", module)
    monkeypatch.setattr(paddle, "tensorrt", module, raising=False)
    monkeypatch.setattr(gpu, "configure", lambda config, precision, device: config.disable_gpu())
    return module


@needs_programs
def test_a_model_is_converted_for_tensorrt_and_run(tensorrt):
    model = build("unet")
    runs = compile_model(model, "inference", "fp16", "gpu:1", tensorrt=True)
    with paddle.no_grad():
        wanted, got = model(image(3), 7)[0].numpy(), runs(image(3), 7)[0].numpy()
    assert relative_error(wanted, got)[0] < 1e-5
    assert runs.describe() == {"network": "Paddle Inference (fp16, GPU 1 with TensorRT)"}
    (config,) = tensorrt.calls
    assert config.precision == "FP16"
    inputs = parts_of(model)["_network"].inputs
    assert {each.name: each.shapes for each in config.inputs} == gpu.shapes(inputs, gpu.Sizes())
    assert [each.type for each in config.inputs] == ["float32", "float32"]


@needs_programs
def test_sizes_that_tensorrt_was_not_built_for_run_without_it(tensorrt, monkeypatch):
    run = PaddleInferenceEngine.__call__

    def refuse(engine, arrays):
        if engine is engines[0] and arrays["sample"].shape[-1] > 128:
            raise RuntimeError("the shape lies outside the profile")
        return run(engine, arrays)

    start, engines = PaddleInferenceEngine.__init__, []
    monkeypatch.setattr(PaddleInferenceEngine, "__init__", lambda self, *a: engines.append(self) or start(self, *a))
    monkeypatch.setattr(PaddleInferenceEngine, "__call__", refuse)
    model = tiny_unet()
    runs = compile_model(model, "inference", "fp32", "gpu", tensorrt=True)
    with paddle.no_grad():
        for width, way in ((16, " with TensorRT"), (130, ""), (16, " with TensorRT")):
            x = image(6, 1, 8, width)
            assert relative_error(model(x, 7)[0].numpy(), runs(x, 7)[0].numpy())[0] < 1e-5
            assert runs.describe() == {"network": f"Paddle Inference (fp32, GPU 0{way})"}


@needs_programs
def test_an_exported_folder_is_converted_for_tensorrt(tensorrt, folder, eager):
    pipeline = DiffusionPipeline.from_pretrained(folder, precision="fp32")
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    pipeline.compile("inference", "fp32", "gpu", tensorrt=True)
    call = {"size": (8, 8), "output_type": "latent"}
    assert relative_error(latents(eager, **call), latents(pipeline, **call))[0] < 1e-4
    assert [config.precision for config in tensorrt.calls] == ["FP32"]
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == files


# Where a pipeline goes


class Place:
    """As `paddle.CUDAPlace`, which a paddle without CUDA does not make."""

    def get_device_id(self):
        return 1


class Unspecific:
    """As the place of a tensor."""

    def __init__(self, number):
        self.number = number

    def is_cpu_place(self):
        return self.number is None

    def gpu_device_id(self):
        return self.number


@pytest.fixture
def moved(gpus, monkeypatch):
    """What a pipeline asks for when it is moved."""
    calls = []
    monkeypatch.setattr(paddle, "set_device", lambda device: calls.append(device))
    monkeypatch.setattr(Model, "to", lambda self, device=None, dtype=None: calls.append((device, dtype)))
    return calls


@pytest.mark.parametrize(
    ("arguments", "device", "dtype"),
    [
        (("gpu",), "gpu:0", None),
        (("cuda:1",), "gpu:1", None),
        ((Place(),), "gpu:1", None),
        ((Unspecific(0),), "gpu:0", None),
        ((Unspecific(None),), "cpu", None),
        ((paddle.CPUPlace(),), "cpu", None),
        (("float16",), None, "float16"),
        ((paddle.bfloat16,), None, "bfloat16"),
        ((np.float16,), None, "float16"),
        (("gpu:1", "float16"), "gpu:1", "float16"),
        ((paddle.float16, "gpu"), "gpu:0", "float16"),
    ],
)
def test_a_pipeline_goes_to_a_place_and_a_type(arguments, device, dtype, moved):
    pipeline = tiny_pipeline()
    assert pipeline.to(*arguments) is pipeline
    assert moved == [*([device] if device else []), (device, dtype), (device, dtype)]


def test_by_keyword(moved):
    tiny_pipeline().to(device="gpu:1", dtype=paddle.float16)
    assert moved == ["gpu:1", ("gpu:1", "float16"), ("gpu:1", "float16")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("gpu:2",), ValueError, "device 'gpu:2': paddle sees 2 GPUs, counted from 0"),
        (("tpu",), ValueError, "'tpu' is neither a device nor a type; use 'cpu', 'gpu'"),
        (("cpu:1",), ValueError, "'cpu:1' is neither"),
        (("gpu:-1",), ValueError, "'gpu:-1' is neither"),
        (("int8",), ValueError, "'int8' is neither"),
        (("gpu", "cpu"), TypeError, "takes one device and one type; 'cpu' is one more"),
        (("float16", "bfloat16"), TypeError, "'bfloat16' is one more"),
    ],
)
def test_what_is_no_place_and_no_type_moves_nothing(arguments, error, message, moved):
    with pytest.raises(error, match=message):
        tiny_pipeline().to(*arguments)
    assert moved == []


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this paddle has CUDA")
def test_without_cuda_a_pipeline_stays_on_the_cpu():
    pipeline = tiny_pipeline()
    with pytest.warns(UserWarning, match="built without CUDA, so .to\\('gpu'\\) stays on the CPU"):
        assert pipeline.to("gpu") is pipeline
    assert paddle.get_device() == "cpu" and pipeline.device.is_cpu_place()
    assert pipeline.to("cpu", "float32").dtype == paddle.float32


@pytest.mark.parametrize(
    ("before", "device", "after"),
    [
        (("auto", "fp32"), "gpu:1", ("auto", "fp32", "cpu")),  # of a CPU, of which nothing is worth compiling there
        (("eager",), "gpu", ("eager", "auto", "cpu")),
        (("onednn", "fp32"), "gpu", ("auto", "auto", "cpu")),
        (("inference", "fp32"), "gpu:1", ("inference", "fp32", "gpu:1")),
        (("inference", "fp16", "gpu:0"), "gpu:1", ("inference", "fp16", "gpu:1")),
        (("inference", "fp16", "gpu:0"), "cpu", ("inference", "auto", "cpu")),
        (("auto", "fp32", "gpu:1"), "cpu", ("auto", "fp32", "cpu")),
    ],
)
def test_engines_follow(before, device, after, moved):
    pipeline = tiny_pipeline().compile(*before)
    pipeline._compiled["unet"] = "of the place before"
    pipeline.to(device)
    assert pipeline._engine[:3] == after
    assert pipeline._compiled == {} or pipeline._engine[:2] == before[:2] or before == ("eager",)


def test_on_a_gpu_layers_run_unless_programs_are_asked_for(gpus, monkeypatch):
    pipeline = tiny_pipeline()
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    assert pipeline._model("unet", "_network", [1, 3, 512, 512], 100) is pipeline.unet
    pipeline.compile(device="gpu", precision="fp16")
    runs = pipeline._model("unet", "_network", [1, 3, 8, 8])
    assert runs._ways == [Setup("inference", "fp16", gpu=0)]


@needs_programs
def test_an_exported_folder_does_not_move(folder, moved):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    with pytest.raises(ExportError, match="has programs and no layers"):
        pipeline.to("gpu")
    assert moved == [] and pipeline.to("cpu") is pipeline
