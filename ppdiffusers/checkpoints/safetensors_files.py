"""safetensors: eight bytes of length, a JSON header, the data.

Source: the format's description in the safetensors repository; offsets count from the end of the header.
"""

from __future__ import annotations

import json
import mmap
import struct
from typing import Any, Dict, List, Tuple

from ppdiffusers.checkpoints.errors import FormatError, shorten
from ppdiffusers.checkpoints.tensors import Span, StoredTensor

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
MAX_HEADER = 100_000_000  # bytes, as the format's own readers have it


def looks_like_safetensors(data: mmap.mmap) -> bool:
    """A header length below 4 GiB, then the brace that begins the header: no pickle or archive begins so."""
    return data[4:9] == b"\0\0\0\0{"


def read_safetensors(data: mmap.mmap) -> Tuple[Dict[str, StoredTensor], Dict[str, str]]:
    """The tensors of a file, in the order of their data, and its metadata."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > MAX_HEADER or 8 + length > len(data):
        raise FormatError(f"ends early, or is no safetensors file: it announces a header of {length} bytes")
    header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    if type(header) is not dict:
        raise FormatError("has a header that is not an object")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise FormatError("has metadata that is not text")
    entries = sorted((_offsets(name, entry), name) for name, entry in header.items())
    tensors = {}
    place = 0
    for (begin, end), name in entries:
        if begin != place:
            raise FormatError(f"has {'overlapping tensors' if begin < place else 'a hole'} at {shorten(name)!r}")
        entry = header[name]
        if type(entry["dtype"]) is not str or entry["dtype"] not in DTYPES:
            raise FormatError(
                f"has the type {shorten(entry['dtype'])} for {shorten(name)!r}; known: {', '.join(DTYPES)}"
            )
        if end > len(data) - 8 - length:
            raise FormatError(f"ends early: before the end of {shorten(name)!r}")
        span = Span(data, 8 + length + begin, 8 + length + end)
        tensors[name] = StoredTensor(DTYPES[entry["dtype"]], entry["shape"], [span])
        place = end
    if place != len(data) - 8 - length:
        raise FormatError(f"has {len(data) - 8 - length - place} bytes after its last tensor")
    return tensors, metadata


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise FormatError("has a header that names a key twice")
    return values


def _offsets(name: str, entry: Any) -> Tuple[int, int]:
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"has an entry for {shorten(name)!r} that is not a type, a shape and offsets")
    offsets = entry["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"has no pair of offsets for {shorten(name)!r}")
    if not 0 <= offsets[0] <= offsets[1]:
        raise FormatError(f"has offsets for {shorten(name)!r} that run backwards")
    return offsets[0], offsets[1]
