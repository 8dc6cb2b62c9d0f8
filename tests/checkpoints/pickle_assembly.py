"""Pickles put together from opcodes, for what no pickler writes."""

from __future__ import annotations

import struct
from typing import Any


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any):
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def name(module: str, attribute: str) -> bytes:
    """`module.attribute`, which need not exist here."""
    return f"c{module}\n{attribute}\n".encode()


def short(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL, which at protocol 4 follows the dots of the attribute."""
    return short(module) + short(attribute) + b"\x93"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def items(*values: bytes) -> bytes:
    """A list."""
    return b"(" + b"".join(values) + b"l"


def of(function: bytes, *arguments: bytes) -> bytes:
    """A call of what other opcodes leave on the stack."""
    return function + b"(" + b"".join(arguments) + b"tR"


def called(module: str, attribute: str, *arguments: bytes) -> bytes:
    return of(name(module, attribute), *arguments)


def pickled(*opcodes: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(opcodes) + b"."


def under_w(*opcodes: bytes) -> bytes:
    """A dictionary with the value "w"."""
    return pickled(b"}", text("w"), *opcodes, b"s")


# Arrays

EMPTY_ARRAY = called("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b")", b"N")


def array_state(shape: bytes, content: bytes, code: bytes = b"f4") -> bytes:
    """An array with this shape (as opcodes) and data."""
    made = called("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\0\x85", b"C\x01b")
    kind = called("numpy", "dtype", text(code.decode()), b"\x89\x88") + b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xff"
    return made + b"(K\x01" + shape + kind + b"J\xff\xff\xff\xffK\0tb\x89" + raw(content) + b"tb"


GOOD_ARRAY = array_state(b"K\x02\x85", bytes(8))

# torch's

STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"  # six floats, key "0"


def tensor(arguments: bytes, function: str = "_rebuild_tensor_v2") -> bytes:
    return called("torch._utils", function, STORAGE, arguments, b"\x89N")
