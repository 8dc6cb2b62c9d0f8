"""The allow-list: every name that the pickle of a weight file may hold, each with an inert stand-in of our own.

Nothing here is the real thing: "numpy.ndarray" is a string, "numpy.core.multiarray._reconstruct" makes a
`PickledArray` that waits for its shape and the place of its data, "torch.FloatStorage" says "float32".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Callable

from model_zoo.formats import ITEM_BYTES, FormatError, check_shape, check_tensor, dense_strides, shorten

Machine = Any  # that of `machine`, which imports this file

MAX_ARGUMENTS = 16

# torch's classes of storages -> the type of their elements.
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
# numpy's code of a type -> its name, and the struct code of one number. Paddle stores bfloat16 as uint16.
NUMPY_TYPES = {
    "f8": ("float64", "d"),
    "f4": ("float32", "f"),
    "f2": ("float16", "e"),
    "u2": ("bfloat16", "H"),
    "i8": ("int64", "q"),
    "i4": ("int32", "i"),
    "i2": ("int16", "h"),
    "i1": ("int8", "b"),
    "u1": ("uint8", "B"),
    "b1": ("bool", "?"),
}


class Function:
    """A stand-in that a pickle may call; `build` gets the machine and the arguments, and makes descriptions only."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[..., Any]):
        self.build = build

    def __call__(self, machine: Machine, *arguments: Any) -> Any:
        try:
            return self.build(machine, *arguments)
        except TypeError as error:  # too many, too few, or none that any writer gives
            raise FormatError(f"calls a function with other arguments than weight files do ({error})") from None


class Marker:
    """A stand-in for a class: only good as an argument, where it says what is made (`makes`)."""

    __slots__ = ("makes",)

    def __init__(self, makes: str):
        self.makes = makes


class Call(tuple):
    """A tuple that holds a stand-in: the arguments of a call and nothing else."""


class Foreign:
    """An object of another library, passed over: what a strict reading says against it, and what it is called."""

    __slots__ = ("fault", "name")

    def __init__(self, fault: str, name: str = ""):
        self.fault = fault
        self.name = name


class Attributes:
    """Base of the values whose state a pickle sets after making them."""

    __slots__ = ()

    def set_state(self, machine: Machine, state: Any) -> None:
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


def names_something(value: Any) -> bool:
    """Whether a value is, or holds, what a name stands for.

    Allowed names do no harm one by one, but composed they may: a dictionary that gets one as its `__setstate__`
    calls it. So a name can be called and handed to calls, and never be kept. `eval` leaves "__builtins__" in the
    dictionary that it was given.
    """
    return type(value) in (Function, Marker, Call) or (type(value) is dict and "__builtins__" in value)


def as_data(value: Any) -> Any:
    if names_something(value):
        raise FormatError("keeps a function or class among its data, which weights do not; the file was not executed")
    return value


def is_plain_key(key: Any) -> bool:
    return type(key) in (str, bytes, bool, type(None)) or (type(key) is int and abs(key) < 2**60)


def set_items(target: dict[Any, Any], items: Iterable[tuple[Any, Any]]) -> None:
    """Set items whose keys are plain: hashing a nested or crafted key could take for ever."""
    for key, value in items:
        if not is_plain_key(key):
            raise FormatError(f"has a {type(key).__name__} as the key of a dictionary")
        if key == "__builtins__":
            raise FormatError("has the key '__builtins__', which weights do not")
        target[key] = as_data(value)


# Plain Python


def _ordered_dict(machine: Machine, *arguments: Any) -> dict[Any, Any]:
    """Empty, or (Python 2) made of a list of pairs."""
    items = arguments[0] if len(arguments) == 1 else []
    if type(items) is not list or not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        raise FormatError("makes an OrderedDict of something that is not pairs")
    made: dict[Any, Any] = {}
    set_items(made, items)
    return made


def make_tuple(machine: Machine, items: Any = ()) -> tuple[Any, ...]:
    """Paddle writes a tensor outside a state dict as `tuple((name, array))`; torch.Size is made so too."""
    if type(items) is not tuple:
        raise FormatError("makes a tuple of something that is none")
    return items


def _empty_bytes(machine: Machine) -> bytes:
    """Python 3 writes b"" as a call of `bytes` at protocols 0 to 2."""
    return b""


def _encode(machine: Machine, text: Any, encoding: Any) -> Any:
    """Python 3 writes bytes as `_codecs.encode(text, "latin1")` at protocols 0 to 2."""
    if type(text) not in (str, machine.tools.text) or encoding not in ("latin1", "latin-1"):
        raise FormatError("encodes text in another way than as latin1")
    return machine.tools.text(text) if type(text) is str else text


def _value_of_eval(machine: Machine, expression: Any = None, names: Any = None, *ignored: Any) -> Any:
    """Paddle writes a tensor of a static program as `eval("data", {"data": array})`: the array, and only so."""
    if ignored or expression != "data" or type(names) is not dict or len(names) != 1 or "data" not in names:
        raise FormatError("calls eval, and not in the one form in which Paddle does; the file was not executed")
    names["__builtins__"] = None  # as eval does: see `names_something`
    return names["data"]


# numpy


class PickledType(Attributes):
    """`numpy.dtype("f4", ...)`, then its byte order."""

    __slots__ = ("name", "code", "big_endian")

    def __init__(self, machine: Machine, code: Any, align: Any = False, copy: Any = True):
        if type(code) is not str or code not in NUMPY_TYPES:
            shown = shorten(code) if type(code) is str else type(code).__name__
            raise FormatError(f"holds arrays of the type {shown!r}; only {', '.join(NUMPY_TYPES)} are read")
        self.name, self.code = NUMPY_TYPES[code]
        self.big_endian = False

    def set_state(self, machine: Machine, state: Any) -> None:
        # The last of them are flags, of which one would have numpy take the numbers for places in memory.
        plain = type(state) is tuple and state[2:] == (None, None, None, -1, -1, 0)
        if not plain or type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
            raise FormatError("holds arrays of a structured type")
        self.big_endian = state[1] == ">"


class PickledArray(Attributes):
    """An array: made empty, then given (version, shape, type, Fortran order?, data)."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: Any = None

    def set_state(self, machine: Machine, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise FormatError("gives an array a state that is not (version, shape, type, order, data)")
        _, shape, kind, fortran, data = state
        self.fill(machine, shape, kind, data, reversed(range(len(check_shape(shape)))) if fortran else None)

    def fill(self, machine: Machine, shape: Any, kind: Any, data: Any, axes: Iterable[int] | None = None) -> None:
        """`axes`: the axes from the slowest in memory to the fastest; C order by default."""
        if type(kind) is not PickledType:
            raise FormatError("gives an array something else than a numeric type")
        shape = check_shape(shape)
        strides = list(dense_strides(shape))
        if axes is not None:
            order = list(axes)
            for axis, step in zip(order, dense_strides([shape[axis] for axis in order])):
                strides[axis] = step
        chunk = machine.chunk(data)
        machine.hold(check_tensor(kind.name, shape, chunk.size, 0, strides, shared=False))
        self.content = machine.tools.tensor(kind.name, shape, [chunk], strides=strides, big_endian=kind.big_endian)

    def tensor(self) -> Any:
        if self.content is None:
            raise FormatError("holds an array without data")
        return self.content


def _reconstruct(machine: Machine, kind: Any, shape: Any, code: Any) -> PickledArray:
    if type(kind) is not Marker or kind.makes != "arrays":
        raise FormatError("makes an array of a class that is not numpy.ndarray")
    if shape != (0,) or machine.content(code) != b"b":  # which numpy would make, however large
        raise FormatError("makes an array that is not empty before its data come")
    return PickledArray()


def _from_buffer(
    machine: Machine, buffer: Any, kind: Any, shape: Any, order: Any, axis_order: Any = None
) -> PickledArray:
    """Protocol 5. Order "K" (numpy 2.3 and later): `buffer.reshape(shape).transpose(axis_order)`."""
    array = PickledArray()
    shape = check_shape(shape)
    if order == "C":
        array.fill(machine, shape, kind, buffer)
    elif order == "F":
        array.fill(machine, shape, kind, buffer, reversed(range(len(shape))))
    elif order == "K":
        axes = check_shape(axis_order)
        if sorted(axes) != list(range(len(shape))):
            raise FormatError("gives an array an order of axes that is none")
        # Stored axis `a` became axis axes.index(a).
        stored = [axes.index(axis) for axis in range(len(axes))]
        array.fill(machine, [shape[axis] for axis in axes], kind, buffer, stored)
    else:
        raise FormatError("gives an array an unknown order")
    return array


def _scalar(machine: Machine, kind: Any, data: Any) -> Any:
    """A numpy number, as the Python number."""
    if type(kind) is not PickledType:
        raise FormatError("gives a number something else than a numeric type")
    raw = machine.content(data)
    if len(raw) != ITEM_BYTES[kind.name]:
        raise FormatError(f"stores {len(raw)} bytes for a number of the type {kind.name}")
    return struct.unpack((">" if kind.big_endian else "<") + kind.code, raw)[0]


# torch


class TorchStorage:
    """Elements that tensors share; `places` tells where they lie, once that is known."""

    __slots__ = ("dtype", "key", "places")

    def __init__(self, dtype: str, key: str, places: dict[str, Any]):
        self.dtype = dtype
        self.key = key
        self.places = places


class TorchTensor:
    """A view on a storage: offset, size and strides in elements."""

    __slots__ = ("machine", "storage", "offset", "size", "strides")

    def __init__(self, machine: Machine, storage: Any, offset: Any, size: Any, strides: Any, *ignored: Any):
        if type(storage) is not TorchStorage:
            raise FormatError("makes a tensor of something that is no storage")
        self.machine = machine
        self.storage = storage
        self.offset = offset
        self.size = size
        self.strides = strides

    def tensor(self) -> Any:
        storage = self.storage
        if storage.key not in storage.places:
            raise FormatError(f"has no data for the storage {shorten(storage.key)!r}")
        place = storage.places[storage.key]
        self.machine.hold(check_tensor(storage.dtype, self.size, place.size, self.offset, self.strides, shared=True))
        return self.machine.tools.tensor(storage.dtype, self.size, [place], self.offset, self.strides, shared=True)


def _device(machine: Machine, *ignored: Any) -> None:
    """Where a tensor was: of no interest here."""


def _parameter(
    machine: Machine, tensor: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None
) -> TorchTensor:
    if type(tensor) is not TorchTensor:
        raise FormatError("makes a parameter of something that is no tensor")
    as_state(state)
    return tensor


def _tensor_with_attributes(machine: Machine, function: Any, kind: Any, arguments: Any, state: Any) -> TorchTensor:
    """A tensor on which somebody set attributes (torch 1.12 and later); they mean nothing here."""
    plain = type(function) is Function and function.build in (TorchTensor, _parameter)
    fitting = type(kind) is Marker and kind.makes == "tensors" and type(arguments) is tuple
    if not plain or not fitting or len(arguments) > MAX_ARGUMENTS:
        raise FormatError("makes a tensor of a class of its own")
    as_state(state)
    return function(machine, *arguments)


def as_state(state: Any) -> None:
    """See that a state sets data as attributes: no name of a method, and nothing that a name stands for.

    Raises:
        FormatError: it is no dictionary, or one that may change what its owner does.
    """
    for part in state if type(state) is tuple and len(state) == 2 else (state,):
        if part is not None and type(part) is not dict:
            raise FormatError(f"sets a {type(part).__name__} as the state of a value")
        for key in as_data(part) or ():
            if type(key) is not str or key.startswith("__"):
                raise FormatError(f"sets the attribute {shorten(key)!r}, which weights do not have")


def _names() -> dict[tuple[str, str], Any]:
    tensor = Function(TorchTensor)
    parameter, attributes = Function(_parameter), Function(_tensor_with_attributes)
    kinds = {dtype: Marker(dtype) for dtype in ITEM_BYTES}
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): Function(_ordered_dict),
        ("_codecs", "encode"): Function(_encode),
        ("numpy", "ndarray"): Marker("arrays"),
        ("numpy", "dtype"): Function(PickledType),
        ("torch", "Size"): Function(make_tuple),
        ("torch", "device"): Function(_device),
        ("torch", "Tensor"): Marker("tensors"),
        ("torch.nn.parameter", "Parameter"): Marker("tensors"),
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): attributes,
        ("torch.storage", "UntypedStorage"): kinds["uint8"],
        **{("torch", name): kinds[dtype] for name, dtype in STORAGES.items()},
    }
    for builtins in ("builtins", "__builtin__"):
        names[builtins, "tuple"] = Function(make_tuple)
        names[builtins, "bytes"] = Function(_empty_bytes)
        names[builtins, "eval"] = Function(_value_of_eval)
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        names[f"{core}.multiarray", "_reconstruct"] = Function(_reconstruct)
        names[f"{core}.multiarray", "scalar"] = Function(_scalar)
        names[f"{core}.numeric", "_frombuffer"] = Function(_from_buffer)
    return names


GLOBALS = _names()
TAKE_NAMES = (_reconstruct, _tensor_with_attributes)  # the only ones that names are handed to
