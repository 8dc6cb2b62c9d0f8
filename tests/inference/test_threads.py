"""Any number of calls at once, in any threads, give what they give one after the other, bit for bit."""

import copy
import itertools
import os
import signal
import threading

import numpy as np
import paddle
import pytest
from small_models import compile_from, image, latents, picture, tiny_pipeline, tiny_unet

from ppdiffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LDMSuperResolutionPipeline,
    PNDMScheduler,
)
from ppdiffusers.inference import compile_model
from ppdiffusers.inference.engines import relative_error

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")
ENGINES = ["eager", "auto", "onednn", "inference"]
SIZES = [(8, 8), (24, 20), (5, 7)]
SCHEDULERS = [DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, PNDMScheduler]  # with states


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    monkeypatch.setenv("PPDIFFUSERS_THREADS", "1")
    compile_from(1000, monkeypatch)  # with "auto", some of the calls are worth it and some are not


def in_threads(work, count=8):
    """Runs `work(i)` in so many threads, which begin together, and returns what each gave."""
    barrier, results, errors = threading.Barrier(count), [None] * count, []

    def run(i):
        try:
            barrier.wait(60)
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not errors and not any(thread.is_alive() for thread in threads), errors
    return results


def alike(found, wanted):
    return len(found) == len(wanted) and all(map(np.array_equal, found, wanted))


def several(pipeline, i, calls=3):
    """Calls with other steps, seeds, sizes and etas for every thread and turn."""
    found = []
    for turn in range(calls):
        number = 10 * i + turn
        output = "np" if turn == 1 else "latent"
        eta = float(turn % 2) if isinstance(pipeline.scheduler, DDIMScheduler) else 0.0
        call = {"steps": 2 + number % 4, "generator": number, "eta": eta, "output_type": output}
        found.append(latents(pipeline, SIZES[number % len(SIZES)], **call))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_one_pipeline(engine):
    serial, pipeline = tiny_pipeline().compile(engine), tiny_pipeline().compile(engine)
    wanted = [several(serial, i) for i in range(8)]
    for _ in ("cold", "warm"):
        for found, want in zip(in_threads(lambda i: several(pipeline, i)), wanted):
            assert alike(found, want)
    assert alike(several(pipeline, 5), wanted[5])


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_threads_share_the_models_of_pipelines_with_other_schedulers(engine):
    def pipelines():
        models = {name: part for name, part in tiny_pipeline().components.items() if name != "scheduler"}
        made = [LDMSuperResolutionPipeline(**models, scheduler=kind(num_train_timesteps=100)) for kind in SCHEDULERS]
        made[1].enable_deep_cache(2, 1)
        return [pipeline.compile(engine) for pipeline in made]

    wanted = [several(pipeline, 1, 3) for pipeline in pipelines()]
    at_once = pipelines()
    found = in_threads(lambda i: several(at_once[i % 4], 1, 3))
    assert all(alike(each, wanted[i % 4]) for i, each in enumerate(found))
    assert len({each[0].tobytes() for each in wanted}) == 4


@pytest.mark.parametrize("engine", ["auto", "inference"])
def test_a_model_is_saved_copied_and_looked_at_meanwhile(engine, tmp_path):
    serial, pipeline = tiny_pipeline().compile(engine), tiny_pipeline().compile(engine)
    wanted = [several(serial, i) for i in range(6)]
    state = {name: value.numpy() for name, value in serial.unet.state_dict().items()}
    running = threading.Event()
    running.set()

    def work(i):
        if i < 6:
            try:
                return several(pipeline, i)
            finally:
                if i == 0:
                    running.clear()
        for turn in itertools.count():
            if i == 6:
                pipeline.save_pretrained(tmp_path / str(turn % 2))
            else:
                twin = copy.deepcopy(pipeline.unet)
                found = {name: value.numpy() for name, value in twin.state_dict().items()}
                assert all(np.array_equal(found[name], state[name]) for name in state) and len(found) == len(state)
                assert len(pipeline.unet.parameters()) == len(state)
            if not running.is_set():
                return []

    for found, want in zip(in_threads(work), wanted):
        assert alike(found, want)
    loaded = LDMSuperResolutionPipeline.from_pretrained(tmp_path / "0", engine=engine)
    assert alike(several(loaded, 3), wanted[3])


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_streams_go_on_in_turns(engine):
    pipeline = tiny_pipeline(PNDMScheduler(num_train_timesteps=100)).compile(engine)

    def call(i):
        size = SIZES[i % len(SIZES)]
        return {"image": picture(*size), "num_inference_steps": 4 + i % 3, "generator": i, "output_type": "latent"}

    def begin(i):  # every third with features that serve several steps
        (pipeline.enable_deep_cache if i % 3 == 0 else pipeline.disable_deep_cache)()
        return pipeline.stream(**call(i))

    def numbers(progress):
        return progress.step, progress.total, progress.timestep

    wanted = [list(begin(i)) for i in range(20)]
    running = {}
    for i in range(20):
        running[i] = begin(i)
        next(running[i])  # from here on it goes its own way
        if i == 7:
            abandoned = pipeline.stream(**call(1))
            next(abandoned)
    found = {i: [] for i in running}
    while running:
        for i, stream in list(running.items()):
            progress = next(stream, None)
            if progress is None:
                del running[i]
            else:
                found[i].append(progress)
    abandoned.close()
    for i, want in enumerate(wanted):
        assert [numbers(progress) for progress in found[i]] == [numbers(progress) for progress in want[1:]]
        assert all(map(np.array_equal, (p.latents.numpy() for p in found[i]), (p.latents.numpy() for p in want[1:])))
        assert np.array_equal(found[i][-1].output.images.numpy(), want[-1].output.images.numpy())


@pytest.mark.parametrize("engine", ["onednn", "inference"])
def test_threads_share_a_compiled_model(engine):
    runs = compile_model(tiny_unet(), engine, "fp32")

    def work(i):  # more sizes than an engine keeps plans of
        with paddle.no_grad():
            return [runs(image(6, 1, 8 + i % 5, 8, seed=turn), 7)[0].numpy() for turn in range(3)]

    found = in_threads(work)
    assert all(alike(found[i], work(i)) for i in range(8)) and "layers" not in runs.describe()["network"]


@pytest.mark.parametrize("engine", ["onednn", "inference"])
def test_threads_that_come_after_others_have_ended(engine):
    runs, x = compile_model(tiny_unet(), engine, "fp32"), image(6)

    def work(_):
        with paddle.no_grad():
            return runs(x, 7)[0].numpy(), runs.describe()["network"]

    results = [in_threads(work, 1)[0] for _ in range(8)]  # the system gives them the same identities
    assert all(np.array_equal(result, results[0][0]) and way == results[0][1] for result, way in results)
    assert "layers" not in results[0][1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("engine", ["onednn", "inference"])
def test_a_forked_process_computes_too(engine):
    runs, x = compile_model(tiny_unet(), engine, "fp32"), image(6)
    with paddle.no_grad():
        wanted = runs(x, 7)[0].numpy()
        child = os.fork()
        if child == 0:
            same = False
            try:
                signal.alarm(60)  # rather than to hang
                same = np.array_equal(runs(x, 7)[0].numpy(), wanted)
            finally:
                os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert np.array_equal(runs(x, 7)[0].numpy(), wanted)


# The same call gives the same bits, whatever ran before it


@pytest.mark.parametrize("engine", ["auto", "inference"])
def test_what_ran_before_a_call_does_not_show_in_its_bits(engine):
    calls = [(size, steps, "np" if steps == 1 else "latent") for size in SIZES for steps in (1, 4)]

    def run(pipeline, number):
        size, steps, output = calls[number]
        return latents(pipeline, size, steps, output_type=output)

    alone = tiny_pipeline().compile(engine, "fp32")
    wanted = [run(alone, number) for number in range(len(calls))]
    draw = np.random.default_rng(0)
    for _ in range(2):
        pipeline = tiny_pipeline().compile(engine, "fp32")
        for number in draw.permutation(2 * len(calls)) % len(calls):
            assert np.array_equal(run(pipeline, number), wanted[number])
        pipeline.compile("eager")
        run(pipeline, 0)
        pipeline.compile(engine, "fp32").unet(image(6), 7)
    for number in (1, 4):  # the very first call of a pipeline
        assert np.array_equal(run(tiny_pipeline().compile(engine, "fp32"), number), wanted[number])


def test_the_size_and_the_steps_decide_what_is_compiled_and_nothing_else():
    pipeline = tiny_pipeline()
    eager = tiny_pipeline().compile("eager")
    for size, steps, compiled in (((8, 8), 4, False), ((24, 20), 1, False), ((24, 20), 3, True), ((8, 8), 20, True)):
        for _ in range(2):
            assert (type(pipeline._denoiser([1, 3, *size], steps)) is not type(eager.unet)) == compiled
            same = np.array_equal(latents(pipeline, size, steps), latents(eager, size, steps))
            assert same != compiled  # layers and kernels differ in the last bits
    pipeline.enable_deep_cache(5)  # the whole network runs in one step of five
    assert pipeline._model("unet", "_network", [1, 3, 8, 8], 4) is pipeline.unet
    assert not hasattr(pipeline._denoiser([1, 3, 8, 8], 20)._unet, "describe")
    assert hasattr(pipeline._denoiser([1, 3, 8, 8], 90)._unet, "describe")


@pytest.mark.parametrize("engine", ["auto", "inference"])
def test_compiling_draws_no_random_numbers(engine):
    pipeline = tiny_pipeline(DDPMScheduler(num_train_timesteps=100)).compile(engine, "fp32")
    eager = LDMSuperResolutionPipeline(**pipeline.components).compile("eager")
    drawn = []
    for runs in (eager, pipeline):
        paddle.seed(11)
        noisy = latents(runs, (24, 20), 3, generator=None)
        drawn.append((noisy, paddle.randn([4]).numpy()))
    assert relative_error(drawn[0][0], drawn[1][0])[0] < 1e-4
    assert np.array_equal(drawn[0][1], drawn[1][1])
