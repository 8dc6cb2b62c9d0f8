"""Plans for oneDNN: views, places in memory, attention in blocks, kernels that are fast, and ways out."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import openmp
import paddle
import pytest

from ppdiffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel
from ppdiffusers.inference import compile_model
from ppdiffusers.inference.engines import OneDNNEngine, Setup, has_bfloat16, relative_error, setups
from ppdiffusers.inference.parts import parts_of
from ppdiffusers.inference.plans import Arena, Weights, make_plan, operators, planner
from ppdiffusers.inference.plans import plan as onednn_plan
from ppdiffusers.inference.plans.plan import Buffer, _place, _reshaped_strides
from ppdiffusers.inference.programs import trace
from ppdiffusers.onednn import BF16, FP32, is_there, library

pytestmark = pytest.mark.skipif(
    not hasattr(paddle, "pir_utils") or not is_there(), reason="this paddle writes no programs, or carries no oneDNN"
)
PRECISIONS = ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not has_bfloat16(), reason="no bfloat16"))]
CODER = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
BUILD = {
    "unet": lambda: UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
    ),
    "text": lambda: UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
    ),
    "vq": lambda: VQModel(**CODER),
    "kl": lambda: AutoencoderKL(**CODER),
}
METHODS = {"unet": "_network", "text": "_network", "vq": "_to_pixels", "kl": "_to_moments"}


@pytest.fixture(scope="module", params=BUILD)
def case(request):
    """A model, the method that is compiled, and its program."""
    paddle.seed(0)
    model = BUILD[request.param]()
    model.eval()
    method = METHODS[request.param]
    return model, method, trace(model, parts_of(model)[method])


def engine(case, precision="fp32"):
    program = case[2]
    arrays = {name: tensor.numpy for name, tensor in program.parameters.items()}
    return OneDNNEngine(program.ir, Weights(arrays, FP32 if precision == "fp32" else BF16))


def inputs(case, batch=1, side=16, seed=0):
    draw = np.random.default_rng(seed)
    model, method, _ = case
    shapes = {name: shape for name, (shape, _) in parts_of(model)[method].inputs.items()}
    full = {}
    for name, shape in shapes.items():
        free = iter([batch, side, side + 4] if len(shape) == 4 else [batch, 5])
        full[name] = [next(free) if size is None else size for size in shape]
    return {name: draw.standard_normal(shape).astype("float32") for name, shape in full.items()}


def wanted(case, arrays):
    model, method, _ = case
    with paddle.no_grad():
        return getattr(type(model), method)(model, *map(paddle.to_tensor, arrays.values())).numpy()


def test_any_size_and_back_to_one_seen_before(case):
    """More sizes than plans are kept, with an arena that grows and pictures that come together."""
    run = engine(case)
    for batch, side in [(1, 8), (2, 16), (1, 32), (3, 8), (1, 16), (1, 8), (2, 16)]:
        arrays = inputs(case, batch, side)
        assert relative_error(wanted(case, arrays), run(arrays))[0] < 1e-5


@pytest.mark.parametrize("at_once", [1, 100, 3000])
def test_attention_in_blocks_of_heads_and_rows(case, at_once, monkeypatch):
    monkeypatch.setattr(planner, "SCORES_AT_ONCE", (at_once,))
    arrays = inputs(case, 2, 8)
    assert relative_error(wanted(case, arrays), engine(case)(arrays))[0] < 1e-5


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 arithmetic")
def test_bfloat16_is_near_and_needs_half_the_weights(case):
    arrays = inputs(case, 2)
    single, half = engine(case), engine(case, "bf16")
    worst, rms = relative_error(single(arrays), half(arrays))
    assert 1e-6 < rms < 0.02 and worst < 0.1
    assert half._weights.bytes < 0.6 * single._weights.bytes


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_kernel_is_a_fast_one(case, precision, batch):
    run = engine(case, precision)
    run(inputs(case, batch, 32))
    (plan,) = run._plans.values()
    slow = [step.kernel.name for step in plan._steps if step.kernel is not None and step.kernel.slow]
    assert slow == [] and len(plan._steps) > 30


def test_weights_are_prepared_once_for_the_plans_that_need_them(case):
    """Read when a layout is wanted and released at once; shared by sizes; gone with their last plan."""
    program = case[2]
    events, given = [], weakref.WeakValueDictionary()

    def source(name, tensor):
        def read():
            array = np.array(tensor.numpy())
            events.append(("read", name))
            given[len(events)] = array
            return array

        return read

    def released(name):
        events.append(("released", name))
        assert not [array for array in given.values() if array.ndim > 1]

    readers = {name: source(name, tensor) for name, tensor in program.parameters.items()}
    held, arena = Weights(readers, FP32, released), Arena()
    shapes = {name: array.shape for name, array in inputs(case, 1, 32).items()}
    other = {name: array.shape for name, array in inputs(case, 2, 32).items()}
    first = make_plan(program.ir, held, shapes, arena)
    assert {name for _, name in events} == set(program.parameters)
    reads, releases = ([name for kind, name in events if kind == each] for each in ("read", "released"))
    assert sorted(reads) == sorted(releases) and list(given.values()) == []
    alone, read = held.bytes, len(events)
    matrices = sum(4 * tensor.size for tensor in program.parameters.values() if tensor.ndim > 1)
    assert alone >= matrices
    again = make_plan(program.ir, held, shapes, arena)
    assert held.bytes == alone and len(events) == read
    second = make_plan(program.ir, held, other, arena)
    assert held.bytes < 1.5 * alone
    del first, again
    assert held.bytes <= 1.1 * alone
    del second
    assert held.bytes == 0
    arrays = inputs(case, 1, 32)
    plan = make_plan(program.ir, held, shapes, arena)
    assert held.bytes == alone and relative_error(wanted(case, arrays), plan.run(arrays)[0])[0] < 1e-5


def in_threads(functions):
    """What they return, run at once, each in a thread; or the first error."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [each.result() for each in [pool.submit(function) for function in functions]]


def test_threads_with_many_sizes_compute_what_one_does(case):
    """Two engines; more sizes than an engine keeps plans of, so that some plan while others run."""
    asked = [inputs(case, batch, side) for batch, side in [(1, 8), (2, 8), (1, 16), (1, 24), (3, 8)]]
    alone = [engine(case)(arrays) for arrays in asked]
    runs = engine(case), engine(case)

    def work(seed):
        order = np.random.default_rng(seed).permutation(len(asked))
        return [np.array_equal(runs[seed % 2](asked[i]), alone[i]) for i in order]

    assert in_threads([partial(work, seed) for seed in range(8)]) == [[True] * 5] * 8


def test_kernels_are_planned_for_as_many_threads_as_run_them(case, monkeypatch):
    """Whatever was chosen between the two, and in whichever thread."""
    seen = []
    openmp.threads_here()  # skips here, if at all
    for function in (onednn_plan.Steps.add, onednn_plan.Primitive.__call__):

        def watched(*arguments, function=function):
            seen.append(openmp.threads_here())
            return function(*arguments)

        where = onednn_plan.Steps if function.__name__ == "add" else onednn_plan.Primitive
        monkeypatch.setattr(where, function.__name__, watched)
    for count in (3, 2):
        monkeypatch.setenv("PPDIFFUSERS_THREADS", str(count))
        run = engine(case)
        in_threads([partial(run, inputs(case, 1, 8))])
        monkeypatch.setenv("PPDIFFUSERS_THREADS", "5")
        in_threads([partial(run, inputs(case, 1, 8))])
        assert set(seen) == {count} and len(seen) > 100
        seen.clear()


def test_a_plan_tells_what_its_steps_cost(case):
    arrays = inputs(case)
    shapes = {name: array.shape for name, array in arrays.items()}
    run = engine(case)
    plan = make_plan(run._program, run._weights, shapes, Arena())
    before = plan.run(arrays)[0]
    lines = plan.describe(arrays).splitlines()
    assert len(lines) == len(plan._steps) + 2
    assert any("conv2d + add" in line and "conv" in line.split(" + add")[1] for line in lines)
    assert abs(sum(float(line.rsplit(None, 1)[1].rstrip("%")) for line in lines[1:-1]) - 100) < 10
    milliseconds = sum(float(line.split()[-2]) for line in lines[1:-1])
    assert milliseconds == pytest.approx(float(lines[-1].split()[0]), rel=0.02, abs=0.2)
    assert f"{plan.bytes / 1e6:.1f} MB of the arena" in lines[-1]
    assert np.array_equal(plan.run(arrays)[0], before)


def test_views_agree_with_numpy():
    draw = np.random.default_rng(0)
    sizes = [(2, 3, 4), (6, 4), (24,), (2, 12), (1, 2, 3, 1, 4), (4, 3, 2), (3, 8), (2, 1, 12), (4, 6), (8, 3, 1)]
    said = 0
    for _ in range(500):
        shape, new = (sizes[i] for i in draw.integers(0, len(sizes), 2))
        array = np.arange(24.0).reshape(shape).transpose(draw.permutation(len(shape)))
        strides = _reshaped_strides(array.shape, [stride // 8 for stride in array.strides], new)
        wanted = array.reshape(new)
        assert (strides is not None) == np.shares_memory(wanted, array)
        if strides is not None:
            said += 1
            view = np.lib.stride_tricks.as_strided(array, new, [8 * stride for stride in strides])
            assert np.array_equal(view, wanted)
    assert 50 < said < 450


def test_tensors_of_one_time_share_no_memory():
    draw = np.random.default_rng(0)
    buffers = []
    for _ in range(200):
        first = int(draw.integers(0, 100))
        buffers.append(Buffer(int(draw.integers(1, 5000)), first=first, last=first + int(draw.integers(0, 20))))
    total = _place(buffers)
    for i, a in enumerate(buffers):
        assert a.offset % 64 == 0 and a.offset + a.bytes <= total
        for b in buffers[:i]:
            apart = a.last < b.first or b.last < a.first
            assert apart or a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
    assert total < 0.5 * sum(buffer.bytes for buffer in buffers)


def test_operators_without_a_translation_go_to_the_next_engine(monkeypatch, caplog):
    paddle.seed(0)
    model = BUILD["vq"]()
    model.eval()
    monkeypatch.delitem(operators.OPERATORS, "group_norm")
    latents = paddle.to_tensor(np.random.default_rng(0).standard_normal([1, 3, 8, 8]).astype("float32"))
    with paddle.no_grad():
        wanted = model.decode(latents)[0].numpy()
        compiled = compile_model(model, "auto", "fp32")
        got = compiled.decode(latents)[0].numpy()
    assert compiled._to_pixels.setup == Setup("inference", "fp32")
    assert "not made of pd_op.group_norm" in caplog.text
    assert relative_error(wanted, got)[0] < 1e-4


def test_a_size_without_a_fast_kernel_goes_to_the_next_engine(monkeypatch, caplog):
    paddle.seed(0)
    model = BUILD["unet"]()
    model.eval()
    sample = paddle.to_tensor(np.random.default_rng(0).standard_normal([1, 3, 16, 16]).astype("float32"))
    with paddle.no_grad():
        wanted = model(sample, 3)[0].numpy()
        compiled = compile_model(model, "auto", "fp32")
        compiled(sample, 3)
        assert compiled._network.setup.engine == "onednn"
        monkeypatch.setattr(library.Kernel, "slow", True)
        monkeypatch.setattr("ppdiffusers.inference.plans.plan._MOST_BY_LOOPS", 100)
        wide = paddle.to_tensor(np.random.default_rng(0).standard_normal([1, 3, 16, 20]).astype("float32"))
        compiled(wide, 3)
        assert "no fast kernel for a result of the shape" in caplog.text
        assert compiled._network.setup == Setup("inference", "fp32")
        assert relative_error(wanted, compiled(sample, 3)[0].numpy())[0] < 1e-5
        assert compiled._network.setup.engine == "onednn"  # other sizes keep it


def test_a_paddle_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setattr(library.paddle, "__file__", str(tmp_path / "__init__.py"))
    library.library.cache_clear()
    try:
        assert {setup.engine for setup in setups("auto", "auto")} == {"inference"}
        with pytest.raises(ValueError, match="engine 'onednn' needs a paddle that carries oneDNN 3.*use 'auto'"):
            setups("onednn", "fp32")
    finally:
        monkeypatch.undo()
        library.library.cache_clear()
    assert setups("auto", "fp32")[0].engine == "onednn"
