"""What layers compute, on Paddle's tensors, with the gradients: by kernels of oneDNN, for the CPU.

Tensors are float32 and contiguous ([B, C, H, W] for maps), and so are results. A kernel of a convolution works in a
layout of its own, to which its tensors are copied and from which they come back. With `dtype` BF16 it multiplies in
bfloat16 and adds in float32; the copies have that type.

A kernel is made for shapes, types and a number of threads, and is kept until `_KEPT` others of its sort have been used
since. Any number of threads may call these functions at once.
"""

from __future__ import annotations

import functools
from math import prod
from typing import Any, Callable, List, Optional, Sequence, Tuple, TypeVar

import numpy as np
import paddle
from paddle import _C_ops

from ppdiffusers.onednn import kernels
from ppdiffusers.onednn.kernels import ADD, MUL, SWISH, Geometry, post_argument
from ppdiffusers.onednn.library import (
    BIAS,
    DIFF_BIAS,
    DIFF_DST,
    DIFF_SCALE,
    DIFF_SHIFT,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DST,
    FP32,
    MEAN,
    SCALE,
    SHIFT,
    SRC,
    SRC_1,
    VARIANCE,
    WEIGHTS,
    Descriptor,
    Kernel,
    OneDNNError,
    PostOp,
    Step,
    library,
)

_KEPT = 256
_CPU = paddle.CPUPlace()
_SCORES_AT_ONCE = 1 << 22  # of attention: 16 MB, three of which are held in the backward pass
Shape = Tuple[int, ...]
Sort = TypeVar("Sort")


class NoFastKernel(OneDNNError):
    """oneDNN has only a plain loop for this on this CPU."""


# Making and running steps


def empty(shape: Sequence[int]) -> paddle.Tensor:
    return _C_ops.empty(list(shape), paddle.float32, _CPU)


def _room(layout: Descriptor) -> paddle.Tensor:
    return empty([-(-layout.bytes // 4)])


def _run(step: Step, *places: Any) -> None:
    """Places are tensors, numpy arrays of small things, or addresses."""
    addresses = [
        each if type(each) is int else each.ctypes.data if isinstance(each, np.ndarray) else each.data_ptr()
        for each in places
    ]
    if step.scratchpad:
        scratchpad = empty([-(-step.scratchpad // 4)])
        step(*addresses, scratchpad.data_ptr())
    else:
        step(*addresses)


def _fast(kernel: Kernel) -> Kernel:
    if kernel.slow:
        raise NoFastKernel(f"oneDNN has no fast kernel here: {kernel.name}")
    return kernel


def _dense(shape: Sequence[int], dtype: int = FP32) -> Descriptor:
    return Descriptor(shape, dtype, _strides(shape))


def _strides(shape: Sequence[int]) -> List[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _kept(make: Callable[..., Sort]) -> Callable[..., Sort]:
    """Remembers what `make` gave for its arguments and the number of threads, or that it raised NoFastKernel."""

    @functools.lru_cache(maxsize=_KEPT)
    def made(threads: int, *arguments: Any) -> Any:
        try:
            return make(*arguments)
        except OneDNNError as error:
            return NoFastKernel(str(error))

    @functools.wraps(make)
    def get(*arguments: Any) -> Any:
        found = made(library().threads(), *arguments)
        if isinstance(found, NoFastKernel):
            raise NoFastKernel(str(found))
        return found

    get.cache = made  # type: ignore[attr-defined]
    return get


class _Copy:
    """Brings a tensor into another layout; it stays where it is if it has that one."""

    def __init__(self, source: Descriptor, result: Descriptor):
        self.result = result
        self.step = None
        if not source.same(result):
            self.step = Step(kernels.reorder(source, result), [(SRC, source), (DST, result)])

    def __call__(self, source: Any) -> Any:
        """`source` is a tensor or an address, and so is what comes back where nothing is copied."""
        if self.step is None:
            return source
        result = _room(self.result)
        _run(self.step, source, result)
        return result

    def room(self, result: paddle.Tensor) -> paddle.Tensor:
        """Where a kernel may write what goes to `result` by `finish`, this being a copy from the kernel's layout."""
        return result if self.step is None else _room(self.source)

    @property
    def source(self) -> Descriptor:
        assert self.step is not None
        return self.step.layouts[0]

    def finish(self, room: paddle.Tensor, result: paddle.Tensor) -> paddle.Tensor:
        if self.step is not None:
            _run(self.step, room, result)
        return result


class Laid:
    """A contiguous tensor, and copies of it in the layouts that kernels have asked for."""

    def __init__(self, tensor: paddle.Tensor):
        self.tensor: Optional[paddle.Tensor] = tensor
        self._copies: List[Tuple[Descriptor, paddle.Tensor]] = []

    def by(self, copy: _Copy) -> paddle.Tensor:
        for layout, found in self._copies:
            if layout.same(copy.result):
                return found
        if self.tensor is None:
            layout, other = self._copies[0]
            found = _Copy(layout, copy.result)(other)
        else:
            found = copy(self.tensor)
        self._copies.append((copy.result, found))
        return found

    def forget_original(self) -> None:
        """Where there is a copy, as which the tensor can be read too."""
        self.tensor = None if self._copies[0][1] is not self.tensor else self.tensor


# Convolutions


class Convolution:
    """A convolution, or transposed one, of maps of one shape.

    Args:
        source: its shape, `[B, C, H, W]`.
        weights: `[out, in, h, w]`; of a transposed one too.
    """

    def __init__(self, source: Shape, weights: Shape, geometry: Geometry, dtype: int = FP32):
        self.key = source, weights, geometry, dtype

    @property
    def result(self) -> Shape:
        return _result_shape(*self.key[:3])

    def forward(self, x: Laid, weights: paddle.Tensor, bias: Optional[paddle.Tensor]) -> paddle.Tensor:
        found = _forward(*self.key, bias is not None)
        result = empty(self.result)
        room = found.result.room(result)
        biases = [] if bias is None else [bias]
        _run(found.step, x.by(found.source), found.weights(weights), *biases, room)
        return found.result.finish(room, result)

    def source_gradient(self, weights: paddle.Tensor, gradient: Laid) -> paddle.Tensor:
        """Of the result's."""
        found = _source_gradient(*self.key)
        result = empty(self.key[0])
        room = found.result.room(result)
        _run(found.step, gradient.by(found.gradient), found.weights(weights), room)
        return found.result.finish(room, result)

    def weights_gradient(self, x: Laid, gradient: Laid, biased: bool) -> Tuple[paddle.Tensor, Optional[paddle.Tensor]]:
        """Of the result's; and that of the bias, where it is wanted."""
        found = _weights_gradient(*self.key, biased)
        result = empty(self.key[1])
        room = found.result.room(result)
        bias = empty([self.key[1][0]]) if biased else None
        _run(found.step, x.by(found.source), gradient.by(found.gradient), room, *([] if bias is None else [bias]))
        return found.result.finish(room, result), bias


class _Forward:
    def __init__(self, source: Shape, weights: Shape, geometry: Geometry, dtype: int, biased: bool):
        result = _result_shape(source, weights, geometry)
        bias = _dense([weights[0]]) if biased else None
        shapes = (Descriptor(source, dtype), Descriptor(weights, dtype), bias, Descriptor(result, dtype))
        kernel = _fast(kernels.trained_convolution(geometry, *shapes))
        layouts = [kernel.layout(kind) for kind in (SRC, WEIGHTS, DST)]
        self.kernel = kernel
        self.source = _Copy(_dense(source), layouts[0])
        self.weights = _Copy(_dense(weights), layouts[1])
        self.result = _Copy(layouts[2], _dense(result))
        biases = [] if bias is None else [(BIAS, bias)]
        self.step = Step(kernel, [(SRC, layouts[0]), (WEIGHTS, layouts[1]), *biases, (DST, layouts[2])])


class _SourceGradient:
    def __init__(self, source: Shape, weights: Shape, geometry: Geometry, dtype: int):
        result = _result_shape(source, weights, geometry)
        x, w, y = (Descriptor(shape, dtype) for shape in (source, weights, result))
        forward = _forward(source, weights, geometry, dtype, False).kernel
        kernel = _fast(kernels.convolution_source_gradient(geometry, x, w, y, forward))
        layouts = [kernel.layout(kind) for kind in (DIFF_DST, WEIGHTS, DIFF_SRC)]
        self.gradient = _Copy(_dense(result), layouts[0])
        self.weights = _Copy(_dense(weights), layouts[1])
        self.result = _Copy(layouts[2], _dense(source))
        self.step = Step(kernel, list(zip((DIFF_DST, WEIGHTS, DIFF_SRC), layouts)))


class _WeightsGradient:
    def __init__(self, source: Shape, weights: Shape, geometry: Geometry, dtype: int, biased: bool):
        result = _result_shape(source, weights, geometry)
        bias = _dense([weights[0]]) if biased else None
        shapes = (Descriptor(source, dtype), Descriptor(weights, FP32), bias, Descriptor(result, dtype))
        forward = _forward(source, weights, geometry, dtype, biased).kernel
        kernel = _fast(kernels.convolution_weights_gradient(geometry, *shapes, forward))
        layouts = [kernel.layout(kind) for kind in (SRC, DIFF_DST, DIFF_WEIGHTS)]
        self.source = _Copy(_dense(source), layouts[0])
        self.gradient = _Copy(_dense(result), layouts[1])
        self.result = _Copy(layouts[2], _dense(weights))
        biases = [] if bias is None else [(DIFF_BIAS, bias)]
        self.step = Step(kernel, [*zip((SRC, DIFF_DST, DIFF_WEIGHTS), layouts), *biases])


_forward, _source_gradient, _weights_gradient = _kept(_Forward), _kept(_SourceGradient), _kept(_WeightsGradient)


def _result_shape(source: Shape, weights: Shape, geometry: Geometry) -> Shape:
    sizes = []
    for axis in range(2):
        size, stride, taps = source[axis + 2], geometry.strides[axis], weights[axis + 2]
        padding = geometry.before[axis] + geometry.after[axis]
        reach = geometry.dilations[axis] * (taps - 1) + 1
        sizes.append(
            (size - 1) * stride + reach - padding if geometry.transposed else (size + padding - reach) // stride + 1
        )
    return (source[0], weights[0], *sizes)


# A group norm and SiLU


class GroupNorm:
    """Of maps of one shape, with or without SiLU on its result.

    Statistics are kept by picture and group, `[B, G]`.
    """

    def __init__(self, source: Shape, groups: int, epsilon: float, silu: bool):
        self.source, self.groups, self.epsilon, self.silu = source, groups, epsilon, silu
        self.key = source[:2], prod(source[2:]), groups, epsilon

    def forward(
        self, x: paddle.Tensor, scale: paddle.Tensor, shift: paddle.Tensor
    ) -> Tuple[paddle.Tensor, Tuple[np.ndarray, np.ndarray]]:
        """The result, and mean and variance."""
        found = _group_norm(*self.key)
        mean, variance = (np.empty((self.source[0], self.groups), np.float32) for _ in range(2))
        result = empty(self.source)
        _run(found.step, x, mean, variance, scale, shift, result)
        if self.silu:
            _run(_silu(prod(self.source)), result, result)
        return result, (mean, variance)

    def gradients(
        self,
        x: paddle.Tensor,
        scale: paddle.Tensor,
        shift: paddle.Tensor,
        statistics: Tuple[np.ndarray, np.ndarray],
        gradient: paddle.Tensor,
    ) -> Tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Of x, scale and shift.

        With S and T the sums over a channel of g and of g * x_hat, and s and t those of scale * S and scale * T over
        a group of n values, that of x is (scale * g - s / n - x_hat * t / n) / deviation.
        """
        found = _group_norm_gradient(*self.key)
        batch, channels = self.source[:2]
        each = channels // self.groups  # channels of a group
        mean, variance = statistics
        inverse = 1 / np.sqrt(variance + self.epsilon)  # [B, G]
        gamma, beta = scale.numpy(), shift.numpy()
        means, inverses = np.repeat(mean, each, 1), np.repeat(inverse, each, 1)  # [B, C]
        result = empty(self.source)
        if self.silu:
            factor = gamma * inverses
            normed, inner = result, empty(self.source)
            _run(found.scaled, x, factor, beta - means * factor, normed)
            _run(_silu_gradient(prod(self.source)), normed, gradient, inner)
            gradient = inner
        direct = gradient if self.silu else empty(self.source)  # may be overwritten: it is ours
        rows = np.tile(gamma, (batch, 1))
        sums, products = np.empty((2, batch, channels), np.float32)
        variances = np.repeat(variance, each, 1)
        _run(found.sums, x, gradient, means, variances, rows, direct, products, sums)
        grouped = (batch, self.groups, each)
        count = each * prod(self.source[2:])
        s, t = ((gamma * every).reshape(grouped).sum(-1) / count for every in (sums, products))
        slope = -inverse * inverse * t
        offset = -inverse * s - mean * slope
        slopes, offsets = (np.repeat(every, each, 1) for every in (slope, offset))
        _run(found.joined, x, slopes, offsets, direct, result)
        return result, paddle.to_tensor(products.sum(0)), paddle.to_tensor(sums.sum(0))


class _GroupNorm:
    def __init__(self, leading: Shape, pixels: int, groups: int, epsilon: float):
        batch, channels = leading
        plain = _dense((batch, channels, pixels, 1))
        kernel = _fast(kernels.group_norm(plain, groups, epsilon))
        statistics, vector = _dense((batch, groups)), _dense((channels,))
        kinds = (SRC, MEAN, VARIANCE, SCALE, SHIFT, DST)
        self.step = Step(kernel, list(zip(kinds, (plain, statistics, statistics, vector, vector, plain))))


class _GroupNormGradient:
    """Every channel of every picture is a channel of one picture here."""

    def __init__(self, leading: Shape, pixels: int, groups: int, epsilon: float):
        rows = prod(leading)
        plain, vector, column = _dense((1, rows, pixels, 1)), _dense((rows,)), _dense((1, rows, 1, 1))
        plus = PostOp(ADD, 0.0, 0.0, column)
        arguments = [(SRC, plain), (SRC_1, column), (post_argument(0), column)]
        self.scaled = Step(_fast(kernels.binary(MUL, plain, column, plain, [plus])), [*arguments, (DST, plain)])
        both = [plus, PostOp(ADD, 0.0, 0.0, plain)]
        arguments.append((post_argument(1), plain))
        self.joined = Step(_fast(kernels.binary(MUL, plain, column, plain, both)), [*arguments, (DST, plain)])
        kinds = (SRC, DIFF_DST, MEAN, VARIANCE, SCALE, DIFF_SRC, DIFF_SCALE, DIFF_SHIFT)
        layouts = (plain, plain, vector, vector, vector, plain, vector, vector)
        self.sums = Step(_fast(kernels.channel_gradient(plain, epsilon)), list(zip(kinds, layouts)))


_group_norm, _group_norm_gradient = _kept(_GroupNorm), _kept(_GroupNormGradient)


def silu(x: paddle.Tensor) -> paddle.Tensor:
    result = empty(x.shape)
    _run(_silu(prod(x.shape)), x, result)
    return result


def silu_gradient(x: paddle.Tensor, gradient: paddle.Tensor) -> paddle.Tensor:
    result = empty(x.shape)
    _run(_silu_gradient(prod(x.shape)), x, gradient, result)
    return result


@_kept
def _silu(size: int) -> Step:
    plain = _dense((size,))
    return Step(_fast(kernels.eltwise(SWISH, 1.0, 0.0, plain, plain)), [(SRC, plain), (DST, plain)])


@_kept
def _silu_gradient(size: int) -> Step:
    plain = _dense((size,))
    kernel = _fast(kernels.eltwise_gradient(SWISH, 1.0, 0.0, plain))
    return Step(kernel, [(SRC, plain), (DIFF_DST, plain), (DIFF_SRC, plain)])


# Products of matrices


class _Product:
    """x y (+ bias), for matrices under any leading axes, or with these strides; x and y in `dtype`."""

    def __init__(self, x: Tuple[Shape, Shape], y: Tuple[Shape, Shape], biased: bool, dtype: int):
        shapes = (*x[0][:-1], y[0][-1])
        result = _dense(shapes)
        given = [Descriptor(shape, FP32, strides) for shape, strides in (x, y)]
        if dtype == FP32:
            taken = given
        else:
            taken = [_like(shape, strides, dtype) for shape, strides in (x, y)]
        self.copies = [_Copy(a, b) for a, b in zip(given, taken)]
        bias = _dense([*(1 for _ in shapes[:-1]), shapes[-1]]) if biased else None
        kernel = _fast(kernels.matmul(taken[0], taken[1], result, (), bias))
        biases = [] if bias is None else [(BIAS, bias)]
        self.step = Step(kernel, [(SRC, taken[0]), (WEIGHTS, taken[1]), *biases, (DST, result)])


_product = _kept(_Product)


def _like(shape: Shape, strides: Shape, dtype: int) -> Descriptor:
    """Dense, with the axes in the same order in memory."""
    order = sorted(range(len(shape)), key=lambda axis: (strides[axis], shape[axis] == 1, axis))
    found, step = [0] * len(shape), 1
    for axis in order:
        found[axis] = step
        step *= shape[axis]
    return Descriptor(shape, dtype, found)


class Matrix:
    """A tensor's memory, from its element number `offset` on, read as matrices `[..., rows, columns]` of `shape`, or as
    their transposes."""

    def __init__(self, tensor: paddle.Tensor, shape: Sequence[int], transposed: bool = False, offset: int = 0):
        shape, strides = list(shape), _strides(shape)
        if transposed:
            shape[-2:], strides[-2:] = shape[:-3:-1], strides[:-3:-1]
        self.tensor = tensor
        self.address = tensor.data_ptr() + 4 * offset
        usual = _strides(shape)  # which kernels want of an axis of one element too
        if all(a == b for a, b, size in zip(strides, usual, shape) if size != 1):
            strides = usual
        self.layout = tuple(shape), tuple(strides)


def product(
    x: Matrix, y: Matrix, dtype: int = FP32, bias: Optional[paddle.Tensor] = None, to: Optional[Matrix] = None
) -> paddle.Tensor:
    """x y + bias, into `to` if it is given."""
    found = _product(x.layout, y.layout, bias is not None, dtype)
    result = empty((*x.layout[0][:-1], y.layout[0][-1])) if to is None else to.tensor
    a, b = (copy(each.address) for copy, each in zip(found.copies, (x, y)))
    _run(found.step, a, b, *([] if bias is None else [bias]), result if to is None else to.address)
    return result


class Attention:
    """softmax(Q K^T) V for heads of one shape: `[B, heads, T, d]`, `[B, heads, S, d]` and `[B, heads, S, width]`.

    Neither pass holds more scores than `_SCORES_AT_ONCE`, or those of one row; the backward pass computes them again.
    """

    def __init__(self, query: Shape, key: Shape, width: int, dtype: int = FP32):
        self.heads, self.rows, self.columns = query[0] * query[1], query[2], key[2]
        self.depth, self.width, self.dtype = query[3], width, dtype
        self.shape = (*query[:3], width)

    def _blocks(self) -> List[Tuple[int, int, int, int]]:
        """The first head and how many, the first row and how many, of what is computed together."""
        heads = max(1, min(self.heads, _SCORES_AT_ONCE // (self.rows * self.columns)))
        rows = self.rows if heads > 1 else max(1, min(self.rows, _SCORES_AT_ONCE // self.columns))
        return [
            (head, min(heads, self.heads - head), row, min(rows, self.rows - row))
            for head in range(0, self.heads, heads)
            for row in range(0, self.rows, rows)
        ]

    def _queries(self, tensor: paddle.Tensor, block: Tuple[int, int, int, int], transposed: bool = False) -> Matrix:
        head, heads, row, rows = block
        size = tensor.shape[-1]
        return Matrix(tensor, (heads, rows, size), transposed, (head * self.rows + row) * size)

    def _keys(self, tensor: paddle.Tensor, block: Tuple[int, int, int, int], transposed: bool = False) -> Matrix:
        size = tensor.shape[-1]
        return Matrix(tensor, (block[1], self.columns, size), transposed, block[0] * self.columns * size)

    def _shares(self, query: paddle.Tensor, key: paddle.Tensor, block: Tuple[int, int, int, int]) -> paddle.Tensor:
        scores = product(self._queries(query, block), self._keys(key, block, True), self.dtype)
        _run(_softmax(tuple(scores.shape)), scores, scores)
        return scores

    def forward(self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        result = empty(self.shape)
        for block in self._blocks():
            shares = self._shares(query, key, block)
            to = self._queries(result, block)
            product(Matrix(shares, shares.shape), self._keys(value, block), self.dtype, None, to)
        return result

    def gradients(
        self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, gradient: paddle.Tensor
    ) -> Tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Of query, key and value."""
        to_query, to_key, to_value = (empty(each.shape) for each in (query, key, value))
        for block in self._blocks():
            shares = self._shares(query, key, block)
            outer, dtype = self._queries(gradient, block), self.dtype
            scores = product(outer, self._keys(value, block, True), dtype)
            self._collect(Matrix(shares, shares.shape, True), outer, to_value, block)
            _run(_softmax_gradient(tuple(shares.shape)), shares, scores, scores)
            product(Matrix(scores, scores.shape), self._keys(key, block), dtype, None, self._queries(to_query, block))
            self._collect(Matrix(scores, scores.shape, True), self._queries(query, block), to_key, block)
        return to_query, to_key, to_value

    def _collect(self, x: Matrix, y: Matrix, to: paddle.Tensor, block: Tuple[int, int, int, int]) -> None:
        """x y, added to what earlier rows of the same head gave."""
        place = self._keys(to, block)
        if block[2] == 0:
            product(x, y, self.dtype, None, place)
        else:
            more = product(x, y, self.dtype)
            _run(_sum(prod(more.shape)), place.address, more, place.address)


@_kept
def _sum(size: int) -> Step:
    plain = _dense((size,))
    return Step(_fast(kernels.binary(ADD, plain, plain, plain)), [(SRC, plain), (SRC_1, plain), (DST, plain)])


@_kept
def _softmax(shape: Shape) -> Step:
    plain = _dense(shape)
    return Step(_fast(kernels.softmax(plain, plain, len(shape) - 1)), [(SRC, plain), (DST, plain)])


@_kept
def _softmax_gradient(shape: Shape) -> Step:
    plain = _dense(shape)
    kernel = _fast(kernels.softmax_gradient(plain, len(shape) - 1))
    return Step(kernel, [(DST, plain), (DIFF_DST, plain), (DIFF_SRC, plain)])
