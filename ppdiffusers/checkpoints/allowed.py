"""Our own inert stand-ins for the names that a weight file's pickle may hold.

The names are listed in `model_zoo.formats.pickle_names`; whatever is not among them is refused by name. Nothing here
is the real thing: "numpy.ndarray" is a string, "numpy.core.multiarray._reconstruct" makes a `PickledArray` that waits
for its shape and the place of its data, "torch.FloatStorage" says "float32".
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from model_zoo.formats.pickle_names import NAMES, VALUE_OF_EVAL
from ppdiffusers.checkpoints.errors import FormatError, shorten
from ppdiffusers.checkpoints.tensors import (
    STORED_AS,
    Chunk,
    StoredTensor,
    TextBytes,
    as_chunk,
    check_shape,
    dense_strides,
)

MAX_ARGUMENTS = 16


class Function:
    """A stand-in that a pickle may call; it builds descriptions only."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]):
        self.build = build

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self.build(*arguments)
        except TypeError as error:  # too many, too few, or none that any writer gives
            raise FormatError(f"calls a function with other arguments than weight files do ({error})") from None


class Foreign:
    """An object of another library, passed over: all that is kept is what a strict reading says against it."""

    __slots__ = ("fault",)

    def __init__(self, fault: str):
        self.fault = fault


class Attributes:
    """Base of the values whose state a pickle sets after making them."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


def find_global(module: Any, name: Any) -> Any:
    """The stand-in for `module.name`.

    Raises:
        FormatError: the name is not on the list.
    """
    if type(module) is not str or type(name) is not str:
        raise FormatError("names a global that is not text")
    try:
        return GLOBALS[module, name]
    except KeyError:
        raise FormatError(
            f"names {shorten(module)}.{shorten(name)}, which weights do not need; the file was not executed"
        ) from None


def is_plain_key(key: Any) -> bool:
    return type(key) in (str, bytes, bool, type(None)) or (type(key) is int and abs(key) < 2**60)


def set_items(target: Dict[Any, Any], items: Iterable[Tuple[Any, Any]]) -> None:
    """Set items whose keys are plain: hashing a nested or crafted key could take for ever."""
    for key, value in items:
        if not is_plain_key(key):
            raise FormatError(f"has a {type(key).__name__} as the key of a dictionary")
        target[key] = value


# Plain Python


def _ordered_dict(*arguments: Any) -> Dict[Any, Any]:
    """Empty, or (Python 2) made of a list of pairs."""
    items = arguments[0] if len(arguments) == 1 else []
    if type(items) is not list or not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        raise FormatError("makes an OrderedDict of something that is not pairs")
    made: Dict[Any, Any] = {}
    set_items(made, items)
    return made


def make_tuple(items: Any = ()) -> Tuple[Any, ...]:
    """Paddle writes a tensor outside a state dict as `tuple((name, array))`; torch.Size is made so too."""
    if type(items) is not tuple:
        raise FormatError("makes a tuple of something that is none")
    return items


def _empty_bytes() -> bytes:
    """Python 3 writes b"" as a call of `bytes` at protocols 0 to 2."""
    return b""


def _encode(text: Any, encoding: Any) -> TextBytes:
    """Python 3 writes bytes as `_codecs.encode(text, "latin1")` at protocols 0 to 2."""
    if type(text) not in (str, TextBytes) or encoding not in ("latin1", "latin-1"):
        raise FormatError("encodes text in another way than as latin1")
    return TextBytes(text) if type(text) is str else text


def _value_of_eval(expression: Any = None, names: Any = None, *ignored: Any) -> Any:
    """Paddle writes a tensor of a static program as `eval("data", {"data": array})`: the array, and only so."""
    if ignored or expression != "data" or type(names) is not dict or len(names) != 1 or "data" not in names:
        raise FormatError("calls eval, and not in the one form in which Paddle does; the file was not executed")
    return names["data"]


# numpy

NUMPY_TYPES = {dtype.str[1:]: name for name, dtype in STORED_AS.items()}  # "f4": "float32"; uint16: "bfloat16"


class PickledType(Attributes):
    """`numpy.dtype("f4", ...)`, then its byte order."""

    __slots__ = ("name", "big_endian")

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        if type(code) is not str or code not in NUMPY_TYPES:
            shown = shorten(code) if type(code) is str else type(code).__name__
            raise FormatError(f"holds arrays of the type {shown!r}; only {', '.join(NUMPY_TYPES)} are read")
        self.name = NUMPY_TYPES[code]
        self.big_endian = False

    def set_state(self, state: Any) -> None:
        plain = type(state) is tuple and len(state) >= 5 and state[2:5] == (None, None, None)
        if not plain or type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
            raise FormatError("holds arrays of a structured type")
        self.big_endian = state[1] == ">"


class PickledArray(Attributes):
    """An array: made empty, then given (version, shape, type, Fortran order?, data)."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: Optional[StoredTensor] = None

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise FormatError("gives an array a state that is not (version, shape, type, order, data)")
        _, shape, kind, fortran, data = state
        self.fill(shape, kind, data, axes=reversed(range(len(check_shape(shape)))) if fortran else None)

    def fill(self, shape: Any, kind: Any, data: Any, axes: Optional[Iterable[int]] = None) -> None:
        """`axes`: the axes from the slowest in memory to the fastest; C order by default."""
        if type(kind) is not PickledType:
            raise FormatError("gives an array something else than a numeric type")
        shape = check_shape(shape)
        strides: Optional[List[int]] = None
        if axes is not None:
            order = list(axes)
            strides = [0] * len(shape)
            for axis, step in zip(order, dense_strides([shape[axis] for axis in order])):
                strides[axis] = step
        self.content = StoredTensor(kind.name, shape, [as_chunk(data)], strides=strides, big_endian=kind.big_endian)

    def tensor(self) -> StoredTensor:
        if self.content is None:
            raise FormatError("holds an array without data")
        return self.content


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    if kind is not NDARRAY:
        raise FormatError("makes an array of a class that is not numpy.ndarray")
    return PickledArray()


def _from_buffer(buffer: Any, kind: Any, shape: Any, order: Any, axis_order: Any = None) -> PickledArray:
    """Protocol 5. Order "K" (numpy 2.3 and later): `buffer.reshape(shape).transpose(axis_order)`."""
    array = PickledArray()
    shape = check_shape(shape)
    if order == "C":
        array.fill(shape, kind, buffer)
    elif order == "F":
        array.fill(shape, kind, buffer, reversed(range(len(shape))))
    elif order == "K":
        axes = check_shape(axis_order)
        if sorted(axes) != list(range(len(shape))):
            raise FormatError("gives an array an order of axes that is none")
        # Stored axis `a` became axis axes.index(a).
        array.fill([shape[axis] for axis in axes], kind, buffer, [axes.index(axis) for axis in range(len(axes))])
    else:
        raise FormatError("gives an array an unknown order")
    return array


def _scalar(kind: Any, data: Any) -> Any:
    """A numpy number, as the Python number."""
    if type(kind) is not PickledType:
        raise FormatError("gives a number something else than a numeric type")
    chunk = as_chunk(data)
    if chunk.size is None:
        raise FormatError("gives a number the data of an array")
    return StoredTensor(kind.name, (), [chunk], big_endian=kind.big_endian).read().item()


# torch


class StorageType:
    """The class of a torch storage, which tells the type of its elements."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str):
        self.dtype = dtype


class TorchStorage:
    """Elements that tensors share; `places` tells where they lie, once that is known."""

    __slots__ = ("dtype", "key", "places")

    def __init__(self, dtype: str, key: str, places: Dict[str, Chunk]):
        self.dtype = dtype
        self.key = key
        self.places = places


class TorchTensor:
    """A view on a storage: offset, size and strides in elements."""

    __slots__ = ("storage", "offset", "size", "strides")

    def __init__(self, storage: Any, offset: Any, size: Any, strides: Any, *ignored: Any):
        if type(storage) is not TorchStorage:
            raise FormatError("makes a tensor of something that is no storage")
        self.storage = storage
        self.offset = offset
        self.size = size
        self.strides = strides

    def tensor(self) -> StoredTensor:
        storage = self.storage
        if storage.key not in storage.places:
            raise FormatError(f"has no data for the storage {shorten(storage.key)!r}")
        place = storage.places[storage.key]
        return StoredTensor(storage.dtype, self.size, [place], self.offset, self.strides, shared=True)


def _device(*ignored: Any) -> None:
    """Where a tensor was: of no interest here."""


def _parameter(tensor: Any, *ignored: Any) -> TorchTensor:
    if type(tensor) is not TorchTensor:
        raise FormatError("makes a parameter of something that is no tensor")
    return tensor


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, state: Any) -> TorchTensor:
    """A tensor on which somebody set attributes (torch 1.12 and later); they mean nothing here."""
    plain = type(function) is Function and function.build in (TorchTensor, _parameter)
    if not plain or kind is not TENSOR_CLASS or type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
        raise FormatError("makes a tensor of a class of its own")
    return function(*arguments)


NDARRAY = "class of arrays"
TENSOR_CLASS = "class of tensors"

# What each entry of the allow-list makes -> the stand-in that makes it.
_STAND_INS: Dict[str, Any] = {
    "array": Function(_reconstruct),
    "array of a buffer": Function(_from_buffer),
    "bytes of text": Function(_encode),
    "class of arrays": NDARRAY,
    "class of tensors": TENSOR_CLASS,
    "device": Function(_device),
    "empty bytes": Function(_empty_bytes),
    "number": Function(_scalar),
    "ordered dict": Function(_ordered_dict),
    "parameter": Function(_parameter),
    "tensor": Function(TorchTensor),
    "tensor with attributes": Function(_tensor_with_attributes),
    "tuple": Function(make_tuple),
    "type": Function(PickledType),
    VALUE_OF_EVAL: Function(_value_of_eval),
    **{f"storage of {dtype}": StorageType(dtype) for dtype in STORED_AS},
}

GLOBALS: Dict[Tuple[str, str], Any] = {name: _STAND_INS[makes] for name, makes in NAMES.items()}
