"""What a server says about a file besides its bytes: which version it is, how long, and digests of it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

_BYTES = {"crc32": 4, "md5": 16, "sha1": 20, "sha256": 32}  # what the standard library computes


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
    def of(cls, headers: Mapping[str, str], endpoint: str, length: int | None = None) -> Source:
        """From the headers of an answer with the whole file."""
        found = _number(headers.get("Content-Length")) if length is None else length
        return cls(endpoint, found, headers.get("ETag"), headers.get("Last-Modified"), _digests(headers))

    @classmethod
    def load(cls, values: Any) -> Source:
        """From what `dump` gave.

        Raises:
            ValueError: it did not give that.
        """
        if not isinstance(values, dict) or not values.keys() <= {field.name for field in dataclasses.fields(cls)}:
            raise ValueError("no record of a source")
        source = cls(**{"endpoint": "", **values})
        texts = (source.endpoint, source.etag or "", source.date or "")
        if not all(isinstance(text, str) for text in texts) or not isinstance(source.digests, dict):
            raise ValueError("a damaged record of a source")
        if not all(name in _BYTES and isinstance(value, str) for name, value in source.digests.items()):
            raise ValueError("a damaged record of a source")
        if source.length is not None and type(source.length) is not int:
            raise ValueError("a damaged record of a source")
        return source

    def dump(self) -> dict[str, Any]:
        """The fields that say something, for JSON."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}

    @property
    def validator(self) -> str | None:
        """What an If-Range header takes: a strong ETag, else the date of change."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.date

    @property
    def etag_md5(self) -> str | None:
        """The ETag where it looks like an MD5: object stores mean one by it, but some servers hash a date."""
        found = re.fullmatch(r'"([0-9A-Fa-f]{32})"', self.etag or "")
        return found[1].lower() if found else None

    def change(self, now: Source) -> str | None:
        """How `now` is another version than this one; None where nothing says that it is.

        Some server farms give one file a different ETag on every machine, so a new ETag beside the old date is no new
        version. Across endpoints only lengths and digests can be compared.
        """
        common = self.digests.keys() & now.digests.keys()
        if common:
            differing = [name for name in sorted(common) if self.digests[name] != now.digests[name]]
            return f"another {differing[0]}" if differing else None
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


def _digests(headers: Mapping[str, str]) -> dict[str, str]:
    """Every digest of the whole file that can be computed here; what cannot be one is passed over."""
    found: dict[str, str] = {}
    # Objects that were uploaded in pieces have a digest of the pieces' digests, marked by `-<count>`: not base64.
    claims: list[tuple[str, str | None]] = [("md5", headers.get("Content-MD5"))]
    claims += [(name, headers.get(f"x-amz-checksum-{name}")) for name in _BYTES]
    for header in ("x-goog-hash", "Digest", "Repr-Digest"):
        for item in headers.get(header, "").split(","):
            name, _, value = item.strip().partition("=")
            claims.append((name.lower().replace("sha-", "sha"), value.strip(":")))
    for name, claim in claims:
        raw = _base64(claim)
        if name in _BYTES and len(raw) == _BYTES[name]:
            found[name] = raw.hex()
    crc = _number(headers.get("x-bce-content-crc32"))
    if crc is not None and crc < 1 << 32:
        found["crc32"] = f"{crc:08x}"
    return found


def _base64(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
