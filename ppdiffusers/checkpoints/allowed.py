"""The names that a weight file's pickle may hold, each with our own inert stand-in.

Nothing here is the real thing: "numpy.ndarray" is a string, "numpy.core.multiarray._reconstruct" makes a
`PickledArray` that waits for its shape and the place of its data, "torch.FloatStorage" says "float32". Whatever is
not in `GLOBALS` is refused by name.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

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


class Function:
    """A stand-in that a pickle may call; it builds descriptions only."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]):
        self.build = build

    def __call__(self, *arguments: Any) -> Any:
        return self.build(*arguments)


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


def set_items(target: Dict[Any, Any], items: Iterable[Tuple[Any, Any]]) -> None:
    """Set items whose keys are plain: hashing a nested or crafted key could take for ever."""
    for key, value in items:
        if type(key) not in (str, bytes, bool, type(None)) and not (type(key) is int and abs(key) < 2**60):
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


def _tuple(items: Any = ()) -> Tuple[Any, ...]:
    """Paddle writes a tensor outside a state dict as `tuple((name, array))`."""
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


def _parameter(tensor: Any, *ignored: Any) -> TorchTensor:
    if type(tensor) is not TorchTensor:
        raise FormatError("makes a parameter of something that is no tensor")
    return tensor


STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}

NDARRAY = "numpy.ndarray"

GLOBALS: Dict[Tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("_codecs", "encode"): Function(_encode),
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Function(PickledType),
    ("torch._utils", "_rebuild_tensor"): Function(TorchTensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(TorchTensor),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter),
    ("torch.storage", "UntypedStorage"): StorageType("uint8"),
}
for _builtins in ("builtins", "__builtin__"):
    GLOBALS[_builtins, "tuple"] = Function(_tuple)
    GLOBALS[_builtins, "bytes"] = Function(_empty_bytes)
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    GLOBALS[f"{_core}.multiarray", "_reconstruct"] = Function(_reconstruct)
    GLOBALS[f"{_core}.multiarray", "scalar"] = Function(_scalar)
    GLOBALS[f"{_core}.numeric", "_frombuffer"] = Function(_from_buffer)
for _name, _dtype in STORAGES.items():
    GLOBALS["torch", _name] = StorageType(_dtype)
