"""The values on the stack of a pickle that is followed but not executed, and how they are shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple

from model_zoo.formats.errors import FormatError, shorten
from model_zoo.formats.pickle_names import NAMES
from model_zoo.formats.zip_archive import Data

MAX_NESTED = 2**24  # bytes of a pickle inside a pickle that had to be decoded first

DATA, IMPORT, CALL, CHANGE, FAULT = "data", "would import", "would call", "would change", "fault"


class Finding(NamedTuple):
    """One thing that a pickle would do, or a fault of the file."""

    verdict: str  # DATA, IMPORT, CALL, CHANGE or FAULT
    what: str
    position: int  # byte of the opcode, counted in `where`
    where: str  # the part of the file: an entry of its archive, or "" for the file itself


class Named:
    """A name that the pickle holds; `makes` is what the allow-list says of it, None where it is not listed."""

    __slots__ = ("module", "name", "makes")

    def __init__(self, module: str, name: str):
        self.module = module
        self.name = name
        self.makes = NAMES.get((module, name))

    def __str__(self) -> str:
        return f"{shorten(self.module)}.{shorten(self.name)}"


class Made:
    """What a call or an opcode makes: `trusted` where it was made of the allow-list."""

    __slots__ = ("how", "trusted", "keys")

    def __init__(self, how: str, trusted: bool = True):
        self.how = how
        self.trusted = trusted
        self.keys: list[Any] | None = None  # of a dictionary: the first two

    def __str__(self) -> str:
        return self.how


class Bytes:
    """Bytes at a place of the file; `encoding`: they are written as text there."""

    __slots__ = ("start", "stop", "encoding")

    def __init__(self, start: int, stop: int, encoding: str | None = None):
        self.start = start
        self.stop = stop
        self.encoding = encoding

    def __str__(self) -> str:
        return f"<{self.stop - self.start} bytes>"

    def content(self, data: Data) -> bytes:
        """Decoded.

        Raises:
            FormatError: too many to decode.
            UnicodeError: the text stands for no bytes.
        """
        if self.stop - self.start > MAX_NESTED:
            raise FormatError(f"{self} are too many to decode")
        return decode(data[self.start : self.stop], self.encoding or "latin-1").encode("latin-1")


class Encoded:
    """Bytes that a pickle holds as a short text, one character a byte."""

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text

    def __str__(self) -> str:
        return f"<{len(self.text)} bytes>"


def decode(raw: bytes, encoding: str) -> str:
    if encoding == "string":  # Python 2's str at protocol 0, as source code has it
        if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
            raise FormatError("a text has no quotes")
        return codecs.escape_decode(raw[1:-1])[0].decode("latin-1")  # type: ignore[attr-defined,no-any-return]
    return codecs.decode(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict")  # as pickle does


def show(value: Any, depth: int = 2) -> str:
    """A value for a message, short whatever it holds."""
    if type(value) is tuple:
        return f"({show_items(value, depth - 1)})" if depth else "(...)"
    if isinstance(value, (Named, Made, Bytes, Encoded)):
        return shorten(value)
    return shorten(repr(value[:80] + "..." if type(value) is str and len(value) > 80 else value))


def show_items(values: Sequence[Any], depth: int = 2) -> str:
    return ", ".join([show(value, depth) for value in values[:4]] + ["..."] * (len(values) > 4))
