"""Where the entries of a zip archive lie in the file that holds it, checked as if an enemy had packed it.

Stricter than the `zipfile` module, which torch's files do not need: the archive must begin and end with the file, its
entries may not share bytes, both names of an entry must agree, and unpacking is bounded by what the reader asked for
(`zipfile` hands bzip2 and lzma as much memory as the data want).

Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from model_zoo.formats import Data, FormatError, shorten

MAGIC = b"PK\x03\x04"
STORED, DEFLATED = 0, 8
MAX_ENTRIES = 200_000  # a model of a thousand tensors has as many

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
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

    def unpack(self, data: Data, limit: int) -> bytes:
        """The content of an entry that is packed, if it has at most `limit` bytes.

        Raises:
            FormatError: it has more, is damaged, or packed in another way than by deflate.
        """
        if self.method not in (STORED, DEFLATED):
            raise FormatError(f"has the zip entry {shorten(self.name)!r} of method {self.method}, which is not read")
        if self.size > limit:
            raise FormatError(
                f"is a compressed zip archive of more than {limit >> 20} MiB, which torch.save does not write; "
                "unpack it and zip it without compression (zip -0)"
            )
        if self.method == STORED:
            return data[self.start : self.stop]
        if self.stop - self.start > self.size + self.size // 100 + 1024:
            raise _damaged(f"{shorten(self.name)!r} grew when it was packed")
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = unpacker.decompress(data[self.start : self.stop], self.size + 1)
        except zlib.error as error:
            raise FormatError(f"is a damaged zip archive: {shorten(self.name)!r} ({error})") from None
        if len(content) != self.size or not unpacker.eof:
            raise FormatError(f"is a damaged zip archive: {shorten(self.name)!r} is not as long as announced")
        return content


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
        (magic, _, _, flags, method, _, _, _, packed, size, name_length, extra_length, comment_length, *_, local) = (
            _CENTRAL.unpack(data[place : place + _CENTRAL.size])
        )
        after_name = place + _CENTRAL.size + name_length
        place = after_name + extra_length + comment_length
        if magic != b"PK\x01\x02" or place > last:
            raise _damaged("its directory is broken")
        raw_name = data[after_name - name_length : after_name]
        size, packed, local = _wide(data[after_name : after_name + extra_length], size, packed, local)
        # The local header repeats the name and may have other extra fields (torch aligns the data with them).
        head = start + local
        header = data[head : head + _LOCAL.size]
        if head + _LOCAL.size > first or not header.startswith(MAGIC):
            raise _damaged(f"the entry {shorten(_text(raw_name, flags))!r} is not where it should be")
        local_name_length, local_extra_length = struct.unpack("<HH", header[26:30])
        local_method = struct.unpack("<H", header[8:10])[0]
        begin = head + _LOCAL.size + local_name_length + local_extra_length
        if data[head + _LOCAL.size : head + _LOCAL.size + local_name_length] != raw_name or local_method != method:
            raise _damaged(f"it disagrees with itself about the entry {shorten(_text(raw_name, flags))!r}")
        if flags & 1:
            raise FormatError("is an encrypted zip archive")
        if begin + packed > first or (method == STORED and packed != size):
            raise _damaged(f"the entry {shorten(_text(raw_name, flags))!r} does not fit")
        entries.append(Entry(_text(raw_name, flags), method, begin, begin + packed, size))
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
    return 0 <= end <= len(data) - _END.size and end + _END.size + _END.unpack(data[end : end + _END.size])[-1] == len(
        data
    )


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
