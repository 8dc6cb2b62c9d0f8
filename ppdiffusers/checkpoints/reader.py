"""Opening a weight file: which reader it needs, and the names it offers."""

from __future__ import annotations

import mmap
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Dict, List, Optional, Tuple, Type, Union

import numpy as np

from model_zoo.formats import archive
from model_zoo.formats.names import Foreign, PickledArray, TorchTensor
from model_zoo.formats.safetensors import looks_like_safetensors
from ppdiffusers.checkpoints.errors import CheckpointError, FormatError, shorten
from ppdiffusers.checkpoints.pickles import LEGACY_MAGIC, load_pickle, read_legacy, read_zip
from ppdiffusers.checkpoints.safetensors_files import read_safetensors
from ppdiffusers.checkpoints.tensors import StoredTensor
from ppdiffusers.config import PathLike

REMEDY = "fetch it again from its source, or save the model there as safetensors"
PADDLE_FORMATS = ("pd", "paddle")  # in the metadata of safetensors
PADDLE_NAMES = ("diffusion_paddle_model", "model_state")  # of safetensors files; shards add "-00001-of-00002"
SPLIT_ARRAYS = "UnpackBigParamInfor@@"  # the spelling is Paddle's

Tensors = Dict[str, Union[StoredTensor, Foreign]]  # Foreign only where objects are skipped


class Checkpoint:
    """The tensors of one weight file; made by `open_checkpoint`, closed by the end of a `with` block.

    Attributes:
        path: the file.
        layout: "paddle" where the weights of linear layers are [in, out], "torch" where they are [out, in].
    """

    def __init__(self, path: Path, layout: str, tensors: Tensors, data: mmap.mmap, file: BinaryIO):
        self.path = path
        self.layout = layout
        self._tensors = tensors
        self._data: Optional[mmap.mmap] = data
        self._file = file
        self._private: Optional[mmap.mmap] = None

    def keys(self) -> List[str]:
        """Names of the tensors, in the file's order."""
        return list(self._tensors)

    def shape(self, name: str) -> Tuple[int, ...]:
        return self._tensor(name).shape

    def dtype(self, name: str) -> str:
        """The type as stored: "float32", "float16", "bfloat16", "int64", ..."""
        return self._tensor(name).dtype

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only array, float32 for bfloat16; use it before `close()`.

        It is a view on the file where its bits allow that, so it may be unaligned and, like the tensor it was saved
        from, not contiguous.

        Raises:
            CheckpointError: no such tensor, or its data are damaged.
        """
        tensor = self._tensor(name)
        try:
            return tensor.read()
        except (FormatError, UnicodeError) as error:
            raise CheckpointError(
                f"{self.path}: the data of {shorten(name)!r} are damaged ({error}); {REMEDY}"
            ) from None

    def map(self, name: str) -> Optional[np.ndarray]:
        """The tensor as a writable array over the file's own pages; None where `read` must serve instead.

        Nothing is read before it is looked at, and no memory is taken but the page cache's, which processes share.
        What is written to the array stays in this process (`MAP_PRIVATE`); the file never changes. The array may be
        used after `close()`: the mapping lives as long as any array over it, in forked children too.

        It shows the file that was opened, also when that was since deleted or replaced by a rename, as the writers
        here and every careful one do. A program that rewrites the *same* file in place (`cp new old`) changes the
        array, and one that cuts it short makes the next look at it end the process (SIGBUS): so it is with every
        reader that maps files. Where such programs are about, `read`.

        Only for tensors of safetensors files on Linux, little-endian, at an address that is a multiple of the item
        size. bfloat16 comes as its bits, uint16.
        """
        tensor = self._tensor(name)
        span = tensor.place()
        if span is None or self._data is None or sys.platform != "linux":
            return None
        if self._private is None:
            try:
                self._private = mmap.mmap(self._file.fileno(), len(self._data), access=mmap.ACCESS_COPY)
            except (OSError, ValueError):  # a limit of the address space; a file that was cut short meanwhile
                return None
        return np.ndarray(tensor.shape, tensor.stored, self._private, span.start)

    def release(self, name: str) -> None:
        """Give the tensor's memory back to the system, its data having been copied elsewhere.

        Arrays that were read stay valid: their pages are fetched from the file again when they are looked at.
        """
        self._tensor(name).release()

    def close(self) -> None:
        if self._data is not None:
            _close(self._data)
            self._data = self._private = None
            self._file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _tensor(self, name: str) -> StoredTensor:
        if self._data is None:
            raise CheckpointError(f"{self.path} was closed; open it again to read {shorten(name)!r}")
        if name not in self._tensors:
            raise CheckpointError(f"{self.path} has no tensor {shorten(name)!r}; it has {_some(self._tensors)}")
        tensor = self._tensors[name]
        if isinstance(tensor, Foreign):
            raise CheckpointError(f"{self.path}: {shorten(name)!r} is no tensor: it {tensor.fault}; {REMEDY}")
        return tensor


def open_checkpoint(path: PathLike, skip_objects: bool = False) -> Checkpoint:
    """Open a weight file of any known format; nothing that it holds is executed, and no tensor is read yet.

    Args:
        skip_objects: for training checkpoints, such as Lightning's: objects of other libraries are passed over, as
            placeholders that hold nothing, instead of refused. Still nothing is imported or called for them, and
            whatever is used as a tensor must be one.

    Raises:
        CheckpointError: no such file, not a weight file, a damaged one, or one that names code.
    """
    file_path = Path(path)
    try:
        if file_path.exists() and not file_path.is_file():
            raise CheckpointError(f"{file_path} is a folder or a device; name the weight file itself")
        with ExitStack() as opened:  # closed again unless all goes well
            file = opened.enter_context(file_path.open("rb"))
            if file.seek(0, 2) == 0:
                raise CheckpointError(f"{file_path} is empty; {REMEDY}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            opened.callback(_close, data)
            layout, tensors = _read(file_path, data, skip_objects)
            opened.pop_all()
    except CheckpointError:
        raise
    except FormatError as error:
        raise CheckpointError(f"{file_path} {error}; {REMEDY}") from None
    except OSError as error:
        raise CheckpointError(f"{file_path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever damaged bytes lead to: the content is at fault, not the caller
        raise CheckpointError(f"{file_path} is damaged ({type(error).__name__}: {shorten(error)}); {REMEDY}") from error
    return Checkpoint(file_path, layout, tensors, data, file)


def _close(data: mmap.mmap) -> None:
    try:
        data.close()
    except BufferError:
        pass  # arrays that were read are still in use: the map goes with the last of them


def _read(path: Path, data: mmap.mmap, skip_objects: bool) -> Tuple[str, Tensors]:
    """Layout and tensors. The magic decides, since people rename files."""
    if data[:4] == archive.MAGIC:
        return "torch", _named_tensors(read_zip(data, skip_objects))
    if looks_like_safetensors(data):
        tensors, metadata = read_safetensors(data)
        paddle = metadata.get("format") in PADDLE_FORMATS or path.name.startswith(PADDLE_NAMES)
        return "paddle" if paddle else "torch", dict(tensors)
    if data[257:262] == b"ustar":
        raise FormatError("is a tar archive: torch wrote weights so before 0.2, and that is not read")
    if data[0] not in b"\x80(}c":  # PROTO, or how a dictionary begins at protocols 0 and 1
        raise FormatError(f"is no weight file: it begins with {bytes(data[:16])!r}")
    value, end = load_pickle(data, 0, len(data))
    if value == LEGACY_MAGIC:
        return "torch", _named_tensors(read_legacy(data, end, skip_objects))
    if end != len(data):
        raise FormatError(f"has {len(data) - end} bytes after its end")
    return "paddle", _named_tensors(value)


def _named_tensors(value: Any) -> Tensors:
    """The tensors of a state dict, or of the "state_dict" in a training checkpoint; other values are left out."""
    if isinstance(value, Foreign):
        raise FormatError(value.fault)
    if type(value) is dict and type(value.get("state_dict")) is dict:
        value = value["state_dict"]
    if type(value) is not dict:
        raise FormatError(f"holds a {type(value).__name__} instead of tensors by name")
    tensors: Tensors = {}
    for name, item in value.items():
        if type(item) is tuple and len(item) == 2:  # (Paddle's name of the parameter, its array)
            item = item[1]
        if isinstance(item, (PickledArray, TorchTensor)):
            if type(name) is not str:
                raise FormatError(f"has a {type(name).__name__} where a tensor's name should be")
            tensors[name] = item.tensor()
        elif isinstance(item, Foreign) and type(name) is str:
            tensors[name] = item
    if SPLIT_ARRAYS in value:
        _join_split_arrays(tensors, value[SPLIT_ARRAYS])
    if value and not tensors:
        raise FormatError(f"holds no tensors, only {_some(value)}")
    return tensors


def _join_split_arrays(tensors: Tensors, plan: Any) -> None:
    """Put together the arrays of 1 GiB and more that Paddle splits at pickle protocols 2 and 3.

    `plan` is {name: {"OriginShape": shape, "slices": names of its flat parts}}.
    """
    if type(plan) is not dict:
        raise FormatError("has a damaged list of split arrays")
    for name, entry in plan.items():
        names = entry.get("slices") if type(entry) is dict else None
        if (
            type(name) is not str
            or type(names) is not list
            or not names
            or not all(type(part) is str for part in names)
        ):
            raise FormatError("has a damaged list of split arrays")
        parts = [part for part in (tensors.pop(part, None) for part in names) if isinstance(part, StoredTensor)]
        if len(parts) != len(names):  # one is missing, or named twice
            raise FormatError(f"lacks a part of the split array {shorten(name)!r}")
        if len({part.stored for part in parts}) != 1 or any(len(part.shape) != 1 for part in parts):
            raise FormatError(f"has parts of several types for the split array {shorten(name)!r}")
        chunks = [chunk for part in parts for chunk in part.chunks]
        big_endian = parts[0].stored.byteorder == ">"
        tensors[name] = StoredTensor(parts[0].dtype, entry["OriginShape"], chunks, big_endian=big_endian)


def _some(names: Dict[Any, Any]) -> str:
    """The first few names, for a message."""
    texts = [shorten(name) for name in list(names)[:5] if type(name) is str]
    return (", ".join(texts) or "nothing with a name") + (f" and more ({len(names)})" if len(names) > 5 else "")
