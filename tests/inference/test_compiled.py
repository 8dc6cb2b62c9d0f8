"""Compiled models compute what their layers compute, at any size, and say what they run in."""

import gc
import logging
import resource
import threading
import weakref

import numpy as np
import paddle
import pytest
from small_models import (
    CALLS,
    EMBEDDED,
    MODELS,
    build,
    facts,
    image,
    latents,
    tiny_pipeline,
    tiny_unet,
)

from ppdiffusers import ClassEmbedder, LDMSuperResolutionPipeline, UNet2DModel
from ppdiffusers.inference import CompiledModel, compile_model, worth_compiling
from ppdiffusers.inference.engines import (
    PaddleInferenceEngine,
    Setup,
    example_arrays,
    has_bfloat16,
    relative_error,
    setups,
)
from ppdiffusers.inference.parts import Part, parts_of
from ppdiffusers.inference.programs import load_program, trace

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")
ENGINES = ["onednn", "inference"]
PADDLE_3_3 = paddle.__version__.startswith("3.3.")  # which has the faults that are tested here


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_programs_compute_what_the_layers_compute_at_any_size_and_leave_them_whole(name, engine):
    model = build(name)
    with paddle.no_grad():
        wanted = [CALLS[name](model, batch).numpy() for batch in (1, 3)]
        before = facts(model)
        runs = compile_model(model, engine, "fp32")
        got = [CALLS[name](runs, batch).numpy() for batch in (1, 3)]
    assert runs.describe() == {part.name: str(Setup(engine, "fp32")) for part in parts_of(model).values()}
    assert facts(model) == before and runs.model is model
    for a, b in zip(wanted, got):
        assert relative_error(a, b)[0] < 1e-5


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 arithmetic")
@pytest.mark.parametrize("engine", ENGINES)
def test_bfloat16_stays_near(engine):
    model = build("unet")
    with paddle.no_grad():
        wanted = CALLS["unet"](model, 1).numpy()
        runs = compile_model(model, engine, "bf16")
        worst, rms = relative_error(wanted, CALLS["unet"](runs, 1).numpy())
    assert runs.describe() == {"network": str(Setup(engine, "bf16"))}
    assert 1e-6 < rms < 0.02 and worst < 0.1  # not float32 under another name, and near


def test_a_compiled_model_is_called_as_the_model_and_carries_what_it_has():
    model = build("unet")
    runs = compile_model(model, "inference", "fp32")
    assert isinstance(runs, UNet2DModel) and type(runs) is CompiledModel and runs.config == model.config
    assert runs.dtype == paddle.float32 and runs.conv_in is model.conv_in and runs.num_parameters() > 0
    assert repr(runs) == "CompiledModel(UNet2DModel)"
    x = image(3)
    with paddle.no_grad():
        one, two = runs(x, 7, return_dict=False), runs(sample=x, timestep=paddle.to_tensor([7]))
    assert isinstance(one, tuple) and np.array_equal(one[0].numpy(), two.sample.numpy())
    with pytest.raises(ValueError, match="multiples of 2"):
        runs(image(3, height=11), 7)
    with pytest.raises(ValueError, match="no classes"):
        runs(x, 7, class_labels=paddle.to_tensor([1]))
    for name in ("no_such_layer", "__no_such_method__"):
        with pytest.raises(AttributeError, match=name):
            getattr(runs, name)


def test_compiling_again_and_undoing():
    model = build("vq")
    runs = compile_model(model, "inference", "fp32")
    again = compile_model(runs, "auto", "fp32")
    assert again.model is model and again._ways[0].engine in ("onednn", "inference") and len(again._ways) == 3
    assert compile_model(again, "eager") is model and compile_model(model, "eager") is model
    assert runs.describe() == {name: "layers (not called yet)" for name in ("to_latents", "to_pixels")}


def test_a_model_without_heavy_parts_runs_its_layers():
    model = ClassEmbedder(4, 8)
    runs = compile_model(model, "inference", "fp32")
    labels = paddle.to_tensor([1, 3])
    assert np.array_equal(runs(labels).numpy(), model(labels).numpy()) and runs.describe() == {}


# Programs


@pytest.mark.parametrize("name", ["conditional unet", "bert"])
def test_a_program_is_written_and_read_without_weights_and_they_go_to_another_file(name, tmp_path):
    model = build(name)
    for method, part in parts_of(model).items():
        program = trace(model, part)
        files = program.save(tmp_path, method)
        assert files == (tmp_path / f"{method}.json", tmp_path / f"{method}.pdiparams")
        weights = sum(4 * value.size for value in program.parameters.values())
        assert weights <= files[1].stat().st_size < 1.2 * weights + 1000
        assert {id(value) for value in program.parameters.values()} <= set(map(id, model.parameters()))
        assert len(load_program(files[0]).global_block().ops) == len(program.ir.global_block().ops)
        engine = PaddleInferenceEngine(*files, Setup("inference", "fp32"))
        arrays = example_arrays(part.inputs, 2)
        with paddle.no_grad():
            wanted = part.function(model, *map(paddle.to_tensor, arrays.values())).numpy()
        assert relative_error(wanted, engine(arrays))[0] < 1e-5


def test_tracing_changes_the_mode_of_no_thread():
    modes = []

    def look():
        modes.append(paddle.in_dynamic_mode())
        paddle.to_tensor([1.0]) * 2

    def function(model, x):  # while it is traced
        modes.append(not paddle.in_dynamic_mode())
        for _ in range(2):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        return model.conv_in(x)

    unet, part = tiny_unet(), Part("first", {"sample": ([None, 6, None, None], "float32")}, function)
    trace(unet, part)
    look()

    def broken(model, x):
        model.conv_in(x)
        raise RuntimeError("cannot be traced")

    with pytest.raises(RuntimeError, match="cannot be traced"):
        trace(unet, Part("second", part.inputs, broken))
    look()
    assert modes == [True] * 5
    assert unet.conv_in(image(6)).shape == [1, 8, 12, 20]


def test_weights_and_programs_are_freed_with_the_compiled_model_and_when_the_model_changes():
    unet = tiny_unet()
    runs = compile_model(unet, "onednn", "fp32")
    with paddle.no_grad():
        runs(image(6), 7)
        first = weakref.ref(runs._moment)
        unet.conv_out.bias.set_value(unet.conv_out.bias + 1)
        runs(image(6), 7)
    gc.collect()
    assert first() is None
    second = weakref.ref(runs._moment)
    del runs
    gc.collect()
    assert second() is None


def test_a_program_is_traced_once_for_all_weights_and_weights_are_prepared_once(monkeypatch):
    from ppdiffusers.inference import compiled as compiled_module

    traced, prepared = [], []
    weights = compiled_module.plans.Weights
    monkeypatch.setattr(compiled_module, "trace", lambda *args: traced.append(1) or trace(*args))
    monkeypatch.setattr(compiled_module.plans, "Weights", lambda *args: prepared.append(1) or weights(*args))
    unet = tiny_unet()
    runs = compile_model(unet, "onednn", "fp32")
    with paddle.no_grad():
        for count in (1, 2, 3):
            for size in (8, 12, 16, 20, 8):
                runs(image(6, 1, size), 7)
            assert (len(traced), len(prepared)) == (1, count)
            unet.conv_out.bias.set_value(unet.conv_out.bias + 1)


# Faults of Paddle that the check has to find


def run_part(part, ways, x, monkeypatch):
    """Of a model without parts of its own, in the first of `ways` that is right: the part's result, and that way."""
    monkeypatch.setattr("ppdiffusers.inference.engines.setups", lambda *_: ways)
    model = ClassEmbedder(8, 8)
    runs = compile_model(model)
    with paddle.no_grad():
        got, wanted = runs.part(part)(x).numpy(), part.function(model, x).numpy()
    assert relative_error(wanted, got)[0] < 1e-5
    return runs.part(part).setup


def test_the_check_catches_a_pass_that_makes_sine_overwrite_its_input(monkeypatch, caplog):
    def waves(model, x):
        angles = x @ model.embedding.weight
        return paddle.concat([paddle.sin(angles), paddle.cos(angles)], axis=-1)

    part = Part("waves", {"x": ([None, 8], "float32")}, waves)
    faulty, right = Setup("inference", "fp32", faulty_passes=()), Setup("inference", "fp32")
    with caplog.at_level(logging.WARNING):
        x = paddle.to_tensor(np.random.default_rng(2).standard_normal([4, 8]).astype("float32"))
        way = run_part(part, [faulty, right], x, monkeypatch)
    found = "is wrong by" in caplog.text
    assert (found, way) == (True, right) or (not PADDLE_3_3 and (found, way) == (False, faulty))


def test_a_program_that_an_engine_refuses_runs_another_way(monkeypatch):
    def stretch(model, x):  # which oneDNN refuses in programs of paddle 3.3
        return paddle.nn.functional.interpolate(x, scale_factor=2, mode="nearest") * model.embedding.weight[0, 0]

    ways = [Setup("inference", "fp32"), Setup("inference", "fp32", onednn=False)]
    way = run_part(Part("stretch", {"x": ([None, 3, None, None], "float32")}, stretch), ways, image(3), monkeypatch)
    assert way == ways[1] or not PADDLE_3_3


@pytest.mark.parametrize("room", [5_000, 30_000])  # for neither weights nor program, and for weights alone
def test_a_full_disk_runs_the_layers_and_leaves_nothing(room, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unet = tiny_unet()
    runs = compile_model(unet, "inference", "fp32")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with paddle.no_grad():
            assert np.array_equal(runs(image(6), 7)[0].numpy(), unet(image(6), 7)[0].numpy())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written whole" in caplog.text and not list(tmp_path.iterdir())


# Engines and settings


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


@pytest.mark.parametrize("arguments", [{"engine": "tensorflow"}, {"precision": "int3"}])
def test_an_unknown_engine_is_told_before_anything_is_read(arguments):
    with pytest.raises(ValueError, match="is unknown; use"):
        LDMSuperResolutionPipeline.from_pretrained("/no/such/folder", **arguments)
    pipeline = tiny_pipeline().compile("inference", "fp32")
    before = pipeline._engine
    with pytest.raises(ValueError, match="is unknown; use"):
        pipeline.compile(**arguments)
    assert pipeline._engine is before


@pytest.mark.parametrize("engine", ENGINES)
def test_pictures_of_the_embedded_model(eager, engine):
    call = {"size": (24, 20), "steps": 4, "output_type": "np"}
    wanted = latents(eager, **call)
    pipeline = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine=engine, precision="fp32")
    images = latents(pipeline, **call)
    assert (np.abs(np.rint(images * 255) - np.rint(wanted * 255)) <= 1).mean() > 0.999
    if has_bfloat16():
        near = latents(pipeline.compile(engine, "bf16"), **call)
        assert -10 * np.log10(np.mean((near - wanted) ** 2)) > 40


def test_what_is_worth_compiling(eager):
    assert not worth_compiling(eager.unet, "_network", [1, 3, 16, 16], 5)
    assert worth_compiling(eager.unet, "_network", [1, 3, 256, 256], 20)
    assert worth_compiling(eager.vqvae, "_to_pixels", [1, 3, 1024, 1024])
    assert not worth_compiling(eager.vqvae, "_to_pixels", [1, 3, 8, 8])
    assert not worth_compiling(eager.unet, "_no_part", [1, 3, 999, 999], 99)


def test_a_pipeline_with_a_compiled_model_of_the_users_own():
    pipeline = tiny_pipeline().compile("eager")
    wanted = latents(pipeline)
    runs = compile_model(pipeline.unet, "onednn", "fp32")
    mixed = LDMSuperResolutionPipeline(**{**pipeline.components, "unet": runs}).compile("onednn", "fp32")
    assert mixed.unet.model is pipeline.unet
    assert relative_error(wanted, latents(mixed))[0] < 1e-5
    assert mixed.unet.describe() == {"network": "oneDNN (fp32)"}
