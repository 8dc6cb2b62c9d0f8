"""What weight files are made of, told from their bytes alone: nothing that a file names is imported or called.

The standard library is enough; `ppdiffusers.checkpoints` reads arrays by the same tables and checks.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Union

Data = Union[mmap.mmap, bytes]

MAX_DIMENSIONS = 32  # numpy 1 allows no more
MAX_BYTES = 2**48  # no tensor is larger; keeps products of hostile sizes small

# Bytes of an element, by the names that numpy and the frameworks share.
ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
}


class FormatError(Exception):
    """A fault inside a file, said as what the file does ("ends early"); the caller adds the name and the remedy."""


def shorten(text: object) -> str:
    """`text` for a message: a hostile file may hold names of any length, and codes that drive a terminal."""
    words = str(text)
    if len(words) > 80:
        words = words[:77] + "..."
    return words if words.isprintable() else repr(words)[1:-1]


class Span:
    """Bytes `start:stop` of a file's memory map (or of a bytes object), looked at only when they are wanted."""

    __slots__ = ("source", "start", "stop")

    def __init__(self, source: Data, start: int, stop: int):
        self.source, self.start, self.stop = source, start, stop

    @property
    def size(self) -> int:
        return self.stop - self.start

    def release(self) -> None:
        """Let the system take the pages back; a later look fetches them from the file again."""
        if isinstance(self.source, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            first = self.start - self.start % mmap.PAGESIZE
            self.source.madvise(mmap.MADV_DONTNEED, first, self.stop - first)


class TextBytes:
    """Bytes that a pickle holds as text, one character a byte; a span holds UTF-8, or escapes at protocol 0."""

    def __init__(self, text: Any, escaped: bool = False):
        self.text, self.escaped = text, escaped

    @property
    def size(self) -> int | None:
        """None where only decoding would tell."""
        return len(self.text) if isinstance(self.text, str) else None


def describe_tensor(dtype: str, shape: Any, chunks: Sequence[Any], *place: Any, **order: Any) -> tuple[str, Any]:
    """What a tensor is made into where nobody wants to read it."""
    return dtype, shape


class Tools(NamedTuple):
    """What a reader makes of the places that are found; those of `ppdiffusers.checkpoints` can be read as arrays."""

    span: Any = Span
    text: Any = TextBytes
    tensor: Callable[..., Any] = describe_tensor


def check_shape(shape: Any, what: str = "") -> tuple[int, ...]:
    """`shape` as a tuple of sane sizes; also used for strides and other tuples of counts. `what` has them."""
    if type(shape) not in (tuple, list) or len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"has a shape{what} that is not a list of at most {MAX_DIMENSIONS} sizes")
    if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        # The value is not shown: printing a crafted one could take for ever.
        raise FormatError(f"has a shape with an impossible size{what}")
    return tuple(shape)


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of an array in C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def check_tensor(dtype: str, shape: Any, stored: int | None, offset: Any, strides: Any, shared: bool) -> int:
    """See that a tensor fits its stored bytes (None where decoding would tell); the bytes of its elements.

    Args:
        stored: bytes that it may lie in; `shared` where they may hold more than it.
        offset, strides: in elements.
    """
    shape, strides, (offset,) = check_shape(shape), check_shape(strides), check_shape((offset,))
    if len(strides) != len(shape):
        raise FormatError(f"has the strides {strides} for the shape {shape}")
    if math.prod(max(size, 1) for size in shape) * ITEM_BYTES[dtype] > MAX_BYTES:
        raise FormatError(f"has a tensor of the impossible shape {shape}")
    count = math.prod(shape)
    reach = offset + sum((size - 1) * step for size, step in zip(shape, strides)) + 1 if count else 0
    # More elements than stored would be an expanded tensor: a few bytes that become any amount of memory.
    needed = max(count, reach) * ITEM_BYTES[dtype]
    if stored is not None and (needed > stored or (needed < stored and not shared)):
        raise FormatError(f"stores {stored} bytes for a {dtype} tensor of shape {shape}")
    return count * ITEM_BYTES[dtype]
