"""oneDNN, the library of kernels that Paddle's CPU wheels carry, through its C interface.

Only what is used here. Paddle itself computes with oneDNN in compiled programs only, and there it changes layouts
around every convolution; its layers as they are run kernels of its own.

Source: the C API of oneDNN 3 (dnnl.h, dnnl_types.h); its numbers below have not changed since 3.0.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import paddle

FP32, BF16 = 3, 2  # types
ITEM_BYTES = {FP32: 4, BF16: 2}
# Kinds of arguments.
SRC, SRC_1, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, SCRATCHPAD = 1, 2, 17, 33, 41, 49, 50, 51, 52, 80
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
_ANY = 1  # the layout that the kernel likes best
# The layout of an argument, by its kind; and the name of the implementation.
_QUERIES = {SRC: 129, DIFF_SRC: 130, WEIGHTS: 131, DIFF_WEIGHTS: 132, DST: 133, DIFF_DST: 134, SCRATCHPAD: 136}
_QUERY_NAME = 8
_USER_SCRATCHPAD = 1
_OUT_OF_MEMORY = 1  # status
_ISA_BF16 = 0x80  # AVX512_BF16


class OneDNNError(RuntimeError):
    """oneDNN refuses a kernel, or is not there."""


class NotEnoughMemory(OneDNNError):
    """Memory that a plan needs cannot be had."""


class PostOp(NamedTuple):
    """What a kernel does to its results before it writes them: `algorithm` of them, or of them and `other`."""

    algorithm: int
    alpha: float  # of one that has no `other`
    beta: float
    other: Optional[Any] = None  # a Descriptor


class _Version(ctypes.Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


class _Argument(ctypes.Structure):
    _fields_ = [("kind", c_int), ("memory", c_void_p)]


_TYPE = _KIND = c_int  # enumerations
_HANDLE, _NEW, _SIZES = c_void_p, POINTER(c_void_p), POINTER(c_int64)
_DESCRIPTOR = _HANDLE  # None for a tensor that is left out
_CONVOLUTION_ARGUMENTS = (_NEW, _HANDLE, _KIND, _KIND, *4 * [_DESCRIPTOR], *4 * [_SIZES], _HANDLE)
_DATA_GRADIENT_ARGUMENTS = (_NEW, _HANDLE, _KIND, *3 * [_DESCRIPTOR], *4 * [_SIZES], _HANDLE, _HANDLE)
_WEIGHTS_GRADIENT_ARGUMENTS = (_NEW, _HANDLE, _KIND, *4 * [_DESCRIPTOR], *4 * [_SIZES], _HANDLE, _HANDLE)
# Every function that is used: what it takes. It returns a status, unless `_RETURNS` says otherwise.
_TAKES: Dict[str, Tuple[Any, ...]] = {
    "version": (),
    "status2str": (c_int,),
    "get_effective_cpu_isa": (),
    "engine_create": (_NEW, _KIND, c_size_t),
    "stream_create": (_NEW, _HANDLE, c_uint),
    "memory_desc_create_with_tag": (_NEW, c_int, _SIZES, _TYPE, _KIND),
    "memory_desc_create_with_strides": (_NEW, c_int, _SIZES, _TYPE, _SIZES),
    "memory_desc_clone": (_NEW, _DESCRIPTOR),
    "memory_desc_equal": (_DESCRIPTOR, _DESCRIPTOR),
    "memory_desc_get_size": (_DESCRIPTOR,),
    "memory_desc_destroy": (_DESCRIPTOR,),
    "memory_create": (_NEW, _DESCRIPTOR, _HANDLE, c_void_p),
    "memory_set_data_handle": (_HANDLE, c_void_p),
    "memory_destroy": (_HANDLE,),
    "post_ops_create": (_NEW,),
    "post_ops_append_eltwise": (_HANDLE, _KIND, c_float, c_float),
    "post_ops_append_binary": (_HANDLE, _KIND, _DESCRIPTOR),
    "post_ops_destroy": (_HANDLE,),
    "primitive_attr_create": (_NEW,),
    "primitive_attr_set_post_ops": (_HANDLE, _HANDLE),
    "primitive_attr_set_scratchpad_mode": (_HANDLE, _KIND),
    "primitive_attr_destroy": (_HANDLE,),
    "primitive_desc_query": (_HANDLE, _KIND, c_int, c_void_p),
    "primitive_desc_query_md": (_HANDLE, _KIND, c_int),
    "primitive_desc_destroy": (_HANDLE,),
    "primitive_create": (_NEW, _HANDLE),
    "primitive_execute": (_HANDLE, _HANDLE, c_int, POINTER(_Argument)),
    "primitive_destroy": (_HANDLE,),
    "convolution_forward_primitive_desc_create": _CONVOLUTION_ARGUMENTS,
    "convolution_backward_data_primitive_desc_create": _DATA_GRADIENT_ARGUMENTS,
    "convolution_backward_weights_primitive_desc_create": _WEIGHTS_GRADIENT_ARGUMENTS,
    "deconvolution_forward_primitive_desc_create": _CONVOLUTION_ARGUMENTS,
    "deconvolution_backward_data_primitive_desc_create": _DATA_GRADIENT_ARGUMENTS,
    "deconvolution_backward_weights_primitive_desc_create": _WEIGHTS_GRADIENT_ARGUMENTS,
    "matmul_primitive_desc_create": (_NEW, _HANDLE, *4 * [_DESCRIPTOR], _HANDLE),
    "binary_primitive_desc_create": (_NEW, _HANDLE, _KIND, *3 * [_DESCRIPTOR], _HANDLE),
    "eltwise_forward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, _KIND, _DESCRIPTOR, _DESCRIPTOR),
        *(c_float, c_float, _HANDLE),
    ),
    "eltwise_backward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, *3 * [_DESCRIPTOR]),
        *(c_float, c_float, _HANDLE, _HANDLE),
    ),
    "softmax_forward_primitive_desc_create": (_NEW, _HANDLE, _KIND, _KIND, _DESCRIPTOR, _DESCRIPTOR, c_int, _HANDLE),
    "softmax_backward_primitive_desc_create": (_NEW, _HANDLE, _KIND, *3 * [_DESCRIPTOR], c_int, _HANDLE, _HANDLE),
    "layer_normalization_forward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, *3 * [_DESCRIPTOR]),
        *(c_float, c_uint, _HANDLE),
    ),
    "batch_normalization_forward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, *2 * [_DESCRIPTOR]),
        *(c_float, c_uint, _HANDLE),
    ),
    "batch_normalization_backward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, *3 * [_DESCRIPTOR]),
        *(c_float, c_uint, _HANDLE, _HANDLE),
    ),
    "group_normalization_forward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, *2 * [_DESCRIPTOR]),
        *(c_int64, c_float, c_uint, _HANDLE),
    ),
    "pooling_forward_primitive_desc_create": (
        *(_NEW, _HANDLE, _KIND, _KIND, _DESCRIPTOR, _DESCRIPTOR),
        *(*5 * [_SIZES], _HANDLE),
    ),
    "reorder_primitive_desc_create": (_NEW, _DESCRIPTOR, _HANDLE, _DESCRIPTOR, _HANDLE, _HANDLE),
}
_RETURNS: Dict[str, Any] = {
    "version": POINTER(_Version),
    "status2str": c_char_p,
    "memory_desc_equal": c_int,
    "memory_desc_get_size": c_size_t,
    "primitive_desc_query_md": c_void_p,
}


class _Library:
    """The functions of `_TAKES` as attributes, without their prefix; a call by name raises where the status is bad."""

    def __init__(self) -> None:
        folder = Path(paddle.__file__).parent / "libs"
        files = sorted(folder.glob("libdnnl.so*")) + sorted(folder.glob("libdnnl*.dylib"))
        if not files:
            raise OneDNNError(f"this paddle has no oneDNN in {folder}")
        try:
            c = ctypes.CDLL(str(files[0]))
            for name, takes in _TAKES.items():
                function = getattr(c, f"dnnl_{name}")
                function.argtypes, function.restype = takes, _RETURNS.get(name, c_int)
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise OneDNNError(f"{files[0]} cannot be used: {error}") from None
        version = self.version().contents
        if version.major != 3:
            raise OneDNNError(f"{files[0]} is oneDNN {version.major}.{version.minor}, and 3 is what is known here")
        # Of the OpenMP that it was linked to. Kernels and their scratchpads are cut for a number of threads.
        self.threads = getattr(c, "omp_get_max_threads", lambda: 0)
        self.engine, self.stream = c_void_p(), c_void_p()  # of the CPU; any thread may use them
        self("engine_create", byref(self.engine), 1, 0)
        self("stream_create", byref(self.stream), self.engine, 1)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # for mypy: the functions are set by name

    def __call__(self, name: str, *arguments: Any) -> None:
        self.check(name, getattr(self, name)(*arguments))

    def check(self, name: str, status: int) -> None:
        """Raise where a function returned another status than success."""
        if status:
            kind = NotEnoughMemory if status == _OUT_OF_MEMORY else OneDNNError
            raise kind(f"oneDNN's {name} fails: {self.status2str(status).decode()}")


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


def has_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 with instructions of the CPU, and ONEDNN_MAX_CPU_ISA lets it."""
    return is_there() and bool(library().get_effective_cpu_isa() & _ISA_BF16)


class _Handle:
    """A C object that is destroyed with its last Python name."""

    _kind = ""

    def __init__(self) -> None:
        self.value = c_void_p()
        self._destroy = getattr(library(), f"{self._kind}_destroy")

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
            create, layout = "memory_desc_create_with_strides", sizes(strides)
        library()(create, byref(self.value), len(shape), sizes(shape), dtype, layout)

    @property
    def bytes(self) -> int:
        return library().memory_desc_get_size(self.value)

    def same(self, other: Descriptor) -> bool:
        return bool(library().memory_desc_equal(self.value, other.value))


class Memory(_Handle):
    """The tensor of `descriptor` at an address."""

    _kind = "memory"

    def __init__(self, descriptor: Descriptor, address: int):
        super().__init__()
        library()("memory_create", byref(self.value), descriptor.value, library().engine, address)


class Kernel(_Handle):
    """A way to compute something, chosen for the shapes and layouts of its tensors; `primitive` makes it run."""

    _kind = "primitive_desc"

    def __init__(self, kind: str, *arguments: Any, post: Sequence[PostOp] = (), engine: bool = True):
        """`kind` is that of its descriptor in the C interface; its last argument, the attributes, is added here."""
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
        return self.layout(WEIGHTS)

    @property
    def scratchpad(self) -> Descriptor:
        """Of the memory that it needs while it runs, which may be none. Nothing is kept there."""
        return self.layout(SCRATCHPAD)

    def layout(self, kind: int) -> Descriptor:
        """Of an argument, as it was given or as the kernel chose it."""
        found = Descriptor.__new__(Descriptor)
        _Handle.__init__(found)
        query = library().primitive_desc_query_md(self.value, _QUERIES[kind], 0)
        library()("memory_desc_clone", byref(found.value), query)
        return found


class Step(_Handle):
    """A kernel that runs on memory given with each call, from any thread.

    Args:
        arguments: kinds and layouts, in the order in which a call gives the addresses. Its scratchpad, where it has
            one, comes last.
    """

    _kind = "primitive"

    def __init__(self, kernel: Kernel, arguments: Sequence[Tuple[int, Descriptor]]):
        super().__init__()
        library()("primitive_create", byref(self.value), kernel.value)
        scratchpad = kernel.scratchpad
        self.scratchpad = scratchpad.bytes
        more = [(SCRATCHPAD, scratchpad)] if self.scratchpad else []
        self._arguments = [*arguments, *more]
        self.layouts = [layout for _, layout in arguments]
        self._idle: List[Any] = []  # sets of arguments that no thread is using; more are made as threads ask for them

    def __call__(self, *addresses: int) -> None:
        c = library()
        try:
            memories, pairs = self._idle.pop()
        except IndexError:
            memories = [Memory(layout, 0) for _, layout in self._arguments]
            kinds = [kind for kind, _ in self._arguments]
            pairs = (_Argument * len(kinds))(*(_Argument(kind, each.value) for kind, each in zip(kinds, memories)))
        place = c.memory_set_data_handle
        for memory, address in zip(memories, addresses):
            place(memory.value, address)
        status = c.primitive_execute(self.value, c.stream, len(pairs), pairs)
        self._idle.append((memories, pairs))
        if status:
            c.check("primitive_execute", status)


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
            library()("post_ops_append_eltwise", operations.value, each.algorithm, each.alpha, each.beta)
        else:
            library()("post_ops_append_binary", operations.value, each.algorithm, each.other.value)
    library()("primitive_attr_set_post_ops", attributes.value, operations.value)
    # oneDNN's own scratchpads stay for good, and some are of the thread that made the primitive: another one's call
    # ends the process (oneDNN 3.6, convolutions by matrix products).
    library()("primitive_attr_set_scratchpad_mode", attributes.value, _USER_SCRATCHPAD)
    return attributes, operations


class Primitive(_Handle):
    """A kernel that runs on certain memory.

    Args:
        arguments: kinds (SRC, ...; of the i-th post-op `post_argument(i)`) and what they stand for. SCRATCHPAD is one
            where the kernel's has bytes.
    """

    _kind = "primitive"

    def __init__(self, kernel: Kernel, arguments: Sequence[Tuple[int, Memory]]):
        super().__init__()
        library()("primitive_create", byref(self.value), kernel.value)
        self._memories = arguments  # kept alive
        pairs = [_Argument(kind, memory.value) for kind, memory in arguments]
        self._call = (self.value, library().stream, len(pairs), (_Argument * len(pairs))(*pairs))
        self._execute = library().primitive_execute

    def __call__(self) -> None:
        status = self._execute(*self._call)
        if status:
            library().check("primitive_execute", status)


def sizes(values: Sequence[int]) -> Any:
    return (c_int64 * len(values))(*values)
