"""The bytes of a file that is still on its way."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Callable
from urllib.parse import quote, unquote

_HASH_BLOCK = 1 << 20
_LONGEST_NAME = 255


class Part:
    """A file beside `destination` that collects its bytes, and becomes it by one rename.

    While it is being written it has a name of its own, so two downloads of one file never share bytes. Left early,
    it is renamed to `.<file>.<validator>.part`, and the next download of the file adopts it by renaming it back:
    a rename has one winner. The validator (an ETag or a date) goes into the name because bytes of two versions
    of a file must never be joined; without one, or without bytes, nothing is kept.

    Args:
        destination: where the finished file belongs.
        report: called with the number of bytes gained; negative when they are thrown away.
    """

    def __init__(self, destination: Path, report: Callable[[int], None]):
        self.destination = destination
        self.size = 0
        self.validator: str | None = None
        self._report = report
        self._path = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}.tmp")
        self._digest = hashlib.sha256()
        self._published = False

    def __enter__(self) -> Part:
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        if self._adopt():
            self._stream: BinaryIO = open(self._path, "r+b")
            while block := self._stream.read(_HASH_BLOCK):
                self._count(block)
        else:
            self._stream = open(self._path, "xb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        if self._published:
            return
        if self.size and self.validator:
            name = f"{self._prefix}{quote(self.validator, safe='')}.part"
            if len(name) <= _LONGEST_NAME:
                os.replace(self._path, self.destination.with_name(name))
                return
        self._path.unlink()

    @property
    def sha256(self) -> str:
        """Hash of the bytes so far."""
        return self._digest.hexdigest()

    def write(self, block: bytes) -> None:
        self._stream.write(block)
        self._count(block)

    def restart(self) -> None:
        """Throw away what is there."""
        self._stream.seek(0)
        self._stream.truncate()
        self._report(-self.size)
        self.size = 0
        self.validator = None
        self._digest = hashlib.sha256()

    def publish(self) -> None:
        """Become `destination`; older parts of it are of no use any more."""
        self._stream.close()
        os.replace(self._path, self.destination)
        self._published = True
        for left in self._left_behind():
            left.unlink(missing_ok=True)  # another download may have been quicker

    def _count(self, block: bytes) -> None:
        self._digest.update(block)
        self.size += len(block)
        self._report(len(block))

    @property
    def _prefix(self) -> str:
        return f".{self.destination.name}."

    def _left_behind(self) -> list[Path]:
        folder = self.destination.parent
        return [path for path in folder.iterdir() if path.name.startswith(self._prefix) and path.suffix == ".part"]

    def _adopt(self) -> bool:
        for left in self._left_behind():
            try:
                os.rename(left, self._path)
            except FileNotFoundError:  # another download was quicker
                continue
            self.validator = unquote(left.name[len(self._prefix) : -len(".part")])
            return True
        return False
