"""Writing weight files, each in one rename."""

from __future__ import annotations

import json
import math
import pickle
import struct
from typing import Any, BinaryIO, Callable, Dict, Mapping, NamedTuple, Tuple, Union

import numpy as np

from ppdiffusers.checkpoints.errors import CheckpointError
from ppdiffusers.checkpoints.safetensors_files import DTYPES
from ppdiffusers.checkpoints.tensors import STORED_AS
from ppdiffusers.config import PathLike, replacing

CODES = {name: code for code, name in DTYPES.items()}
NAMES = {STORED_AS[name]: name for name in CODES}  # uint16 is Paddle's bfloat16
_CACHE_LINE = 64  # bytes
PADDLE_NAMES_KEY = "StructuredToParameterName@@"


class Pending(NamedTuple):
    """An array that is made when it is written, so that a model passes through memory tensor by tensor.

    `dtype` is a key of `STORED_AS`, which says what `make` returns: uint16 for bfloat16.
    """

    dtype: str
    shape: Tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * STORED_AS[self.dtype].itemsize


Writable = Union[np.ndarray, Pending]


def save_safetensors(path: PathLike, arrays: Mapping[str, Writable], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; arrays of uint16 are bfloat16 bits, as Paddle gives them.

    The header is written here and the arrays one by one after it: the library's numpy front cannot write bfloat16,
    and its lower level changed its arguments between 0.7 and 0.8.

    Raises:
        CheckpointError: a type that the format does not have, or metadata that are not text.
    """
    if not all(type(key) is str and type(value) is str for key, value in metadata.items()):
        raise CheckpointError(f"the metadata of {path} must be text, not {dict(metadata)!r}")
    pending = {name: as_pending(path, name, array) for name, array in arrays.items()}

    # Wide types first, so that every array begins at a multiple of its item size. Among them first those that fill
    # whole cache lines, so that all of these begin at one when the file is mapped.
    def place_of(name: str) -> Tuple[int, bool, str]:
        return -STORED_AS[pending[name].dtype].itemsize, pending[name].nbytes % _CACHE_LINE != 0, name

    order = sorted(pending, key=place_of)
    header: Dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        array = pending[name]
        header[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % _CACHE_LINE)
    with replacing(path) as part, part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            write_array(file, pending[name])


def save_pdparams(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what `paddle.save(layer.state_dict(), path)` writes: a pickle of protocol 4.

    Raises:
        CheckpointError: a type that weights do not have.
    """
    plain: Dict[str, Any] = {name: _plain(path, name, array) for name, array in arrays.items()}
    plain[PADDLE_NAMES_KEY] = {name: name for name in arrays}
    with replacing(path) as part, part.open("wb") as file:
        pickle.dump(plain, file, protocol=4)


def as_pending(path: PathLike, name: str, array: Writable) -> Pending:
    if isinstance(array, Pending):
        return array
    plain = _plain(path, name, array)
    return Pending(NAMES[plain.dtype], plain.shape, lambda: plain)


def _plain(path: PathLike, name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    little = array.dtype.newbyteorder("<")
    if type(name) is not str or name == "__metadata__" or little not in NAMES:
        known = ", ".join(str(dtype) for dtype in NAMES)
        raise CheckpointError(f"{path} cannot hold {name!r} of the type {array.dtype}; convert it to one of {known}")
    return array.astype(little, copy=False)


def write_array(file: BinaryIO, pending: Pending) -> None:
    array = np.ascontiguousarray(pending.make())
    if (array.dtype, array.nbytes) != (STORED_AS[pending.dtype], pending.nbytes):
        raise CheckpointError(f"{pending.dtype} {list(pending.shape)} became {array.dtype} {list(array.shape)}")
    file.write(array.reshape(-1).view(np.uint8).data)
