"""Where downloaded models lie, whether they are complete, and how they go away.

Layout of MODEL_ZOO_HOME:

- `<owner>/<name>/<files as published>`; a file gets its name only when it is whole and verified.
- `<owner>/<name>/.complete`, written last: `{"model": name, "files": [{"path", "size", "sha256", "source"}, ...]}`, the
  files as they were when they were verified, and what the server said of them. It vouches for the model.
- `.<file>.record.json` beside a file: the same of one file, until the marker holds it.
- `.<file>.<8 hex digits>.part` and `.part.json`: the bytes so far of a file on its way, and which version they are of.
- `.locks/<owner>/<name>/<file>.lock`: empty files that downloads lock.
- `.registries/<hash>.txt`: what the addresses and index files of MODEL_ZOO_REGISTRY last held.
- `.staging-*` and `.trash-*`: models on their way in from an archive, and out; `model-zoo prune` removes stray ones.

When a model was last used is the time of change of its marker. A model goes by one rename, so that nobody ever sees
half of it, and no link is followed on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_zoo import digests, settings
from model_zoo.digests import Source
from model_zoo.disk import make_folder, reading, remove_tree, sync_folder, token, write_text, writing
from model_zoo.errors import CacheError, ManifestError, UnknownModelError
from model_zoo.manifest import File, Model, is_name
from model_zoo.registry import find
from model_zoo.settings import PathLike

MARKER = ".complete"
LOCKS = ".locks"
TRASH, STAGING = ".trash-", ".staging-"
_ABANDONED = 24 * 3600.0  # a staging folder of this age has lost its process
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ManifestError)
_PLACE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w.-]*)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Record:
    """A file as it was when it was verified, and what the server said of it, as far as it said anything.

    `damaged`: a later look found something else in its place.
    """

    path: str
    size: int
    sha256: str
    source: Source | None = None
    damaged: bool = False

    def __post_init__(self) -> None:
        File(self.path, self.size, self.sha256)  # the checks of a manifest's values

    @classmethod
    def load(cls, values: Any) -> Record:
        """From what `dump` gave.

        Raises:
            ValueError, LookupError, TypeError, ManifestError: it did not give that.
        """
        source = values.get("source") and Source.load(values["source"])
        return cls(values["path"], values["size"], values["sha256"], source, bool(values.get("damaged")))

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        values = {**dataclasses.asdict(self), "source": self.source and self.source.dump()}
        return {key: value for key, value in values.items() if value or key == "size"}


def model_folder(model: Model, cache_dir: PathLike | None = None) -> Path:
    """Folder of a downloaded model in `cache_dir`, or in the cache folder of the settings; it need not exist."""
    return settings.home(cache_dir) / model.place


def missing_files(model: Model, folder: Path, files: Sequence[File] | None = None) -> tuple[File, ...]:
    """Files (of `files`, or of all) that are absent, or are not what the catalogue and the records say.

    A file gets its name only after it has been verified, so one that nothing is recorded of is kept if it is whole.
    """
    chosen = model.files if files is None else files
    recorded = records(folder, chosen)
    return tuple(file for file in chosen if not _is_there(file, folder / file.path, recorded.get(file.path)))


def is_complete(model: Model, folder: Path) -> bool:
    """Whether the marker vouches for every file of the model and none has gone since."""
    recorded = marked(folder)
    return all(
        file.path in recorded and _is_there(file, folder / file.path, recorded[file.path]) for file in model.files
    )


def kept(name: str, home: Path) -> Path | None:
    """The folder of a model that no catalogue knows (any more), where its marker vouches for all that it lists."""
    folder = home / name
    recorded = marked(folder) if is_name(name) else {}
    whole = (
        _is_there(File(path, record.size, record.sha256), folder / path, record) for path, record in recorded.items()
    )
    return folder if recorded and all(whole) else None


def records(folder: Path, files: Sequence[File]) -> dict[str, Record]:
    """What was recorded of files, by path: in the marker, or beside those that came after it."""
    found = marked(folder)
    for file in files:
        with contextlib.suppress(*_DAMAGED):
            values = json.loads(_record_file(folder / file.path).read_text(encoding="utf-8"))
            found[file.path] = Record.load({**values, "path": file.path})
    return found


def marked(folder: Path) -> dict[str, Record]:
    """What the marker says, by path; nothing where there is none, or none that can be read."""
    try:
        values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return {record.path: record for record in map(Record.load, values["files"])}
    except _DAMAGED:
        return {}  # the files are checked on their own, and the marker is written again


def write_record(folder: Path, record: Record) -> None:
    """Record a file that is about to appear, or that was found damaged.

    Raises:
        CacheError: it cannot be written.
    """
    with writing(folder / record.path):
        write_text(_record_file(folder / record.path), json.dumps(record.dump()))


def mark_complete(model: Model, folder: Path, hashes: Mapping[str, str] | None = None) -> None:
    """Write the marker, which takes over what is recorded beside the files.

    Args:
        hashes: sha256 of files by path, as far as the caller has computed them; files of which nothing is known are
            read.

    Raises:
        CacheError: a file cannot be read or the marker not be written.
    """
    recorded, entries = records(folder, model.files), []
    for file in model.files:
        with writing(folder / file.path):
            size = (folder / file.path).stat().st_size
            digest, known = (hashes or {}).get(file.path), recorded.get(file.path)
            if known is None or known.damaged or known.size != size or digest not in (None, known.sha256):
                known = Record(file.path, size, digest or hash_file(folder / file.path))
            entries.append(known.dump())
    with writing(folder / MARKER):
        write_text(folder / MARKER, json.dumps({"model": model.name, "files": entries}, indent=2) + "\n", durable=True)
    for file in model.files:
        with contextlib.suppress(OSError):
            _record_file(folder / file.path).unlink()


def doubt(folder: Path, model: Model, paths: Sequence[str]) -> None:
    """Note that files were found damaged: the marker vouches for the model no more, and the next download knows.

    Raises:
        CacheError: it cannot be written.
    """
    for path, record in records(folder, model.files).items():
        write_record(folder, dataclasses.replace(record, damaged=path in paths))
    with writing(folder / MARKER), contextlib.suppress(FileNotFoundError):
        (folder / MARKER).unlink()


def forget(folder: Path, file: File) -> None:
    """Remove a file and its record.

    Raises:
        CacheError: it cannot be removed.
    """
    for path in (folder / file.path, _record_file(folder / file.path)):
        with writing(path), contextlib.suppress(FileNotFoundError):
            path.unlink()


def hash_file(path: Path) -> str:
    """sha256 of a file, in lower-case hexadecimal."""
    return digests.of_file(path, ["sha256"])["sha256"]


def locks_of(folder: Path, home: Path) -> Path:
    """Where the lock files of a model's folder are; not in it, since that holds what was published."""
    return home / LOCKS / folder.relative_to(home)


def check_place(home: Path, folder: Path, model: Model) -> None:
    """See that a download of the model writes into the cache and into no other model's folder.

    Raises:
        CacheError: a link leads out of the cache, or only upper and lower case tell the folder from another's.
    """
    inside = os.path.join(os.path.realpath(home), "")
    for place in (parent / file.path for parent in (folder, locks_of(folder, home)) for file in model.files):
        real = os.path.realpath(place.parent)
        if not os.path.join(real, "").startswith(inside):
            raise CacheError(
                f"{place.parent} leads out of the cache to {real}: refused; remove that link, or set MODEL_ZOO_HOME"
                " to the folder that shall hold the models"
            )
    for place in (folder.parent, folder) if folder != home else ():
        with contextlib.suppress(FileNotFoundError), writing(place, errno.ENOENT):
            names = os.listdir(place.parent)
            same = [name for name in names if name.lower() == place.name.lower()]
            if same and place.name not in same and place.exists():  # this file system has no case
                raise CacheError(
                    f"{place.parent / same[0]} is there, and this file system does not tell it from {place.name};"
                    " remove it, or choose another folder with MODEL_ZOO_HOME"
                )


def _is_there(file: File, path: Path, recorded: Record | None) -> bool:
    if not os.path.isfile(path):  # unlike Path.is_file, it takes a path that cannot be for one that is not
        return False
    size = os.path.getsize(path)
    if recorded is not None:
        exact = file.size in (None, size) and file.sha256 in (None, recorded.sha256)
        return exact and size == recorded.size and not recorded.damaged
    # Put there by hand, or its record is lost.
    if file.sha256 is not None:
        return file.mismatch(size, hash_file(path)) is None
    from model_zoo.formats.scan import complaint  # only this needs the readers

    return file.wrong_size(size) is None and complaint(path) is None


def _record_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.record.json")


# What lies in the cache, and how it goes away


@dataclasses.dataclass(frozen=True)
class Cached:
    """One model in the cache, whole or not.

    Attributes:
        place: `<owner>/<name>`, its folder relative to the cache.
        folder: that folder, absolute.
        size: bytes on disk, with those of unfinished downloads.
        last_used: when it was last downloaded or resolved, in seconds since 1970; None where nothing of it is there.
        finished: whether it was once complete.
    """

    place: str
    folder: Path
    size: int
    last_used: float | None
    finished: bool


class Pruned(NamedTuple):
    """What `prune` removed, or would have: models, those that were busy and stayed, and bytes of crashed commands."""

    gone: list[Cached]
    busy: list[Cached]
    leftovers: int


class Busy(CacheError):
    """Another process is downloading the model."""


def touch(folder: Path) -> None:
    """Note that a model is used now; where that cannot be written, it is not noted."""
    with contextlib.suppress(OSError):
        os.utime(folder / MARKER)


def cached(cache_dir: PathLike | None = None) -> list[Cached]:
    """The models that lie in the cache, by name, those that the catalogue does not know included."""
    found = []
    for owner in _folders(settings.home(cache_dir)):
        for folder in _folders(owner):
            place = f"{owner.name}/{folder.name}"
            if _PLACE.fullmatch(place):
                found.append(_look(place, folder))
    return sorted((entry for entry in found if entry.last_used), key=lambda entry: entry.place.lower())


def remove(name: str, *, cache_dir: PathLike | None = None) -> int:
    """Remove a model from the cache; the bytes that this frees.

    Args:
        name: name or alias of the catalogue, or of a folder in the cache that the catalogue does not know.

    Raises:
        UnknownModelError: neither in the catalogue nor in the cache.
        CacheError: it is not in the cache, is being downloaded, or cannot be removed.
    """
    entry, home = locate(name, cache_dir), settings.home(cache_dir)
    with exclusive(entry.folder, home):
        _discard(entry.folder, home)
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
    entries = sorted(cached(cache_dir), key=lambda entry: entry.last_used or 0.0)
    total, now = sum(entry.size for entry in entries), time.time()
    gone: list[Cached] = []
    busy: list[Cached] = []
    for entry in entries:
        old = older_than is not None and now - (entry.last_used or 0.0) > older_than
        if not old and (keep_size is None or total <= keep_size):
            continue
        try:
            with exclusive(entry.folder, home):
                if not dry_run:
                    _discard(entry.folder, home)
        except Busy:
            busy.append(entry)
            continue
        gone.append(entry)
        total -= entry.size
    return Pruned(gone, busy, _sweep(home, dry_run))


def locate(name: str, cache_dir: PathLike | None = None) -> Cached:
    """A model in the cache, by a name of the catalogue or of its folder.

    Raises:
        UnknownModelError, CacheError: as `remove`.
    """
    home = settings.home(cache_dir)
    try:
        model = find(name, local_files_only=True)
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
    folder = home / f"{STAGING}{token()}"
    make_folder(folder)
    try:
        yield folder
    finally:
        remove_tree(folder)


def publish(stage: Path, model: Model, home: Path) -> Path:
    """Make a staging folder the folder of a model, in the place of an unfinished one.

    Raises:
        CacheError: the model is complete there already, or is being downloaded.
    """
    folder = home / model.place
    check_place(home, folder, model)
    make_folder(folder.parent)
    if folder.is_dir():
        with exclusive(folder, home):
            if is_complete(model, folder):
                raise CacheError(f"{model.name} is already complete in {folder}; to replace it, remove it first")
            _discard(folder, home)
    try:
        os.rename(stage, folder)
    except OSError as error:
        raise CacheError(f"cannot put {model.name} into {folder}: {error.strerror or error}; try again") from error
    with contextlib.suppress(OSError):
        sync_folder(folder.parent)
    return folder


@contextlib.contextmanager
def exclusive(folder: Path, home: Path) -> Iterator[None]:
    """Hold every lock that downloads into `folder` have made, as far as the file system has locks.

    Raises:
        Busy: one is held by somebody else.
    """
    import filelock  # asyncio is among what it loads

    with contextlib.ExitStack() as held:
        for path in sorted(locks_of(folder, home).rglob("*.lock")):
            try:
                held.enter_context(filelock.FileLock(str(path), timeout=0))
            except filelock.Timeout:
                raise Busy(f"{folder} is being downloaded; wait for that, or stop it, and try again") from None
            except (OSError, NotImplementedError):
                continue
        yield


def _folders(parent: Path) -> list[Path]:
    """Folders in `parent`, without links and hidden ones."""
    with reading(parent), contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
        shown = (entry for entry in entries if not entry.name.startswith("."))
        return [Path(entry.path) for entry in shown if entry.is_dir(follow_symlinks=False)]
    return []


def _look(place: str, folder: Path) -> Cached:
    size, newest = 0, 0.0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # a download renamed it
                status = os.lstat(os.path.join(parent, name))
                if stat.S_ISREG(status.st_mode):
                    size, newest = size + status.st_size, max(newest, status.st_mtime)
    try:
        return Cached(place, folder, size, (folder / MARKER).stat().st_mtime, True)
    except OSError:
        return Cached(place, folder, size, newest or None, False)


def _discard(folder: Path, home: Path) -> None:
    """Take a model's folder away by one rename, then delete it at leisure."""
    trash = home / f"{TRASH}{token()}"
    try:
        os.rename(folder, trash)
    except OSError as error:
        raise CacheError(f"cannot remove {folder}: {error.strerror or error}; nothing was removed") from error
    remove_tree(trash)


def _sweep(home: Path, dry_run: bool) -> int:
    """Delete what removals and imports left behind that did not come to their end; its bytes."""
    size = 0
    with contextlib.suppress(OSError):
        for path in list(home.iterdir()):
            abandoned = path.name.startswith(STAGING) and time.time() - path.lstat().st_mtime > _ABANDONED
            if (path.name.startswith(TRASH) or abandoned) and not path.is_symlink():
                size += _look(path.name, path).size
                if not dry_run:
                    remove_tree(path)
    return size
