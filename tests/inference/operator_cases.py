"""Every operator that plans for oneDNN are made of, with numpy's result.

Run as a program it computes all cases on the CPU at hand, as ONEDNN_MAX_CPU_ISA bounds it, in this thread and in
another one, and prints what was wrong and which operators the cases consist of.
"""

import functools
import json
import math
import sys
import threading
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import _C_ops, nn

from ppdiffusers.inference.plans import Arena, Weights, folding, make_plan, operators
from ppdiffusers.onednn import BF16, FP32, library

TOLERANCES = {FP32: 2e-6, BF16: 1.2e-2}  # of the largest difference, relative to the largest value


class Case(NamedTuple):
    """`compute` and `numpy` take the inputs (arrays of these shapes), then the weights."""

    compute: Callable[..., Any]
    numpy: Callable[..., np.ndarray]
    inputs: Tuple[Any, ...]
    weights: Tuple[Tuple[int, ...], ...] = ()


_AVX512 = 0x27  # from which on oneDNN computes in bfloat16

MAP, WIDE, TOKENS, VECTORS = (2, 16, 6, 10), (2, 64, 6, 10), (2, 10, 16), (2, 16)
HEADS = (2, 3, 10, 8)


def _conv(x, w, stride=1, before=(0, 0), after=(0, 0), dilation=1):
    x = np.pad(x, [(0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])])
    reach = [dilation * (n - 1) + 1 for n in w.shape[2:]]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, (2, 3))
    windows = windows[:, :, ::stride, ::stride, ::dilation, ::dilation]
    return np.einsum("bchwij,ocij->bohw", windows, w, optimize=True)


def _group_norm(x, scale, shift, groups, epsilon=1e-5):
    rows = x.reshape(x.shape[0], groups, -1)
    normal = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + epsilon)
    return normal.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def _layer_norm(x, scale, shift, epsilon=1e-5):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return normal * scale + shift


def _softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _erf(x):
    return np.vectorize(math.erf)(x)


def _repeat(x):
    batch, channels, height, width = x.shape
    tiled = x.unsqueeze(-1).unsqueeze(-3).tile([1, 1, 1, 2, 1, 2])
    return tiled.reshape([batch, channels, 2 * height, 2 * width])


def _doubled(x):
    return x.repeat(2, 2).repeat(2, 3)


def _heads(x):
    batch, length, inner = x.shape
    return x.reshape([batch, length, 2, inner // 2]).transpose([0, 2, 1, 3])


def _lead(x):
    """A number that depends on shapes only, and is not known while tracing."""
    return paddle.shape(x)[0]


def _eltwise(function, numpy, *shapes):
    """After another step, which it can join, and of an input, which it cannot."""
    cases = {}
    for shape in shapes or (MAP, TOKENS, VECTORS):
        cases[f"{len(shape)} axes"] = Case(function, numpy, (shape,))
    cases["joins"] = Case(
        lambda x, w: function(F.conv2d(x * 0.1, w)), lambda x, w: numpy(_conv(x * 0.1, w)), (MAP,), ((16, 16, 1, 1),)
    )
    return cases


def _pair(function, numpy):
    """In all ways in which two values meet."""
    one, column = (16,), (2, 16, 1, 1)
    safe = 0.3  # a divisor must not be near zero
    return {
        "equal": Case(lambda x, y: function(x, y * y + safe), lambda x, y: numpy(x, y * y + safe), (MAP, MAP)),
        "tokens": Case(lambda x, y: function(x, y * y + safe), lambda x, y: numpy(x, y * y + safe), (TOKENS, TOKENS)),
        "weights": Case(
            lambda x, w: function(x, w.reshape([1, -1, 1, 1])),
            lambda x, w: numpy(x, w[:, None, None]),
            *((MAP,), (one,)),
        ),
        "last axis": Case(function, numpy, (TOKENS,), (one,)),
        "joins": Case(
            lambda x, y, w: function(F.conv2d(x, w), y.unsqueeze(-1).unsqueeze(-1)),
            lambda x, y, w: numpy(_conv(x, w), y[:, :, None, None]),
            *(((1, 16, 6, 10), (1, 16)), ((16, 16, 1, 1),)),
        ),
        "each picture": Case(
            lambda x, y: function(x, y.reshape([2, 16, 1, 1])),
            lambda x, y: numpy(x, y.reshape(column)),
            *((MAP, VECTORS),),
        ),
        "vectors": Case(
            lambda x, y: function(x, y * y + safe), lambda x, y: numpy(x, y * y + safe), (VECTORS, VECTORS)
        ),
    }


def _swapped(function, numpy):
    return {
        "smaller first": Case(
            lambda x, y: function(y.reshape([2, 16, 1, 1]), x),
            lambda x, y: numpy(y[:, :, None, None], x),
            (MAP, VECTORS),
        ),
        "number first": Case(lambda x: function(2.5 * paddle.ones([1]), x), lambda x: numpy(2.5, x), (MAP,)),
    }


def _conv_case(weight, inputs=(MAP,), **options):
    stride, dilation, padding = (
        options.get(key, default) for key, default in (("stride", 1), ("dilation", 1), ("padding", 0))
    )
    full = [padding] * 4 if isinstance(padding, int) else padding  # top, bottom, left, right
    return Case(
        lambda x, w: F.conv2d(x, w, **options),
        lambda x, w: _conv(x, w, stride, (full[0], full[2]), (full[1], full[3]), dilation),
        *(inputs, (weight,)),
    )


def _constant(make, numpy):
    """Of values that depend on shapes only: they are given out through an addition to the input."""
    return Case(
        lambda x: x + make(x).astype("float32"), lambda x: x + np.asarray(numpy(x)).astype("float32"), (TOKENS,)
    )


TABLE: Dict[str, Dict[str, Case]] = {
    "conv2d": {
        "1x1": _conv_case((24, 16, 1, 1)),
        "3x3": _conv_case((24, 16, 3, 3), padding=1),
        "wide": _conv_case((64, 64, 3, 3), (WIDE,), padding=1),
        "few channels": _conv_case((3, 3, 3, 3), ((2, 3, 6, 10),), padding=1),
        "to few channels": _conv_case((3, 64, 3, 3), (WIDE,), padding=1),
        "one picture": _conv_case((32, 16, 3, 3), ((1, 16, 9, 7),), padding=1),
        "stride": _conv_case((32, 16, 3, 3), padding=1, stride=2),
        "dilation": _conv_case((16, 16, 3, 3), padding=2, dilation=2),
        "four paddings": _conv_case((16, 16, 3, 3), padding=[0, 1, 2, 1]),
        "bias, residual, activation": Case(
            lambda x, y, w, b: F.silu(F.conv2d(x, w, b, padding=1) + y),
            lambda x, y, w, b: (lambda z: z * _sigmoid(z))(_conv(x, w, 1, (1, 1), (1, 1)) + b[:, None, None] + y),
            *((WIDE, WIDE), ((64, 64, 3, 3), (64,))),
        ),
        "doubled pixels": Case(
            lambda x, w, b: F.conv2d(_repeat(x), w, b, padding=1),
            lambda x, w, b: _conv(_doubled(x), w, 1, (1, 1), (1, 1)) + b[:, None, None],
            *((WIDE,), ((32, 64, 3, 3), (32,))),
        ),
        "doubled pixels, 1x1": Case(
            lambda x, w: F.conv2d(_repeat(x), w), lambda x, w: _conv(_doubled(x), w), (MAP,), ((16, 16, 1, 1),)
        ),
    },
    "pad3d": {
        "right and bottom": Case(
            lambda x, w: F.conv2d(F.pad(x, [0, 1, 0, 1]), w, stride=2),
            lambda x, w: _conv(x, w, 2, (0, 0), (1, 1)),
            *((MAP,), ((16, 16, 3, 3),)),
        ),
        "each side": Case(
            lambda x, w: F.conv2d(F.pad(x, [3, 1, 2, 4]), w, padding=1),
            lambda x, w: _conv(x, w, 1, (3, 4), (5, 2)),
            *((MAP,), ((16, 16, 3, 3),)),
        ),
    },
    "group_norm": {
        f"{groups} groups, {epsilon}": Case(
            lambda x, a, b, groups=groups, epsilon=epsilon: F.group_norm(x, groups, epsilon, a, b),
            lambda x, a, b, groups=groups, epsilon=epsilon: _group_norm(x, a, b, groups, epsilon),
            *((WIDE,), ((64,), (64,))),
        )
        for groups, epsilon in ((32, 1e-5), (4, 1e-6), (1, 1e-2), (64, 1e-3))
    },
    "layer_norm": {
        "tokens": Case(lambda x, a, b: F.layer_norm(x, 16, a, b, 1e-5), _layer_norm, (TOKENS,), ((16,), (16,))),
        "of a map": Case(
            lambda x, a, b: F.layer_norm(x.transpose([0, 2, 3, 1]), 16, a, b, 1e-5),
            lambda x, a, b: _layer_norm(x.transpose(0, 2, 3, 1), a, b),
            *((MAP,), ((16,), (16,))),
        ),
        "of lost rows": Case(
            lambda x, a, b: F.layer_norm(x.transpose([0, 2, 1]), 10, a, b, 1e-5),
            lambda x, a, b: _layer_norm(x.transpose(0, 2, 1), a, b),
            *((TOKENS,), ((10,), (10,))),
        ),
    },
    "matmul": {
        "linear layer": Case(F.linear, lambda x, w: x @ w, (TOKENS,), ((16, 40),)),
        "of vectors": Case(F.linear, lambda x, w, b: x @ w + b, (VECTORS,), ((16, 40), (40,))),
        "both, one weight": Case(
            lambda x, y, w: F.linear(x, w) + F.linear(y, w).unsqueeze(1),
            lambda x, y, w: x @ w + (y @ w)[:, None],
            *((TOKENS, VECTORS), ((16, 40),)),
        ),
        "bias, residual": Case(
            lambda x, y, w, b: F.linear(x, w, b) + y,
            lambda x, y, w, b: x @ w + b + y,
            *((TOKENS, TOKENS), ((16, 16), (16,))),
        ),
        "turned weights": Case(
            lambda x, w: paddle.matmul(x, w, transpose_y=True), lambda x, w: x @ w.T, (TOKENS,), ((40, 16),)
        ),
        "of a turned map": Case(
            lambda x, w, b: F.linear(x.reshape([2, 16, 60]).transpose([0, 2, 1]), w, b),
            lambda x, w, b: x.reshape(2, 16, -1).swapaxes(1, 2) @ w + b,
            *((MAP,), ((16, 24), (24,))),
        ),
        "tensors": Case(paddle.matmul, np.matmul, (HEADS, (2, 3, 8, 12))),
        "turned first": Case(
            lambda x, y: paddle.matmul(x, y, transpose_x=True),
            lambda x, y: x.swapaxes(2, 3) @ y,
            (HEADS, (2, 3, 10, 12)),
        ),
        "turned second": Case(
            lambda x, y: paddle.matmul(x, y, transpose_y=True),
            lambda x, y: x @ y.swapaxes(2, 3),
            (HEADS, (2, 3, 12, 8)),
        ),
        "one for all": Case(paddle.matmul, np.matmul, (HEADS, (1, 1, 8, 12))),
    },
    "linear_v2": {
        "as it is": Case(
            lambda x, w, b: _C_ops.linear_v2(x, w, b, False), lambda x, w, b: x @ w + b, (TOKENS,), ((16, 40), (40,))
        ),
        "turned": Case(
            lambda x, w, b: _C_ops.linear_v2(x, w, b, True), lambda x, w, b: x @ w.T + b, (TOKENS,), ((40, 16), (40,))
        ),
        "of vectors": Case(
            lambda x, w, b: F.silu(_C_ops.linear_v2(x, w, b, False)),
            lambda x, w, b: (lambda z: z * _sigmoid(z))(x @ w + b),
            *((VECTORS,), ((16, 40), (40,))),
        ),
    },
    "softmax": {
        "last axis": Case(F.softmax, _softmax, (TOKENS,)),
        "another axis": Case(lambda x: F.softmax(x, axis=1), lambda x: _softmax(x, 1), (TOKENS,)),
        "of a map": Case(lambda x: F.softmax(x, axis=1), lambda x: _softmax(x, 1), (MAP,)),
        "attention": Case(
            lambda q, k, v: paddle.matmul(F.softmax(paddle.matmul(q * 0.5, k, transpose_y=True)), v),
            lambda q, k, v: _softmax(0.5 * q @ k.swapaxes(2, 3)) @ v,
            (HEADS, (2, 3, 14, 8), (2, 3, 14, 6)),
        ),
        "attention with turned keys": Case(
            lambda q, k, v: paddle.matmul(F.softmax(paddle.matmul(q, k)), v),
            lambda q, k, v: _softmax(q @ k) @ v,
            (HEADS, (2, 3, 8, 14), (2, 3, 14, 6)),
        ),
        "attention of heads side by side": Case(
            lambda q, k, v: (
                paddle.matmul(F.softmax(paddle.matmul(_heads(q), _heads(k), transpose_y=True)), _heads(v))
                .transpose([0, 2, 1, 3])
                .reshape([2, 10, 16])
            ),
            lambda q, k, v: (lambda q, k, v: (_softmax(q @ k.swapaxes(2, 3)) @ v).swapaxes(1, 2).reshape(2, 10, 16))(
                *(each.reshape(2, -1, 2, 8).swapaxes(1, 2) for each in (q, k, v))
            ),
            (TOKENS, (2, 7, 16), (2, 7, 16)),
        ),
    },
    "pool2d": {
        "2x2": Case(lambda x: F.avg_pool2d(x, 2, 2), lambda x: x.reshape(2, 16, 3, 2, 5, 2).mean((3, 5)), (MAP,)),
        "odd sizes": Case(
            lambda x: F.avg_pool2d(x, 2, 2),
            lambda x: x[:, :, :6, :8].reshape(1, 16, 3, 2, 4, 2).mean((3, 5)),
            ((1, 16, 7, 9),),
        ),
    },
    "add": {**_pair(paddle.add, np.add), **_swapped(paddle.add, np.add)},
    "multiply": {**_pair(paddle.multiply, np.multiply), **_swapped(paddle.multiply, np.multiply)},
    "subtract": _pair(paddle.subtract, np.subtract),
    "divide": {
        key: case for key, case in _pair(paddle.divide, np.divide).items() if key in ("equal", "tokens", "vectors")
    },
    "scale": {
        "bias after": Case(lambda x: paddle.scale(x, 2.5, 0.5), lambda x: x * 2.5 + 0.5, (MAP,)),
        "bias before": Case(
            lambda x: paddle.scale(x, 2.5, 0.5, bias_after_scale=False), lambda x: (x + 0.5) * 2.5, (TOKENS,)
        ),
        "twice": Case(lambda x: -(3.0 * x), lambda x: -3 * x, (VECTORS,)),
        # Paddle leaves out a last addition of a number when it writes a program.
        **{
            title: Case(
                lambda x, y, function=function: F.relu(function(x)) + F.relu(function(y)),
                lambda x, y, function=function: np.maximum(function(x), 0) + np.maximum(function(y), 0),
                *((TOKENS, TOKENS),),
            )
            for title, function in {
                "plus": lambda x: x + 0.75,
                "minus": lambda x: x - 0.25,
                "from": lambda x: 0.5 - x,
                "over": lambda x: x / 2.5,
            }.items()
        },
    },
    "gelu": {
        **_eltwise(F.gelu, lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2),
        "tanh": Case(
            lambda x: F.gelu(x, approximate=True),
            lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
            (MAP,),
        ),
    },
    "silu": _eltwise(F.silu, lambda x: x * _sigmoid(x)),
    "swish": _eltwise(F.swish, lambda x: x * _sigmoid(x)),
    "mish": _eltwise(F.mish, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "relu": _eltwise(F.relu, lambda x: np.maximum(x, 0)),
    "sigmoid": _eltwise(F.sigmoid, _sigmoid),
    "tanh": _eltwise(F.tanh, np.tanh),
    "exp": _eltwise(paddle.exp, np.exp),
    "dropout": {"at rest": Case(lambda x: F.dropout(x, 0.5, training=False) + x, lambda x: 2 * x, (TOKENS,))},
    "embedding": {
        "of an input": Case(
            lambda i, w: F.embedding(i, w), lambda i, w: w[i], (np.array([[3, 0, 7], [1, 1, 5]]),), ((9, 16),)
        ),
        "of positions": Case(
            lambda x, w: x + F.embedding(paddle.arange(x.shape[1]), w),
            lambda x, w: x + w[: x.shape[1]],
            *((TOKENS,), ((12, 16),)),
        ),
    },
    "reshape": {
        "a view": Case(lambda x: x.reshape([2, 10, 4, 4]), lambda x: x.reshape(2, 10, 4, 4), (TOKENS,)),
        "keeps and fills": Case(lambda x: x.reshape([0, -1, 8]), lambda x: x.reshape(2, -1, 8), (TOKENS,)),
        "a copy": Case(lambda x: x.reshape([2, 10, 16, 6]), lambda x: x.reshape(2, 10, 16, 6), (MAP,)),
        "doubled pixels": Case(lambda x: _repeat(x) * 2.0, lambda x: 2 * _doubled(x), (MAP,)),
        "and their shape": Case(
            lambda x: _repeat(x).reshape([2, 16, -1]), lambda x: _doubled(x).reshape(2, 16, -1), (MAP,)
        ),
    },
    "transpose": {
        "tokens": Case(lambda x: x.transpose([0, 2, 1]), lambda x: x.swapaxes(1, 2), (TOKENS,)),
        "map": Case(lambda x: x.transpose([2, 3, 0, 1]) * 2.0, lambda x: x.transpose(2, 3, 0, 1) * 2, (MAP,)),
    },
    "unsqueeze": {"two axes": Case(lambda x: x.unsqueeze([0, 2]) * 2.0, lambda x: 2 * x[None, :, None], (VECTORS,))},
    "squeeze": {"two axes": Case(lambda x: x.squeeze([1, 3]), lambda x: x[:, 0, :, 0], ((2, 1, 16, 1),))},
    "tile": {
        "repeated": Case(
            lambda x: x.tile([3, 1, 2, 1]).exp(), lambda x: np.exp(np.tile(x, (3, 1, 2, 1))), ((1, 16, 1, 10),)
        ),
        "with a new axis": Case(lambda x: x.tile([3, 1, 1]), lambda x: np.tile(x, (3, 1, 1)), (VECTORS,)),
    },
    "expand": {"one axis": Case(lambda x: x.expand([-1, 5, 16]), lambda x: x.repeat(5, 1), ((2, 1, 16),))},
    "concat": {
        "channels": Case(
            lambda x, y: paddle.concat([x, y, x], axis=1),
            lambda x, y: np.concatenate([x, y, x], 1),
            (MAP, (2, 8, 6, 10)),
        ),
        "tokens": Case(
            lambda x, y: paddle.concat([x, y], axis=-1), lambda x, y: np.concatenate([x, y], -1), (TOKENS, TOKENS)
        ),
        "with a convolution": Case(
            lambda x, y, w: F.conv2d(paddle.concat([x, y], axis=1), w, padding=1),
            lambda x, y, w: _conv(np.concatenate([x, y], 1), w, 1, (1, 1), (1, 1)),
            *((WIDE, MAP), ((32, 80, 3, 3),)),
        ),
    },
    "split_with_num": {
        "gated": Case(
            lambda x: (lambda a, b: a * F.gelu(b))(*paddle.chunk(x, 2, axis=-1)),
            lambda x: (lambda a, b: a * b * (1 + _erf(b / math.sqrt(2))) / 2)(x[..., :8], x[..., 8:]),
            (TOKENS,),
        ),
        "channels": Case(lambda x: paddle.add(*paddle.chunk(x, 2, axis=1)), lambda x: x[:, :8] + x[:, 8:], (MAP,)),
    },
    "slice": {
        "rows": Case(lambda x: x[:, 2:7] * 2.0, lambda x: x[:, 2:7] * 2, (TOKENS,)),
        "from the end": Case(lambda x: x[:, -4:-1], lambda x: x[:, -4:-1], (TOKENS,)),
        "past the end": Case(lambda x: x[:, 4:99] * 0.5, lambda x: x[:, 4:] * 0.5, (TOKENS,)),
        "one": Case(lambda x: x[:, 3], lambda x: x[:, 3], (TOKENS,)),
        "of a map": Case(lambda x: x[:, 4:12, 1:, :-2].exp(), lambda x: np.exp(x[:, 4:12, 1:, :-2]), (MAP,)),
    },
    "cast": {
        "of whole numbers": Case(
            lambda i: F.silu(i.astype("float32") * 2.0),
            lambda i: 2 * i * _sigmoid(2.0 * i),
            *((np.array([[3, 0, 7], [1, -1, 5]]),),),
        )
    },
    "assign": {"a copy": Case(lambda x: paddle.assign(x) * 2.0, lambda x: 2 * x, (TOKENS,))},
    "share_data": {
        "the same": Case(lambda x: _C_ops.share_data(x) * 2.0, lambda x: 2 * x, (TOKENS,)),
    },
    "folded": {
        "full": _constant(lambda x: paddle.full([10, 16], 1.5), lambda x: 1.5),
        "combine and stack": _constant(lambda x: paddle.stack([_lead(x), _lead(x) * 3])[1], lambda x: 6),
        "concat": _constant(
            lambda x: paddle.concat([paddle.full([4], 1.5), paddle.full([12], -2.0)]), lambda x: [1.5] * 4 + [-2.0] * 12
        ),
        "add": _constant(lambda x: _lead(x) + paddle.shape(x)[1], lambda x: 12),
        "subtract": _constant(lambda x: _lead(x) - paddle.shape(x)[1], lambda x: -8),
        "multiply": _constant(lambda x: _lead(x) * paddle.shape(x)[1], lambda x: 20),
        "floor_divide": _constant(lambda x: (paddle.shape(x)[1] + 1) // (_lead(x) + 1), lambda x: 3),
        "slice": _constant(lambda x: paddle.shape(x)[1:3][1], lambda x: 16),
        "scale": _constant(lambda x: 2 * _lead(x) + 3, lambda x: 7),
        "scale before": _constant(
            lambda x: paddle.scale(paddle.full([16], 2.0), 3.0, 0.5, bias_after_scale=False), lambda x: 7.5
        ),
        "cast": _constant(lambda x: _lead(x).astype("int32"), lambda x: 2),
        "reshape": _constant(
            lambda x: paddle.arange(32, dtype="float32").reshape([2, -1])[1], lambda x: np.arange(16, 32)
        ),
        "unsqueeze": _constant(
            lambda x: paddle.arange(10, dtype="float32").unsqueeze(-1), lambda x: np.arange(10)[:, None]
        ),
        "squeeze": _constant(
            lambda x: paddle.arange(16, dtype="float32").unsqueeze(0).squeeze(0), lambda x: np.arange(16)
        ),
        "expand": _constant(lambda x: paddle.full([1, 16], 2.5).expand([10, -1]), lambda x: 2.5),
        "arange": _constant(lambda x: paddle.arange(3, 3 + 2 * x.shape[2], 2), lambda x: np.arange(3, 35, 2)),
    },
}


class _Layer(nn.Layer):
    def __init__(self, compute, weights):
        super().__init__()
        self.compute = compute
        self.held = nn.ParameterList(
            [self.create_parameter(w.shape, default_initializer=nn.initializer.Assign(w)) for w in weights]
        )

    def forward(self, x, y=None, z=None):  # paddle traces no star
        inputs = [each for each in (x, y, z) if each is not None]
        return self.compute(*inputs, *self.held)


def program(compute, sizes, weights, dtypes=None):
    """As it is compiled, for inputs x0, x1, ... of these sizes, of which -1 is open; and what gives its weights."""
    from paddle.static.pir_io import normalize_pir_program

    layer = _Layer(compute, weights)
    layer.eval()
    dtypes = dtypes or ["float32"] * len(sizes)
    specs = [paddle.static.InputSpec(size, dtype, f"x{i}") for i, (size, dtype) in enumerate(zip(sizes, dtypes))]
    traced = paddle.jit.to_static(layer.forward, input_spec=specs, full_graph=True).concrete_program
    feeds = [op.result(0) for op in traced.main_program.global_block().ops if op.name() == "pd_op.data"]
    with paddle.pir_utils.IrGuard():
        made = normalize_pir_program(traced.main_program, feeds, list(traced.outputs))
    return made, {value.name: tensor.numpy for tensor, value in zip(*traced.parameters)}


def _recording(table, seen):
    for name, translate in table.items():

        def recorded(*arguments, name=name, translate=translate):
            seen.add(name)
            return translate(*arguments)

        table[name] = functools.wraps(translate)(recorded)


def main() -> None:
    seen, folded, wrong = set(), set(), []
    _recording(operators.OPERATORS, seen)
    _recording(folding.FOLDED, folded)
    arena = Arena()
    isa = library.library().get_effective_cpu_isa()
    draw = np.random.default_rng(0)
    runs = []
    for operator, cases in TABLE.items():
        for title, case in cases.items():
            inputs = [
                each if isinstance(each, np.ndarray) else draw.standard_normal(each).astype("float32")
                for each in case.inputs
            ]
            weights = [draw.standard_normal(shape).astype("float32") for shape in case.weights]
            sizes = [[-1, *x.shape[1:]] if i == 0 and x.ndim == 3 else x.shape for i, x in enumerate(inputs)]
            try:
                made, named = program(case.compute, sizes, weights, [x.dtype for x in inputs])
            except Exception as error:
                wrong.append(f"{operator}, {title}: is not traced: {str(error)[-200:]}")
                continue
            names = {op.name().split(".")[-1].rstrip("_") for op in made.global_block().ops}
            if operator != "folded" and operator not in names:
                wrong.append(f"{operator}, {title}: consists of {sorted(names)}")
            wanted = case.numpy(*(a.astype("float64") if a.dtype == np.float32 else a for a in [*inputs, *weights]))
            arrays = {f"x{i}": array for i, array in enumerate(inputs)}
            runs.append((f"{operator}, {title}", made, named, arrays, wanted))

    def compute(thread: str) -> None:
        for title, made, named, arrays, wanted in runs:
            for dtype in (FP32, BF16) if isa & _AVX512 == _AVX512 else (FP32,):
                where = f"in {'float32' if dtype == FP32 else 'bf16'}, {thread} thread"
                try:
                    key = (title, dtype)
                    if key not in plans:
                        shapes = {name: array.shape for name, array in arrays.items()}
                        plans[key] = make_plan(made, Weights(named, dtype), shapes, arena)
                    (got,) = plans[key].run(arrays)
                    error = np.abs(got - wanted).max() / np.abs(wanted).max() if got.shape == wanted.shape else np.inf
                    if not error <= TOLERANCES[dtype]:
                        wrong.append(
                            f"{title}: off by {error:.2g} in {'float32' if dtype == FP32 else 'bf16'}, {thread}"
                        )
                except Exception as error:
                    wrong.append(f"{title}: {type(error).__name__}: {error} {where}")

    plans: Dict[Any, Any] = {}
    compute("first")
    thread = threading.Thread(target=compute, args=("second",))
    thread.start()
    thread.join()
    missing = sorted({*operators.OPERATORS} - seen) + sorted({*folding.FOLDED} - folded)
    json.dump({"isa": isa, "wrong": wrong, "missing": missing, "cases": len(runs)}, sys.stdout)


if __name__ == "__main__":
    main()
