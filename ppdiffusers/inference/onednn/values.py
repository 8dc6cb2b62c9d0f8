"""What the values of a program are while its plan is made, besides tensors and numpy arrays: parameters, and forms of
which the next operator knows a better way to compute."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ppdiffusers.inference.onednn import library
from ppdiffusers.inference.onednn.library import DST, FP32, SRC, Descriptor, Memory, Primitive
from ppdiffusers.inference.onednn.plan import Buffer, Tensor

NUMPY_TYPES = {"FLOAT32": np.float32, "FLOAT64": np.float64, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
AS_IT_IS = "as it is"  # form of most weights


class UnsupportedOperator(ValueError):
    """The program has an operator that this module does not translate."""


@dataclass(eq=False)
class Parameter:
    """A weight of the program, perhaps under another shape."""

    name: str
    shape: Tuple[int, ...]


@dataclass(eq=False)
class Integers:
    """An input of whole numbers, which is filled before a run."""

    array: np.ndarray

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.array.shape


@dataclass(eq=False)
class Doubled:
    """A map whose pixels are repeated twice each way."""

    source: Tensor


@dataclass(eq=False)
class Repeated:
    """A tensor with strides of 0 in the axes along which it is repeated."""

    source: Tensor

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.source.shape


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
    """The weights of a program, in the layouts that kernels ask for. Those that are only needed so are given up.

    Args:
        parameters: float32 arrays by their names in the program.
        dtype: of the kernels.
    """

    def __init__(self, parameters: Mapping[str, np.ndarray], dtype: int):
        self.raw: Dict[str, np.ndarray] = dict(parameters)
        self.dtype = dtype
        self._shapes = {name: tuple(array.shape) for name, array in parameters.items()}
        self._kept: Dict[str, np.ndarray] = {}  # float32, as they came
        self._prepared: Dict[Tuple[str, str], List[Tensor]] = {}

    def vector(self, parameter: Parameter) -> np.ndarray:
        """As float32, for what stays so: biases, norms, embeddings."""
        if parameter.name not in self._kept:
            self._kept[parameter.name] = np.ascontiguousarray(self.raw[parameter.name])
        return self._kept[parameter.name].reshape(parameter.shape)

    def shape(self, name: str) -> Tuple[int, ...]:
        return self._shapes[name]

    def prepared(self, name: str, form: str, layout: Descriptor, make: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """In this layout. `make` gives the array of a `form`, in the order of the layout's axes."""
        known = self._prepared.setdefault((name, form), [])
        for each in known:
            if each.descriptor.same(layout):
                return each
        if known:
            source, address = known[0].descriptor, known[0].buffer.address(0)
        else:
            array = np.ascontiguousarray(make(self.raw[name]))
            source = Descriptor(array.shape, FP32, [stride // 4 for stride in array.strides])
            address = array.ctypes.data
        memory = np.empty(layout.bytes + 63, np.uint8)
        memory = memory[-memory.ctypes.data % 64 :]
        places = [(SRC, Memory(source, address)), (DST, Memory(layout, memory.ctypes.data))]
        Primitive(library.reorder(source, layout), places)()
        known.append(Tensor(Buffer(memory.nbytes, memory), (), (), self.dtype, layout=layout))
        return known[-1]

    def give_up(self) -> None:
        """What has been prepared is not needed as it came, unless it was prepared in a form of its own."""
        gone = {name for name, form in self._prepared if form == AS_IT_IS}
        self.raw = {name: array for name, array in self.raw.items() if name not in gone}


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
