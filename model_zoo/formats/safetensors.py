"""The header of a safetensors file: eight bytes of length, then JSON; the data follow.

Source: the format's description in the safetensors repository; offsets count from the end of the header.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from model_zoo.formats import Data, FormatError, check_shape, shorten

# Bytes of an element. The types of less than a byte are missing: no weights of this library have them.
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
# Bytes. The format's own readers take 100 MB, of which Python would make a gigabyte; a thousand tensors have 0.1 MB.
MAX_HEADER = 16 * 2**20
MAX_DIGITS = 19


class Tensor(NamedTuple):
    """One entry: its type as written ("F32"), shape, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def looks_like_safetensors(data: Data) -> bool:
    """A header length below 4 GiB, then the brace that begins the header: no pickle or archive begins so."""
    return data[4:9] == b"\0\0\0\0{"


def read_header(data: Data) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in the order of their data, and its metadata.

    Raises:
        FormatError: the tensors are not exactly the rest of the file, one after the other, each as long as its type
            and shape say; or the header is no such thing.
    """
    length = int.from_bytes(data[:8], "little")
    base = 8 + length
    if base > len(data):
        raise FormatError(f"ends early, or is no safetensors file: it announces a header of {length} bytes")
    if length > MAX_HEADER:
        raise FormatError(f"has a header of {length} bytes; {MAX_HEADER} are read")
    header = _json(data[8:base])
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise FormatError("has metadata that is not text")
    entries = sorted(((_offsets(name, entry), name) for name, entry in header.items()))
    tensors = {}
    place = 0
    for (begin, end), name in entries:
        if begin != place:
            raise FormatError(f"has {'overlapping tensors' if begin < place else 'a hole'} at {shorten(name)!r}")
        dtype, shape = _kind(name, header[name])
        if end > len(data) - base:
            raise FormatError(f"ends early: before the end of {shorten(name)!r}")
        if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
            raise FormatError(f"stores {end - begin} bytes for {shorten(name)!r}, {dtype} of the shape {list(shape)}")
        tensors[name] = Tensor(dtype, shape, base + begin, base + end)
        place = end
    if place != len(data) - base:
        raise FormatError(f"has {len(data) - base - place} bytes after its last tensor")
    return tensors, metadata


def _json(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is damaged: its header is no JSON ({type(error).__name__}: {shorten(error)})") from None
    if type(header) is not dict:
        raise FormatError("has a header that is not an object")
    return header


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # Python before 3.11 may take hours over a long one
        raise FormatError(f"has a number of {len(digits)} digits in its header")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise FormatError("has a header that names a key twice")
    return values


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"has an entry for {shorten(name)!r} that is not a type, a shape and offsets")
    offsets = entry["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"has no pair of offsets for {shorten(name)!r}")
    if not 0 <= offsets[0] <= offsets[1]:
        raise FormatError(f"has offsets for {shorten(name)!r} that run backwards")
    return offsets[0], offsets[1]


def _kind(name: str, entry: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    dtype = entry["dtype"]
    if type(dtype) is not str or dtype not in ITEM_BYTES:
        raise FormatError(f"has the type {shorten(dtype)} for {shorten(name)!r}; known: {', '.join(ITEM_BYTES)}")
    return dtype, check_shape(entry["shape"], f" for {shorten(name)!r}")
