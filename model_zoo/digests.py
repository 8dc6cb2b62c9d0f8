"""Digests of files, also of one that is still growing."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_BLOCK = 1 << 18  # what fits into a core's cache


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, block: Any) -> None:
        self._value = zlib.crc32(block, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _new(name: str) -> Any:
    return _Crc32() if name == "crc32" else hashlib.new(name, usedforsecurity=False)


def of_file(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Digests of a file by name (`crc32` or what hashlib knows), in lower-case hexadecimal."""
    follower = Follower(path, names)
    follower.end()
    follower.run()
    return follower.result()


class Follower(threading.Thread):
    """Reads a file behind its writer and computes digests: of what lies on the disk, not of what was sent there.

    Hashing and receiving take about as long as each other on a fast connection, so they run side by side. The writer
    calls `more` after a write, and `end` after the last.
    """

    def __init__(self, path: Path, names: Iterable[str]):
        super().__init__(daemon=True, name=f"digests of {path.name}")
        self._stream = open(path, "rb", buffering=0)
        self._digests = {name: _new(name) for name in names}
        self._news = threading.Event()
        self._ended = False
        self._cancelled = False
        self._error: OSError | None = None

    def more(self) -> None:
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def cancel(self) -> None:
        self._cancelled = True
        self.end()

    def result(self) -> dict[str, str]:
        """The digests, when all bytes have been read.

        Raises:
            OSError: they could not be.
        """
        if self.is_alive():
            self.join()
        if self._error is not None:
            raise self._error
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def run(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        try:
            with self._stream:
                while not self._cancelled:
                    ended = self._ended  # before the read: whatever was written by then will be seen
                    self._news.clear()
                    if size := self._stream.readinto(buffer):
                        for digest in self._digests.values():
                            digest.update(buffer[:size])
                    elif ended:
                        return
                    else:
                        self._news.wait(1.0)
        except OSError as error:
            self._error = error
