"""torch's files: a zip archive with a pickle and one entry a storage, or (before 1.6) a stream of pickles and data."""

from __future__ import annotations

import struct
from mmap import mmap
from typing import Any, Dict, Tuple

from model_zoo.formats.zip_archive import STORED, read_entries
from ppdiffusers.checkpoints.allowed import StorageType, TorchStorage
from ppdiffusers.checkpoints.errors import FormatError, shorten
from ppdiffusers.checkpoints.pickle_machine import load_pickle
from ppdiffusers.checkpoints.skipping import SkippingMachine
from ppdiffusers.checkpoints.tensors import STORED_AS, Chunk, Span

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the value of the first pickle of the older files
LEGACY_VERSION = 1001

# torch stores entries as they are. Repacked archives are read while small: beyond, they could not be memory-mapped.
MAX_UNPACKED = 16 * 2**20


def read_zip(data: mmap, skip_objects: bool = False) -> Any:
    """The value that `torch.save` wrote to a zip archive, with `TorchTensor`s for tensors.

    `skip_objects` is that of `open_checkpoint`.
    """
    archive = _Archive(data)
    pickles = [name for name in archive.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError("is a zip archive, but not one that torch.save wrote (no data.pkl in its folder)")
    folder = pickles[0][: -len("data.pkl")]
    order = archive.entry(folder + "byteorder") if folder + "byteorder" in archive.entries else None
    if order is not None and bytes(order.buffer()) != b"little":
        raise FormatError("was written on a big-endian machine")
    places: Dict[str, Chunk] = {}

    def storage(identity: Any) -> TorchStorage:
        dtype, key, count = _storage_identity(identity, 5)
        if key not in places:
            places[key] = archive.entry(f"{folder}data/{key}")
        _check_storage(dtype, count, places[key])
        return TorchStorage(dtype, key, places)

    program = archive.entry(pickles[0])
    return load_pickle(program.source, program.start, program.stop, storage, SkippingMachine if skip_objects else None)[
        0
    ]


def read_legacy(data: mmap, start: int, skip_objects: bool = False) -> Any:
    """The value in a file of torch before 1.6, whose first pickle (the magic number) ended at `start`."""
    (version, start), (system, start) = _two_pickles(data, start)
    if version != LEGACY_VERSION or type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError("is a torch file of an unknown version, or was written on a big-endian machine")
    places: Dict[str, Chunk] = {}
    wanted: Dict[str, Tuple[str, int]] = {}

    def storage(identity: Any) -> TorchStorage:
        dtype, key, count = _storage_identity(identity, 6)
        if identity[5] is not None:
            raise FormatError("holds views on storages as torch 0.3 wrote them")
        if wanted.setdefault(key, (dtype, count)) != (dtype, count):
            raise FormatError(f"gives the storage {shorten(key)!r} two types or sizes")
        return TorchStorage(dtype, key, places)

    value, start = load_pickle(data, start, len(data), storage, SkippingMachine if skip_objects else None)
    keys, start = load_pickle(data, start, len(data))
    if type(keys) is not list or not all(type(key) is str and key in wanted for key in keys):
        raise FormatError("has a damaged list of storages")
    for key in keys:
        dtype, count = wanted[key]
        stop = start + 8 + count * STORED_AS[dtype].itemsize
        if stop > len(data):
            raise FormatError(f"ends early: in the storage {shorten(key)!r}")
        (stored,) = struct.unpack("<q", data[start : start + 8])
        if stored != count:
            raise FormatError(f"stores {stored} elements where {count} are announced")
        places[key] = Span(data, start + 8, stop)
        start = stop
    if start != len(data):
        raise FormatError(f"has {len(data) - start} bytes after its end")
    return value


def _two_pickles(data: mmap, start: int) -> Tuple[Tuple[Any, int], Tuple[Any, int]]:
    first = load_pickle(data, start, len(data))
    return first, load_pickle(data, first[1], len(data))


def _storage_identity(identity: Any, length: int) -> Tuple[str, str, int]:
    """Type, key and number of elements of ("storage", class, key, device, number, ...)."""
    if type(identity) is not tuple or len(identity) != length or identity[0] != "storage":
        raise FormatError("refers to something that is no torch storage")
    _, kind, key, _, count = identity[:5]
    if type(kind) is not StorageType or type(key) is not str or type(count) is not int or not 0 <= count < 2**48:
        raise FormatError("has a damaged reference to a storage")
    return kind.dtype, key, count


def _check_storage(dtype: str, count: int, place: Chunk) -> None:
    if place.size != count * STORED_AS[dtype].itemsize:
        raise FormatError(f"stores {place.size} bytes for {count} elements of {dtype}")


class _Archive:
    """The entries of a zip file as spans of its memory map."""

    def __init__(self, data: mmap):
        self.data = data
        entries = read_entries(data)
        self.entries = {entry.name: entry for entry in entries}
        if len(self.entries) != len(entries):
            raise FormatError("is a zip archive with two entries of one name")
        self.unpacked = 0

    def entry(self, name: str) -> Span:
        entry = self.entries.get(name)
        if entry is None:
            raise FormatError(f"is a zip archive without the entry {shorten(name)!r}")
        if entry.method == STORED:
            return Span(self.data, entry.start, entry.stop)
        content = entry.unpack(self.data, MAX_UNPACKED - self.unpacked)
        self.unpacked += len(content)
        return Span(content, 0, len(content))
