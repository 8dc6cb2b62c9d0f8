"""Zip archives, checked as if an enemy had packed them, and torch's files: one, or (before 1.6) a stream of pickles.

Stricter than the `zipfile` module, which torch's files do not need: the archive must begin and end with the file, its
entries may not share bytes, both names of an entry must agree, and unpacking is bounded by what the reader asked for
(`zipfile` hands bzip2 and lzma as much memory as the data want).

Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from model_zoo.formats import ITEM_BYTES, Data, FormatError, Tools, shorten
from model_zoo.formats.machine import Machine, load_pickle
from model_zoo.formats.names import Marker, TorchStorage

MAGIC = b"PK\x03\x04"
STORED, DEFLATED = 0, 8
PIECE = 1 << 20  # bytes that are unpacked at once
MAX_ENTRIES = 200_000  # a model of a thousand tensors has as many

_LOCAL = struct.Struct("<4s4xH16x2H")  # magic, method, lengths of the name and the extra field
# Magic, flags, method, checksum, sizes packed and not, lengths of name, extra field and comment, mode, place.
_CENTRAL = struct.Struct("<4s4x2H4x3I3H4x2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")  # of the zip64 end
_END_64 = struct.Struct("<4sQ2H2I4Q")
_BIG_16, _BIG_32 = 0xFFFF, 0xFFFFFFFF  # "see zip64"


class Entry(NamedTuple):
    """One entry: its name, how it is packed, and where its packed bytes lie."""

    name: str
    method: int
    start: int
    stop: int
    size: int  # unpacked
    kind: int = 0  # of file, as POSIX counts them, where the archive says it
    crc: int = 0

    def stream(self, data: Data) -> Iterator[bytes]:
        """The content, a mebibyte at a time.

        Raises:
            FormatError: it is damaged, or packed in another way than by deflate.
        """
        if self.method not in (STORED, DEFLATED):
            raise FormatError(f"has the zip entry {shorten(self.name)!r} of method {self.method}; unpack it by hand")
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS) if self.method == DEFLATED else None
        place, size, crc, rest = self.start, 0, 0, b""
        while unpacker is None or not unpacker.eof:
            if not rest:
                rest = data[place : min(place + PIECE, self.stop)]
                place += len(rest)
            try:
                block = rest if unpacker is None else unpacker.decompress(rest, PIECE)
            except zlib.error as error:
                raise _damaged(f"{shorten(self.name)!r} ({error})") from None
            if not block and not rest:
                break
            rest = b"" if unpacker is None else unpacker.unconsumed_tail
            size, crc = size + len(block), zlib.crc32(block, crc)
            if size > self.size:
                break
            yield block
        if size != self.size or crc != self.crc or (unpacker is not None and not unpacker.eof):
            raise _damaged(f"{shorten(self.name)!r} is not what its directory says")

    def unpack(self, data: Data, limit: int) -> bytes:
        """The content of an entry that is packed, if it has at most `limit` bytes.

        Raises:
            FormatError: it has more, is damaged, or packed in another way than by deflate.
        """
        if self.size > limit:
            raise FormatError(
                f"is a compressed zip archive of more than {limit >> 20} MiB, which torch.save does not write; "
                "unpack it and zip it without compression (zip -0)"
            )
        return b"".join(self.stream(data))


def read_entries(data: Data, start: int = 0, stop: int | None = None) -> list[Entry]:
    """The entries of the archive that is `data[start:stop]`, in the order of its directory.

    Raises:
        FormatError: damaged, or not a plain archive.
    """
    stop = len(data) if stop is None else stop
    count, first, last = _directory(data, start, stop)
    entries, places = [], []
    place = first
    for _ in range(count):
        if last - place < _CENTRAL.size:
            raise _damaged("its directory ends early")
        magic, flags, method, crc, packed, size, *lengths, mode, local = _CENTRAL.unpack(
            data[place : place + _CENTRAL.size]
        )
        after_name = place + _CENTRAL.size + lengths[0]
        place += _CENTRAL.size + sum(lengths)
        if magic != b"PK\x01\x02" or place > last:
            raise _damaged("its directory is broken")
        raw_name = data[after_name - lengths[0] : after_name]
        name = _text(raw_name, flags)
        size, packed, local = _wide(data[after_name : after_name + lengths[1]], size, packed, local)
        # The local header repeats the name and may have other extra fields (torch aligns the data with them).
        head = start + local
        header = data[head : head + _LOCAL.size]
        if head + _LOCAL.size > first or not header.startswith(MAGIC):
            raise _damaged(f"the entry {shorten(name)!r} is not where it should be")
        _, local_method, name_length, extra_length = _LOCAL.unpack(header)
        begin = head + _LOCAL.size + name_length + extra_length
        if data[head + _LOCAL.size : begin - extra_length] != raw_name or local_method != method:
            raise _damaged(f"it disagrees with itself about the entry {shorten(name)!r}")
        if flags & 1:
            raise FormatError("is an encrypted zip archive")
        if begin + packed > first or (method == STORED and packed != size):
            raise _damaged(f"the entry {shorten(name)!r} does not fit")
        entries.append(Entry(name, method, begin, begin + packed, size, stat.S_IFMT(mode >> 16), crc))
        places.append((head, begin + packed))
    if place != last:
        raise _damaged("its directory is longer than its entries")
    places.sort()
    if any(end > following for (_, end), (following, _) in zip(places, places[1:])):
        raise FormatError("is a zip archive whose entries overlap, as no honest one does")
    return entries


def ends_here(data: Data) -> bool:
    """Whether readers that look for an archive's end would find one at the end of the data."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - _BIG_16))
    if not 0 <= end <= len(data) - _END.size:
        return False
    return end + _END.size + _END.unpack(data[end : end + _END.size])[-1] == len(data)


def _directory(data: Data, start: int, stop: int) -> tuple[int, int, int]:
    """Number of entries, and where the central directory begins and ends."""
    end = data.rfind(b"PK\x05\x06", max(start, stop - _END.size - _BIG_16), stop)
    if end < 0 or stop - end < _END.size:
        raise FormatError("is no whole zip archive: it may end early")
    _, disk, _, here, count, size, offset, comment_length = _END.unpack(data[end : end + _END.size])
    if end + _END.size + comment_length != stop or disk or here != count:
        raise _damaged("its end is broken")
    tail = end
    locator = end - _LOCATOR.size
    if locator >= start and data[locator : locator + 4] == b"PK\x06\x07":
        tail = start + _LOCATOR.unpack(data[locator : locator + _LOCATOR.size])[2]
        record = data[tail : tail + _END_64.size]
        if not start <= tail <= locator - _END_64.size or record[:4] != b"PK\x06\x06":
            raise _damaged("its zip64 end is broken")
        *_, here, count, size, offset = _END_64.unpack(record)
    if count > MAX_ENTRIES:
        raise FormatError(f"is a zip archive of {count} entries, more than any model has")
    if start + offset + size != tail:
        raise _damaged("its directory is not where it should be")
    return count, start + offset, tail


def _wide(extra: bytes, *values: int) -> list[int]:
    """`values`, those that did not fit into 32 bits taken from the zip64 field of `extra`."""
    found = list(values)
    wanted = [index for index, value in enumerate(values) if value == _BIG_32]
    while wanted and len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == 1:
            if length < 8 * len(wanted) or len(extra) < 4 + length:
                break
            for index, value in zip(wanted, struct.unpack(f"<{len(wanted)}Q", extra[4 : 4 + 8 * len(wanted)])):
                found[index] = value
            return found
        extra = extra[4 + length :]
    if wanted:
        raise _damaged("a size is missing")
    return found


def _text(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")


def _damaged(what: str) -> FormatError:
    return FormatError(f"is a damaged zip archive: {what}")


# torch

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
    version, start = load_pickle(data, start, len(data))
    system, start = load_pickle(data, start, len(data))
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
