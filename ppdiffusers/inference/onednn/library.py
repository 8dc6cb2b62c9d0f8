"""oneDNN, the library of kernels that Paddle's CPU wheels carry, through its C interface.

Only what plans need. Paddle itself uses oneDNN too, but around every convolution it changes layouts and runs
kernels of its own; called directly, everything stays channels-last and in the type that the kernels compute in.

Source: the C API of oneDNN 3 (dnnl.h, dnnl_types.h); its numbers below have not changed since 3.0.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Tuple

import paddle

FP32, BF16 = 3, 2  # types
ITEM_BYTES = {FP32: 4, BF16: 2}
SRC, SRC_1, DST, WEIGHTS, MEAN, VARIANCE, SCALE, SHIFT = 1, 2, 17, 33, 49, 50, 51, 52  # arguments
ADD, MUL, SUB, DIV = 0x1FFF0, 0x1FFF1, 0x1FFF5, 0x1FFF4  # algorithms
RELU, LINEAR, GELU_TANH, SWISH, GELU_ERF = 0x20, 0x26, 0x2B, 0x2C, 0x31
_CONVOLUTION, _DECONVOLUTION, _AVERAGE_POOLING, _SOFTMAX = 1, 10, 0x3FF, 0x30000
_TRAINING, _INFERENCE = 64, 96  # propagation kinds; statistics are only written in training
_USE_SCALE_AND_SHIFT = 2 | 4
_ANY = 1  # the layout that the kernel likes best
_QUERY_WEIGHTS, _QUERY_NAME = 131, 8


class OneDNNError(RuntimeError):
    """oneDNN refuses a kernel, or is not there."""


class PostOp(NamedTuple):
    """What a kernel does to its results before it writes them: `algorithm` of them, or of them and `other`."""

    algorithm: int
    alpha: float = 1.0  # of one that has no `other`
    beta: float = 0.0
    other: Optional[Any] = None  # a Descriptor


class _Version(ctypes.Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


class _Argument(ctypes.Structure):
    _fields_ = [("kind", c_int), ("memory", c_void_p)]


class _Library:
    def __init__(self) -> None:
        folder = Path(paddle.__file__).parent / "libs"
        files = sorted(folder.glob("libdnnl.so*")) + sorted(folder.glob("libdnnl*.dylib"))
        if not files:
            raise OneDNNError(f"this paddle has no oneDNN in {folder}")
        try:
            self.c = ctypes.CDLL(str(files[0]))
            self.c.dnnl_version.restype = ctypes.POINTER(_Version)
            version = self.c.dnnl_version().contents
            self.c.dnnl_memory_desc_get_size.restype = c_size_t
            self.c.dnnl_primitive_desc_query_md.restype = c_void_p
        except (OSError, AttributeError) as error:
            raise OneDNNError(f"{files[0]} cannot be used: {error}") from None
        if version.major != 3:
            raise OneDNNError(f"{files[0]} is oneDNN {version.major}.{version.minor}, and 3 is what is known here")
        self.engine, self.stream = c_void_p(), c_void_p()
        self("engine_create", byref(self.engine), 1, c_size_t(0))
        self("stream_create", byref(self.stream), self.engine, 1)

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self.c, f"dnnl_{name}")(*arguments)
        if status:
            raise OneDNNError(f"oneDNN's {name} fails with status {status}")


@functools.cache
def library() -> _Library:
    """The library, loaded when it is first used.

    Raises:
        OneDNNError: there is none, or of another generation.
    """
    return _Library()


def is_there() -> bool:
    try:
        library()
    except OneDNNError:
        return False
    return True


class _Handle:
    """A C object that is destroyed with its last Python name."""

    _kind = ""

    def __init__(self) -> None:
        self.value = c_void_p()
        self._destroy = getattr(library().c, f"dnnl_{self._kind}_destroy")

    def __del__(self) -> None:
        if self.value:
            self._destroy(self.value)


class Descriptor(_Handle):
    """Shape, type and layout of a tensor. Without `strides` (elements) the layout is for the kernel to choose."""

    _kind = "memory_desc"

    def __init__(self, shape: Sequence[int], dtype: int, strides: Optional[Sequence[int]] = None):
        super().__init__()
        if strides is None:
            create, layout = "memory_desc_create_with_tag", _ANY
        else:
            create, layout = "memory_desc_create_with_strides", _sizes(strides)
        library()(create, byref(self.value), len(shape), _sizes(shape), dtype, layout)

    @property
    def bytes(self) -> int:
        return library().c.dnnl_memory_desc_get_size(self.value)

    def same(self, other: Descriptor) -> bool:
        return bool(library().c.dnnl_memory_desc_equal(self.value, other.value))


class Memory(_Handle):
    """The tensor of `descriptor` at an address."""

    _kind = "memory"

    def __init__(self, descriptor: Descriptor, address: int):
        super().__init__()
        library()("memory_create", byref(self.value), descriptor.value, library().engine, c_void_p(address))


class Kernel(_Handle):
    """A way to compute something, chosen for the shapes and layouts of its tensors; `primitive` makes it run."""

    _kind = "primitive_desc"

    def __init__(self, kind: str, *arguments: Any, post: Sequence[PostOp] = (), engine: bool = True):
        super().__init__()
        attributes, keep = _attributes(post)
        first = (library().engine,) if engine else ()
        values = [each.value if isinstance(each, _Handle) else each for each in arguments]
        library()(f"{kind}_primitive_desc_create", byref(self.value), *first, *values, attributes.value)
        del keep

    @property
    def name(self) -> str:
        """Of the implementation: "brg_conv_fwd:avx512_core_bf16"."""
        name = c_char_p()
        library()("primitive_desc_query", self.value, _QUERY_NAME, 0, byref(name))
        return (name.value or b"").decode()

    @property
    def slow(self) -> bool:
        """Whether this is a plain loop, which oneDNN has for whatever its fast kernels do not take."""
        return self.name.startswith("ref")

    @property
    def weights(self) -> Descriptor:
        """The layout of the weights that it takes."""
        found = Descriptor.__new__(Descriptor)
        _Handle.__init__(found)
        shown = c_void_p(library().c.dnnl_primitive_desc_query_md(self.value, _QUERY_WEIGHTS, 0))
        library()("memory_desc_clone", byref(found.value), shown)
        return found


class _Attributes(_Handle):
    _kind = "primitive_attr"


class _PostOps(_Handle):
    _kind = "post_ops"


def _attributes(post: Sequence[PostOp]) -> Tuple[_Attributes, Any]:
    attributes = _Attributes()
    library()("primitive_attr_create", byref(attributes.value))
    operations = _PostOps()
    library()("post_ops_create", byref(operations.value))
    for each in post:
        if each.other is None:
            numbers = c_float(each.alpha), c_float(each.beta)
            library()("post_ops_append_eltwise", operations.value, each.algorithm, *numbers)
        else:
            library()("post_ops_append_binary", operations.value, each.algorithm, each.other.value)
    library()("primitive_attr_set_post_ops", attributes.value, operations.value)
    return attributes, operations


class Primitive(_Handle):
    """A kernel that runs on certain memory.

    Args:
        arguments: kinds (SRC, ...; of the i-th post-op `post_argument(i)`) and what they stand for.
    """

    _kind = "primitive"

    def __init__(self, kernel: Kernel, arguments: Sequence[Tuple[int, Memory]]):
        super().__init__()
        library()("primitive_create", byref(self.value), kernel.value)
        self._memories = arguments  # kept alive
        pairs = [_Argument(kind, memory.value) for kind, memory in arguments]
        self._arguments = (_Argument * len(pairs))(*pairs)
        self._execute = library().c.dnnl_primitive_execute

    def __call__(self) -> None:
        status = self._execute(self.value, library().stream, len(self._arguments), self._arguments)
        if status:
            raise OneDNNError(f"a kernel of oneDNN fails with status {status}")


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
    numbers = (_sizes(strides), _sizes([n - 1 for n in dilations]), _sizes(before), _sizes(after))
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
    numbers = c_float(alpha), c_float(beta)
    return Kernel("eltwise_forward", _INFERENCE, algorithm, source, result, *numbers, post=post)


def softmax(source: Descriptor, result: Descriptor, axis: int) -> Kernel:
    return Kernel("softmax_forward", _INFERENCE, _SOFTMAX, source, result, axis)


def layer_norm(source: Descriptor, result: Descriptor, epsilon: float) -> Kernel:
    """Over the last axis, with scale and shift."""
    flags = c_uint(_USE_SCALE_AND_SHIFT)
    arguments = (source, result, None, c_float(epsilon), flags)
    return Kernel("layer_normalization_forward", _INFERENCE, *arguments)


def batch_statistics(source: Descriptor, result: Descriptor) -> Kernel:
    """Mean and variance of every channel; it writes the normalised tensor too."""
    return Kernel("batch_normalization_forward", _TRAINING, source, result, c_float(1e-5), c_uint(0))


def average_pooling(source: Descriptor, result: Descriptor, size: Sequence[int], strides: Sequence[int]) -> Kernel:
    none = _sizes([0, 0])
    geometry = (_sizes(strides), _sizes(size), none, none, none)
    return Kernel("pooling_forward", _INFERENCE, _AVERAGE_POOLING, source, result, *geometry)


def reorder(source: Descriptor, result: Descriptor) -> Kernel:
    """A copy into another layout or type."""
    engine = library().engine
    return Kernel("reorder", source, engine, result, engine, engine=False)


def _sizes(values: Sequence[int]) -> Any:
    return (c_int64 * len(values))(*values)
