"""torch's files: a zip archive with a pickle and one entry a storage, or (before 1.6) a stream of pickles and data."""

from __future__ import annotations

import struct
import zipfile
from mmap import mmap
from typing import Any, BinaryIO, Dict, Tuple

from ppdiffusers.checkpoints.allowed import StorageType, TorchStorage
from ppdiffusers.checkpoints.errors import FormatError, shorten
from ppdiffusers.checkpoints.pickle_machine import load_pickle
from ppdiffusers.checkpoints.tensors import STORED_AS, Chunk, Span

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the value of the first pickle of the older files
LEGACY_VERSION = 1001

# torch stores entries as they are. Repacked archives are read while small: beyond, they could not be memory-mapped.
MAX_UNPACKED = 16 * 2**20


def read_zip(file: BinaryIO, data: mmap) -> Any:
    """The value that `torch.save` wrote to a zip archive, with `TorchTensor`s for tensors."""
    archive = _Archive(file, data)
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
    return load_pickle(program.source, program.start, program.stop, storage)[0]


def read_legacy(data: mmap, start: int) -> Any:
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

    value, start = load_pickle(data, start, len(data), storage)
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

    def __init__(self, file: BinaryIO, data: mmap):
        self.data = data
        try:
            self.archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise FormatError(f"is no whole zip archive ({error}): it may end early") from None
        self.entries = {entry.filename: entry for entry in self.archive.infolist()}
        if len(self.entries) != len(self.archive.infolist()):
            raise FormatError("is a zip archive with two entries of one name")
        self.unpacked = 0

    def entry(self, name: str) -> Span:
        entry = self.entries.get(name)
        if entry is None:
            raise FormatError(f"is a zip archive without the entry {shorten(name)!r}")
        if entry.flag_bits & 1:
            raise FormatError("is an encrypted zip archive")
        if entry.compress_type == zipfile.ZIP_STORED:
            return self._stored(entry)
        self.unpacked += entry.file_size
        if self.unpacked > MAX_UNPACKED:
            raise FormatError(
                f"is a compressed zip archive of more than {MAX_UNPACKED >> 20} MiB, which torch.save does not write; "
                "unpack it and zip it without compression (zip -0)"
            )
        content = self.archive.read(entry)
        return Span(content, 0, len(content))

    def _stored(self, entry: zipfile.ZipInfo) -> Span:
        # The local header repeats the name and may have other extra fields (torch aligns the data with them).
        header = self.data[entry.header_offset : entry.header_offset + 30]
        if len(header) != 30 or header[:4] != ZIP_MAGIC:
            raise FormatError(f"is a damaged zip archive: the entry {shorten(entry.filename)!r} is not where it should")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = entry.header_offset + 30 + name_length + extra_length
        if entry.compress_size != entry.file_size or start + entry.file_size > len(self.data):
            raise FormatError(f"is a damaged zip archive: the entry {shorten(entry.filename)!r} does not fit")
        return Span(self.data, start, start + entry.file_size)
