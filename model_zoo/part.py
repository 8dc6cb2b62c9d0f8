"""The bytes of a file that is still on its way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Callable, NamedTuple

from model_zoo import cache
from model_zoo.digests import Follower
from model_zoo.formats import scan as checks
from model_zoo.sharing import make_folder, share
from model_zoo.source import Source

_BLOCK = 1 << 20
# What a crash of the machine may cost: as many bytes, or as many seconds.
_SYNC_BYTES = 64 << 20
_SYNC_SECONDS = 10.0


class Taken(Exception):
    """The part is gone: on a file system whose locks keep nobody out, another process has published the file."""


class _Left(NamedTuple):
    """A part that somebody left behind."""

    path: Path
    source: Source
    size: int  # bytes that can be relied on
    here: bool  # written on this machine


class Part:
    """A file beside `destination` that collects its bytes, and becomes it by one rename.

    Its name is its own, `.<file>.<8 hex digits>.part`, and a small JSON file beside it says of which version its bytes
    are, who wrote them and how many of them a crash of the machine cannot take. Whoever comes next, after an error, a
    kill or a crash, goes on with it: in its place where a lock keeps others out, and with a copy where none does, so
    that nobody ever writes into a file of which somebody else believes to be the only writer.

    Args:
        destination: where the finished file belongs.
        alone: whether a lock keeps others out.
        gained: called with the number of bytes gained; negative when they are thrown away.
        adopted: called with the number of bytes that were there before; negative as well.
    """

    def __init__(self, destination: Path, alone: bool, gained: Callable[[int], None], adopted: Callable[[int], None]):
        self.destination = destination
        self.size = 0
        self.source: Source | None = None
        self.keep = True
        self._alone = alone
        self._gained = gained
        self._adopted = adopted
        self._given = 0  # so many of its bytes were there before
        self._stream: BinaryIO | None = None
        self._path = destination
        self._follower: Follower | None = None
        self._synced = 0
        self._synced_at = 0.0
        self._secured: threading.Thread | None = None
        self._failure: OSError | None = None
        self._published = False

    def __enter__(self) -> Part:
        with cache.writing(self.destination):
            make_folder(self.destination.parent)
            for left in sorted(_left_behind(self.destination), key=lambda left: left.size, reverse=True):
                try:
                    self._adopt(left)
                    break
                except OSError:  # another user's, or just gone, or no room for a copy
                    self._discard()
            if self._stream is None:
                self._create()  # a place that cannot be written is known before anything is fetched
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._published or self._stream is None:
            return
        if self.size and self.keep:
            with contextlib.suppress(OSError):  # the disk may be full; the first error is on its way up
                self._sync()
                self._note()
            self._close()
        else:
            self._discard()

    def begin(self, source: Source, digests: Iterable[str]) -> None:
        """Take note of which version the bytes to come are, and which digests of it will be asked for.

        Raises:
            Taken: as each of these methods.
            CacheError: they do not fit, or cannot be written.
        """
        if source.length is not None:
            cache.check_space(self.destination.parent, source.length - self.size, spare=0)
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
        """Append.

        Raises:
            CacheError: the disk is full, or the like; what was there before stays.
        """
        assert self._stream is not None and self._follower is not None
        with self._own():
            rest = memoryview(block)
            while rest:
                count = self._stream.write(rest)
                rest = rest[count:]
                self.size += count
                self._gained(count)
            self._follower.more()
            if self._secured is None or not self._secured.is_alive():
                overdue = time.monotonic() - self._synced_at >= _SYNC_SECONDS
                if overdue or self.size - self._synced >= _SYNC_BYTES:
                    self._secured = threading.Thread(target=self._secure, args=(self.size,), daemon=True)
                    self._secured.start()

    def restart(self) -> None:
        """Throw away what is there. The file goes as a whole: a reader of it must not see it shrink."""
        if self.size:
            self._adopted(-self._given)
            self._gained(self._given - self.size)
        self._discard()

    def digests(self) -> dict[str, str]:
        """Of all bytes, read back from the file, in lower-case hexadecimal.

        Raises:
            CacheError: they cannot be read.
        """
        assert self._follower is not None
        with self._own():
            self._follower.end()
            return self._follower.result()

    def complaint(self) -> str | None:
        """What the file's own structure says against it.

        Raises:
            CacheError: it cannot be read.
        """
        with self._own():
            return checks.complaint(self._path, self.destination.name)

    def publish(self) -> None:
        """Become `destination`; whatever else is left of it goes.

        Raises:
            Taken: another process was first.
            CacheError: it cannot be done.
        """
        assert self._stream is not None
        with self._own():
            self._sync()
            self._close()
            os.replace(self._path, self.destination)
            self._published = True
            cache.sync_folder(self.destination.parent)
        for path in _traces(self.destination):
            with contextlib.suppress(OSError):
                path.unlink()

    @contextlib.contextmanager
    def _own(self) -> Iterator[None]:
        with cache.writing(self.destination, errno.ENOENT):
            try:
                yield
            except FileNotFoundError:
                self.restart()
                raise Taken from None

    def _adopt(self, left: _Left) -> None:
        if self._alone and left.here:
            self._stream = open(left.path, "r+b", buffering=0, opener=_plain)
            self._path = left.path
            self._stream.truncate(left.size)
            self._stream.seek(left.size)
        else:
            with open(left.path, "rb", opener=_plain) as stream:
                self._create()
                assert self._stream is not None
                rest = left.size
                while block := stream.read(min(_BLOCK, rest)):
                    rest -= self._stream.write(block)  # it may take less than all of it
                    stream.seek(left.size - rest)
                left = left._replace(size=left.size - rest)
        self.size, self.source = left.size, left.source
        self._sync()
        self._note()
        self._given = self.size
        self._adopted(self.size)

    def _create(self) -> None:
        self._path = self.destination.with_name(f".{self.destination.name}.{secrets.token_hex(4)}.part")
        self._stream = open(self._path, "xb", buffering=0)  # x: never through a link
        share(self._path)
        self._synced, self._synced_at, self._failure = 0, time.monotonic(), None

    def _sync(self) -> None:
        """Have all bytes on the disk."""
        assert self._stream is not None
        if self._secured is not None:
            self._secured.join()
        if self._failure is not None:  # the system tells it once
            raise self._failure
        cache.sync(self._stream.fileno())
        if not self._synced:
            cache.sync_folder(self._path.parent)
        self._synced, self._synced_at = self.size, time.monotonic()

    def _secure(self, size: int) -> None:
        """Have the first `size` bytes on the disk, in a thread beside the one that brings more."""
        assert self._stream is not None
        self._synced_at = time.monotonic()
        try:
            cache.sync(self._stream.fileno())
            if not self._synced:
                cache.sync_folder(self._path.parent)
            self._synced = size
            self._note()
        except FileNotFoundError:
            pass  # the part was taken, and whoever writes to it will see
        except OSError as error:
            self._failure = error

    def _note(self) -> None:
        """Write down what the next process must know."""
        assert self.source is not None
        values = {"source": self.source.dump(), "synced": self._synced, "node": platform.node(), "boot": _boot()}
        cache.write_text(_note_file(self._path), json.dumps(values))

    def _close(self) -> None:
        if self._secured is not None:
            self._secured.join()
            self._secured = None
        if self._follower is not None:
            self._follower.cancel()
            self._follower.join()
            self._follower = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _discard(self) -> None:
        self._close()
        self.size, self._given, self.source = 0, 0, None
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


def bytes_left(destination: Path) -> int:
    """How many bytes a download of the file need not fetch again."""
    return max((left.size for left in _left_behind(destination)), default=0)


def _left_behind(destination: Path) -> Iterator[_Left]:
    boot, node = _boot(), platform.node()
    for path in _traces(destination):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            status = path.lstat()
            if path.suffix != ".part" or not stat.S_ISREG(status.st_mode):
                continue
            values = json.loads(_note_file(path).read_text(encoding="utf-8"))
            source, synced = Source.load(values.get("source")), values.get("synced", 0)
            # After a crash of the machine, what lay in its memory may have become zeros.
            safe = status.st_size if boot and values.get("boot") == boot else min(int(synced), status.st_size)
            if safe > 0:
                yield _Left(path, source, safe, values.get("node") == node and status.st_nlink == 1)


def _traces(destination: Path) -> list[Path]:
    """Everything that parts of a file have left in its folder."""
    name = re.compile(rf"\.{re.escape(destination.name)}\.[0-9a-f]{{8}}\.part(\.json(\.[0-9a-f]{{8}}\.tmp)?)?")
    try:
        return [destination.with_name(found) for found in os.listdir(destination.parent) if name.fullmatch(found)]
    except OSError:
        return []


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
