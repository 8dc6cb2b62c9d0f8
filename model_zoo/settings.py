"""Every environment variable that model_zoo reads, and the only place that reads them.

- `MODEL_ZOO_HOME`: the cache folder; default `model_zoo` in the user's cache folder of the platform.
- `MODEL_ZOO_ENDPOINT`: address under which `<model name>/<file>` lies; default the community's bucket.
- `MODEL_ZOO_OFFLINE`: set to anything but 0, false, no or off, no socket is ever opened.

They are read when they are needed, not at import, so that setting them later works.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Union
from urllib.parse import urlsplit

from model_zoo.errors import SettingsError

PathLike = Union[str, "os.PathLike[str]"]

DEFAULT_ENDPOINT = "https://paddlenlp.bj.bcebos.com/models/community"


def endpoint(override: str | None = None) -> str:
    """Base address without a slash at its end.

    Raises:
        SettingsError: not an http or https address.
    """
    value = override or os.environ.get("MODEL_ZOO_ENDPOINT") or DEFAULT_ENDPOINT
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            f"{value!r} is no http or https address; set MODEL_ZOO_ENDPOINT to one such as {DEFAULT_ENDPOINT}"
        )
    return value.rstrip("/")


def home(override: PathLike | None = None) -> Path:
    """The cache folder as an absolute path; it need not exist.

    Raises:
        SettingsError: the user's home folder is wanted and unknown.
    """
    value = override or os.environ.get("MODEL_ZOO_HOME")
    try:
        folder = Path(value).expanduser() if value else _user_cache() / "model_zoo"
    except RuntimeError as error:
        raise SettingsError(f"{error}; set MODEL_ZOO_HOME to the folder that shall hold the models") from None
    return Path(os.path.abspath(folder))


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
