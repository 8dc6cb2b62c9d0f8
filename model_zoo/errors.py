"""What can go wrong between a name and its files, and how sizes, times, tables and addresses are written.

Every message names the value and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit


class ModelZooError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownModelError(ModelZooError):
    """No model has this name or alias; `suggestions` holds the nearest accepted names, best first."""

    def __init__(self, name: str, suggestions: Sequence[str]):
        self.name = name
        self.suggestions = tuple(suggestions)
        shown = name if len(name) <= 100 else name[:100] + "..."
        hint = f"did you mean {' or '.join(suggestions)}?" if suggestions else "`model-zoo list` shows all models."
        super().__init__(f"no model is called {shown!r}; {hint} A folder is written with its path, such as ./my-model")


class UnknownTaskError(ModelZooError):
    """No model of the catalogue has this task."""


class ManifestError(ModelZooError):
    """A manifest of the catalogue breaks the schema."""


class SettingsError(ModelZooError):
    """An environment variable or argument that holds an address or a folder cannot be used."""


class MissingFolderError(ModelZooError):
    """A path was given instead of a name, and no folder is there."""


class CacheError(ModelZooError):
    """The cache folder cannot be read or written."""


class NotCachedError(CacheError):
    """Downloads are off and some files of the model are not in the cache."""


class NotConvertedError(ModelZooError):
    """The model has no files of its own yet: its original checkpoint must be converted first."""


class DownloadError(ModelZooError):
    """A file could not be had from the endpoint, or what came is not the file that the catalogue describes."""


class RegistryError(ModelZooError):
    """A registry at an address of MODEL_ZOO_REGISTRY could not be read."""


class SourceError(ModelZooError):
    """A folder or archive that shall be imported or packed cannot be used."""


# How things are written

_UNITS = ("B", "KB", "MB", "GB", "TB")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def size_text(size: int | None, exact: bool = True) -> str:
    """As the community's pages write it: 1 KB is 1024 bytes."""
    if size is None:
        return "unknown size"
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    text = f"{size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
    return text if exact else f"about {text}"


def parse_size(text: str) -> int:
    """Bytes of `20GB`, `1.5 TB`, `4096`.

    Raises:
        SettingsError: something else.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise SettingsError(f"{text[:100]!r} is no size; give one such as 20GB or 500MB")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def parse_duration(text: str) -> float:
    """Seconds of `30d`, `12h`, `2w`, `45m`.

    Raises:
        SettingsError: something else.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([mhdw])", text.strip(), re.ASCII)
    if match is None:
        raise SettingsError(f"{text[:100]!r} is no time span; give one such as 45m, 12h, 30d or 2w")
    return float(match[1]) * _SECONDS[match[2]]


def age_text(seconds: float) -> str:
    """How long ago, in the largest unit that fits: `now`, `5 minutes ago`, `3 days ago`."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns, two blanks apart; nothing where there are no rows."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def address_parts(url: object) -> SplitResult | None:
    """The parts of an http or https address with a host that a resolver takes; None where it is none."""
    try:
        if not isinstance(url, str):
            return None
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("ascii" if url.isascii() else "idna")  # the second is slow to load
        fine = parts.scheme in ("http", "https") and parts.port != 0  # asking for it checks it
        fine = fine and all(0 < len(label) < 64 for label in host.removesuffix(b".").split(b"."))
        return parts if fine and not re.search(r"[\s\x00-\x1f\\]", parts.netloc) else None
    except ValueError:
        return None


def public(url: str) -> str:
    """An address without user, password, query and fragment."""
    parts = address_parts(url)
    if parts is not None:
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    # It is none. The last @ may end a password that has the slash of a path in it, or follows no scheme.
    return re.split(r"[?#]", re.sub(r"^([A-Za-z][\w+.-]*://)?.*@", r"\1", url, flags=re.DOTALL))[0]


def scrub(text: str) -> str:
    """A message of somebody else's as it may be shown: every address in it public, whatever quotes are around it, and
    nothing that a terminal would obey."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = re.sub(r"//[^/\s'\"<>]*@", "//", text)
    return re.sub(r"((?:\w+:/)?/[^\s?'\"<>]*)\?[^\s'\"<>)]*", r"\1", text)
