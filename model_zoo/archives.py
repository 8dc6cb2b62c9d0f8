"""The files of a folder or archive that somebody carried here, read as if an enemy had packed it."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Callable, cast

from model_zoo.errors import SourceError

BLOCK = 1 << 20
MOST_ENTRIES = 100_000
# Weights hardly shrink. What unpacks to this many times its size, and to more than the slack, is a trap.
MOST_INFLATION = 200
INFLATION_SLACK = 1 << 30

_LONGEST_READ = 4 * BLOCK
_ENCRYPTED = 0x1
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    ValueError,
)


def members(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Every regular file of a folder, zip, tar or tar.gz: its path with forward slashes, and what opens it.

    A file can be opened until the next one is asked for. Nothing is written. Links in a folder are passed over;
    one link, device or path that leaves the archive has the whole archive refused.

    Raises:
        SourceError: no folder or archive of these kinds, or one made to do harm. Damage is left to `explained`.
    """
    if source.is_dir():
        yield from _folder(source)
    elif not source.is_file():
        raise SourceError(f"{source} does not exist; give a folder, or a zip, tar or tar.gz file")
    elif zipfile.is_zipfile(source):
        yield from _zip(source)
    else:
        yield from _tar(source)


@contextlib.contextmanager
def explained(source: Path) -> Iterator[None]:
    """Turns what the libraries raise while `members` and their streams are read into a SourceError."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: an impossible place
            raise
        raise SourceError(f"{source} is damaged: {' '.join(str(error).split())}; carry it here again") from error


def _folder(root: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    for folder, inner, files in os.walk(root):
        inner.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(root).as_posix(), lambda path=path: open(path, "rb")  # type: ignore[misc]


def _zip(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(source) as archive:
        entries = archive.infolist()
        _check_size(source, sum(entry.file_size for entry in entries), len(entries))
        for entry in entries:
            # `filename` would have been cut at a NUL byte and had the platform's separators replaced.
            path = _safe_path(source, entry.orig_filename)
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise SourceError(f"{source} holds a link or device, {path!r}: refused")
            # The other methods are rare, and take as much memory as the data want.
            if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                how = "encrypted" if entry.flag_bits & _ENCRYPTED else f"compressed by method {entry.compress_type}"
                raise SourceError(f"{source} is {how}; unpack it by hand and import the folder")
            if not entry.is_dir():
                yield path, lambda entry=entry: archive.open(entry)  # type: ignore[misc]


def _tar(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    with open(source, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            archive = tarfile.open(fileobj=cast(BinaryIO, _Bounded(stream, source)), mode="r:")
        except tarfile.ReadError:
            raise SourceError(f"{source} is no folder, zip, tar or tar.gz; give one of these") from None
        entries = 0
        while (entry := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
            entries += 1
            _check_size(source, entry.offset_data, entries)
            path = _safe_path(source, entry.name)
            if entry.size < 0 or not (entry.isfile() or entry.isdir()):
                raise SourceError(f"{source} holds a link or device, {path!r}: refused")
            if entry.isfile():
                yield path, lambda entry=entry: archive.extractfile(entry)  # type: ignore[misc]
        while packed and stream.read(BLOCK):  # its checksum stands at its end
            _check_size(source, stream.tell(), 0)


class _Bounded:
    """A stream for tarfile, which takes a header's word for how much to read at once and how far to go."""

    def __init__(self, stream: BinaryIO, source: Path):
        self._stream = stream
        self._source = source
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise SourceError(f"{self._source} has a header of {size:,} bytes: refused")
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        _check_size(self._source, position, 0)  # in a tar.gz, all bytes up to there are unpacked for it
        return self._stream.seek(position)


def _check_size(source: Path, unpacked: int, entries: int) -> None:
    if entries > MOST_ENTRIES:
        raise SourceError(f"{source} has more than {MOST_ENTRIES:,} entries: refused")
    if unpacked > source.stat().st_size * MOST_INFLATION + INFLATION_SLACK:
        raise SourceError(
            f"{source} unpacks to more than {MOST_INFLATION} times its size: refused as a trap; if it is none, unpack"
            " it by hand and import the folder"
        )


def _safe_path(source: Path, name: str) -> str:
    """The path of an entry, without `./` before it and `/` after it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise SourceError(f"{source} holds {name[:200]!r}, a path that leaves the archive: refused")
    return "/".join(parts)
