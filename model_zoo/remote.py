"""Registries at addresses, and the copy of each that is kept for when it cannot be asked.

Copies lie in `<MODEL_ZOO_HOME>/.registries`, one file an address: what the registry said, the validator of that
version, and when it was last asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Callable, TypeVar

from model_zoo import settings
from model_zoo.addresses import public
from model_zoo.errors import ManifestError, ModelZooError, RegistryError, SettingsError
from model_zoo.manifest import is_address
from model_zoo.sharing import make_folder, share

LARGEST = 5 << 20  # bytes; a manifest has a few thousand
PATIENCE = 30.0  # seconds for the whole answer
FOLDER = ".registries"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Copy:
    """What a registry said: its text, the ETag or else the date of that version, and when it was last asked.

    Others may read it: the address is its public part, and the hash in the file's name stands for all of it.
    """

    url: str
    text: str
    etag: str | None
    date: str | None
    asked: float


def read(url: str, max_age: float | None, parse: Callable[[object], list[T]]) -> tuple[list[T], RegistryError | None]:
    """`parse` of the JSON at `url`, and why it is not the newest where the address could not be asked.

    Args:
        max_age: seconds for which a copy is taken as it is; None takes a copy of any age and asks nobody, also where
            there is none.
        parse: raises ManifestError for JSON that is no registry. Such an answer never replaces a copy.

    Raises:
        SettingsError: `url` is not an http or https address, or holds a user or password.
    """
    if not is_address(url.partition("?")[0]):
        raise SettingsError(
            f"MODEL_ZOO_REGISTRY names {public(url)!r}, which is no http or https address without user and password"
        )
    copy = _load(url)
    problem = None
    if max_age is not None and (copy is None or not 0 <= time.time() - copy.asked < max_age):
        try:
            if settings.offline():
                if copy is None:
                    raise RegistryError("it has not been read yet, and MODEL_ZOO_OFFLINE keeps the network closed")
            else:
                newest = _ask(url, copy)
                models = parse(_decode(newest.text))
                _keep(url, newest)
                return models, None
        except ModelZooError as error:
            state = "could not be asked again; what it said before is used" if copy else "cannot be used"
            problem = RegistryError(f"the registry {public(url)} {state}: {error}")
    elif copy is None:
        problem = RegistryError(
            f"the registry {public(url)} has not been read yet; `model-zoo list` reads it, with a connection"
        )
    try:
        return (parse(_decode(copy.text)) if copy else []), problem
    except ManifestError:
        return [], problem  # only another release of this package takes that copy for a registry


def _ask(url: str, copy: _Copy | None) -> _Copy:
    """The registry as it is now; `copy` with a new time where it has not changed."""
    import requests  # not above: half of the start-up time

    from model_zoo.hub import POLICY
    from model_zoo.web import open_session, reason, status

    handled = sys.exc_info()[1]  # the caller may be in an except block of its own: not our reason
    headers = {"Accept": "application/json"}
    if copy is not None and copy.etag:
        headers["If-None-Match"] = copy.etag
    elif copy is not None and copy.date:
        headers["If-Modified-Since"] = copy.date
    begun = time.monotonic()
    body = b""
    with open_session() as session:
        timeout = (POLICY.connect_timeout, POLICY.read_timeout)
        try:
            with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code == 304 and copy is not None:
                    return dataclasses.replace(copy, asked=time.time())
                if response.status_code != 200:
                    raise RegistryError(status(response))
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise RegistryError("it was sent compressed although the plain text was asked for")
                for block in response.iter_content(1 << 16):
                    body += block
                    if len(body) > LARGEST:
                        raise RegistryError(f"it has more than {LARGEST:,} bytes")
                    if time.monotonic() - begun > PATIENCE:
                        raise RegistryError(f"it did not come within {PATIENCE:.0f} s")
                length = response.headers.get("Content-Length", str(len(body)))
                etag, date = response.headers.get("ETag"), response.headers.get("Last-Modified")
        except requests.RequestException as error:
            raise RegistryError(reason(error, handled)) from error
    if length != str(len(body)):
        raise RegistryError(f"the connection closed after {len(body)} of {length} bytes")
    try:
        return _Copy(public(url), body.decode("utf-8"), etag, date, time.time())
    except UnicodeDecodeError:
        raise RegistryError("it is no UTF-8 text") from None


def _decode(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"it is no JSON ({error}); give the address of an index.json or of a manifest") from None


def _file(url: str) -> Path:
    return settings.home() / FOLDER / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"


def _load(url: str) -> _Copy | None:
    try:
        values = json.loads(_file(url).read_text(encoding="utf-8"))
        copy = _Copy(**values)
        well_formed = copy.url == public(url) and isinstance(copy.text, str) and isinstance(copy.asked, (int, float))
        return copy if well_formed else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _keep(url: str, copy: _Copy) -> None:
    file = _file(url)
    part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        make_folder(file.parent)
        part.write_text(json.dumps(dataclasses.asdict(copy)), encoding="utf-8")
        share(part)
        os.replace(part, file)
    except OSError:
        pass  # a cache that is read-only or full: the address is asked each time
