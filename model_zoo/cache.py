"""Where downloaded models lie, and whether they are complete.

Layout of MODEL_ZOO_HOME:

- `<owner>/<name>/<files as published>`; a file gets its name only when it is whole and verified.
- `<owner>/<name>/.complete`, written last: `{"model": name, "files": [{"path", "size", "sha256", "source"}, ...]}`, the
  files as they were when they were verified, and what the server said of them. It vouches for the model.
- `.<file>.record.json` beside a file: the same of one file, until the marker holds it.
- `.<file>.<8 hex digits>.part` and `.part.json`: the bytes so far of a file on its way, and which version they are of.
- `.locks/<owner>/<name>/<file>.lock`: empty files that downloads lock.
- `.registries/<hash>.json`: what the addresses of MODEL_ZOO_REGISTRY last said.
- `.staging-*` and `.trash-*`: models on their way in from an archive, and out; `model-zoo prune` removes stray ones.

When a model was last used is the time of change of its marker. Where others than its owner may write to the cache,
they may write to all of it: see `sharing`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_zoo import digests, settings
from model_zoo.errors import CacheError, ManifestError
from model_zoo.formats import scan as checks
from model_zoo.registry import File, Model
from model_zoo.settings import PathLike
from model_zoo.sharing import share
from model_zoo.source import Source

MARKER = ".complete"
LOCKS = ".locks"
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ManifestError)
SPARE = 32 << 20  # bytes that a download leaves free


@dataclasses.dataclass(frozen=True)
class Record:
    """A file as it was when it was verified, and what the server said of it, as far as it said anything."""

    path: str
    size: int
    sha256: str
    source: Source | None = None

    def __post_init__(self) -> None:
        File(self.path, self.size, self.sha256)  # the checks of a manifest's values

    @classmethod
    def load(cls, values: Any) -> Record:
        """From what `dump` gave.

        Raises:
            ValueError, LookupError, TypeError, ManifestError: it did not give that.
        """
        source = values.get("source")
        return cls(values["path"], values["size"], values["sha256"], source and Source.load(source))

    def dump(self) -> dict[str, Any]:
        values: dict[str, Any] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        return {**values, "source": self.source.dump()} if self.source else values


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


def trusted_hash(folder: Path, file: File) -> str | None:
    """The sha256 that a download of the file must have: the catalogue's, else that of its first download here."""
    known = records(folder, [file]).get(file.path)
    return file.sha256 or (known.sha256 if known else None)


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
        entries = [Record.load(item) for item in values["files"]]
    except _DAMAGED:
        return {}  # the files are checked on their own, and the marker is written again
    return {record.path: record for record in entries}


def write_record(destination: Path, record: Record) -> None:
    """Record a file that is about to appear at `destination`.

    Raises:
        CacheError: it cannot be written.
    """
    with writing(destination):
        write_text(_record_file(destination), json.dumps(record.dump()))


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
            if known is None or known.size != size or digest not in (None, known.sha256):
                known = Record(file.path, size, digest or hash_file(folder / file.path))
            entries.append(known.dump())
    text = json.dumps({"model": model.name, "files": entries}, indent=2)
    with writing(folder / MARKER):
        write_text(folder / MARKER, text + "\n", durable=True)
    for file in model.files:
        with contextlib.suppress(OSError):
            _record_file(folder / file.path).unlink()


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


def locks_of(folder: Path) -> Path:
    """Where the lock files of a model's folder are; not in it, since that holds what was published."""
    return folder.parent.parent / LOCKS / folder.parent.name / folder.name


def check_place(home: Path, folder: Path, model: Model) -> None:
    """See that a download of the model writes into the cache and into no other model's folder.

    Raises:
        CacheError: a link leads out of the cache, or only upper and lower case tell the folder from another's.
    """
    inside = os.path.join(os.path.realpath(home), "")
    for place in (parent / file.path for parent in (folder, locks_of(folder)) for file in model.files):
        real = os.path.realpath(place.parent)
        if not os.path.join(real, "").startswith(inside):
            raise CacheError(
                f"{place.parent} leads out of the cache to {real}: refused; remove that link, or set MODEL_ZOO_HOME"
                " to the folder that shall hold the models"
            )
    for place in (folder.parent, folder):
        with contextlib.suppress(FileNotFoundError), writing(place, errno.ENOENT):
            names = os.listdir(place.parent)
            same = [name for name in names if name.lower() == place.name.lower()]
            if same and place.name not in same and place.exists():  # this file system has no case
                raise CacheError(
                    f"{place.parent / same[0]} is there, and this file system does not tell it from {place.name};"
                    " remove it, or choose another folder with MODEL_ZOO_HOME"
                )


def check_space(folder: Path, need: int, spare: int) -> None:
    """See that `need` bytes more fit into `folder`, which need not exist, and leave `spare` bytes free.

    Raises:
        CacheError: they do not.
    """
    import shutil  # loads every kind of compression

    place = next((place for place in (folder, *folder.parents) if os.path.isdir(place)), None)
    if place is None or need <= 0:
        return
    with writing(place):
        usage = shutil.disk_usage(place)
    if usage.total and usage.free < need + spare:  # some network file systems know neither
        raise CacheError(
            f"{place} has {usage.free / 1e6:,.0f} MB free, and {need / 1e6:,.0f} MB are still to come (with"
            f" {spare / 1e6:,.0f} MB to spare); free space there, or choose another folder with MODEL_ZOO_HOME"
        )


@contextlib.contextmanager
def writing(place: Path, *passed: int) -> Iterator[None]:
    """Turn what the operating system says about `place` into advice, but for the error numbers `passed`.

    Raises:
        CacheError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in passed:
            raise
        shown = str(place) if len(str(place)) <= 300 else f"{str(place)[:300]}..."
        raise CacheError(
            f"cannot write {shown}: {error.strerror or error}; free or repair that place, or choose another folder"
            " with MODEL_ZOO_HOME"
        ) from error


@contextlib.contextmanager
def reading(place: Path) -> Iterator[None]:
    """Turn what the operating system says about `place` into advice.

    Raises:
        CacheError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise CacheError(f"cannot read {place}: {error.strerror or error}; repair that place") from error


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a small file in one step: it is there whole, or as it was before.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.tmp")
    try:
        with open(part, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if durable:
                sync(stream.fileno())
        share(part)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def sync(descriptor: int) -> None:
    """Have a file's bytes on the disk before this returns, where the file system can promise that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk before this returns; Windows cannot be asked to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _is_there(file: File, path: Path, recorded: Record | None) -> bool:
    if not os.path.isfile(path):  # unlike Path.is_file, it takes a path that cannot be for one that is not
        return False
    size = os.path.getsize(path)
    if size != (size if file.size is None else file.size):
        return False
    if recorded is None:  # put there by hand, or its record is lost
        return checks.complaint(path) is None if file.sha256 is None else hash_file(path) == file.sha256
    return size == recorded.size and file.sha256 in (None, recorded.sha256)


def _record_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.record.json")
