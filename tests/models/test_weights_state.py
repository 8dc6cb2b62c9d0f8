"""Every way of changing weights changes their state; nothing else does."""

import copy
import ctypes
import os

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdiffusers.models import weights
from ppdiffusers.models.weights import weights_state

SIDE = 256
NEW = np.random.default_rng(1).standard_normal([SIDE, SIDE]).astype(np.float32)


def optimiser(kind):
    def change(layer):
        layer(paddle.ones([2, SIDE])).sum().backward()
        kind(0.1, parameters=layer.parameters()).step()

    return change


def behind_its_back(layer):
    """As arrays do that share the memory through DLPack."""
    ctypes.memmove(layer.weight.data_ptr(), NEW.ctypes.data, NEW.nbytes)


def share(layer):
    new = paddle.to_tensor(NEW)
    layer.weight.get_tensor()._share_data_with(new.get_tensor())


def set_data(layer):
    layer.weight.data = paddle.to_tensor(NEW)


def swap(layer):
    layer.bias, layer.other = layer.other, layer.bias


def one_element(layer):
    layer.weight[77, 99] = 1.0


def there_and_back(layer):
    layer.to(dtype="float16")
    layer.to(dtype="float32")


def give_new(layer):
    layer.weight = layer.create_parameter([SIDE, SIDE])


def inject(layer):
    layer.lora = nn.Linear(2, 2)


def scale_buffer(layer):
    layer.scale.set_value(paddle.full([], 2.0))


CHANGES = {
    "set_value": lambda layer: layer.weight.set_value(NEW),
    "copy_": lambda layer: layer.weight.copy_(paddle.to_tensor(NEW), True),
    "add_": lambda layer: layer.weight.add_(paddle.to_tensor(NEW)),
    "fill_": lambda layer: layer.weight.fill_(0.5),
    "setitem": lambda layer: layer.weight.__setitem__(..., 0.5),
    "one element": one_element,
    "bias alone": lambda layer: layer.bias.set_value(NEW[0]),
    "set_state_dict": lambda layer: layer.set_state_dict({**layer.state_dict(), "weight": paddle.to_tensor(NEW)}),
    "assign": lambda layer: paddle.assign(paddle.to_tensor(NEW), output=layer.weight),
    "get_tensor.set": lambda layer: layer.weight.get_tensor().set(NEW, paddle.CPUPlace()),
    "initializer": lambda layer: nn.initializer.Constant(0.5)(layer.weight),
    "data": set_data,
    "shared memory": behind_its_back,
    "share_data": share,
    "to float16": lambda layer: layer.to(dtype="float16"),
    "to float16 and back": there_and_back,
    "another parameter": give_new,
    "swapped parameters": swap,
    "injected layer": inject,
    "removed parameter": lambda layer: delattr(layer, "other"),
    "buffer": scale_buffer,
    "reshape_": lambda layer: layer.other.reshape_([2, SIDE // 2]),
    **{kind.__name__: optimiser(kind) for kind in (
        paddle.optimizer.SGD, paddle.optimizer.Momentum, paddle.optimizer.Adam, paddle.optimizer.AdamW,
    )},
}  # fmt: skip


@pytest.fixture
def layer():
    paddle.seed(0)
    layer = nn.Linear(SIDE, SIDE)
    layer.other = layer.create_parameter([SIDE], is_bias=True)
    layer.inner = nn.LayerList([nn.Conv2D(3, 5, 3), nn.Silu()])
    layer.register_buffer("scale", paddle.ones([]))
    return layer


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes(layer, change):
    before = weights_state(layer)
    with paddle.set_grad_enabled(change.__qualname__.startswith("optimiser")):
        change(layer)
    after = weights_state(layer)
    assert before != after
    assert after == weights_state(layer)


def test_use_changes_nothing(layer):
    before = weights_state(layer)
    layer(paddle.ones([2, SIDE])).sum().backward()
    layer.eval()
    layer.state_dict()
    layer.weight.numpy()[...] = 0  # a copy
    copy.deepcopy(layer).weight.set_value(NEW)
    layer.register_forward_post_hook(lambda *_: None)
    layer.weight.clear_gradient()
    assert weights_state(layer) == before


@pytest.mark.parametrize("shape", [[1], [3], [63], [64], [65], [100], [4096], [7, 1001]])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_the_ends_and_all_of_small_tensors_are_looked_at(shape, dtype):
    """Through `get_tensor().set`, which paddle does not count."""
    layer = nn.Layer()
    array = np.random.default_rng(0).integers(1, 100, shape).astype(dtype)
    layer.register_buffer("x", paddle.to_tensor(array))
    before = weights_state(layer)
    small = array.nbytes <= 64 * 4
    for place in range(array.size) if small else (0, array.size - 1):
        changed = array.copy()
        changed.flat[place] = 101
        layer.x.get_tensor().set(changed, paddle.CPUPlace())
        assert weights_state(layer) != before, place
        layer.x.get_tensor().set(array, paddle.CPUPlace())
        assert weights_state(layer) == before


def test_odd_tensors():
    layer = nn.Layer()
    layer.register_buffer("empty", paddle.zeros([0, 3]))
    layer.register_buffer("none", None)
    layer.absent = None
    layer.register_buffer("view", paddle.as_strided(paddle.ones([4]), [1 << 24], [0]))  # more elements than memory
    with paddle.LazyGuard():
        layer.lazy = nn.Linear(2, 2)  # without memory
    assert weights_state(layer) == weights_state(layer)
    assert weights_state(nn.Silu()) == weights_state(nn.Silu())


def move_to_half(layer):
    layer.to(dtype="float16")


def clear(layer):
    layer.weight._clear_data()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that may crash is forked")
@pytest.mark.parametrize("change", [set_data, share, move_to_half, clear])
def test_memory_that_another_thread_frees_meanwhile_is_not_read(change, monkeypatch):
    """At the worst moment: after the addresses were asked for, and before they are read."""
    find = weights._words_to_read

    def find_late(*args):
        change(layer)
        return find(*args)

    layer = nn.Linear(4096, 2048)  # 32 MB go back to the system when they are freed, and reading them is an end
    before = weights_state(layer)
    monkeypatch.setattr(weights, "_words_to_read", find_late)
    child = os.fork()
    if child == 0:
        os._exit(0 if weights_state(layer) == before else 1)
    assert os.waitpid(child, 0)[1] == 0
    monkeypatch.undo()
    assert weights_state(layer) == before
    change(layer)
    assert weights_state(layer) != before


def test_a_strided_tensor_is_left_as_it_is():
    layer = nn.Layer()
    layer.register_buffer("x", paddle.arange(12, dtype="float32").reshape([3, 4]).t())
    before = weights_state(layer)
    assert not layer.x.is_contiguous() and weights_state(layer) == before
    layer.x[2, 1] = -1
    assert weights_state(layer) != before
