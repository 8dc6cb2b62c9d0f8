"""Writing weight files, each in one rename."""

from __future__ import annotations

import json
import pickle
import struct
from typing import Any, BinaryIO, Dict, Mapping

import numpy as np

from ppdiffusers.checkpoints.errors import CheckpointError
from ppdiffusers.checkpoints.safetensors_files import DTYPES
from ppdiffusers.checkpoints.tensors import STORED_AS
from ppdiffusers.config import PathLike, replacing

CODES = {STORED_AS[name]: code for code, name in DTYPES.items()}  # uint16 is Paddle's bfloat16, and so "BF16"
PADDLE_NAMES_KEY = "StructuredToParameterName@@"


def save_safetensors(path: PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; arrays of uint16 are bfloat16 bits, as Paddle gives them.

    The header is written here and the arrays one by one after it: the library's numpy front cannot write bfloat16,
    and its lower level changed its arguments between 0.7 and 0.8.

    Raises:
        CheckpointError: a type that the format does not have, or metadata that are not text.
    """
    if not all(type(key) is str and type(value) is str for key, value in metadata.items()):
        raise CheckpointError(f"the metadata of {path} must be text, not {dict(metadata)!r}")
    plain = {name: _plain(path, name, array) for name, array in arrays.items()}
    # Wide types first, so that every array begins at a multiple of its item size.
    order = sorted(plain, key=lambda name: (-plain[name].itemsize, name))
    header: Dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        array = plain[name]
        header[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with replacing(path) as part, part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            _write(file, plain[name])


def save_pdparams(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what `paddle.save(layer.state_dict(), path)` writes: a pickle of protocol 4.

    Raises:
        CheckpointError: a type that weights do not have.
    """
    plain: Dict[str, Any] = {name: _plain(path, name, array) for name, array in arrays.items()}
    plain[PADDLE_NAMES_KEY] = {name: name for name in arrays}
    with replacing(path) as part, part.open("wb") as file:
        pickle.dump(plain, file, protocol=4)


def _plain(path: PathLike, name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    little = array.dtype.newbyteorder("<")
    if type(name) is not str or name == "__metadata__" or little not in CODES:
        known = ", ".join(str(dtype) for dtype in CODES)
        raise CheckpointError(f"{path} cannot hold {name!r} of the type {array.dtype}; convert it to one of {known}")
    return array.astype(little, copy=False)


def _write(file: BinaryIO, array: np.ndarray) -> None:
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
