"""Operators as kernels of oneDNN, for tensors of given shapes, types and layouts."""

from __future__ import annotations

from typing import NamedTuple, Sequence

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
_TRAINING, _INFERENCE = 64, 96  # propagation kinds; statistics are only written in training
_USE_SCALE_AND_SHIFT = 2 | 4


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
    strides, before, after, dilations, transposed = geometry
    numbers = (sizes(strides), sizes([n - 1 for n in dilations]), sizes(before), sizes(after))
    kind, algorithm = ("deconvolution", _DECONVOLUTION) if transposed else ("convolution", _CONVOLUTION)
    tensors = (source, weights, None, result)  # no bias: it is a post-op
    return Kernel(f"{kind}_forward", _INFERENCE, algorithm, *tensors, *numbers, post=post)


def matmul(source: Descriptor, weights: Descriptor, result: Descriptor, post: Sequence[PostOp] = ()) -> Kernel:
    return Kernel("matmul", source, weights, None, result, post=post)


def binary(
    algorithm: int, source: Descriptor, other: Descriptor, result: Descriptor, post: Sequence[PostOp] = ()
) -> Kernel:
    return Kernel("binary", algorithm, source, other, result, post=post)


def eltwise(
    algorithm: int, alpha: float, beta: float, source: Descriptor, result: Descriptor, post: Sequence[PostOp] = ()
) -> Kernel:
    return Kernel("eltwise_forward", _INFERENCE, algorithm, source, result, alpha, beta, post=post)


def softmax(source: Descriptor, result: Descriptor, axis: int) -> Kernel:
    return Kernel("softmax_forward", _INFERENCE, _SOFTMAX, source, result, axis)


def layer_norm(source: Descriptor, result: Descriptor, epsilon: float) -> Kernel:
    """Over the last axis, with scale and shift."""
    arguments = (source, result, None, epsilon, _USE_SCALE_AND_SHIFT)
    return Kernel("layer_normalization_forward", _INFERENCE, *arguments)


def batch_statistics(source: Descriptor, result: Descriptor) -> Kernel:
    """Mean and variance of every channel; it writes the normalised tensor too."""
    return Kernel("batch_normalization_forward", _TRAINING, source, result, 1e-5, 0)


def average_pooling(source: Descriptor, result: Descriptor, size: Sequence[int], strides: Sequence[int]) -> Kernel:
    none = sizes([0, 0])
    geometry = (sizes(strides), sizes(size), none, none, none)
    return Kernel("pooling_forward", _INFERENCE, _AVERAGE_POOLING, source, result, *geometry)


def reorder(source: Descriptor, result: Descriptor) -> Kernel:
    """A copy into another layout or type."""
    engine = library().engine
    return Kernel("reorder", source, engine, result, engine, engine=False)
