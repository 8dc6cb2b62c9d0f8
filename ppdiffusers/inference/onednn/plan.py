"""How a program runs in oneDNN for inputs of certain shapes: kernels in order, and where their tensors lie.

Feature maps are channels-last in memory; transposing, splitting and reshaping are views wherever strides can say it.
What depends on shapes only is computed while planning. Additions and activations join the kernel in front of them.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass, field, replace
from math import prod
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ppdiffusers.inference.onednn import library
from ppdiffusers.inference.onednn.library import FP32, ITEM_BYTES, Descriptor, Kernel, Memory, PostOp, Primitive

_ALIGNMENT = 64  # bytes
_MOST_BY_LOOPS = 100_000  # elements that a plain loop may write: of a convolution one would take minutes
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
        strides, offset: in elements.
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
            if all(a == b for a, b, size in zip(self.strides, usual, self.shape) if size != 1):
                return Descriptor(self.shape, self.dtype, usual)  # kernels look at axes of one element too
        if 0 in self.strides:
            raise library.OneDNNError(f"a tensor that is repeated to {list(self.shape)} does not lie in memory so")
        return Descriptor(self.shape, self.dtype, self.strides)

    def view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Tensor:
        step = self.step if prod(shape) == prod(self.shape) else None
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=self.offset + offset, step=step)

    def part(self, axis: int, start: int, stop: int) -> Tensor:
        shape = list(self.shape)
        shape[axis] = stop - start
        return self.view(shape, self.strides, start * self.strides[axis])

    def permuted(self, order: Sequence[int]) -> Tensor:
        return self.view([self.shape[i] for i in order], [self.strides[i] for i in order])

    def reshaped(self, shape: Sequence[int]) -> Optional[Tensor]:
        """None where no strides can say it."""
        strides = _reshaped_strides(self.shape, self.strides, shape)
        return None if strides is None else self.view(shape, strides)

    @property
    def dense(self) -> bool:
        """Whether its elements fill their memory, in any order of the axes."""
        expected = 1
        for stride, size in sorted((stride, size) for stride, size in zip(self.strides, self.shape) if size != 1):
            if stride != expected:
                return False
            expected *= size
        return True

    def array(self, arena: int) -> np.ndarray:
        """Of float32 elements."""
        address = self.buffer.address(arena) + 4 * self.offset
        span = 1 + sum(stride * (size - 1) for stride, size in zip(self.strides, self.shape))
        flat = np.ctypeslib.as_array((ctypes.c_float * span).from_address(address))
        return np.lib.stride_tricks.as_strided(flat, self.shape, [4 * stride for stride in self.strides])


@dataclass(eq=False)
class Step:
    """A kernel under way, which more post-ops may join, or a function of the arena's address where `host` is given."""

    number: int
    make: Optional[Callable[[List[PostOp]], Kernel]]
    arguments: List[Tuple[int, Tensor]]
    result: Tensor
    post: List[Post] = field(default_factory=list)
    host: Optional[Callable[[int], None]] = None
    touched: List[Buffer] = field(default_factory=list)
    kernel: Optional[Kernel] = None

    def join(self, algorithm: int, alpha: float = 1.0, beta: float = 0.0, other: Optional[Tensor] = None) -> bool:
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

    def join(self, algorithm: int, alpha: float = 1.0, beta: float = 0.0, other: Optional[Tensor] = None) -> bool:
        """As of a step; of another tensor each would need its part."""
        return other is None and all(step.join(algorithm, alpha, beta) for step in self.steps)


class Steps:
    """The steps of a plan, as they are found."""

    def __init__(self) -> None:
        self.steps: List[Step] = []

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
        step = Step(len(self.steps), make, [*arguments, (library.DST, result)], result, list(post), kernel=kernel)
        self._append(step, result)
        return replace(result, step=step)

    def add_kernel(self, kernel: Kernel, arguments: List[Tuple[int, Tensor]], result: Tensor) -> Tensor:
        """A step that takes no post-ops."""
        step = Step(len(self.steps), None, [*arguments, (library.DST, result)], result, kernel=kernel)
        self._append(step, result)
        return result

    def add_host(self, function: Callable[[int], None], reads: Sequence[Tensor], result: Tensor) -> Tensor:
        step = Step(len(self.steps), None, [], result, host=function, touched=[each.buffer for each in reads])
        self._append(step, result)
        return result

    def _append(self, step: Step, result: Tensor) -> None:
        if step.kernel is not None and step.kernel.slow and prod(result.shape) > _MOST_BY_LOOPS:
            raise library.OneDNNError(f"oneDNN has no fast kernel for a result of the shape {list(result.shape)}")
        if result.buffer.first < 0:
            result.buffer.first = step.number
        result.buffer.ready = step.number
        self.steps.append(step)


class Plan:
    """Steps that can be run, in an arena of `bytes`.

    Args:
        inputs, outputs: of float32.
        integers: inputs of whole numbers.
    """

    def __init__(self, steps: Steps, inputs: Dict[str, Tensor], integers: Dict[str, np.ndarray], outputs: List[Tensor]):
        self._steps = steps.steps
        self.inputs, self.integers, self.outputs = inputs, integers, outputs
        buffers = self._lifetimes()
        self.bytes = _place(buffers)
        self._arena = 0
        self._calls: List[Callable[[], None]] = []

    def _lifetimes(self) -> List[Buffer]:
        buffers = {}
        for tensor in self.inputs.values():
            tensor.buffer.first = 0
            buffers[id(tensor.buffer)] = tensor.buffer
        for step in self._steps:
            others = [post[3].buffer for post in step.post if post[3] is not None]
            touched = [tensor.buffer for _, tensor in step.arguments] + step.touched + others + [step.result.buffer]
            for buffer in touched:
                if buffer.array is None:
                    buffer.last = max(buffer.last, step.number)
                    buffers[id(buffer)] = buffer
        for tensor in self.outputs:
            tensor.buffer.last = len(self._steps)
        return list(buffers.values())

    def run(self, arena: int, arrays: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """The outputs, computed in memory that begins at `arena`."""
        for name, integers in self.integers.items():
            integers[...] = arrays[name]
        for name, tensor in self.inputs.items():
            tensor.array(arena)[...] = arrays[name]
        if arena != self._arena:
            self._calls = [self._bound(step, arena) for step in self._steps]
            self._arena = arena
        for call in self._calls:
            call()
        return [tensor.array(arena).copy() for tensor in self.outputs]

    def _bound(self, step: Step, arena: int) -> Callable[[], None]:
        if step.host is not None:
            function = step.host
            return lambda: function(arena)
        arguments = list(step.arguments)
        arguments += [(library.post_argument(i), post[3]) for i, post in enumerate(step.post) if post[3] is not None]
        memories = [(kind, _memory(tensor, arena)) for kind, tensor in arguments]
        assert step.kernel is not None
        return Primitive(step.kernel, memories)


def _memory(tensor: Tensor, arena: int) -> Memory:
    return Memory(tensor.descriptor, tensor.buffer.address(arena) + tensor.offset * ITEM_BYTES[tensor.dtype])


class Arena:
    """Memory that all plans of the process share, since one runs at a time. It grows to the largest plan's need."""

    def __init__(self) -> None:
        self._map: Optional[mmap.mmap] = None
        self.address = 0
        self.bytes = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes. What was there before is gone if it has to grow."""
        if size > self.bytes:
            self._map = None
            self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.bytes = size
            self.address = np.frombuffer(self._map, np.uint8).ctypes.data
        return self.address


def _post_ops(post: Sequence[Post]) -> List[PostOp]:
    return [PostOp(*each[:3], None if each[3] is None else each[3].descriptor) for each in post]


def _place(buffers: List[Buffer]) -> int:
    """Give every buffer an offset that it shares with none of the same time, the largest first; the bytes in all."""
    placed: List[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda each: -each.bytes):
        offset = 0
        for other in sorted(placed, key=lambda each: each.offset):
            if other.last < buffer.first or buffer.last < other.first:
                continue
            if offset + buffer.bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.bytes) // _ALIGNMENT) * _ALIGNMENT)
        buffer.offset = offset
        placed.append(buffer)
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
    """Strides under which the same memory has the shape `wanted`, or None: groups of axes are split and merged."""
    old = [(size, stride) for size, stride in zip(shape, strides) if size != 1]
    found: List[int] = []
    new = list(wanted)
    i = 0
    while i < len(new):
        if new[i] == 1:
            found.append(0)
            i += 1
            continue
        if not old:
            return None
        size, stride = old.pop(0)
        group = [new[i]]
        while prod(group) != size:  # merge old axes or take more new ones until the products agree
            if prod(group) < size:
                i += 1
                if i == len(new):
                    return None
                group.append(new[i])
            else:
                if not old or stride != old[0][0] * old[0][1]:
                    return None
                following, stride = old.pop(0)
                size *= following
        within = stride * size
        for each in group:
            within //= each
            found.append(within)
        i += 1
    if old:
        return None
    inner = 1  # an axis of one element, where the library wants no 0, goes around those behind it
    for axis in reversed(range(len(new))):
        if new[axis] == 1:
            found[axis] = inner
        else:
            inner = found[axis] * new[axis]
    return tuple(found)
