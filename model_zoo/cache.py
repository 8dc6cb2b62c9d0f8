"""Where downloaded models lie, and whether they are complete.

Layout: `<MODEL_ZOO_HOME>/<owner>/<name>/<files as published>`, and beside them `.complete`, written last:
`{"model": name, "files": [{"path", "size", "sha256"}, ...]}`, the files as they were when they were verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from model_zoo import settings
from model_zoo.errors import CacheError, ManifestError
from model_zoo.registry import File, Model
from model_zoo.settings import PathLike

MARKER = ".complete"
_HASH_BLOCK = 1 << 20


def model_folder(model: Model, cache_dir: PathLike | None = None) -> Path:
    """Folder of a downloaded model in `cache_dir`, or in the cache folder of the settings; it need not exist."""
    return settings.home(cache_dir) / model.name


def missing_files(model: Model, folder: Path) -> tuple[File, ...]:
    """Files that are absent, or are not what the catalogue and the marker say.

    A file gets its name only after it has been verified, so one that is there before the marker is may be kept.
    """
    recorded = _read_marker(folder)
    return tuple(file for file in model.files if not _is_there(file, folder / file.path, recorded.get(file.path)))


def is_complete(model: Model, folder: Path) -> bool:
    """Whether the marker vouches for every file of the model and none has gone since."""
    recorded = _read_marker(folder)
    return all(file.path in recorded for file in model.files) and not missing_files(model, folder)


def mark_complete(model: Model, folder: Path, hashes: Mapping[str, str]) -> None:
    """Write the marker. `hashes` has the sha256 of files by path, as far as known; the others are read again.

    Raises:
        CacheError: a file cannot be read or the marker not be written.
    """
    part = folder / f"{MARKER}.{secrets.token_hex(8)}.tmp"
    try:
        files = [
            {
                "path": file.path,
                "size": (folder / file.path).stat().st_size,
                "sha256": hashes.get(file.path) or hash_file(folder / file.path),
            }
            for file in model.files
        ]
        part.write_text(json.dumps({"model": model.name, "files": files}, indent=2) + "\n", encoding="utf-8")
        os.replace(part, folder / MARKER)
    except OSError as error:
        raise CacheError(
            f"cannot finish {folder}: {error.strerror or error}; repair that place, or choose another folder with"
            " MODEL_ZOO_HOME"
        ) from error


def hash_file(path: Path) -> str:
    """sha256 of a file, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_there(file: File, path: Path, recorded: File | None) -> bool:
    if not path.is_file():
        return False
    size = path.stat().st_size
    if size != (size if file.size is None else file.size):
        return False
    if recorded is None:
        return file.sha256 is None or hash_file(path) == file.sha256
    return size == recorded.size and file.sha256 in (None, recorded.sha256)


def _read_marker(folder: Path) -> dict[str, File]:
    """Files by path; empty where there is no marker, or none that can be read."""
    try:
        values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files = [File(item["path"], item["size"], item["sha256"]) for item in values["files"]]
    except (OSError, ValueError, LookupError, TypeError, ManifestError):
        return {}  # absent or damaged: the files are checked on their own, and the marker is written again
    return {file.path: file for file in files}
