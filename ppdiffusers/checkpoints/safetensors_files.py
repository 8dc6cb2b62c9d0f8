"""safetensors files as stored tensors; the header is read and checked in `model_zoo.formats.safetensors`."""

from __future__ import annotations

import mmap
from typing import Dict, Tuple

from model_zoo.formats.safetensors import read_header
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


def read_safetensors(data: mmap.mmap) -> Tuple[Dict[str, StoredTensor], Dict[str, str]]:
    """The tensors of a file, in the order of their data, and its metadata."""
    header, metadata = read_header(data)
    tensors = {}
    for name, entry in header.items():
        if entry.dtype not in DTYPES:
            raise FormatError(f"has the type {entry.dtype} for {shorten(name)!r}; read are {', '.join(DTYPES)}")
        span = Span(data, entry.start, entry.stop)
        tensors[name] = StoredTensor(DTYPES[entry.dtype], entry.shape, [span], apart=True)
    return tensors, metadata
