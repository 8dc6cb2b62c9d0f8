"""Writing what `torch.save` writes, without torch: a zip archive with a pickle and one entry a tensor."""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from typing import Any, BinaryIO, Dict, Iterable, List, Mapping, cast

from model_zoo.formats.names import STORAGES
from ppdiffusers.checkpoints.tensors import dense_strides
from ppdiffusers.checkpoints.writer import Pending, Writable, as_pending, write_array
from ppdiffusers.config import PathLike, replacing

STORAGE_CLASSES: Dict[str, str] = {}
for _class, _dtype in STORAGES.items():
    STORAGE_CLASSES.setdefault(_dtype, _class)

_ALIGNMENT = 64  # of the tensors in the file, as torch has it
_PADDING = 0x4246  # "FB", the extra field that torch pads with


def save_torch(path: PathLike, arrays: Mapping[str, Writable]) -> None:
    """Write what `torch.save({"state_dict": tensors}, path)` writes; `torch.load(weights_only=True)` reads it.

    Arrays of uint16 are bfloat16 bits. The same arrays make the same bytes.

    Raises:
        CheckpointError: a type that weights do not have.
    """
    tensors = {name: as_pending(path, name, array) for name, array in arrays.items()}
    with replacing(path) as part, part.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        _add(file, archive, "data.pkl", [_pickled(tensors)])
        _add(file, archive, "byteorder", [b"little"])
        for key, tensor in enumerate(tensors.values()):
            _add(file, archive, f"data/{key}", tensor)
        _add(file, archive, "version", [b"3\n"])


def _add(file: BinaryIO, archive: zipfile.ZipFile, name: str, content: Any) -> None:
    entry = zipfile.ZipInfo(f"archive/{name}")  # dated 1980
    entry.file_size = content.nbytes if isinstance(content, Pending) else sum(map(len, content))
    # The data follow a header of 30 bytes, the name and the extra field, which has a header of 4.
    gap = -(file.tell() + 30 + len(entry.filename) + 4) % _ALIGNMENT
    entry.extra = struct.pack("<HH", _PADDING, gap) + bytes(gap)
    with archive.open(entry, "w") as stream:
        if isinstance(content, Pending):
            write_array(cast(BinaryIO, stream), content)
        else:
            stream.writelines(content)


# The pickle, opcode by opcode: Python's own pickler would have to import torch to name its classes.


def _pickled(tensors: Mapping[str, Pending]) -> bytes:
    items: List[bytes] = []
    for key, (name, tensor) in enumerate(tensors.items()):
        items += (_text(name), _tensor(str(key), tensor))
    state_dict = pickle.EMPTY_DICT + pickle.MARK + b"".join(items) + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + _text("state_dict") + state_dict + pickle.SETITEM + pickle.STOP


def _tensor(key: str, tensor: Pending) -> bytes:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, strides, requires_grad, hooks)`."""
    kind, count = _global("torch", STORAGE_CLASSES[tensor.dtype]), _integer(math.prod(tensor.shape))
    storage = _tuple([_text("storage"), kind, _text(key), _text("cpu"), count]) + pickle.BINPERSID
    size, strides = (_tuple(map(_integer, numbers)) for numbers in (tensor.shape, dense_strides(tensor.shape)))
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = [storage, _integer(0), size, strides, pickle.NEWFALSE, hooks]
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _tuple(items: Iterable[bytes]) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _integer(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number) if number < 2**31 else pickle.LONG1 + struct.pack("<Bq", 8, number)
