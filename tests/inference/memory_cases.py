"""Plans where memory is short, each under a limit of the address space. Run as a program: a crash is its end."""

import logging
import resource

import numpy as np
import paddle
import paddle.nn.functional as F
from operator_cases import program

from ppdiffusers.inference.plans import Arena, Weights, make_plan
from ppdiffusers.onednn import FP32, NotEnoughMemory

draw = np.random.default_rng(0)


def made(compute, sizes, *weights):
    return program(compute, sizes, [draw.standard_normal(shape).astype("float32") for shape in weights])


class AtMost:
    """So many MB more than there are now."""

    def __init__(self, megabytes):
        self.bytes = megabytes * 1_000_000

    def __enter__(self):
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + self.bytes, -1))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))


def refused(function):
    try:
        function()
    except NotEnoughMemory as error:
        return str(error)
    raise AssertionError("there was enough")


def an_arena_for_a_plan():
    moved, weights = made(lambda x, w: F.silu(F.conv2d(x, w)), [(-1, 16, -1, -1)], (16, 16, 1, 1))
    held, arena = Weights(weights, FP32), Arena()
    small = draw.standard_normal((1, 16, 40, 40)).astype("float32")
    plan = make_plan(moved, held, {"x0": small.shape}, arena)
    before = plan.run({"x0": small})[0]
    with AtMost(300):
        for _ in range(3):
            said = refused(lambda: make_plan(moved, held, {"x0": (1, 16, 3000, 3000)}, arena))
            assert "MB for tensors cannot be had" in said, said
            assert (arena.address, arena.bytes) == (0, 0)
            assert np.array_equal(plan.run({"x0": small})[0], before) and arena.bytes == plan.bytes


def an_arena_for_a_run():
    moved, weights = made(F.silu, [(-1, 16, -1, -1)])
    arena = Arena()
    large = make_plan(moved, Weights(weights, FP32), {"x0": (1, 16, 1500, 1500)}, arena)
    small = make_plan(moved, Weights(weights, FP32), {"x0": (1, 16, 4, 4)}, arena)
    zeros = np.broadcast_to(np.float32(0), (1, 16, 1500, 1500))
    with AtMost(300):  # that it had goes before more is asked for, so it must not fit from the start
        refused(lambda: arena.reserve(1 << 40))
        resource.setrlimit(resource.RLIMIT_AS, (1, -1))
        assert "cannot be had" in refused(lambda: large.run({"x0": zeros}))
    ones = np.ones((1, 16, 4, 4), "float32")
    assert abs(small.run({"x0": ones})[0] - 1 / (1 + np.exp(-1))).max() < 1e-6
    assert large.run({"x0": zeros})[0].max() == 0


def scores_of_attention():
    def attend(q, k, v):
        return paddle.matmul(F.softmax(paddle.matmul(q, k, transpose_y=True)), v)

    moved, weights = made(attend, [(-1, 1, -1, 8)] * 3)
    q, k, v = (draw.standard_normal((1, 1, 5000, 8)).astype("float32") for _ in range(3))
    arrays = {"x0": q, "x1": k, "x2": v}
    with AtMost(150):
        shapes = {name: array.shape for name, array in arrays.items()}
        plan = make_plan(moved, Weights(weights, FP32), shapes, Arena())
        assert plan.bytes < 30e6
        powers = np.exp(q[0, 0, :50] @ k[0, 0].T)
        wanted = powers / powers.sum(-1, keepdims=True) @ v[0, 0]
        assert abs(plan.run(arrays)[0][0, 0, :50] - wanted).max() < 1e-5


def weights_to_prepare():
    moved, weights = made(F.linear, [(-1, -1, 8)], (8, 16))
    arena = Arena()
    small = draw.standard_normal((1, 3, 8)).astype("float32")
    plan = make_plan(moved, Weights(weights, FP32), {"x0": small.shape}, arena)
    before = plan.run({"x0": small})[0]
    wide, names = made(F.linear, [(-1, -1, 6000)], (6000, 6000))
    held = Weights({name: lambda: np.broadcast_to(np.float32(1), (6000, 6000)) for name in names}, FP32)
    with AtMost(120):
        assert "llocate" in refused(lambda: make_plan(wide, held, {"x0": (1, 3, 6000)}, arena))
        assert held.bytes == 0 and np.array_equal(plan.run({"x0": small})[0], before)
    ones = np.ones((1, 3, 6000), "float32")
    assert np.array_equal(make_plan(wide, held, {"x0": ones.shape}, arena).run({"x0": ones})[0], 6000 * ones)


def room_for_results():
    moved, weights = made(lambda x, y: x + y, [(-1, -1, 4), (-1, -1, 4)])
    shape = (1, 5000000, 4)
    zeros = np.broadcast_to(np.float32(0), shape)
    plan = make_plan(moved, Weights(weights, FP32), {"x0": shape, "x1": shape}, Arena())
    with AtMost(40):
        assert "llocate" in refused(lambda: plan.run({"x0": zeros, "x1": zeros}))
    assert plan.run({"x0": zeros, "x1": zeros})[0].shape == shape


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    for check in (an_arena_for_a_plan, an_arena_for_a_run, scores_of_attention, weights_to_prepare, room_for_results):
        check()
        print(check.__name__, "held", flush=True)
