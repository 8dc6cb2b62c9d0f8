"""Which engine runs: the first that is right, and what becomes of those that fail."""

import logging
import threading
import time

import numpy as np
import paddle
import pytest
from small_models import image, latents, tiny_pipeline, tiny_unet

from ppdiffusers import LDMSuperResolutionPipeline, onednn
from ppdiffusers.inference import compile_model, plans
from ppdiffusers.inference import compiled as compiled_module
from ppdiffusers.inference import engines as engines_module
from ppdiffusers.inference.engines import NoEngine, OneDNNEngine, Runner, Setup, relative_error
from ppdiffusers.threads import get_num_threads

FIRST, SECOND = Setup("onednn", "fp32"), Setup("inference", "fp32")


def double(arrays):
    return arrays["x"] * 2


class Engines:
    """A runner whose engines are functions; what it asks for is counted."""

    def __init__(self, first, second=double, ways=(FIRST, SECOND)):
        self.functions = {ways[0]: first, ways[1]: second}
        self.started, self.wanted, self.slowly = [], 0, 0.0
        self.runner = Runner("Model.part", list(ways), self.start, self.check)

    def start(self, setup):
        self.started.append(setup)
        time.sleep(self.slowly)
        if isinstance(self.functions[setup], Exception):
            raise self.functions[setup]
        return self.functions[setup]

    def check(self):
        self.wanted += 1
        return {"x": np.ones([2, 3])}, np.full([2, 3], 2.0)

    def __call__(self, rows=2):
        """The engine that was taken for an input of so many rows."""
        result = self.runner({"x": np.full([rows, 3], 5.0)})
        assert np.array_equal(result, np.full([rows, 3], 10.0))
        return self.runner.setup


def failing(error, rows=None, calls=None):
    """An engine that raises, at inputs of so many rows only if that is given, or at its first so many calls."""
    count = [0]

    def run(arrays):
        count[0] += 1
        if (rows is None or len(arrays["x"]) == rows) and (calls is None or count[0] <= calls):
            raise error
        return double(arrays)

    run.count = count
    return run


def test_the_first_engine_that_is_right_runs_and_is_checked_once():
    engines = Engines(double)
    assert [engines(rows) for rows in (1, 2, 1)] == [FIRST] * 3
    assert engines.started == [FIRST] and engines.wanted == 1 and engines.runner.seconds > 0


@pytest.mark.parametrize(
    "first",
    [
        lambda arrays: arrays["x"] * 2.01,
        lambda arrays: arrays["x"] * np.nan,
        lambda arrays: arrays["x"] * 2 + 4e-4 * (np.arange(arrays["x"].size) == 1).reshape(arrays["x"].shape),
        lambda arrays: arrays["x"][:1] * 2,
        lambda arrays: (arrays["x"] * 2, arrays["x"]),
        failing(plans.UnsupportedOperator("no such operator")),
        failing(onednn.OneDNNError("status 3")),
        OSError("no file can be written"),
        ValueError("a raw message\nof many lines\nthe last one"),
    ],
)
def test_one_that_is_wrong_or_does_not_run_gives_way_for_good(first, caplog):
    engines = Engines(first)
    with caplog.at_level(logging.WARNING):
        assert [engines(rows) for rows in (1, 2, 2)] == [SECOND] * 3
    assert engines.started == [FIRST, SECOND] and engines.wanted == 1
    (message,) = caplog.messages  # told once
    assert "Model.part" in message and "oneDNN (fp32)" in message and "\n" not in message


def test_one_that_fails_at_a_size_is_left_out_at_this_size_alone(caplog):
    first = failing(RuntimeError("too odd"), rows=7)
    engines = Engines(first)
    with caplog.at_level(logging.WARNING):
        assert [engines(rows) for rows in (1, 7, 1, 7, 7, 2)] == [FIRST, SECOND, FIRST, SECOND, SECOND, FIRST]
    assert len(caplog.messages) == 1 and "does not run in oneDNN (fp32) at this size: too odd" in caplog.text
    assert first.count[0] == 1 + 4  # the check, and the size that fails is tried once
    assert engines.started == [FIRST, SECOND]


def test_the_order_of_calls_does_not_decide_which_engine_runs():
    sizes = (1, 7, 2, 7, 1)
    for order in (sizes, sizes[::-1], (7, 7, 1)):
        engines = Engines(failing(RuntimeError("too odd"), rows=7))
        assert all(engines(rows) == (SECOND if rows == 7 else FIRST) for rows in order)


def test_no_engine_is_left_at_a_size():
    engines = Engines(failing(RuntimeError("too odd"), rows=7), failing(RuntimeError("too even"), rows=7))
    for _ in range(2):
        with pytest.raises(NoEngine, match="oneDNN .*too odd; .*Paddle Inference .*too even"):
            engines(7)
        assert engines.runner.setup is None
    assert engines(2) == FIRST


@pytest.mark.parametrize("error", [onednn.NotEnoughMemory("20 GB"), MemoryError("20 GB")])
def test_too_large_for_memory_is_not_tried_in_engines_that_need_more_and_is_tried_again(error):
    engines = Engines(failing(error, rows=7))
    for _ in range(2):
        with pytest.raises(NoEngine, match="has no room in oneDNN .*20 GB"):
            engines(7)
        assert engines(2) == FIRST
    assert engines.started == [FIRST] and engines.functions[FIRST].count[0] == 1 + 2 + 2
    engines = Engines(failing(error, calls=1))  # no memory while it is checked
    with pytest.raises(NoEngine, match="has no room in oneDNN"):
        engines(2)
    assert engines(2) == FIRST and engines.started == [FIRST, FIRST]


def test_each_precision_has_its_tolerance():
    near = Setup("onednn", "bf16")
    for factor, taken in ((2.02, near), (2.2, FIRST)):  # off by 1 % and by 10 %
        engines = Engines(lambda arrays, factor=factor: arrays["x"] * factor, double, (near, FIRST))
        engines.runner({"x": np.ones([2, 3])})
        assert engines.runner.setup == taken


def test_threads_that_come_at_once_start_an_engine_once():
    engines, barrier, found = Engines(double), threading.Barrier(8), []
    engines.slowly = 0.05

    def work(rows):
        barrier.wait()
        found.append(engines(rows))

    threads = [threading.Thread(target=work, args=(1 + i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FIRST] * 8 and engines.started == [FIRST] and engines.wanted == 1


def test_relative_errors():
    a = np.array([[1.0, -4.0]])
    assert relative_error(a, a) == (0.0, 0.0)
    assert relative_error(a, a + [[0.4, 0.0]]) == pytest.approx((0.1, 0.4 / 17**0.5))
    assert relative_error((a, a), (a, a * 1.5)) == pytest.approx((0.5, 0.5))
    for other in (a.T, np.array([[np.inf, 0]]), (a,)):
        assert relative_error(a, other) == (float("inf"), float("inf"))
    assert relative_error(np.zeros(3), np.full(3, 1e-5)) == pytest.approx((1e-5, 1e-5))


# Of a whole pipeline

needs_programs = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")


@needs_programs
@pytest.mark.parametrize("error", [onednn.NotEnoughMemory("20 GB"), onednn.OneDNNError("no kernel"), OSError("12")])
def test_a_picture_that_no_engine_takes_goes_through_the_layers_and_the_next_one_does_not(error, monkeypatch, caplog):
    run = OneDNNEngine.__call__

    def refuse(engine, arrays):
        if any(array.shape[-1] == 20 for array in arrays.values()):
            raise error
        return run(engine, arrays)

    monkeypatch.setattr(OneDNNEngine, "__call__", refuse)
    pipeline = tiny_pipeline().compile("onednn", "fp32")
    eager = LDMSuperResolutionPipeline(**pipeline.components).compile("eager")
    for _ in range(2):
        small = latents(pipeline, (8, 8))
        assert pipeline._compiled["unet"].describe() == {"network": "oneDNN (fp32)"}
        assert relative_error(latents(eager, (8, 8)), small)[0] < 1e-4
        assert np.array_equal(latents(pipeline, (24, 20)), latents(eager, (24, 20)))
        assert pipeline._compiled["unet"].describe()["network"].startswith("layers (")
    memory = isinstance(error, onednn.NotEnoughMemory)
    assert ("no room for this size" in caplog.text) == memory and ("at this size" in caplog.text) != memory


@needs_programs
def test_wrong_in_every_engine_runs_the_layers(monkeypatch, caplog):
    monkeypatch.setattr(engines_module, "relative_error", lambda *_: (1.0, 1.0))
    unet, x = tiny_unet(), image(6)
    runs = compile_model(unet, "auto", "fp32")
    with paddle.no_grad():
        assert np.array_equal(runs(x, 7)[0].numpy(), unet(x, 7)[0].numpy())
    assert runs.describe()["network"].count("is wrong by 1 in") == len(runs._ways) and len(runs._ways) == 3
    assert caplog.text.count("is wrong by 1 in") == 3


@needs_programs
def test_what_cannot_be_traced_runs_its_layers(monkeypatch, caplog):
    monkeypatch.setattr(
        compiled_module, "trace", lambda *_: (_ for _ in ()).throw(RuntimeError("many lines\nso it is"))
    )
    unet, x = tiny_unet(), image(6)
    runs = compile_model(unet, "auto", "fp32")
    with paddle.no_grad():
        for _ in range(2):
            assert np.array_equal(runs(x, 7)[0].numpy(), unet(x, 7)[0].numpy())
    assert caplog.text.count("it cannot be traced: so it is") == 1


# The engine of oneDNN


class Plan:
    def run(self, arrays):
        return [arrays["x"]]


@pytest.fixture
def warm():
    """Two compiled models, which share the memory that their kernels compute in."""
    models = [compile_model(tiny_unet(), "onednn", "fp32") for _ in range(2)]
    for model in models:
        predict(model)
    return models


def predict(model):
    with paddle.no_grad():
        return model(image(6), 7)[0].numpy()


@needs_programs
def test_two_plans_never_compute_at_once(warm, monkeypatch):
    begin, running, seen = plans.Plan._begin, [], []

    def begin_slowly(plan, arrays):
        running.append(plan)
        seen.append(len(running))
        begin(plan, arrays)
        time.sleep(0.01)  # what the others would use to begin too
        running.remove(plan)

    monkeypatch.setattr(plans.Plan, "_begin", begin_slowly)
    threads = [threading.Thread(target=predict, args=(warm[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 6


@needs_programs
def test_a_plan_computes_with_its_threads_in_every_thread(warm, monkeypatch):
    chosen = []
    monkeypatch.setattr("paddle.base.core.set_num_threads", lambda count: chosen.append((threading.get_ident(), count)))
    thread = threading.Thread(target=predict, args=(warm[0],))
    thread.start()
    thread.join()
    assert {(ident == threading.get_ident(), count) for ident, count in chosen} == {(False, get_num_threads())}
    monkeypatch.setenv("PPDIFFUSERS_THREADS", "3")
    chosen.clear()
    predict(compile_model(tiny_unet(), "onednn", "fp32"))
    assert chosen[-1] == (threading.get_ident(), 3)


def test_an_engine_keeps_the_plans_of_the_latest_three_sizes_and_not_that_of_the_comparison(monkeypatch):
    made = []
    monkeypatch.setattr(plans, "make_plan", lambda *args: made.append(args[2]["x"]) or Plan())
    engine = OneDNNEngine(None, None)
    for size in (9, 1, 2, 3, 1, 4, 1, 3, 2, 9):
        engine({"x": np.ones(size)})
    assert made == [(9,), (1,), (2,), (3,), (4,), (2,), (9,)]
    engine({"x": np.ones(2)})
    engine({"x": np.ones(9)})
    assert len(made) == 7
