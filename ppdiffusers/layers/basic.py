"""The layers that multiply, norm and activate, and which of them run in what.

On a CPU, eagerly, kernels of oneDNN compute convolutions, linear layers, group norms, SiLU and attention, forward and
backward: `by_kernels` says when. Everywhere else they are paddle's own operators: on other devices, while a program is
traced, under `paddle.amp`, in other types than float32, for what kernels do not take or are slower at, and where
gradients of gradients are asked for. The classes are paddle's, by the same names, with the same parameters.

PPDIFFUSERS_ONEDNN=0 turns the kernels off.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from math import prod
from typing import Any, Callable, Iterator, List, Optional, Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.layers import statistics
from ppdiffusers.onednn import BF16, FP32, OneDNNError, has_bfloat16, is_there
from ppdiffusers.onednn.autograd import Backward, attach
from ppdiffusers.onednn.functions import Attention as _Attention
from ppdiffusers.onednn.functions import Convolution, Laid, Matrix, product, silu, silu_gradient
from ppdiffusers.onednn.functions import GroupNorm as _GroupNorm
from ppdiffusers.onednn.kernels import Geometry

ENVIRONMENT = "PPDIFFUSERS_ONEDNN"
_VERSIONS = ("3.2.", "3.3.")  # of paddle, whose way with hooks and gradients is known
# From which on kernels are quicker, with the backward pass (measured with AVX-512, one thread): multiplications, and
# elements of a map.
_CONVOLUTION_FROM = 600_000
_PRODUCT_FROM = 2_000_000
_MAP_FROM = 131_072

_type: contextvars.ContextVar[int] = contextvars.ContextVar("type", default=FP32)


@contextlib.contextmanager
def multiplying_in(precision: str) -> Iterator[None]:
    """Within it, convolutions, linear layers and attention multiply in "bf16", or in "fp32" as they do without it.

    Tensors, weights, sums, norms and gradients stay float32: these are the master weights of training. The backward
    pass multiplies as its forward pass did.

    Raises:
        ValueError: another precision, or bf16 where the kernels do not run or the CPU has no instructions for it.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"unknown precision {precision!r}; use 'fp32' or 'bf16'")
    if precision == "bf16" and not (_is_on() and paddle.get_device() == "cpu" and has_bfloat16()):
        raise ValueError(
            "bf16 needs a CPU with bfloat16 instructions, paddle 3.2 or 3.3 for CPUs, and no "
            f"{ENVIRONMENT}=0; use precision 'fp32'"
        )
    token = _type.set({"fp32": FP32, "bf16": BF16}[precision])
    try:
        yield
    finally:
        _type.reset(token)


def by_kernels(*tensors: Optional[paddle.Tensor]) -> bool:
    """Whether kernels may compute with these tensors, as far as that does not depend on the layer."""
    if not (paddle.in_dynamic_mode() and _is_on()) or _tracer()._amp_level != _no_amp():
        return False
    return all(
        each is None
        or (
            each.dtype is paddle.float32
            and each._is_initialized()
            and 0 not in each.shape
            and each.place.is_cpu_place()
        )
        for each in tensors
    )


def _is_on() -> bool:
    return os.environ.get(ENVIRONMENT, "").strip() != "0" and _runs()


@functools.cache
def _runs() -> bool:
    return paddle.__version__.startswith(_VERSIONS) and is_there()


def _tracer() -> Any:
    from paddle.base import framework

    return framework._dygraph_tracer()


@functools.cache
def _no_amp() -> Any:
    from paddle.base import core

    return core.AmpLevel.O0


def _contiguous(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _untouched(layer: Any, kind: Any, forward: Callable[..., Any]) -> bool:
    """Whether a layer does what its class was written to do and nobody watches it."""
    return (
        type(layer) is kind
        and kind.forward is forward
        and not (layer._forward_pre_hooks or layer._forward_post_hooks)
        and "forward" not in vars(layer)
    )


# Convolutions


class Conv2D(nn.Conv2D):
    """As paddle's."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        padding = self._padding_of_kernels()
        if padding is not None and x.ndim == 4 and by_kernels(x, self.weight, self.bias):
            made = _convolution(x, self.weight, self.bias, self._stride, padding, self._dilation)
            if made is not None:
                return made
        return super().forward(x)

    def _padding_of_kernels(self) -> Optional[List[int]]:
        """Above and left of a map, and as much below and right of it; None for a convolution of another sort."""
        padding = self._updated_padding
        if (self._padding_mode, self._data_format, self._groups) != ("zeros", "NCHW", 1):
            return None
        if self._padding_algorithm != "EXPLICIT":
            return None
        padding = [padding] * 2 if isinstance(padding, int) else list(padding)
        return padding if len(padding) == 2 else None


def _convolution(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: Optional[paddle.Tensor],
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
) -> Optional[paddle.Tensor]:
    found = _convolution_of(x, weight, strides, padding, dilations)
    if found is None:
        return None
    x = _contiguous(x)
    try:
        with paddle.no_grad():
            result = found.forward(Laid(x), weight, bias)
    except OneDNNError:
        return None
    return attach(result, (x, weight, bias), _ConvolutionBackward(found, x, weight, bias))


def _convolution_of(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
) -> Optional[Convolution]:
    strides, padding, dilations = (tuple(int(n) for n in each) for each in (strides, padding, dilations))
    geometry = Geometry(strides, padding, padding, dilations)
    found = Convolution(tuple(x.shape), tuple(weight.shape), geometry, _type.get())
    if x.shape[1] != weight.shape[1] or min(found.result) < 1:
        return None  # paddle says what is wrong
    if prod(found.result) * prod(weight.shape[1:]) < _CONVOLUTION_FROM:
        return None
    return found


class _ConvolutionBackward(Backward):
    def __init__(self, convolution: Convolution, x: Any, weight: paddle.Tensor, bias: Any):
        self.convolution, self.x, self.weight = convolution, x, weight
        self.needed = (weight,) if isinstance(x, Laid) else (x, weight)
        self.biased = bias is not None and not bias.stop_gradient
        self.geometry = convolution.key[2]
        self._laid: Optional[Laid] = None
        self._found: List[Optional[paddle.Tensor]] = [None, None, None]

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if self._laid is None or self._laid.tensor is not gradient:
            self._laid, self._found = Laid(gradient), [None, None, None]
        if number == 0:
            return self.convolution.source_gradient(self._used_weight(), self._laid)
        if self.weight.stop_gradient:
            return gradient.sum(axis=[0, 2, 3])
        if self._found[number] is None:  # a kernel gives both
            weight, bias = self.convolution.weights_gradient(self._laid_x(), self._laid, self.biased)
            self._found = [None, self._for_weight(weight), bias]
        found, self._found[number] = self._found[number], None
        assert found is not None
        return found

    def _laid_x(self) -> Laid:
        return self.x if isinstance(self.x, Laid) else Laid(self.x)

    def _used_weight(self) -> paddle.Tensor:
        """As the kernels take it."""
        return self.weight

    def _for_weight(self, gradient: paddle.Tensor) -> paddle.Tensor:
        """The weight's gradient, from that of the used one."""
        return gradient

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        strides, padding, _, dilations, _ = self.geometry
        if number == 2:
            return gradient.sum(axis=[0, 2, 3])
        if number == 0:
            size = self.x.shape[2:]
            options = {"stride": strides, "padding": padding, "dilation": dilations, "output_size": size}
            return F.conv2d_transpose(gradient, self.weight, **options)
        # The batch takes the place of the input's channels: every tap is a sum over pictures and pixels.
        x, gradient = self.x.transpose([1, 0, 2, 3]), gradient.transpose([1, 0, 2, 3])
        found = F.conv2d(x, gradient, stride=dilations, padding=padding, dilation=strides)
        height, width = self.weight.shape[2:]
        return found[:, :, :height, :width].transpose([1, 0, 2, 3])


def doubled_convolution(convolution: nn.Layer, x: paddle.Tensor) -> Optional[paddle.Tensor]:
    """A 3x3 convolution of a map whose pixels are repeated twice each way, without making that; None where kernels
    don't.

    Of each three taps two or one fall on the same pixel, so that it is a transposed convolution of the map itself, of
    stride 2, with 4x4 weights that are sums of those: 16 multiplications for 36.
    """
    if not _untouched(convolution, Conv2D, _CONV2D_FORWARD) or convolution._padding_of_kernels() != [1, 1]:
        return None
    weight, bias = convolution.weight, convolution.bias
    if (list(weight.shape[2:]), list(convolution._stride), list(convolution._dilation)) != ([3, 3], [1, 1], [1, 1]):
        return None
    if not by_kernels(x, weight, bias) or 4 * prod(x.shape) * prod(weight.shape[::2]) < _CONVOLUTION_FROM:
        return None
    x, (outer, inner) = _contiguous(x), weight.shape[:2]
    found = Convolution(
        tuple(x.shape), (outer, inner, 4, 4), Geometry((2, 2), (1, 1), (1, 1), (1, 1), True), _type.get()
    )
    try:
        with paddle.no_grad():
            result = found.forward(Laid(x), _doubling(weight), bias)
    except OneDNNError:
        return None
    return attach(result, (x, weight, bias), _DoubledBackward(found, x, weight, bias))


class _DoubledBackward(_ConvolutionBackward):
    def _used_weight(self) -> paddle.Tensor:
        return _doubling(self.weight)

    def _for_weight(self, gradient: paddle.Tensor) -> paddle.Tensor:
        matrix, taps = _doubling_matrix(), (prod(gradient.shape) // 16, 16)
        found = product(Matrix(gradient, taps), Matrix(matrix, matrix.shape, transposed=True))
        return found.reshape(self.weight.shape)

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if number == 2:
            return gradient.sum(axis=[0, 2, 3])
        if number == 0:
            return 4 * F.avg_pool2d(F.conv2d_transpose(gradient, self.weight, padding=1), 2, 2)
        batch, channels, height, width = self.x.shape
        wide = self.x.unsqueeze(-1).unsqueeze(-3).tile([1, 1, 1, 2, 1, 2])
        wide = wide.reshape([batch, channels, 2 * height, 2 * width]).transpose([1, 0, 2, 3])
        return F.conv2d(wide, gradient.transpose([1, 0, 2, 3]), padding=1).transpose([1, 0, 2, 3])


def _doubling(weight: paddle.Tensor) -> paddle.Tensor:
    """`[out, in, 3, 3]` to `[out, in, 4, 4]`."""
    outer, inner = weight.shape[:2]
    matrix = _doubling_matrix()
    return product(Matrix(weight, (outer * inner, 9)), Matrix(matrix, matrix.shape)).reshape([outer, inner, 4, 4])


@functools.cache
def _doubling_matrix() -> paddle.Tensor:
    """T k T' of a kernel k, as a matrix on its nine taps."""
    with paddle.no_grad():
        turn = paddle.to_tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        return paddle.kron(turn, turn).transpose([1, 0]).contiguous()  # [9, 16]


# Norms and activations


class GroupNorm(nn.GroupNorm):
    """As paddle's."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        windows = statistics.active()
        if windows is not None and paddle.in_dynamic_mode() and self._data_format == "NCHW":
            return self._of_a_window(input, windows)
        made = _group_norm(self, input, silu=False)
        return super().forward(input) if made is None else made

    def _of_a_window(self, x: paddle.Tensor, windows: Any) -> paddle.Tensor:
        """With the mean and the variance that `windows` makes of those of `x`, `[B, C, h, w]`."""
        whole, groups = x.astype("float32"), self._num_groups
        parts = whole.reshape([x.shape[0], groups, -1])
        mean, variance = parts.mean(-1, keepdim=True), parts.var(-1, unbiased=False, keepdim=True)

        def inner(rows: int, columns: int) -> Any:
            return whole[:, :, rows : x.shape[2] - rows, columns : x.shape[3] - columns].numpy()

        found = windows.moments(mean.numpy(), variance.numpy(), self._epsilon, x.shape[2:], inner)
        mean, variance = map(paddle.to_tensor, found)
        normed = ((parts - mean) * paddle.rsqrt(variance + self._epsilon)).reshape(x.shape)
        shape = [1, -1] + [1] * (x.ndim - 2)
        return (normed * self.weight.reshape(shape) + self.bias.reshape(shape)).astype(x.dtype)


class Silu(nn.Silu):
    """As paddle's."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not by_kernels(x) or prod(x.shape) < _MAP_FROM:
            return super().forward(x)
        x = _contiguous(x)
        try:
            with paddle.no_grad():
                result = silu(x)
        except OneDNNError:
            return super().forward(x)
        return attach(result, (x,), _SiluBackward(x))


class _SiluBackward(Backward):
    def __init__(self, x: paddle.Tensor):
        self.x = x
        self.needed = (x,)

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        return silu_gradient(self.x, gradient)

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        return gradient * _silu_slope(self.x)


def _silu_slope(x: paddle.Tensor) -> paddle.Tensor:
    share = F.sigmoid(x)
    return share * (1 + x * (1 - share))


def normed_and_activated(norm: nn.Layer, activation: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """`activation(norm(x))`, at once where both are as they come."""
    if _are_joint(norm, activation):
        made = _group_norm(norm, x, silu=True)
        if made is not None:
            return made
    return activation(norm(x))


def _group_norm(norm: Any, x: paddle.Tensor, silu: bool) -> Optional[paddle.Tensor]:
    found = _norm_of(norm, x, silu)
    if found is None:
        return None
    x, scale, shift = _contiguous(x), norm.weight, norm.bias
    try:
        with paddle.no_grad():
            result, moments = found.forward(x, scale, shift)
    except OneDNNError:
        return None
    return attach(result, (x, scale, shift), _GroupNormBackward(found, x, scale, shift, moments))


def _norm_of(norm: Any, x: paddle.Tensor, silu: bool) -> Optional[_GroupNorm]:
    scale, shift, groups = norm.weight, norm.bias, norm._num_groups
    if statistics.active() is not None:
        return None
    if scale is None or shift is None or norm._data_format != "NCHW" or x.ndim < 3:
        return None
    if (
        not by_kernels(x, scale, shift)
        or prod(x.shape) < _MAP_FROM
        or x.shape[1] != scale.shape[0]
        or x.shape[1] % groups
    ):
        return None
    return _GroupNorm(tuple(x.shape), groups, norm._epsilon, silu)


_RESULT = -1


class _GroupNormBackward(Backward):
    def __init__(self, norm: _GroupNorm, x: paddle.Tensor, scale: Any, shift: Any, statistics: Any):
        self.norm, self.x, self.scale, self.shift, self.statistics = norm, x, scale, shift, statistics
        self.needed = (x, scale, shift)
        self._of: Optional[paddle.Tensor] = None
        self._found: List[Optional[paddle.Tensor]] = []

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if self._of is not gradient:
            self._of = gradient
            self._found = list(self.norm.gradients(self.x, self.scale, self.shift, self.statistics, gradient))
        found, self._found[number] = self._found[number], None
        if found is None:  # a pass asks for each once
            return self.norm.gradients(self.x, self.scale, self.shift, self.statistics, gradient)[number]
        return found

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        """Or the result itself, for the number `_RESULT`."""
        batch, channels = self.x.shape[:2]
        groups = self.norm.groups

        def mean(tensor: paddle.Tensor) -> paddle.Tensor:  # of each group
            return tensor.reshape([batch, groups, -1]).mean(-1, keepdim=True)

        def shaped(tensor: paddle.Tensor) -> paddle.Tensor:  # for [B, C, pixels]
            return tensor.expand([batch, groups, channels // groups]).reshape([batch, channels, 1])

        x, gradient = (each.reshape([batch, channels, -1]) for each in (self.x, gradient))
        scale, shift = (each.reshape([1, channels, 1]) for each in (self.scale, self.shift))
        middle = x - shaped(mean(x))
        inverse = (shaped(mean(middle * middle)) + self.norm.epsilon) ** -0.5
        normed = middle * inverse
        if number == _RESULT:
            found = normed * scale + shift
            return (F.silu(found) if self.norm.silu else found).reshape(self.x.shape)
        if self.norm.silu:
            gradient = gradient * _silu_slope(normed * scale + shift)
        if number == 2:
            return gradient.sum(axis=[0, 2])
        if number == 1:
            return (gradient * normed).sum(axis=[0, 2])
        inner = gradient * scale
        found = inverse * (inner - shaped(mean(inner)) - normed * shaped(mean(inner * normed)))
        return found.reshape(self.x.shape)


def normed_and_convolved(
    norm: nn.Layer, activation: nn.Layer, convolution: nn.Layer, x: paddle.Tensor
) -> paddle.Tensor:
    """`convolution(activation(norm(x)))`, at once where all are as they come: what is convolved is kept for the
    backward pass as the kernels have it, and not a second time."""
    if _untouched(convolution, Conv2D, _CONV2D_FORWARD) and _are_joint(norm, activation):
        made = _chain(norm, convolution, x)
        if made is not None:
            return made
    return convolution(normed_and_activated(norm, activation, x))


def _are_joint(norm: nn.Layer, activation: nn.Layer) -> bool:
    return _untouched(norm, GroupNorm, _GROUP_NORM_FORWARD) and _untouched(activation, Silu, _SILU_FORWARD)


def _chain(norm: Any, convolution: Any, x: paddle.Tensor) -> Optional[paddle.Tensor]:
    padding, weight, bias = convolution._padding_of_kernels(), convolution.weight, convolution.bias
    first = _norm_of(norm, x, silu=True)
    if first is None or padding is None or x.ndim != 4 or not by_kernels(weight, bias):
        return None
    second = _convolution_of(x, weight, convolution._stride, padding, convolution._dilation)
    if second is None:
        return None
    x = _contiguous(x)
    try:
        with paddle.no_grad():
            middle, statistics = first.forward(x, norm.weight, norm.bias)
            laid = Laid(middle)
            result = second.forward(laid, weight, bias)
    except OneDNNError:
        return None
    laid.forget_original()
    backward = _ChainBackward(
        _GroupNormBackward(first, x, norm.weight, norm.bias, statistics),
        _ConvolutionBackward(second, laid, weight, bias),
    )
    return attach(result, (x, norm.weight, norm.bias, weight, bias), backward)


class _ChainBackward(Backward):
    def __init__(self, norm: _GroupNormBackward, convolution: _ConvolutionBackward):
        self.norm, self.convolution = norm, convolution
        self.needed = (*norm.needed, *convolution.needed)
        self._of: Optional[paddle.Tensor] = None
        self._between: Optional[paddle.Tensor] = None

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if number >= 3:
            return self.convolution.gradient(number - 2, gradient)
        if self._of is not gradient:
            self._of, self._between = gradient, self.convolution.gradient(0, gradient)
        return self.norm.gradient(number, self._between)

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        convolution = _ConvolutionBackward(
            self.convolution.convolution, self.norm.differentiable(_RESULT, self.norm.x), self.convolution.weight, None
        )
        if number >= 3:
            return convolution.differentiable(number - 2, gradient)
        return self.norm.differentiable(number, convolution.differentiable(0, gradient))


def added(x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    """x + y for maps `[B, C, H, W]`, y of which may have one pixel. The gradient of x is that of the result, where
    paddle copies it."""
    result = x + y
    if result.stop_gradient or x.stop_gradient or not by_kernels(x, y) or prod(x.shape) < _MAP_FROM:
        return result
    if x.shape != y.shape and (x.ndim != 4 or y.shape != [*x.shape[:2], 1, 1]):
        return result
    return attach(result.detach(), (x, y), _AddedBackward(y.shape))


class _AddedBackward(Backward):
    def __init__(self, shape: Sequence[int]):
        self.shape = list(shape)

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if number == 0:
            return gradient
        if list(gradient.shape) == self.shape:
            return gradient.clone()  # each may be added to
        rows = (prod(self.shape), prod(gradient.shape[2:]))
        return product(Matrix(gradient, rows), Matrix(paddle.ones([rows[1], 1]), (rows[1], 1))).reshape(self.shape)

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if number == 0 or list(gradient.shape) == self.shape:
            return gradient
        return gradient.sum(axis=[2, 3], keepdim=True)


# Products


class Linear(nn.Linear):
    """As paddle's."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        weight, bias = self.weight, self.bias
        if input.shape[-1] != weight.shape[0] or not by_kernels(input, weight, bias):
            return super().forward(input)
        if prod(input.shape) * weight.shape[1] < _PRODUCT_FROM:
            return super().forward(input)
        x, dtype = _contiguous(input), _type.get()
        rows = (prod(x.shape[:-1]), weight.shape[0])
        try:
            with paddle.no_grad():
                result = product(Matrix(x, rows), Matrix(weight, weight.shape), dtype, bias)
                result = result.reshape([*x.shape[:-1], weight.shape[1]])
        except OneDNNError:
            return super().forward(input)
        return attach(result, (x, weight, bias), _LinearBackward(x, weight, dtype))


class _LinearBackward(Backward):
    def __init__(self, x: paddle.Tensor, weight: paddle.Tensor, dtype: int):
        self.x, self.weight, self.dtype = x, weight, dtype
        self.needed = (x, weight)

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        inner, outer = self.weight.shape
        rows = prod(self.x.shape) // inner
        if number == 0:
            weight = Matrix(self.weight, (inner, outer), transposed=True)
            return product(Matrix(gradient, (rows, outer)), weight, self.dtype).reshape(self.x.shape)
        if number == 1:
            x = Matrix(self.x, (rows, inner), transposed=True)
            return product(x, Matrix(gradient, (rows, outer)), self.dtype)
        return gradient.reshape([rows, outer]).sum(0)

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        inner, outer = self.weight.shape
        if number == 0:
            return paddle.matmul(gradient, self.weight, transpose_y=True)
        rows = gradient.reshape([-1, outer])
        if number == 1:
            return paddle.matmul(self.x.reshape([-1, inner]), rows, transpose_x=True)
        return rows.sum(0)


def attention(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> Optional[paddle.Tensor]:
    """softmax(Q K^T) V for `[B, heads, T, d]`, `[B, heads, S, d]` and `[B, heads, S, e]`; None where kernels don't.

    Neither pass holds more scores than some blocks of queries have.
    """
    if not by_kernels(query, key, value) or prod(query.shape) * key.shape[2] < _PRODUCT_FROM:
        return None
    query, key, value = map(_contiguous, (query, key, value))
    found = _Attention(tuple(query.shape), tuple(key.shape), value.shape[-1], _type.get())
    try:
        with paddle.no_grad():
            result = found.forward(query, key, value)
    except OneDNNError:
        return None
    return attach(result, (query, key, value), _AttentionBackward(found, query, key, value))


class _AttentionBackward(Backward):
    def __init__(self, attention: _Attention, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor):
        self.attention = attention
        self.inputs = self.needed = (query, key, value)
        self._of: Optional[paddle.Tensor] = None
        self._found: List[Optional[paddle.Tensor]] = []

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        if self._of is not gradient:
            self._of, self._found = gradient, list(self.attention.gradients(*self.inputs, gradient))
        found, self._found[number] = self._found[number], None
        return self.attention.gradients(*self.inputs, gradient)[number] if found is None else found

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        query, key, value = self.inputs
        shares = F.softmax(paddle.matmul(query, key, transpose_y=True), axis=-1)
        if number == 2:
            return paddle.matmul(shares, gradient, transpose_x=True)
        inner = paddle.matmul(gradient, value, transpose_y=True)
        scores = shares * (inner - (shares * inner).sum(-1, keepdim=True))
        return paddle.matmul(scores, query, transpose_x=True) if number == 1 else paddle.matmul(scores, key)


_CONV2D_FORWARD, _GROUP_NORM_FORWARD, _SILU_FORWARD = Conv2D.forward, GroupNorm.forward, Silu.forward
