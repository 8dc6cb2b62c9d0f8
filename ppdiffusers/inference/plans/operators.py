"""What the operators of Paddle's programs are in oneDNN.

One function an operator, named as in the program without its dialect (`pd_op.conv2d` is `conv2d`). Only what the models
of this package are made of is here; anything else is an `UnsupportedOperator`, and the caller runs the program in
another engine.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ppdiffusers.inference.plans.folding import FOLDED
from ppdiffusers.inference.plans.plan import Tensor
from ppdiffusers.inference.plans.values import (
    Doubled,
    Padded,
    Parameter,
    Scores,
    UnsupportedOperator,
    full_shape,
    shape_of,
)
from ppdiffusers.layers import statistics
from ppdiffusers.onednn import kernels, library
from ppdiffusers.onednn.library import FP32, SRC, WEIGHTS, Descriptor

if TYPE_CHECKING:
    from ppdiffusers.inference.plans.planner import Planner

# A 3x3 kernel over doubled pixels is this 4x4 kernel of a transposed convolution of stride 2, T k T', over the pixels
# themselves: of each three taps two or one fall on the same pixel. It takes 16 multiplications where there were 36.
_DOUBLING = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)
_STATISTICS = (library.MEAN, library.VARIANCE)
_CHANNELS = 4096  # that a batch norm has at least, where pixels allow: a register's 16 for each of 256 threads


def _data(plan: Planner, attrs: Dict[str, Any]) -> Any:
    shape = plan.shapes[attrs["name"]]
    tensor = plan.inputs[attrs["name"]] = plan.steps.allocate(shape, FP32, range(len(shape)))
    return tensor if len(shape) < 3 else plan.copy(tensor, plan.dtype)


def _embedding(plan: Planner, attrs: Dict[str, Any], ids: Any, table: Parameter) -> Tensor:
    rows = plan.weights.vector(table)
    if isinstance(ids, np.ndarray):
        return plan.tensor(rows[ids], plan.dtype)
    result = plan.steps.allocate((*ids.shape, rows.shape[1]), FP32, range(len(ids.shape) + 1))

    def take(arena: int) -> None:
        np.take(rows, ids.array(arena).astype(np.int64), 0, out=result.array(arena))

    plan.steps.add_host(take, [ids], result)
    return plan.tensor(result, plan.dtype)


def _fetch(plan: Planner, attrs: Dict[str, Any], x: Any) -> None:
    source = plan.tensor(x)
    plan.outputs.append(plan.copy(source, FP32, range(len(source.shape))))


def _conv2d(plan: Planner, attrs: Dict[str, Any], x: Any, weight: Parameter) -> Tensor:
    if attrs["groups"] != 1 or attrs["data_format"] != "NCHW" or attrs["padding_algorithm"] != "EXPLICIT":
        raise UnsupportedOperator(f"a convolution with {attrs}")
    if not isinstance(weight, Parameter):
        raise UnsupportedOperator("a convolution with weights that are computed")
    padding = list(attrs["paddings"])
    before, after = (padding, padding) if len(padding) == 2 else (padding[::2], padding[1::2])
    strides, dilations = list(attrs["strides"]), list(attrs["dilations"])
    if isinstance(x, Padded):
        before = [a + b for a, b in zip(before, x.before)]
        after = [a + b for a, b in zip(after, x.after)]
        x = x.source
    if isinstance(x, Doubled) and (weight.shape[2:], before, after, strides) == ((3, 3), [1, 1], [1, 1], [1, 1]):
        made = _doubling_convolution(plan, x.source, weight)
        if made is not None:
            return made
    source = plan.laid_out(x)
    sizes = [
        (source.shape[axis + 2] + before[axis] + after[axis] - dilations[axis] * (weight.shape[axis + 2] - 1) - 1)
        // strides[axis]
        + 1
        for axis in range(2)
    ]
    result = plan.steps.allocate((source.shape[0], weight.shape[0], *sizes), plan.dtype)
    geometry = kernels.Geometry(strides, before, after, dilations)
    kernel = functools.partial(kernels.convolution, geometry)
    return plan.weighted(weight.name, np.asarray, weight.shape, plan.dtype, kernel, source, result)


def _doubling_convolution(plan: Planner, x: Tensor, weight: Parameter) -> Optional[Tensor]:
    source = plan.laid_out(x)
    batch, _, height, width = source.shape
    result = plan.steps.allocate((batch, weight.shape[0], 2 * height, 2 * width), plan.dtype)
    kernel = functools.partial(kernels.convolution, kernels.Geometry([2, 2], [1, 1], [1, 1], [1, 1], transposed=True))
    shape = (*weight.shape[:2], 4, 4)
    if kernel(source.descriptor, Descriptor(shape, plan.dtype), result.descriptor, ()).slow:
        return None
    return plan.weighted(weight.name, _for_doubling, shape, plan.dtype, kernel, source, result)


def _for_doubling(array: np.ndarray) -> np.ndarray:
    return _DOUBLING @ array @ _DOUBLING.T


def _group_norm(plan: Planner, attrs: Dict[str, Any], x: Any, scale: Parameter, shift: Parameter) -> Tensor:
    """Statistics of every channel by a batch norm of each picture, those of the groups from them, then a * x + b.

    oneDNN's own group norm reads a channels-last map once a group, which is ten times as slow on large maps. Its batch
    norm splits the channels between the threads, but pixels where channels are few, so that the sum would depend on the
    number of threads: neighbouring pixels are taken for more channels, of which there is then one for any thread.
    """
    if attrs["data_format"] != "NCHW":
        raise UnsupportedOperator(f"a group norm with {attrs}")
    source = plan.laid_out(x)
    batch, channels = source.shape[:2]
    groups, epsilon = attrs["groups"], attrs["epsilon"]
    gamma, beta = plan.weights.vector(scale), plan.weights.vector(shift)
    fold = _divisor(prod(source.shape[2:]), _CHANNELS / channels)
    mean, variance = (np.zeros((batch, fold, groups, channels // groups), np.float32) for _ in range(2))
    a, b = (np.zeros((batch, channels), np.float32) for _ in range(2))
    result = plan.like(source)
    wide = fold * channels
    for i in range(batch):
        one, room = (
            each.part(0, i, i + 1).view((1, wide, prod(source.shape[2:]) // fold, 1), (each.strides[0], 1, wide, wide))
            for each in (source, result)
        )
        kernel = kernels.batch_statistics(one.descriptor, room.descriptor)
        arrays = ((kind, array[i].reshape(-1)) for kind, array in zip(_STATISTICS, (mean, variance)))
        moments = [(kind, plan.steps.constant(array)) for kind, array in arrays]
        plan.steps.add_kernel(kernel, [(SRC, one), *moments], room)

    def of_groups(arena: int) -> None:
        middle = mean.mean((1, 3), keepdims=True)
        spread = (variance + (mean - middle) ** 2).mean((1, 3), keepdims=True)
        windows = statistics.active()
        if windows is not None:
            values = functools.partial(source.inner, arena)
            found = windows.moments(middle[:, 0], spread[:, 0], epsilon, source.shape[2:], values)
            middle, spread = (each[:, None] for each in found)
        shape = (batch, 1, groups, channels // groups)
        factor = np.broadcast_to(1 / np.sqrt(spread + epsilon), shape).reshape(batch, channels)
        np.multiply(gamma, factor, out=a)
        np.subtract(beta, np.broadcast_to(middle, shape).reshape(batch, channels) * a, out=b)

    plan.steps.add_host(of_groups, [source], result)
    factor, offset = (plan.steps.constant(array.reshape(batch, channels, 1, 1)) for array in (a, b))
    return plan.binary(kernels.MUL, source, factor, result, plus=offset)


def _divisor(count: int, least: float) -> int:
    """The smallest divisor of `count` that is at least `least`, or `count`."""
    pairs = ((n, count // n) for n in range(1, isqrt(count) + 1) if count % n == 0)
    return min((n for pair in pairs for n in pair if n >= least), default=count)


def _layer_norm(plan: Planner, attrs: Dict[str, Any], x: Any, scale: Parameter, shift: Parameter) -> Tensor:
    source = plan.tensor(x)
    if attrs["begin_norm_axis"] != len(source.shape) - 1:
        raise UnsupportedOperator(f"a layer norm with {attrs}")
    if source.strides[-1] != 1 or not source.dense:
        source = plan.copy(source, None, range(len(source.shape)))
    result = plan.like(source)
    vectors = [(kind, plan.tensor(each)) for kind, each in ((library.SCALE, scale), (library.SHIFT, shift))]
    kernel = kernels.layer_norm(source.descriptor, result.descriptor, attrs["epsilon"])
    return plan.steps.add_kernel(kernel, [(SRC, source), *vectors], result)


def _matmul(plan: Planner, attrs: Dict[str, Any], x: Any, y: Any) -> Tensor:
    if isinstance(x, Scores):
        return _attention(plan, attrs, x, plan.tensor(y))
    if isinstance(y, Parameter):
        return _linear_layer(plan, attrs, x, y)
    x, y = plan.tensor(x), plan.tensor(y)
    if attrs["transpose_x"]:
        x = x.turned
    if attrs["transpose_y"]:
        y = y.turned
    lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    result = plan.steps.allocate((*lead, x.shape[-2], y.shape[-1]), x.dtype, range(len(lead) + 2))
    return _product(plan, x, y, result)


def _product(plan: Planner, x: Tensor, y: Tensor, result: Tensor) -> Tensor:
    a, b, c = x.descriptor, y.descriptor, result.descriptor
    return plan.steps.add(lambda post: kernels.matmul(a, b, c, post), [(SRC, x), (WEIGHTS, y)], result)


def _linear_layer(plan: Planner, attrs: Dict[str, Any], x: Any, weight: Parameter) -> Tensor:
    if attrs["transpose_x"] or len(weight.shape) != 2:
        raise UnsupportedOperator(f"a product with weights of the shape {list(weight.shape)} and {attrs}")
    inner, outer = reversed(weight.shape) if attrs["transpose_y"] else weight.shape
    source = plan.tensor(x)
    # Vectors, as the embedding of the time step, stay in float32: they are little work and reach everything.
    dtype = FP32 if len(source.shape) < 3 else plan.dtype
    source = plan.tensor(source, dtype)
    rows = source.reshaped((prod(source.shape[:-1]), inner))
    if rows is None or rows.strides[-1] != 1:
        copied = plan.copy(source, dtype, range(len(source.shape)))
        rows = copied.reshaped((prod(source.shape[:-1]), inner))
    assert rows is not None
    result = plan.steps.allocate((rows.shape[0], outer), dtype)
    form = np.transpose if attrs["transpose_y"] else np.asarray
    made = plan.weighted(weight.name, form, (inner, outer), dtype, kernels.matmul, rows, result)
    reshaped = made.reshaped((*source.shape[:-1], outer))
    assert reshaped is not None
    return reshaped


def _linear_v2(plan: Planner, attrs: Dict[str, Any], x: Any, weight: Parameter, bias: Any) -> Tensor:
    """What paddle for GPUs makes of a linear layer with a bias."""
    product = {"transpose_x": False, "transpose_y": attrs["transpose_weight"]}
    return plan.combine(kernels.ADD, _linear_layer(plan, product, x, weight), bias)


def scores(plan: Planner, attrs: Dict[str, Any], query: Any, key: Any) -> Scores:
    if attrs["transpose_x"]:
        raise UnsupportedOperator("attention of transposed queries")
    return Scores(plan.tensor(query), plan.tensor(key), attrs["transpose_y"])


def _attention(plan: Planner, attrs: Dict[str, Any], scores: Scores, value: Tensor) -> Tensor:
    """In blocks of heads or of queries, so that the scores fit; a result lies as its values do, heads side by side."""
    query, key = scores.query, scores.key
    rank = len(query.shape)
    if attrs["transpose_x"] or attrs["transpose_y"] or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        raise UnsupportedOperator("attention of other shapes than [..., T, d], [..., S, d] and [..., S, e]")
    key = key.turned if scores.transposed else key
    lead, rows, columns = query.shape[:-2], query.shape[-2], key.shape[-1]
    result = plan.steps.allocate((*lead, rows, value.shape[-1]), value.dtype, value.order)
    if prod(lead) * rows * columns <= plan.scores_at_once:
        heads: List[Tuple[int, ...]] = [()]
        shape = (*lead, rows, columns)
    else:
        heads = list(np.ndindex(*lead))
        shape = (*(1 for _ in lead), max(1, min(rows, plan.scores_at_once // columns)), columns)
    plan.scores_held = max(plan.scores_held, prod(shape))
    room = plan.steps.allocate(shape, FP32, range(rank))
    weights = room if plan.dtype == FP32 else plan.steps.allocate(shape, plan.dtype, range(rank))
    for head in heads:
        q, k, v, to = (_head(each, head) for each in (query, key, value, result))
        for start in range(0, rows, shape[-2]):
            stop = min(rows, start + shape[-2])
            block = room.part(rank - 2, 0, stop - start)
            shares = weights.part(rank - 2, 0, stop - start)
            _product(plan, q.part(rank - 2, start, stop), k, block)
            kernel = kernels.softmax(block.descriptor, shares.descriptor, rank - 1)
            plan.steps.add_kernel(kernel, [(SRC, block)], shares)
            _product(plan, shares, v, to.part(rank - 2, start, stop))
    return replace(result, step=None)


def _head(tensor: Tensor, index: Tuple[int, ...]) -> Tensor:
    for axis, number in enumerate(index):
        tensor = tensor.part(axis, number, number + 1)
    return tensor


def _softmax(plan: Planner, attrs: Dict[str, Any], x: Any) -> Any:
    if isinstance(x, Scores):
        if attrs["axis"] not in (-1, len(x.query.shape) - 1):
            raise UnsupportedOperator(f"attention with a softmax over axis {attrs['axis']}")
        return x
    source = plan.dense(x)
    result = plan.like(source)
    kernel = kernels.softmax(source.descriptor, result.descriptor, attrs["axis"] % len(source.shape))
    return plan.steps.add_kernel(kernel, [(SRC, source)], result)


def _pool2d(plan: Planner, attrs: Dict[str, Any], x: Any, kernel: np.ndarray) -> Tensor:
    if attrs["pooling_type"] != "avg" or any(attrs["paddings"]) or attrs["ceil_mode"] or attrs["global_pooling"]:
        raise UnsupportedOperator(f"a pooling with {attrs}")
    source = plan.laid_out(x)
    size, strides = [int(n) for n in kernel], list(attrs["strides"])
    sizes = [(n - k) // stride + 1 for n, k, stride in zip(source.shape[2:], size, strides)]
    result = plan.steps.allocate((*source.shape[:2], *sizes), source.dtype)
    pooling = kernels.average_pooling(source.descriptor, result.descriptor, size, strides)
    return plan.steps.add_kernel(pooling, [(SRC, source)], result)


def _pad3d(plan: Planner, attrs: Dict[str, Any], x: Tensor, paddings: np.ndarray) -> Padded:
    """`paddings` begin with the last axis: left, right, top, bottom, front, back."""
    left, right, top, bottom, front, back = (int(n) for n in paddings)
    if attrs["mode"] != "constant" or attrs["data_format"] != "NCDHW" or attrs["pad_value"] or front or back:
        raise UnsupportedOperator(f"a padding with {attrs}")
    return Padded(x, (top, left), (bottom, right))


def _concat(plan: Planner, attrs: Dict[str, Any], parts: List[Any], axis: np.ndarray) -> Tensor:
    tensors = [plan.tensor(part) for part in parts]
    along = int(axis.reshape(-1)[0]) % len(tensors[0].shape)
    shape = list(tensors[0].shape)
    shape[along] = sum(tensor.shape[along] for tensor in tensors)
    result, stop = plan.steps.allocate(shape, tensors[0].dtype), 0
    for tensor in tensors:
        start, stop = stop, stop + tensor.shape[along]
        plan.copy_into(tensor, result.part(along, start, stop))
    return result


def _viewed(name: str) -> Callable[..., Any]:
    """What is a view of an array is one of a tensor too: numpy finds out how it lies, on an array without memory."""

    def translate(plan: Planner, attrs: Dict[str, Any], x: Any, *constants: np.ndarray) -> Any:
        if isinstance(x, Padded):
            return replace(x, source=translate(plan, attrs, x.source, *constants))
        tensor = plan.tensor(x)
        whole = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), tensor.shape, tensor.strides)
        made = FOLDED[name](plan, attrs, whole, *constants)
        views = [
            tensor.view(each.shape, each.strides, each.ctypes.data - whole.ctypes.data)
            for each in (made if isinstance(made, list) else [made])
        ]
        return views if isinstance(made, list) else views[0]

    return translate


def _reshape(plan: Planner, attrs: Dict[str, Any], x: Any, shape: np.ndarray) -> Any:
    if isinstance(x, Parameter):
        return Parameter(x.name, full_shape(x.shape, shape))
    wanted = full_shape(shape_of(x), shape)
    doubled = _doubled_source(x, wanted) if isinstance(x, Tensor) else None
    if doubled is not None:
        return Doubled(doubled)
    tensor = plan.tensor(x)
    return tensor.reshaped(wanted) or plan.copy(tensor, None, range(len(tensor.shape))).reshaped(wanted)


def _doubled_source(tensor: Tensor, wanted: Tuple[int, ...]) -> Optional[Tensor]:
    """Of `[B, C, H, 2, W, 2]`, repeated in the axes of 2, on its way to `[B, C, 2H, 2W]`."""
    if len(tensor.shape) != 6 or len(wanted) != 4 or tensor.strides[3] or tensor.strides[5]:
        return None
    batch, channels, height, two, width, too = tensor.shape
    if (two, too) != (2, 2) or wanted != (batch, channels, 2 * height, 2 * width):
        return None
    return tensor.view((batch, channels, height, width), [tensor.strides[i] for i in (0, 1, 2, 4)])


def _tile(plan: Planner, attrs: Dict[str, Any], x: Any, repeats: np.ndarray) -> Tensor:
    tensor = plan.tensor(x)
    shape = [1] * (len(repeats) - len(tensor.shape)) + list(tensor.shape)
    return _expand(plan, attrs, tensor, np.array([n * int(times) for n, times in zip(shape, repeats)]))


def _expand(plan: Planner, attrs: Dict[str, Any], x: Any, wanted: np.ndarray) -> Tensor:
    tensor = plan.tensor(x)
    tensor = tensor.reshaped([1] * (len(wanted) - len(tensor.shape)) + list(tensor.shape)) or tensor
    shape = [n if int(m) == -1 else int(m) for n, m in zip(tensor.shape, wanted)]
    if any(n not in (1, m) for n, m in zip(tensor.shape, shape)):
        raise UnsupportedOperator(f"{list(tensor.shape)} is repeated to {shape}")
    strides = [stride if n == m else 0 for stride, n, m in zip(tensor.strides, tensor.shape, shape)]
    return replace(tensor, shape=tuple(shape), strides=tuple(strides), step=None)


def _scale(plan: Planner, attrs: Dict[str, Any], x: Any, factor: np.ndarray) -> Tensor:
    alpha, beta = float(factor.reshape(())), float(attrs["bias"])
    return plan.apply(x, kernels.LINEAR, alpha, beta if attrs["bias_after_scale"] else alpha * beta)


def _dropout(plan: Planner, attrs: Dict[str, Any], x: Any, *rest: Any) -> Any:
    if attrs["mode"] != "upscale_in_train" or not attrs["is_test"]:
        raise UnsupportedOperator("a dropout of a model in training")
    return x


def _cast(plan: Planner, attrs: Dict[str, Any], x: Any) -> Any:
    if attrs["dtype"].name != "FLOAT32":  # the only type of tensors that depend on inputs
        raise UnsupportedOperator(f"a cast to {attrs['dtype'].name}")
    return x


def _eltwise(algorithm: int, alpha: float = 0.0) -> Callable[..., Tensor]:
    return lambda plan, attrs, x: plan.apply(x, algorithm, alpha)


def _binary(algorithm: int) -> Callable[..., Tensor]:
    return lambda plan, attrs, x, y: plan.combine(algorithm, x, y)


OPERATORS: Dict[str, Callable[..., Any]] = {
    "parameter": lambda plan, attrs: Parameter(attrs["parameter_name"], tuple(attrs["shape"])),
    "data": _data,
    "fetch": _fetch,
    "combine": lambda plan, attrs, *parts: list(parts),
    "split": lambda plan, attrs, parts: tuple(parts),
    "split_with_num": _viewed("split_with_num"),
    "dropout": _dropout,
    "slice": _viewed("slice"),
    "scale": _scale,
    "conv2d": _conv2d,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "matmul": _matmul,
    "linear_v2": _linear_v2,
    "gelu": lambda plan, attrs, x: plan.apply(x, kernels.GELU_TANH if attrs["approximate"] else kernels.GELU_ERF),
    "pool2d": _pool2d,
    "pad3d": _pad3d,
    "add": _binary(kernels.ADD),
    "multiply": _binary(kernels.MUL),
    "subtract": _binary(kernels.SUB),
    "divide": _binary(kernels.DIV),
    "silu": _eltwise(kernels.SWISH, 1.0),
    "swish": _eltwise(kernels.SWISH, 1.0),
    "mish": _eltwise(kernels.MISH),
    "relu": _eltwise(kernels.RELU),
    "sigmoid": _eltwise(kernels.LOGISTIC),
    "tanh": _eltwise(kernels.TANH),
    "exp": _eltwise(kernels.EXP),
    "softmax": _softmax,
    "shape64": lambda plan, attrs, x: np.array(shape_of(x), np.int64),
    "reshape": _reshape,
    "transpose": _viewed("transpose"),
    "unsqueeze": _viewed("unsqueeze"),
    "squeeze": _viewed("squeeze"),
    "tile": _tile,
    "expand": _expand,
    "concat": _concat,
    "embedding": _embedding,
    "cast": _cast,
    "assign": lambda plan, attrs, x: x,
    "share_data": lambda plan, attrs, x: x,
}
