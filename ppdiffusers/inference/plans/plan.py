"""How a program runs in oneDNN for inputs of certain shapes: kernels in order, and where their tensors lie.

Feature maps are channels-last in memory; transposing, splitting and reshaping are views wherever strides can say it.
What depends on shapes only is computed while planning. Additions and activations join the kernel in front of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
import time
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ppdiffusers.onednn import kernels, library
from ppdiffusers.onednn.library import (
    BF16,
    FP32,
    ITEM_BYTES,
    Descriptor,
    Kernel,
    Memory,
    NotEnoughMemory,
    PostOp,
    Primitive,
)
from ppdiffusers.threads import get_num_threads, use_threads

_ALIGNMENT = 64  # bytes
_LEFT_FREE = 64 << 20  # bytes that must be there besides an arena: for code of kernels, results, and others
_MOST_BY_LOOPS = 100_000  # elements that a plain loop may write: of a convolution one would take minutes
_NUMPY_COPIES_ON_REQUEST = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
Post = Tuple[int, float, float, Optional["Tensor"]]  # as PostOp, but with the tensor


@dataclass(eq=False)
class Buffer:
    """Memory of a plan, or of its own where `array` is given."""

    bytes: int
    array: Optional[np.ndarray] = None
    first: int = -1  # number of the step that writes it first
    last: int = -1  # and of the last that touches it
    ready: int = -1  # the step after which it is complete
    offset: int = -1

    def address(self, arena: int) -> int:
        return self.array.ctypes.data if self.array is not None else arena + self.offset


@dataclass(eq=False)
class Tensor:
    """A view of a buffer.

    Attributes:
        strides, offset: in elements; a stride of 0 repeats it, which no kernel reads or writes.
        layout: of the library's own, as weights have; such a tensor is only read whole.
        step: what writes exactly these elements, if nobody else reads them: more can be done to them there.
    """

    buffer: Buffer
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]
    dtype: int
    offset: int = 0
    step: Union[Step, Together, None] = None
    layout: Optional[Descriptor] = None

    @property
    def descriptor(self) -> Descriptor:
        if self.layout is not None:
            return self.layout
        for order in (range(len(self.shape)), _in_memory(len(self.shape))):
            usual = _dense_strides(self.shape, order)
            if self.lies_as(usual):
                return Descriptor(self.shape, self.dtype, usual)  # kernels look at axes of one element too
        return Descriptor(self.shape, self.dtype, self.strides)

    def view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Tensor:
        step = self.step if prod(shape) == prod(self.shape) else None
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=self.offset + offset, step=step)

    def part(self, axis: int, start: int, stop: int) -> Tensor:
        shape = list(self.shape)
        shape[axis] = stop - start
        return self.view(shape, self.strides, start * self.strides[axis])

    @property
    def turned(self) -> Tensor:
        """With the last two axes exchanged."""
        (*shape, rows, columns), (*strides, across, along) = self.shape, self.strides
        return self.view((*shape, columns, rows), (*strides, along, across))

    def reshaped(self, shape: Sequence[int]) -> Optional[Tensor]:
        """None where no strides can say it."""
        strides = _reshaped_strides(self.shape, self.strides, shape)
        return None if strides is None else self.view(shape, strides)

    @property
    def bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype] if self.layout is None else self.layout.bytes

    @property
    def dense(self) -> bool:
        """Whether its elements fill their memory, in any order of the axes."""
        return self.lies_as(_dense_strides(self.shape, self.order))

    def lies_as(self, strides: Sequence[int]) -> bool:
        """Whether these are its strides; those of axes of one element mean nothing."""
        return all(a == b for a, b, size in zip(self.strides, strides, self.shape) if size != 1)

    @property
    def repeated(self) -> bool:
        return any(stride == 0 and size != 1 for stride, size in zip(self.strides, self.shape))

    @property
    def order(self) -> List[int]:
        """Its axes as they lie in memory, the slowest first."""
        return sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis])

    def array(self, arena: int) -> np.ndarray:
        """Its elements, those of bfloat16 as uint16."""
        size = ITEM_BYTES[self.dtype]
        span = 1 + sum(stride * (n - 1) for stride, n in zip(self.strides, self.shape))
        raw = (ctypes.c_uint8 * (size * span)).from_address(self.buffer.address(arena) + size * self.offset)
        flat: np.ndarray = np.frombuffer(raw, {FP32: np.float32, BF16: np.uint16}[self.dtype])  # type: ignore[call-overload]
        return np.lib.stride_tricks.as_strided(flat, self.shape, [size * stride for stride in self.strides])

    def inner(self, arena: int, rows: int, columns: int) -> np.ndarray:
        """The elements of a map, float32, without so many rows and columns at each edge."""
        height, width = self.shape[2:]
        array = self.array(arena)[:, :, rows : height - rows, columns : width - columns]
        if self.dtype == FP32:
            return array
        return (array.astype(np.uint32) << 16).view(np.float32)


@dataclass(eq=False)
class Step:
    """A kernel under way, which more post-ops may join, or a function of the arena's address where `host` is given.

    Attributes:
        name: of the operators of the program that it computes.
    """

    number: int
    name: str
    arguments: List[Tuple[int, Tensor]]
    result: Tensor
    make: Optional[Callable[[List[PostOp]], Kernel]] = None
    post: List[Post] = field(default_factory=list)
    host: Optional[Callable[[int], None]] = None
    kernel: Optional[Kernel] = None

    def everything(self) -> List[Tuple[int, Tensor]]:
        """The arguments of the kernel, with those of the post-ops."""
        posts = [(kernels.post_argument(i), post[3]) for i, post in enumerate(self.post)]
        return self.arguments + [(kind, other) for kind, other in posts if other is not None]

    def join(self, algorithm: int, alpha: float, beta: float, other: Optional[Tensor] = None) -> bool:
        """Do this to the results too; False if the kernel would become slow, or `other` is not there yet."""
        if self.make is None or (other is not None and other.buffer.ready >= self.number):
            return False
        post = [*self.post, (algorithm, alpha, beta, other)]
        try:
            kernel = self.make(_post_ops(post))
        except library.OneDNNError:
            return False
        if kernel.slow:
            return False
        self.post, self.kernel = post, kernel
        return True


@dataclass(eq=False)
class Together:
    """Steps that write the parts of a result."""

    steps: List[Step]
    result: Tensor

    def join(self, algorithm: int, alpha: float, beta: float, other: Optional[Tensor] = None) -> bool:
        """As of a step; of another tensor each would need its part."""
        return other is None and all(step.join(algorithm, alpha, beta) for step in self.steps)


class Steps:
    """The steps of a plan, as they are found.

    Attributes:
        operator: name of that which is being translated.
    """

    def __init__(self) -> None:
        self.steps: List[Step] = []
        self.operator = ""

    def allocate(
        self,
        shape: Sequence[int],
        dtype: int,
        order: Optional[Sequence[int]] = None,
        array: Optional[np.ndarray] = None,
    ) -> Tensor:
        """A new tensor; `order` is that of its axes in memory, the slowest first (channels last for a map)."""
        strides = _dense_strides(shape, _in_memory(len(shape)) if order is None else order)
        return Tensor(Buffer(prod(shape) * ITEM_BYTES[dtype], array), tuple(shape), strides, dtype)

    def constant(self, array: np.ndarray) -> Tensor:
        """Of float32 numbers that do not change, or that are kept by somebody else."""
        array = np.ascontiguousarray(array, np.float32)
        return self.allocate(array.shape, FP32, range(array.ndim), array)

    def add(
        self,
        make: Callable[[List[PostOp]], Kernel],
        arguments: List[Tuple[int, Tensor]],
        result: Tensor,
        post: Sequence[Post] = (),
    ) -> Tensor:
        """A step that writes `result`, which comes back as its product."""
        kernel = make(_post_ops(post))
        return replace(result, step=self._append(result, arguments, make=make, post=list(post), kernel=kernel))

    def add_kernel(self, kernel: Kernel, arguments: List[Tuple[int, Tensor]], result: Tensor) -> Tensor:
        """A step that takes no post-ops."""
        self._append(result, arguments, kernel=kernel)
        return result

    def add_host(self, function: Callable[[int], None], reads: Sequence[Tensor], result: Tensor) -> Tensor:
        self._append(result, [(library.SRC, each) for each in reads], host=function)
        return result

    def _append(self, result: Tensor, arguments: List[Tuple[int, Tensor]], **more: Any) -> Step:
        step = Step(len(self.steps), self.operator, [*arguments, (library.DST, result)], result, **more)
        if step.kernel is not None and step.kernel.slow and prod(result.shape) > _MOST_BY_LOOPS:
            raise library.OneDNNError(f"oneDNN has no fast kernel for a result of the shape {list(result.shape)}")
        if result.buffer.first < 0:
            result.buffer.first = step.number
        result.buffer.ready = step.number
        self.steps.append(step)
        return step


class Plan:
    """Steps that can be run, in an arena that they need `bytes` of, by as many threads as they were made for: kernels
    and their scratchpads are cut for these.

    Args:
        inputs, outputs: of float32, in which whole numbers are exact up to 2 ** 24.

    Raises:
        NotEnoughMemory: the arena cannot grow so far.
    """

    def __init__(self, steps: Steps, inputs: Dict[str, Tensor], outputs: List[Tensor], arena: Arena):
        self._steps = steps.steps
        self.inputs, self.outputs = inputs, outputs
        for step in self._steps:
            layout = step.kernel.scratchpad if step.kernel is not None else None
            if layout is not None and layout.bytes:
                room = Tensor(Buffer(layout.bytes, first=step.number), (), (), FP32, layout=layout)
                step.arguments.append((library.SCRATCHPAD, room))
        self.bytes = _place(self._lifetimes())
        self._arena = arena
        self._threads = get_num_threads()
        self._address = 0  # that the calls are for
        self._calls: List[Callable[[], None]] = []
        with arena.lock:
            arena.reserve(self.bytes)

    def _lifetimes(self) -> List[Buffer]:
        buffers = {}
        for tensor in self.inputs.values():
            tensor.buffer.first = 0
            buffers[id(tensor.buffer)] = tensor.buffer
        for step in self._steps:
            for _, tensor in step.everything():
                buffer = tensor.buffer
                if buffer.array is None:
                    buffer.last = max(buffer.last, step.number)
                    buffers[id(buffer)] = buffer
        for tensor in self.outputs:
            tensor.buffer.last = len(self._steps)
        return list(buffers.values())

    def run(self, arrays: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """The outputs. One plan runs at a time in an arena; other threads wait.

        Raises:
            NotEnoughMemory: for the arena, which another plan may have needed less of, or for the results.
        """
        with self._arena.lock, enough_memory():
            self._begin(arrays)
            for call in self._calls:
                call()
            return [tensor.array(self._address).copy() for tensor in self.outputs]

    def _begin(self, arrays: Mapping[str, np.ndarray]) -> None:
        use_threads(self._threads)
        address = self._arena.reserve(self.bytes)
        for name, tensor in self.inputs.items():
            tensor.array(address)[...] = arrays[name]
        if address != self._address:
            self._address = 0
            self._calls = [self._bound(step, address) for step in self._steps]
            self._address = address

    def _bound(self, step: Step, arena: int) -> Callable[[], None]:
        if step.host is not None:
            function = step.host
            return lambda: function(arena)
        assert step.kernel is not None
        return Primitive(step.kernel, [(kind, _memory(tensor, arena)) for kind, tensor in step.everything()])

    def describe(self, arrays: Mapping[str, np.ndarray], runs: int = 3) -> str:
        """A table of the steps, with the fastest of `runs` measurements of each.

        A line has the operators of the program, the kernel, what it reads and writes, MB of these (with weights and
        scratchpad), milliseconds, and the share of the time.
        """
        best = [float("inf")] * len(self._steps)
        with self._arena.lock:
            for _ in range(max(1, runs)):
                self._begin(arrays)
                for i, call in enumerate(self._calls):
                    started = time.perf_counter()
                    call()
                    best[i] = min(best[i], time.perf_counter() - started)
        whole = sum(best)
        lines = [f"{'step':>4} {'operators':32} {'kernel':28} {'shapes':48} {'MB':>8} {'ms':>9} {'share':>6}"]
        for step, seconds in zip(self._steps, best):
            tensors = dict.fromkeys(tensor for _, tensor in step.everything())
            size = sum(tensor.bytes for tensor in tensors) / 1e6
            kernel = step.kernel.name if step.kernel is not None else "numpy"
            operators = " + ".join([step.name, *(kernels.ALGORITHMS[post[0]] for post in step.post)])
            read = [tensor for kind, tensor in step.arguments if kind in (library.SRC, library.SRC_1)]
            shapes = f"{', '.join(map(_text, read))} -> {_text(step.result)}"
            ends = f"{size:8.1f} {1e3 * seconds:9.3f} {seconds / whole:6.1%}"
            lines.append(f"{step.number:4} {operators:32} {kernel:28} {shapes:48} {ends}")
        weights = {id(b): b for step in self._steps for _, t in step.everything() if (b := t.buffer).array is not None}
        kept = sum(buffer.bytes for buffer in weights.values())
        lines.append(f"{1e3 * whole:.1f} ms, {self.bytes / 1e6:.1f} MB of the arena, {kept / 1e6:.1f} MB of weights")
        return "\n".join(lines)


def _text(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _memory(tensor: Tensor, arena: int) -> Memory:
    return Memory(tensor.descriptor, tensor.buffer.address(arena) + tensor.offset * ITEM_BYTES[tensor.dtype])


class Arena:
    """Memory that all plans of the process share, since one runs at a time. It grows to the largest plan's need.

    Attributes:
        lock: to be held from `reserve` until what lies there is not needed any more.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._map: Optional[mmap.mmap] = None
        self.address = 0
        self.bytes = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes. What was there before is gone if it has to grow.

        Raises:
            NotEnoughMemory: it cannot; the arena is empty then.
        """
        if size > self.bytes:
            self._map, self.address, self.bytes = None, 0, 0  # given back before more is asked for
            try:
                found = _mapped(size)
                _mapped(_LEFT_FREE)  # and gone at once
            except (OSError, OverflowError, ValueError) as error:
                megabytes = size / 1e6
                raise NotEnoughMemory(f"{megabytes:.0f} MB for tensors cannot be had: {error}") from None
            address = np.frombuffer(found, np.uint8).ctypes.data
            self._map, self.address, self.bytes = found, address, size
        return self.address


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Raise NotEnoughMemory where numpy raises MemoryError."""
    try:
        yield
    except MemoryError as error:
        raise NotEnoughMemory(str(error) or "memory cannot be had") from None


def _post_ops(post: Sequence[Post]) -> List[PostOp]:
    return [PostOp(*each[:3], None if each[3] is None else each[3].descriptor) for each in post]


def _place(buffers: List[Buffer]) -> int:
    """Give every buffer an offset that it shares with none of the same time, the largest first; the bytes in all."""
    placed: List[List[Buffer]] = [[] for _ in range(1 + max((each.last for each in buffers), default=0))]  # by step
    total = 0
    for buffer in sorted(buffers, key=lambda each: -each.bytes):
        steps = range(buffer.first, buffer.last + 1)
        others = {id(other): other for step in steps for other in placed[step]}
        offset = 0
        for other in sorted(others.values(), key=lambda each: each.offset):
            if offset + buffer.bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.bytes) // _ALIGNMENT) * _ALIGNMENT)
        buffer.offset = offset
        for step in steps:
            placed[step].append(buffer)
        total = max(total, offset + buffer.bytes)
    return total


def _in_memory(rank: int) -> Sequence[int]:
    """The usual order of axes, the slowest first: maps have their channels last."""
    return (0, 2, 3, 1) if rank == 4 else range(rank)


def _dense_strides(shape: Sequence[int], order: Sequence[int]) -> Tuple[int, ...]:
    strides, stride = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = stride
        stride *= shape[axis]
    return tuple(strides)


def _reshaped_strides(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> Optional[Tuple[int, ...]]:
    """Strides under which the same memory has the shape `wanted`; None where there are none. numpy finds them."""
    view = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), shape, strides)  # whose elements are never read
    try:
        if _NUMPY_COPIES_ON_REQUEST:
            return np.reshape(view, tuple(wanted), copy=False).strides
        view.shape = tuple(wanted)
    except (AttributeError, ValueError):
        return None
    return view.strides
