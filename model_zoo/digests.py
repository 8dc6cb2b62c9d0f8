"""Digests of files, also of one that is still growing, and what servers say of a file."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import re
import threading
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_DIGESTS = {"crc32": 4, "md5": 16, "sha1": 20, "sha256": 32}  # what the standard library computes, in bytes
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


# What a server says about a file


@dataclasses.dataclass(frozen=True)
class Source:
    """One version of a file at one endpoint.

    Attributes:
        endpoint: its public address.
        length: bytes, where known.
        etag: as it was sent.
        date: the Last-Modified header, as it was sent.
        digests: lower-case hexadecimal by name: `crc32`, `md5`, `sha1`, `sha256`.
    """

    endpoint: str
    length: int | None = None
    etag: str | None = None
    date: str | None = None
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, answer: Any, endpoint: str, length: int | None = None) -> Source:
        """From the headers of an answer with the whole file, or a part of one of `length` bytes."""
        if length is None and "chunked" not in answer.header("Transfer-Encoding").lower():
            length = number(answer.header("Content-Length").split(",")[0].strip())
        headers = answer.headers
        return cls(endpoint, length, headers.get("ETag"), headers.get("Last-Modified"), _digests(headers))

    @classmethod
    def load(cls, values: Any) -> Source:
        """From what `dump` gave.

        Raises:
            ValueError, TypeError: it did not give that.
        """
        source = cls(**{"endpoint": "", **values})
        texts = (source.endpoint, source.etag or "", source.date or "", *source.digests.values())
        if type(source.length) not in (int, type(None)) or not all(isinstance(text, str) for text in texts):
            raise ValueError("no record of a source")
        if not source.digests.keys() <= set(_DIGESTS):
            raise ValueError("digests that nobody computes")
        return source

    def dump(self) -> dict[str, Any]:
        """The fields that say something, for JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}

    @property
    def validator(self) -> str | None:
        """What an If-Range header takes: a strong ETag, or the date of change where there is none at all."""
        return self.date if self.etag is None else None if self.etag.startswith("W/") else self.etag

    @property
    def etag_md5(self) -> str | None:
        """The ETag where it looks like an MD5: object stores mean one by it, but some servers hash a date."""
        found = re.fullmatch(r'"([0-9A-Fa-f]{32})"', self.etag or "")
        return found[1].lower() if found else None

    def agrees(self, now: Source) -> bool:
        """Whether nothing that both answers carry says that they are of two versions."""
        pairs = [(getattr(self, key), getattr(now, key)) for key in ("length", "etag", "date")]
        return all(old == new for old, new in pairs if old is not None and new is not None)

    def change(self, now: Source) -> str | None:
        """How `now` is another version than this one; None where nothing says that it is.

        Some server farms give one file a different ETag on every machine, so a new ETag beside the old date is no new
        version. Across endpoints only lengths and digests can be compared.
        """
        common = sorted(self.digests.keys() & now.digests.keys())
        if common:
            return next((f"another {name}" for name in common if self.digests[name] != now.digests[name]), None)
        here = self.endpoint == now.endpoint
        old, new = ((source.etag or "").replace("W/", "", 1) for source in (self, now))
        if here and old and old == new:
            return None
        if None not in (self.length, now.length) and self.length != now.length:
            return f"{now.length} bytes instead of {self.length}"
        if not here or (self.date and self.date == now.date):
            return None
        if old and new:
            return f"the ETag {new} instead of {old}"
        return f"the date {now.date} instead of {self.date}" if self.date and now.date else None


def _digests(headers: Any) -> dict[str, str]:
    """Every digest of the whole file that can be computed here; what cannot be one is passed over."""
    found: dict[str, str] = {}
    # Objects that were uploaded in pieces have a digest of the pieces' digests, marked by `-<count>`: not base64.
    claims: list[tuple[str, str]] = [("md5", headers.get("Content-MD5", ""))]
    claims += [(name, headers.get(f"x-amz-checksum-{name}", "")) for name in _DIGESTS]
    for header in ("x-goog-hash", "Digest", "Repr-Digest"):
        for item in headers.get(header, "").split(","):
            name, _, value = item.strip().partition("=")
            claims.append((name.lower().replace("sha-", "sha"), value.strip(":")))
    for name, claim in claims:
        with contextlib.suppress(binascii.Error, ValueError):
            raw = base64.b64decode(claim, validate=True)
            if len(raw) == _DIGESTS.get(name, -1):
                found[name] = raw.hex()
    crc = number(headers.get("x-bce-content-crc32", ""))
    if crc is not None and crc < 1 << 32:
        found["crc32"] = f"{crc:08x}"
    return found


def number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
