"""Operators as kernels of oneDNN, for tensors of given shapes, types and layouts."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Tuple

from ppdiffusers.onednn.library import SRC_1, Descriptor, Kernel, PostOp, library, sizes

ADD, MUL, SUB, DIV = 0x1FFF0, 0x1FFF1, 0x1FFF5, 0x1FFF4  # algorithms
# Functions of one number, some with parameters: RELU has the slope of what is negative for alpha, LINEAR is
# alpha * x + beta, and SWISH is x * LOGISTIC(alpha * x).
RELU, TANH, LINEAR, LOGISTIC, EXP, GELU_TANH, SWISH = 0x20, 0x21, 0x26, 0x29, 0x2A, 0x2B, 0x2C
GELU_ERF, MISH = 0x31, 0x33
ALGORITHMS = {
    **{ADD: "add", MUL: "multiply", SUB: "subtract", DIV: "divide"},
    **{RELU: "relu", TANH: "tanh", LINEAR: "linear", LOGISTIC: "sigmoid", EXP: "exp"},
    **{GELU_TANH: "gelu (tanh)", SWISH: "silu", GELU_ERF: "gelu", MISH: "mish"},
}
_CONVOLUTION, _DECONVOLUTION, _AVERAGE_POOLING, _SOFTMAX = 1, 10, 0x3FF, 0x30000
_TRAINING, _INFERENCE, _BACKWARD = 64, 96, 128  # propagation kinds; statistics are only written in training
_GIVEN_STATISTICS, _USE_SCALE_AND_SHIFT = 1, 2 | 4


def post_argument(number: int) -> int:
    return 0x8000 * (number + 1) | SRC_1


class Geometry(NamedTuple):
    """Of a convolution, a number for each axis: steps, padding before and after, distances of taps (1 for none)."""

    strides: Sequence[int]
    before: Sequence[int]
    after: Sequence[int]
    dilations: Sequence[int]
    transposed: bool = False


def convolution(
    geometry: Geometry, source: Descriptor, weights: Descriptor, result: Descriptor, post: Sequence[PostOp] = ()
) -> Kernel:
    """The weights of a transposed one are [out, in, h, w] too."""
    kind, algorithm, numbers = _of_geometry(geometry)
    tensors = (source, weights, None, result)  # no bias: it is a post-op
    return Kernel(f"{kind}_forward", _INFERENCE, algorithm, *tensors, *numbers, post=post)


def trained_convolution(
    geometry: Geometry, source: Descriptor, weights: Descriptor, bias: Optional[Descriptor], result: Descriptor
) -> Kernel:
    """One that the two following ones are made for."""
    kind, algorithm, numbers = _of_geometry(geometry)
    return Kernel(f"{kind}_forward", _TRAINING, algorithm, source, weights, bias, result, *numbers)


def convolution_source_gradient(
    geometry: Geometry, source: Descriptor, weights: Descriptor, result: Descriptor, forward: Kernel
) -> Kernel:
    kind, algorithm, numbers = _of_geometry(geometry)
    return Kernel(f"{kind}_backward_data", algorithm, source, weights, result, *numbers, forward)


def convolution_weights_gradient(
    geometry: Geometry,
    source: Descriptor,
    weights: Descriptor,
    bias: Optional[Descriptor],
    result: Descriptor,
    forward: Kernel,
) -> Kernel:
    """And that of the bias."""
    kind, algorithm, numbers = _of_geometry(geometry)
    return Kernel(f"{kind}_backward_weights", algorithm, source, weights, bias, result, *numbers, forward)


def _of_geometry(geometry: Geometry) -> Tuple[str, int, Tuple[Any, ...]]:
    strides, before, after, dilations, transposed = geometry
    kind, algorithm = ("deconvolution", _DECONVOLUTION) if transposed else ("convolution", _CONVOLUTION)
    return kind, algorithm, (sizes(strides), sizes([n - 1 for n in dilations]), sizes(before), sizes(after))


def matmul(
    source: Descriptor,
    weights: Descriptor,
    result: Descriptor,
    post: Sequence[PostOp] = (),
    bias: Optional[Descriptor] = None,
) -> Kernel:
    return Kernel("matmul", source, weights, bias, result, post=post)


def binary(
    algorithm: int, source: Descriptor, other: Descriptor, result: Descriptor, post: Sequence[PostOp] = ()
) -> Kernel:
    return Kernel("binary", algorithm, source, other, result, post=post)


def eltwise(
    algorithm: int, alpha: float, beta: float, source: Descriptor, result: Descriptor, post: Sequence[PostOp] = ()
) -> Kernel:
    return Kernel("eltwise_forward", _INFERENCE, algorithm, source, result, alpha, beta, post=post)


def eltwise_gradient(algorithm: int, alpha: float, beta: float, source: Descriptor) -> Kernel:
    """Of the source, from the source and the gradient of the result, all in one layout."""
    forward = Kernel("eltwise_forward", _TRAINING, algorithm, source, source, alpha, beta)
    return Kernel("eltwise_backward", algorithm, source, source, source, alpha, beta, forward)


def softmax(source: Descriptor, result: Descriptor, axis: int) -> Kernel:
    return Kernel("softmax_forward", _INFERENCE, _SOFTMAX, source, result, axis)


def softmax_gradient(result: Descriptor, axis: int) -> Kernel:
    """Of the source, from the result and its gradient, all in one layout."""
    forward = Kernel("softmax_forward", _TRAINING, _SOFTMAX, result, result, axis)
    return Kernel("softmax_backward", _SOFTMAX, result, result, result, axis, forward)


def layer_norm(source: Descriptor, result: Descriptor, epsilon: float) -> Kernel:
    """Over the last axis, with scale and shift."""
    arguments = (source, result, None, epsilon, _USE_SCALE_AND_SHIFT)
    return Kernel("layer_normalization_forward", _INFERENCE, *arguments)


def batch_statistics(source: Descriptor, result: Descriptor) -> Kernel:
    """Mean and variance of every channel; it writes the normalised tensor too."""
    return Kernel("batch_normalization_forward", _TRAINING, source, result, 1e-5, 0)


def channel_gradient(source: Descriptor, epsilon: float) -> Kernel:
    """Of a batch norm with given statistics: DIFF_SCALE and DIFF_SHIFT of every channel, and DIFF_SRC as if the
    statistics were constants."""
    forward = Kernel("batch_normalization_forward", _TRAINING, source, source, epsilon, _USE_SCALE_AND_SHIFT)
    flags = _GIVEN_STATISTICS | _USE_SCALE_AND_SHIFT
    return Kernel("batch_normalization_backward", _BACKWARD, source, source, source, epsilon, flags, forward)


def group_norm(source: Descriptor, groups: int, epsilon: float) -> Kernel:
    """With scale and shift; it writes mean and variance of each group of each picture too."""
    arguments = (source, source, groups, epsilon, _USE_SCALE_AND_SHIFT)
    return Kernel("group_normalization_forward", _TRAINING, *arguments)


def average_pooling(source: Descriptor, result: Descriptor, size: Sequence[int], strides: Sequence[int]) -> Kernel:
    none = sizes([0, 0])
    geometry = (sizes(strides), sizes(size), none, none, none)
    return Kernel("pooling_forward", _INFERENCE, _AVERAGE_POOLING, source, result, *geometry)


def reorder(source: Descriptor, result: Descriptor) -> Kernel:
    """A copy into another layout or type."""
    engine = library().engine
    return Kernel("reorder", source, engine, result, engine, engine=False)
