"""Every environment variable that model_zoo reads, and the only place that reads them.

- `MODEL_ZOO_HOME`: the cache folder; default `model_zoo` in the user's cache folder of the platform.
- `MODEL_ZOO_ENDPOINT`: addresses under which `<model name>/<file>` lies, with blanks or commas between them, tried in
  their order; default the community's bucket.
- `MODEL_ZOO_JOBS`: how many files are downloaded at once; default 4.
- `MODEL_ZOO_OFFLINE`: set to anything but 0, false, no or off, no socket is ever opened.
- `MODEL_ZOO_REGISTRY`: more places of manifests, each a folder, a file or an http(s) address; see `registries`.

They are read when they are needed, not at import, so that setting them later works.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple, Union

from model_zoo.errors import SettingsError, address_parts, public

PathLike = Union[str, "os.PathLike[str]"]

# Two addresses of one bucket.
DEFAULT_ENDPOINTS = (
    "https://paddlenlp.bj.bcebos.com/models/community",
    "https://bj.bcebos.com/paddlenlp/models/community",
)
_MOST_JOBS = 32


def endpoints(override: str | None = None) -> tuple[str, ...]:
    """Base addresses without slashes at their ends, in the order in which they are tried.

    Raises:
        SettingsError: one is not an http or https address, or has a query.
    """
    value = override or os.environ.get("MODEL_ZOO_ENDPOINT") or " ".join(DEFAULT_ENDPOINTS)
    addresses = [address.rstrip("/") for address in re.split(r"[\s,]+", value) if address]
    for address in addresses or [value]:
        parts = address_parts(address)
        if parts is None or parts.query + parts.fragment:
            raise SettingsError(
                f"{public(address)[:200]!r} is no http or https address without a query; set MODEL_ZOO_ENDPOINT or"
                f" --endpoint to one such as {DEFAULT_ENDPOINTS[0]}, or to several with blanks between them"
            )
    return tuple(dict.fromkeys(addresses))


def jobs(override: str | None = None) -> int:
    """How many files are downloaded at once.

    Raises:
        SettingsError: MODEL_ZOO_JOBS, or `override`, is no such number.
    """
    value = (override or os.environ.get("MODEL_ZOO_JOBS", "")).strip() or "4"
    if not (value.isascii() and value.isdigit() and len(value) < 5 and 1 <= int(value) <= _MOST_JOBS):
        name = "--jobs" if override else "MODEL_ZOO_JOBS"
        raise SettingsError(f"{name} is {value[:100]!r}; set it to a number from 1 to {_MOST_JOBS}")
    return int(value)


def home(override: PathLike | None = None) -> Path:
    """The cache folder as an absolute path; it need not exist.

    Raises:
        SettingsError: no path, or the user's home folder is wanted and unknown.
    """
    value = override or os.environ.get("MODEL_ZOO_HOME")
    if value and "\0" in os.fspath(value):
        raise SettingsError(f"{os.fspath(value)[:200]!r} is no path; set MODEL_ZOO_HOME to one")
    try:
        folder = Path(value).expanduser() if value else _user_cache() / "model_zoo"
    except RuntimeError as error:
        raise SettingsError(f"{error}; set MODEL_ZOO_HOME to the folder that shall hold the models") from None
    return Path(os.path.abspath(folder))


class Registry(NamedTuple):
    """A place of manifests: a folder, a file or an address, and whether it may take over names of other places."""

    place: str
    override: bool

    @property
    def is_address(self) -> bool:
        return "://" in self.place


def registries() -> list[Registry]:
    """The places that MODEL_ZOO_REGISTRY lists, in its order, each once.

    They are separated by the platform's path separator (`:`, on Windows `;`), commas or line ends. The colons of an
    address are its own: it ends at a blank, a comma or, past the slash behind its host, at the path separator
    (`https://a.example:8080/zoo/index.json:/srv/zoo` is two places). `override=` before a place lets it redefine names.
    """
    text = os.environ.get("MODEL_ZOO_REGISTRY", "")
    end = re.escape(os.pathsep) + r",\n"
    address = rf"[A-Za-z][\w+.-]+://[^/\s,]*(?:/[^\s{end}]*)?"
    found = re.finditer(rf"\s*(override=)?({address}|[^\s{end}][^{end}]*)", text)
    return list(dict.fromkeys(Registry(match.group(2).strip(), bool(match.group(1))) for match in found))


def offline() -> bool:
    """Whether MODEL_ZOO_OFFLINE forbids the network."""
    return os.environ.get("MODEL_ZOO_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def _user_cache() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    # The XDG base directory specification has relative values ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
