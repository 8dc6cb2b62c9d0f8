"""The bytes of a file that is still on its way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Callable, NamedTuple

from model_zoo import disk
from model_zoo.digests import Follower, Source

_BLOCK = 1 << 20
_FLUSH = 64 << 20  # bytes after which the disk is set to work, so that the last fsync has little to wait for


class Taken(Exception):
    """The part is gone: on a file system whose locks keep nobody out, another process has published the file."""


class _Left(NamedTuple):
    """A part that somebody left behind."""

    path: Path
    source: Source
    size: int  # bytes that can be relied on
    here: bool  # written since this machine started


class Part:
    """A file beside `destination` that collects its bytes, and becomes it by one rename.

    Its name is its own, `.<file>.<8 hex digits>.part`, and a small JSON file beside it says of which version its bytes
    are. Whoever comes next, after an error, a kill or a crash, goes on with it: in its place where a lock keeps others
    out, and with a copy where none does, so that nobody ever writes into a file of which somebody else believes to be
    the only writer. After a crash of the machine, of a file whose hash would not tell, only bytes count that were
    known to be on the disk.

    Args:
        destination: where the finished file belongs.
        alone: whether a lock keeps others out.
        hashed: whether a known hash will tell whether the bytes are right.
        gained: called with the number of bytes gained; negative when they are thrown away. The second argument says
            whether they were there before.
    """

    def __init__(self, destination: Path, alone: bool, hashed: bool, gained: Callable[[int, bool], None]):
        self.destination = destination
        self.size = 0
        self.source: Source | None = None
        self._alone, self._hashed, self._gained = alone, hashed, gained
        self._given = 0  # so many of its bytes were there before
        self._stream: BinaryIO | None = None
        self._path = destination
        self._follower: Follower | None = None
        self._flushed = 0
        self._published = False

    def __enter__(self) -> Part:
        with disk.writing(self.destination):
            disk.make_folder(self.destination.parent)
            for left in sorted(_left_behind(self.destination, self._hashed), key=lambda left: left.size, reverse=True):
                try:
                    self._adopt(left)
                    break
                except OSError:  # another user's, or just gone, or no room for a copy
                    self._discard()
            if self._stream is None:
                self._create()  # a place that cannot be written is known before anything is fetched
        return self

    def __exit__(self, *exception: object) -> None:
        if self._published or self._stream is None:
            return
        if self.size and self.source is not None and (self._hashed or self.source.validator):
            with contextlib.suppress(OSError):  # the disk may be full; the first error is on its way up
                disk.sync(self._stream.fileno())
                self._note(self.size)
            self._close()
        else:
            self._discard()

    def begin(self, source: Source, digests: Iterable[str]) -> None:
        """Take note of which version the bytes to come are, and which digests of it will be asked for.

        Raises:
            CacheError: they do not fit, or cannot be written (as all of these methods).
            Taken: another process has published the file (as all of them).
        """
        if source.length is not None:
            disk.check_space(self.destination.parent, source.length - self.size, spare=0)
        with self._own():
            if self._stream is None:
                self._create()
            if source != self.source:
                self.source = source
                self._note()
            if self._follower is None:
                self._follower = Follower(self._path, digests)
                self._follower.start()

    def write(self, block: bytes) -> None:
        """Append; what was there before stays if the disk is full."""
        assert self._stream is not None and self._follower is not None
        with self._own():
            rest = memoryview(block)
            while rest:
                count = self._stream.write(rest)
                rest = rest[count:]
                self.size += count
                self._gained(count, False)
            self._follower.more()
            if self.size - self._flushed >= _FLUSH:
                self._flushed = self.size
                threading.Thread(target=_flush, args=(self._path,), daemon=True).start()

    def restart(self) -> None:
        """Throw away what is there. The file goes as a whole: a reader of it must not see it shrink."""
        if self.size:
            self._gained(-self._given, True)
            self._gained(self._given - self.size, False)
        self._discard()

    def digests(self) -> dict[str, str]:
        """Of all bytes, read back from the file, in lower-case hexadecimal."""
        assert self._follower is not None
        with self._own():
            self._follower.end()
            return self._follower.result()

    def complaint(self) -> str | None:
        """What the file's own structure says against it."""
        from model_zoo.formats.scan import complaint

        with self._own():
            return complaint(self._path, self.destination.name)

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        with disk.writing(self.destination, errno.ENOENT):
            try:
                yield
            except FileNotFoundError:
                self.restart()
                raise Taken from None

    def publish(self) -> None:
        """Become `destination`; whatever else is left of it goes.

        Raises:
            Taken: another process was first.
            CacheError: it cannot be done.
        """
        assert self._stream is not None
        with self._own():
            disk.sync(self._stream.fileno())
            self._close()
            os.replace(self._path, self.destination)
            self._published = True
            disk.sync_folder(self.destination.parent)
        for path in _traces(self.destination):
            with contextlib.suppress(OSError):
                path.unlink()

    def _adopt(self, left: _Left) -> None:
        if self._alone and left.here:
            self._stream = open(left.path, "r+b", buffering=0, opener=_plain)
            self._path = left.path
            self._stream.truncate(left.size)
            self._stream.seek(left.size)
            self.size = left.size
        else:
            with open(left.path, "rb", opener=_plain) as stream:
                self._create()
                assert self._stream is not None
                while block := stream.read(min(_BLOCK, left.size - self.size)):
                    self.size += self._stream.write(block)  # it may take less than all of it
                    stream.seek(self.size)
        self.source = left.source
        self._note()
        self._given = self.size
        self._gained(self.size, True)

    def _create(self) -> None:
        self._path = self.destination.with_name(f".{self.destination.name}.{disk.token()}.part")
        self._stream = open(self._path, "xb", buffering=0)  # x: never through a link
        disk.share(self._path)

    def _note(self, synced: int = 0) -> None:
        """Write down what the next process must know."""
        assert self.source is not None
        values = {"source": self.source.dump(), "synced": synced, "boot": _boot()}
        disk.write_text(_note_file(self._path), json.dumps(values))

    def _close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            self._follower.join()
            self._follower = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _discard(self) -> None:
        self._close()
        self.size, self._given, self._flushed, self.source = 0, 0, 0, None
        if self._path != self.destination:
            for path in (self._path, _note_file(self._path)):
                with contextlib.suppress(OSError):
                    path.unlink()
            self._path = self.destination


def progress_of(destination: Path) -> tuple[tuple[str, int], ...]:
    """Names and sizes of the parts of a file: it changes as long as somebody gets on with it."""
    found = []
    for path in _traces(destination):
        with contextlib.suppress(OSError):
            found.append((path.name, path.stat().st_size))
    return tuple(sorted(found))


def bytes_left(destination: Path, hashed: bool = False) -> int:
    """How many bytes a download of the file need not fetch again."""
    return max((left.size for left in _left_behind(destination, hashed)), default=0)


def _left_behind(destination: Path, hashed: bool) -> Iterator[_Left]:
    boot = _boot()
    for path in _traces(destination):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            status = path.lstat()
            if path.suffix != ".part" or not stat.S_ISREG(status.st_mode):
                continue
            values: Any = json.loads(_note_file(path).read_text(encoding="utf-8"))
            source, here = Source.load(values["source"]), boot is not None and values.get("boot") == boot
            size = status.st_size if here or hashed else min(int(values.get("synced", 0)), status.st_size)
            if size > 0:
                yield _Left(path, source, size, here and status.st_nlink == 1)


def _traces(destination: Path) -> list[Path]:
    """Everything that parts of a file have left in its folder."""
    name = re.compile(rf"\.{re.escape(destination.name)}\.[0-9a-f]{{8}}\.part(\.json(\.[0-9a-f]{{8}}\.tmp)?)?")
    try:
        return [destination.with_name(found) for found in os.listdir(destination.parent) if name.fullmatch(found)]
    except OSError:
        return []


def _flush(path: Path) -> None:
    """Through a descriptor of its own: a failure is told once for each, and the last fsync must hear of it."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0, opener=_plain) as stream:
        os.fsync(stream.fileno())


def _note_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _plain(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))


def _boot() -> str | None:
    """What changes whenever this machine starts; None where it cannot be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
