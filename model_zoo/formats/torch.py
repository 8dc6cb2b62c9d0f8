"""torch's files: a zip archive with a pickle and one entry a storage, or (before 1.6) a stream of pickles and data."""

from __future__ import annotations

import re
import struct
from typing import Any

from model_zoo.formats import ITEM_BYTES, Data, FormatError, Tools, shorten
from model_zoo.formats.archive import STORED, read_entries
from model_zoo.formats.machine import Machine, load_pickle
from model_zoo.formats.names import Marker, TorchStorage

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the value of the first pickle of the older files
LEGACY_VERSION = 1001

# torch stores entries as they are. Repacked archives are read while small: beyond, they could not be memory-mapped.
MAX_UNPACKED = 16 * 2**20


# What else torch.save writes beside the pickle and the storages.
_OTHER_ENTRIES = re.compile(
    r"[^/]+/(byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\w+)"
)


def read_zip(data: Data, machine: type[Machine] = Machine, tools: Tools | None = None) -> Any:
    """The value that `torch.save` wrote to a zip archive, with `TorchTensor`s for tensors.

    Raises:
        FormatError: another archive, or a pickle that `load_pickle` refuses.
    """
    tools = tools or Tools()
    archive = _Archive(data, tools)
    pickles = [name for name in archive.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError("is a zip archive, but not one that torch.save wrote (no data.pkl in its folder)")
    folder = pickles[0][: -len("data.pkl")]
    for name, entry in archive.entries.items():
        known = name == pickles[0] or (name.startswith(folder) and _OTHER_ENTRIES.fullmatch(name) is not None)
        if not known and not (name.endswith("/") and not entry.size):
            raise FormatError(f"holds {shorten(name)!r}, which torch.save does not write and others may run")
    order = archive.entry(folder + "byteorder") if folder + "byteorder" in archive.entries else None
    if order is not None and order.source[order.start : order.stop] != b"little":
        raise FormatError("was written on a big-endian machine")
    places: dict[str, Any] = {}

    def storage(identity: Any) -> TorchStorage:
        dtype, key, count = _storage_identity(identity, 5)
        if key not in places:
            places[key] = archive.entry(f"{folder}data/{key}")
        if places[key].size != count * ITEM_BYTES[dtype]:
            raise FormatError(f"stores {places[key].size} bytes for {count} elements of {dtype}")
        return TorchStorage(dtype, key, places)

    program = archive.entry(pickles[0])
    value, end = load_pickle(program.source, program.start, program.stop, storage, machine, tools)
    if end != program.stop:
        raise FormatError(f"has {program.stop - end} bytes after its pickle")
    return value


def read_legacy(data: Data, start: int, machine: type[Machine] = Machine, tools: Tools | None = None) -> Any:
    """The value in a file of torch before 1.6, whose first pickle (the magic number) ended at `start`.

    Raises:
        FormatError: as `read_zip`.
    """
    tools = tools or Tools()
    (version, start), (system, start) = _two_pickles(data, start)
    if version != LEGACY_VERSION or type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError("is a torch file of an unknown version, or was written on a big-endian machine")
    places: dict[str, Any] = {}
    wanted: dict[str, tuple[str, int]] = {}

    def storage(identity: Any) -> TorchStorage:
        dtype, key, count = _storage_identity(identity, 6)
        if identity[5] is not None:
            raise FormatError("holds views on storages as torch 0.3 wrote them")
        if wanted.setdefault(key, (dtype, count)) != (dtype, count):
            raise FormatError(f"gives the storage {shorten(key)!r} two types or sizes")
        return TorchStorage(dtype, key, places)

    value, start = load_pickle(data, start, len(data), storage, machine, tools)
    keys, start = load_pickle(data, start, len(data))
    if type(keys) is not list or not all(type(key) is str and key in wanted for key in keys):
        raise FormatError("has a damaged list of storages")
    for key in keys:
        dtype, count = wanted[key]
        stop = start + 8 + count * ITEM_BYTES[dtype]
        if stop > len(data):
            raise FormatError(f"ends early: in the storage {shorten(key)!r}")
        (stored,) = struct.unpack("<q", data[start : start + 8])
        if stored != count:
            raise FormatError(f"stores {stored} elements where {count} are announced")
        places[key] = tools.span(data, start + 8, stop)
        start = stop
    if start != len(data):
        raise FormatError(f"has {len(data) - start} bytes after its end")
    return value


def _two_pickles(data: Data, start: int) -> tuple[tuple[Any, int], tuple[Any, int]]:
    first = load_pickle(data, start, len(data))
    return first, load_pickle(data, first[1], len(data))


def _storage_identity(identity: Any, length: int) -> tuple[str, str, int]:
    """Type, key and number of elements of ("storage", class, key, device, number, ...)."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise FormatError("refers to something that is no torch storage")
    _, kind, key, _, count = identity[:5]
    known = type(kind) is Marker and kind.makes in ITEM_BYTES
    if not known or type(key) is not str or type(count) is not int or not 0 <= count < 2**48:
        raise FormatError("has a damaged reference to a storage")
    return kind.makes, key, count


class _Archive:
    """The entries of a zip file as spans of its memory map."""

    def __init__(self, data: Data, tools: Tools):
        self.data, self.tools = data, tools
        entries = read_entries(data)
        self.entries = {entry.name: entry for entry in entries}
        if len(self.entries) != len(entries):
            raise FormatError("is a zip archive with two entries of one name")
        self.unpacked = 0

    def entry(self, name: str) -> Any:
        entry = self.entries.get(name)
        if entry is None:
            raise FormatError(f"is a zip archive without the entry {shorten(name)!r}")
        if entry.method == STORED:
            return self.tools.span(self.data, entry.start, entry.stop)
        content = entry.unpack(self.data, MAX_UNPACKED - self.unpacked)
        self.unpacked += len(content)
        return self.tools.span(content, 0, len(content))
