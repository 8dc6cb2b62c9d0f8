"""What lies in the cache, when it was last used, and how it goes away.

A model goes by one rename, so that nobody ever sees half of it. No link is followed on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from model_zoo import cache, settings
from model_zoo.errors import CacheError, UnknownModelError
from model_zoo.manifest import Model
from model_zoo.registry import find
from model_zoo.settings import PathLike
from model_zoo.sharing import make_folder

TRASH = ".trash-"
STAGING = ".staging-"

# A staging folder of this age has lost its process.
_ABANDONED = 24 * 3600.0
_PLACE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[0-9a-f]{8})?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Cached:
    """One model in the cache, whole or not.

    Attributes:
        place: `<owner>/<name>`, its folder relative to the cache.
        folder: that folder, absolute.
        size: bytes on disk, with those of unfinished downloads.
        last_used: when it was last downloaded or resolved, in seconds since 1970.
        finished: whether it was once complete.
    """

    place: str
    folder: Path
    size: int
    last_used: float
    finished: bool


class Pruned(NamedTuple):
    """What `prune` removed, or would have: models, those that were busy and stayed, and bytes of crashed commands."""

    gone: list[Cached]
    busy: list[Cached]
    leftovers: int


def touch(folder: Path) -> None:
    """Note that a model is used now; where that cannot be written, it is not noted."""
    with contextlib.suppress(OSError):
        os.utime(folder / cache.MARKER)


def cached(cache_dir: PathLike | None = None) -> list[Cached]:
    """The models that lie in the cache, by name, those that the catalogue does not know included."""
    home = settings.home(cache_dir)
    found = []
    for owner in _folders(home):
        for folder in _folders(owner):
            place = f"{owner.name}/{folder.name}"
            if _PLACE.fullmatch(place):
                found.append(_look(place, folder))
    return sorted(found, key=lambda entry: entry.place.lower())


def remove(name: str, *, cache_dir: PathLike | None = None) -> int:
    """Remove a model from the cache; the bytes that this frees.

    Args:
        name: name or alias of the catalogue, or of a folder in the cache that the catalogue does not know.

    Raises:
        UnknownModelError: neither in the catalogue nor in the cache.
        CacheError: it is not in the cache, is being downloaded, or cannot be removed.
    """
    entry = locate(name, cache_dir)
    with _exclusive(entry.folder):
        _discard(entry.folder, settings.home(cache_dir))
    return entry.size


def prune(
    *,
    older_than: float | None = None,
    keep_size: int | None = None,
    dry_run: bool = False,
    cache_dir: PathLike | None = None,
) -> Pruned:
    """Remove what crashed commands left behind, and models, the longest unused first.

    Args:
        older_than: remove models that were not used for this many seconds.
        keep_size: remove models until those that stay have at most this many bytes.
        dry_run: remove nothing.

    Raises:
        CacheError: the cache cannot be read, or a model not be removed.
    """
    home = settings.home(cache_dir)
    entries = sorted(cached(cache_dir), key=lambda entry: entry.last_used)
    total, now = sum(entry.size for entry in entries), time.time()
    gone: list[Cached] = []
    busy: list[Cached] = []
    for entry in entries:
        old = older_than is not None and now - entry.last_used > older_than
        if not old and (keep_size is None or total <= keep_size):
            continue
        try:
            with _exclusive(entry.folder):
                if not dry_run:
                    _discard(entry.folder, home)
        except Busy:
            busy.append(entry)
            continue
        gone.append(entry)
        total -= entry.size
    return Pruned(gone, busy, _sweep(home, dry_run))


class Busy(CacheError):
    """Another process is downloading the model."""


def locate(name: str, cache_dir: PathLike | None = None) -> Cached:
    """A model in the cache, by a name of the catalogue or of its folder.

    Raises:
        UnknownModelError, CacheError: as `remove`.
    """
    home = settings.home(cache_dir)
    try:
        model = find(name)
    except UnknownModelError:
        place = name
        if not _PLACE.fullmatch(name) or not (home / name).is_dir():
            raise
    else:
        place = model.place
        if model.folder is not None:
            raise CacheError(f"{model.name} is not in the cache but in {model.folder}; nothing was removed")
    folder = home / place
    for path in (folder.parent, folder):
        if path.is_symlink():
            raise CacheError(f"{path} is a link, which is never followed; remove it by hand")
    if not folder.is_dir():
        raise CacheError(f"{name} is not in the cache {home}; `model-zoo list --downloaded` shows what is")
    return _look(place, folder)


@contextlib.contextmanager
def staging(home: Path) -> Iterator[Path]:
    """A new folder on the cache's volume; gone afterwards, unless `publish` has moved it."""
    folder = home / f"{STAGING}{secrets.token_hex(8)}"
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(stage: Path, model: Model, home: Path) -> Path:
    """Make a staging folder the folder of a model, in the place of an unfinished one.

    Raises:
        CacheError: the model is complete there already, or is being downloaded.
    """
    folder = home / model.place
    cache.check_place(home, folder, model)
    make_folder(folder.parent)
    if folder.is_dir():
        with _exclusive(folder):
            if cache.is_complete(model, folder):
                raise CacheError(f"{model.name} is already complete in {folder}; to replace it, remove it first")
            _discard(folder, home)
    try:
        os.rename(stage, folder)
    except OSError as error:
        raise CacheError(f"cannot put {model.name} into {folder}: {error.strerror or error}; try again") from error
    return folder


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold every lock that downloads into `folder` have made, as far as the file system has locks.

    Raises:
        Busy: one is held by somebody else.
    """
    import filelock  # asyncio is among what it loads

    with contextlib.ExitStack() as held:
        for path in sorted(cache.locks_of(folder).rglob("*.lock")):
            try:
                held.enter_context(filelock.FileLock(str(path), timeout=0))
            except filelock.Timeout:
                raise Busy(f"{folder} is being downloaded; wait for that, or stop it, and try again") from None
            except (OSError, NotImplementedError):
                continue
        yield


def _folders(parent: Path) -> list[Path]:
    """Folders in `parent`, without links and hidden ones."""
    try:
        with os.scandir(parent) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"cannot read {parent}: {error.strerror or error}") from error


def _look(place: str, folder: Path) -> Cached:
    size, newest, marker = 0, 0.0, None
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:  # a download renamed it
                continue
            if stat.S_ISREG(status.st_mode):
                size += status.st_size
                newest = max(newest, status.st_mtime)
    with contextlib.suppress(OSError):
        marker = (folder / cache.MARKER).stat().st_mtime
    return Cached(place, folder, size, newest if marker is None else marker, marker is not None)


def _discard(folder: Path, home: Path) -> None:
    """Take a model's folder away by one rename, then delete it at leisure."""
    trash = home / f"{TRASH}{secrets.token_hex(8)}"
    try:
        os.rename(folder, trash)
    except OSError as error:
        raise CacheError(f"cannot remove {folder}: {error.strerror or error}; nothing was removed") from error
    shutil.rmtree(trash, ignore_errors=True)


def _sweep(home: Path, dry_run: bool) -> int:
    """Delete what removals and imports left behind that did not come to their end; its bytes."""
    now, size = time.time(), 0
    with contextlib.suppress(OSError):
        for path in list(home.iterdir()):
            abandoned = path.name.startswith(STAGING) and now - path.lstat().st_mtime > _ABANDONED
            if (path.name.startswith(TRASH) or abandoned) and not path.is_symlink():
                size += _look(path.name, path).size
                if not dry_run:
                    shutil.rmtree(path, ignore_errors=True)
    return size
