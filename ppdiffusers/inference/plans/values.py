"""What the values of a program are while its plan is made, besides tensors and numpy arrays: parameters, and forms of
which the next operator knows a better way to compute."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from math import prod
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ppdiffusers.inference.plans.plan import Buffer, Tensor, enough_memory
from ppdiffusers.onednn import kernels
from ppdiffusers.onednn.library import DST, FP32, SCRATCHPAD, SRC, Descriptor, Memory, Primitive

NUMPY_TYPES = {"FLOAT32": np.float32, "FLOAT64": np.float64, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


class UnsupportedOperator(ValueError):
    """The program has an operator that this module does not translate."""


@dataclass(eq=False)
class Parameter:
    """A weight of the program, perhaps under another shape."""

    name: str
    shape: Tuple[int, ...]


@dataclass(eq=False)
class Doubled:
    """A map whose pixels are repeated twice each way."""

    source: Tensor


@dataclass(eq=False)
class Padded:
    """A map with zeros around it: (top, left) before and (bottom, right) after."""

    source: Tensor
    before: Tuple[int, int]
    after: Tuple[int, int]


@dataclass(eq=False)
class Scores:
    """Products of queries and keys, or, after the softmax, the weights of the values."""

    query: Tensor
    key: Tensor
    transposed: bool  # keys are [..., S, d]


class Weights:
    """The weights of a program, in the layouts that kernels ask for.

    What has been prepared for a kernel is shared by all plans whose kernels ask for the same, and goes with the last of
    them. The arrays that it is made of are asked for when they are needed, and not kept.

    Args:
        parameters: gives, by the name in the program, a function that returns the weight in float32.
        dtype: of the kernels.
        released: called with the name of a weight whose array has been read and let go; it may be read again, when
            another plan asks for another layout.
    """

    def __init__(
        self,
        parameters: Mapping[str, Callable[[], np.ndarray]],
        dtype: int,
        released: Optional[Callable[[str], None]] = None,
    ):
        self.lock = threading.RLock()  # held while a plan is made
        self.dtype = dtype
        self._parameters, self._released = dict(parameters), released
        self._vectors: Dict[str, np.ndarray] = {}
        self._prepared: Dict[Tuple[str, Callable[..., Any]], List[weakref.ref[Tensor]]] = {}

    @property
    def bytes(self) -> int:
        """Of what has been prepared and is in use."""
        return sum(each.bytes for name, form in self._prepared for each in self._known(name, form))

    def vector(self, parameter: Parameter) -> np.ndarray:
        """As float32, for what stays so: biases, norms (copied), and tables of embeddings (read where they are)."""
        name = parameter.name
        if name not in self._vectors:
            array = np.ascontiguousarray(self._parameters[name](), np.float32)
            self._vectors[name] = array.copy() if array.ndim == 1 else array
            if array.ndim == 1 and self._released is not None:
                del array
                self._released(name)
        return self._vectors[name].reshape(parameter.shape)

    def prepared(self, name: str, form: Callable[[np.ndarray], np.ndarray], layout: Descriptor) -> Tensor:
        """What `form` makes of the array, in this layout of the same axes.

        Raises:
            NotEnoughMemory: for the weight.
        """
        known = self._known(name, form)
        for each in known:
            if each.descriptor.same(layout):
                return each
        with enough_memory():
            memory = _aligned(layout.bytes)
            array = np.ascontiguousarray(form(self._parameters[name]()), np.float32)
            source = Descriptor(array.shape, FP32, [stride // 4 for stride in array.strides])
            kernel = kernels.reorder(source, layout)
            scratchpad = _aligned(kernel.scratchpad.bytes)
            places = [(SRC, source, array), (DST, layout, memory), (SCRATCHPAD, kernel.scratchpad, scratchpad)]
            Primitive(kernel, [(kind, Memory(place, each.ctypes.data)) for kind, place, each in places])()
        del array, places
        if self._released is not None:
            self._released(name)
        found = Tensor(Buffer(memory.nbytes, memory), (), (), self.dtype, layout=layout)
        self._prepared[name, form] = [weakref.ref(each) for each in [*known, found]]
        return found

    def _known(self, name: str, form: Callable[..., Any]) -> List[Tensor]:
        references = self._prepared.get((name, form), [])
        return [each for each in (reference() for reference in references) if each is not None]


def _aligned(size: int) -> np.ndarray:
    """Bytes that begin where cache lines do."""
    memory = np.empty(size + 63, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:size]


def shape_of(value: Any) -> Tuple[int, ...]:
    if isinstance(value, Doubled):
        batch, channels, height, width = value.source.shape
        return batch, channels, 2 * height, 2 * width
    if isinstance(value, Scores):
        return (*value.query.shape[:-1], value.key.shape[-2 if value.transposed else -1])
    if isinstance(value, Padded):
        raise UnsupportedOperator("the shape of a padded map")
    return value.shape


def full_shape(shape: Sequence[int], wanted: Any) -> Tuple[int, ...]:
    """Without the 0 that keeps a size and the -1 that takes what is left."""
    full = [shape[i] if n == 0 else int(n) for i, n in enumerate(wanted)]
    return tuple(n if n != -1 else prod(shape) // -prod(full) for n in full)


def is_constant(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(is_constant, value))
    return value is None or isinstance(value, (np.ndarray, np.generic))
