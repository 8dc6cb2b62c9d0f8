"""Layers by kernels of oneDNN: right in every case, and to Paddle's autograd like its own operators."""

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import layer_cases
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from ppdiffusers import UNet2DModel
from ppdiffusers.layers import basic
from ppdiffusers.layers.resnet import ResnetBlock2D
from ppdiffusers.onednn import functions, has_bfloat16

pytestmark = pytest.mark.skipif(not basic._runs(), reason="the kernels serve paddle 3.2 and 3.3 with oneDNN")
ALL_BOUNDS = "SSE41", "AVX", "AVX2", "DEFAULT"
KEPT = [each for name, each in vars(functions).items() if name.startswith("_") and hasattr(each, "cache")]
KINDS = sum(name.startswith("case_") for name in dir(layer_cases.Cases))


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    """Kernels at any size; one thread, as more have nothing to do here but wait."""
    monkeypatch.setenv("PPDIFFUSERS_THREADS", "1")
    for name in layer_cases.LIMITS:
        monkeypatch.setattr(basic, name, 0)


@pytest.fixture
def ran(monkeypatch):
    """The names of kernels, as they run."""
    names, init, call = [], functions.Step.__init__, functions.Step.__call__

    def named(self, kernel, arguments):
        init(self, kernel, arguments)
        self.name = kernel.name

    monkeypatch.setattr(functions.Step, "__init__", named)
    monkeypatch.setattr(functions.Step, "__call__", lambda self, *a: (names.append(self.name), call(self, *a))[1])
    for function in KEPT:
        function.cache.cache_clear()
    yield names
    for function in KEPT:  # steps of this test have names, which others lack
        function.cache.cache_clear()


def values(*shape, seed=0, needs=True):
    array = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    return paddle.to_tensor(array, stop_gradient=not needs)


def block(**options):
    paddle.seed(0)
    made = ResnetBlock2D(8, 16, temb_channels=6, groups=4, **options)
    made.eval()
    return made


def by_paddle(function, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PPDIFFUSERS_ONEDNN", "0")
        return function()


def near(ours, wanted, bound=1e-5):
    assert ours.shape == wanted.shape
    return float(np.abs(ours - wanted).max()) <= bound * float(np.abs(wanted).max())


# Right


def test_random_layers_agree_with_paddles_operators():
    found = list(layer_cases.differences(9 * KINDS, seed=0))
    assert [(kind, worst) for kind, worst, _ in found if not worst < layer_cases.TOLERANCE] == []
    assert {kind for kind, _, used in found if used} == {kind for kind, _, _ in found} and len(found) > 60


@pytest.mark.parametrize(
    "bound, count",
    [
        ("SSE41", 27),
        ("AVX2", 27),
        *[pytest.param(each, 200, marks=pytest.mark.slow) for each in ("SSE41", "AVX", "AVX2", "DEFAULT")],
    ],
)
def test_they_agree_on_every_kind_of_cpu(bound, count):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("layer_cases.py"), str(count), "5"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": bound, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == [] and found["used"]["case_convolution"] > 2


def test_a_model_and_its_gradients_agree_with_paddles_layers(monkeypatch):
    paddle.seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    model = UNet2DModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, **blocks)

    def gradients():
        x = values(2, 3, 16, 16)
        model.clear_gradients()
        model(x, 5).sample.square().mean().backward()
        return [x.grad.numpy(), *(each.grad.numpy() for each in model.parameters())]

    ours, wanted = gradients(), by_paddle(gradients, monkeypatch)
    least = 1e-6 * max(float(np.abs(each).max()) for each in wanted)  # those of the keys' biases are nothing but noise
    assert all(near(a, b) or float(np.abs(a - b).max()) < least for a, b in zip(ours, wanted))
    assert not np.array_equal(ours[0], wanted[0])


def test_a_block_in_bfloat16_stays_near(monkeypatch):
    if not has_bfloat16():
        with pytest.raises(ValueError, match="use precision 'fp32'"), basic.multiplying_in("bf16"):
            pass
        return
    made, x, temb = block(), values(2, 8, 6, 6), values(2, 6)

    def run(precision):
        made.clear_gradients()
        with basic.multiplying_in(precision):
            result = made(x, temb)
        result.sum().backward()  # outside: it follows the forward pass
        return [result, *(each.grad.clone() for each in made.parameters())]

    exact, rough = run("fp32"), run("bf16")
    assert all(each.dtype == paddle.float32 for each in rough)
    for a, b in zip(rough, exact):
        error = float((a - b).abs().max() / b.abs().max())
        assert error < 0.04
    assert float((rough[0] - exact[0]).abs().max()) > 1e-4


# As paddle's own


def test_classes_are_paddles_by_their_names():
    for kind, plain, arguments in (
        (basic.Conv2D, nn.Conv2D, (4, 4, 3)),
        (basic.Linear, nn.Linear, (4, 4)),
        (basic.GroupNorm, nn.GroupNorm, (2, 4)),
        (basic.Silu, nn.Silu, ()),
    ):
        ours = kind(*arguments)
        assert isinstance(ours, plain) and kind.__name__ == plain.__name__
        assert list(ours.state_dict()) == list(plain(*arguments).state_dict()) and repr(ours) == repr(plain(*arguments))


def test_what_kernels_do_not_take_is_paddles(ran, monkeypatch):
    x = values(1, 4, 6, 6)
    convolutions = [
        basic.Conv2D(4, 4, 3, groups=2),
        basic.Conv2D(4, 4, 3, padding="same"),
        basic.Conv2D(4, 4, 3, padding=1, padding_mode="reflect"),
        basic.Conv2D(4, 4, 3, padding=[1, 2, 0, 1]),
    ]
    for layer in convolutions:
        assert np.array_equal(layer(x).numpy(), nn.Conv2D.forward(layer, x).numpy())
    double = basic.GroupNorm(2, 4)
    double.to(dtype="float64")
    assert double(x.astype("float64")).dtype == paddle.float64
    monkeypatch.setattr(basic, "_CONVOLUTION_FROM", 10**9)
    basic.Conv2D(4, 4, 3)(x)
    monkeypatch.setattr(basic, "_CONVOLUTION_FROM", 0)
    by_paddle(lambda: basic.Conv2D(4, 4, 3)(x), monkeypatch)
    with pytest.raises(ValueError):  # by paddle, which says what is wrong
        basic.Conv2D(5, 4, 3)(x)
    assert ran == []
    monkeypatch.setattr(basic, "_tracer", lambda: type("Tracer", (), {"_amp_level": "O1"}))
    basic.Conv2D(4, 4, 3)(x)
    assert ran == []
    monkeypatch.undo()


def test_a_convolution_without_a_fast_kernel_is_paddles(monkeypatch):
    layer, x = basic.Conv2D(4, 4, 3), values(1, 4, 6, 7)
    wanted = nn.Conv2D.forward(layer, x)
    functions._forward.cache.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(functions.Kernel, "slow", True)
        assert np.array_equal(layer(x).numpy(), wanted.numpy())
    functions._forward.cache.cache_clear()
    # one that has none in the backward pass alone
    result = layer(x)
    functions._source_gradient.cache.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(functions.Kernel, "slow", True)
        result.sum().backward()
    functions._source_gradient.cache.cache_clear()
    functions._weights_gradient.cache.cache_clear()
    wanted_gradient = paddle.grad(wanted.sum(), [x])[0].numpy()
    assert near(x.grad.numpy(), wanted_gradient)


def test_no_gradient_is_computed_that_nobody_asked_for(ran):
    layer, x = basic.Conv2D(16, 16, 3, padding=1), values(1, 16, 6, 6)
    forward = len(layer(x.detach()).shape) and len(ran)
    ran.clear()
    layer(x.detach()).sum().backward()
    with_weights = len(ran)
    ran.clear()
    paddle.grad(layer(x).sum(), [x])
    assert len(ran) - forward > 0 and layer.weight.grad is not None
    of_x = len(ran)
    ran.clear()
    layer(x).sum().backward()
    assert len(ran) > with_weights and len(ran) > of_x
    ran.clear()
    with paddle.no_grad():
        assert layer(x).stop_gradient
    assert len(ran) == forward


def composite(made, x, temb):
    """A block of operators of which paddle has second gradients; it has none of its group norm."""

    def norm(layer, x):
        grouped = x.reshape([x.shape[0], layer._num_groups, -1])
        middle = grouped - grouped.mean(-1, keepdim=True)
        normed = (middle * ((middle * middle).mean(-1, keepdim=True) + layer._epsilon) ** -0.5).reshape(x.shape)
        return normed * layer.weight.reshape([1, -1, 1, 1]) + layer.bias.reshape([1, -1, 1, 1])

    hidden = F.conv2d(F.silu(norm(made.norm1, x)), made.conv1.weight, made.conv1.bias, padding=1)
    project = made.time_emb_proj
    hidden = hidden + F.linear(F.silu(temb), project.weight, project.bias).unsqueeze(-1).unsqueeze(-1)
    hidden = F.conv2d(F.silu(norm(made.norm2, hidden)), made.conv2.weight, made.conv2.bias, padding=1)
    return F.conv2d(x, made.conv_shortcut.weight, made.conv_shortcut.bias) + hidden


def test_gradients_of_gradients_partial_and_repeated_ones():
    made = block()

    def penalised(run):
        x, temb = values(2, 8, 5, 5), values(2, 6)
        made.clear_gradients()
        (slope,) = paddle.grad(run(x, temb).square().sum(), [x], create_graph=True)
        slope.square().sum().backward()
        return [slope.numpy(), x.grad.numpy(), temb.grad.numpy(), *(each.grad.numpy() for each in made.parameters())]

    for ours, wanted in zip(penalised(made), penalised(lambda *inputs: composite(made, *inputs))):
        assert near(ours, wanted, 1e-4)

    def twice(run):
        x, temb = values(2, 8, 5, 5), values(2, 6)
        made.clear_gradients()
        loss = run(x, temb).square().sum()
        (alone,) = paddle.grad(loss, [made.conv2.weight], retain_graph=True)  # as an adaptive weight needs it
        loss.backward(retain_graph=True)
        loss.backward()
        return [alone.numpy(), x.grad.numpy(), *(each.grad.numpy() for each in made.parameters())]

    for ours, wanted in zip(twice(made), twice(lambda *inputs: composite(made, *inputs))):
        assert near(ours, wanted, 1e-4)
    x = values(2, 8, 5, 5)
    result = made(x, values(2, 6))
    result.sum().backward()
    with pytest.raises(Exception, match="retain_graph=True"):
        result.sum().backward()


def test_hooks_see_and_change_what_they_do_with_paddles_layers(monkeypatch):
    def run():
        made, seen = block(), []
        x, temb = values(2, 8, 5, 5), values(2, 6)
        for layer in (made.norm1, made.nonlinearity, made.conv1, made.norm2, made.conv2):
            layer.register_forward_post_hook(lambda layer, inputs, result: seen.append(result.numpy()))
        result = made(x, temb)
        result.retain_grads()
        result.register_hook(lambda gradient: gradient * 2)
        made.conv1.weight.register_hook(lambda gradient: seen.append(gradient.numpy()))
        (result * 3).sum().backward()
        seen += [result.grad.numpy(), x.grad.numpy()]
        return seen

    ours, wanted = run(), by_paddle(run, monkeypatch)
    assert len(ours) == len(wanted) == 10
    assert all(near(a, b) for a, b in zip(ours, wanted))


@pytest.mark.parametrize("name", ["norm2", "nonlinearity", "conv2"])
def test_a_patched_layer_has_its_effect(name):
    made, inputs = block(), (values(2, 8, 5, 5), values(2, 6))
    before = made(*inputs).numpy()
    layer = getattr(made, name)
    forward = layer.forward
    layer.forward = lambda x: forward(x) * 2
    assert not near(made(*inputs).numpy(), before, 0.01)


def test_a_tensor_changed_in_place_is_noticed():
    layer, x = basic.Conv2D(4, 4, 3), values(1, 4, 6, 6)
    inner = x * 1
    result = layer(inner)
    inner.add_(paddle.ones_like(inner))
    with pytest.raises(Exception, match="changed in place since the forward pass"):
        result.sum().backward()


def test_memory_goes_with_the_backward_pass():
    layer, x = basic.Conv2D(4, 4, 3), values(1, 4, 6, 6)
    kept, init = [], basic._ConvolutionBackward.__init__

    def watched(self, *arguments):
        init(self, *arguments)
        kept.append(weakref.ref(self))

    try:
        basic._ConvolutionBackward.__init__ = watched
        loss = layer(x).sum()
        loss.backward(retain_graph=True)
        assert kept[0]() is not None
        loss.backward()
        gc.collect()
        assert kept[0]() is None  # though the loss is still there
    finally:
        basic._ConvolutionBackward.__init__ = init


def test_kernels_of_old_shapes_go():
    functions._silu.cache.cache_clear()
    silu = basic.Silu()
    for size in range(1, functions._KEPT + 40):
        silu(paddle.ones([size]))
    assert functions._silu.cache.cache_info().currsize == functions._KEPT


def test_threads_train_at_once():
    layers = [block() for _ in range(4)]

    def train(made, found):
        for number in range(4):
            made.clear_gradients()
            made(values(2, 8, 5, 5 + number % 2), values(2, 6)).square().sum().backward()
        found.append([each.grad.numpy() for each in made.parameters()])

    alone, together = [], []
    train(layers[0], alone)
    threads = [threading.Thread(target=train, args=(made, together)) for made in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 4
    for found in together:
        assert all(map(np.array_equal, found, alone[0]))


def test_programs_are_of_paddles_operators():
    from ppdiffusers.inference.parts import parts_of
    from ppdiffusers.inference.programs import trace

    model = UNet2DModel(block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
                        up_block_types=("UpBlock2D",) * 2, add_attention=False)  # fmt: skip
    part = next(iter(parts_of(model).values()))
    program = trace(model, part)
    names = [op.name() for op in program.ir.global_block().ops]
    assert names.count("pd_op.conv2d") > 10 and names.count("pd_op.group_norm") > 5 and "pd_op.silu" in names
