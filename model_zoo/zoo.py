"""From a name to a folder: download what is missing, or nothing at all."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_zoo import cache, settings
from model_zoo.errors import MissingFolderError, NotCachedError
from model_zoo.hub import Hub
from model_zoo.registry import File, Model, find
from model_zoo.settings import PathLike


def download(
    name: str,
    *,
    cache_dir: PathLike | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
    progress: bool | None = None,
) -> Path:
    """The local folder of a model, downloaded first where it is not there yet.

    A model that is built in or completely cached is answered without opening a socket. Each file appears under its
    name only when it is whole and verified; an interrupted download goes on where it was when it is called again.

    Args:
        name: name or alias of a model, such as `CompVis/ldm-super-resolution-4x-openimages`.
        cache_dir: folder that holds the models, instead of MODEL_ZOO_HOME.
        endpoint: base address, instead of MODEL_ZOO_ENDPOINT.
        local_files_only: raise instead of using the network, as MODEL_ZOO_OFFLINE does.
        progress: show a progress bar on stderr; None shows it where stderr is a terminal.

    Returns:
        The folder, absolute.

    Raises:
        UnknownModelError: no such model; names the nearest ones.
        NotCachedError: files are missing and downloads are off.
        DownloadError: a file could not be had, or was not the one that the catalogue describes.
        CacheError: the cache could not be written.
        SettingsError: the endpoint or the cache folder is no such thing.
    """
    model = find(name)
    if model.folder is not None:
        return model.folder
    folder = cache.model_folder(model, cache_dir)
    if cache.is_complete(model, folder):
        return folder
    missing = cache.missing_files(model, folder)
    hashes: dict[str, str] = {}
    if missing:
        if local_files_only or settings.offline():
            raise _not_cached(model, folder, missing, local_files_only)
        hashes = _fetch(model, folder, missing, settings.endpoint(endpoint), progress)
    cache.mark_complete(model, folder, hashes)
    return folder


def resolve(
    name_or_path: PathLike,
    *,
    cache_dir: PathLike | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
    progress: bool | None = None,
) -> Path:
    """The folder that a user means: a path as it is, or a name through `download`, which explains the options.

    A path is a `pathlib.Path` or the like, a text that starts with `./`, `../`, `/`, `~` or a drive letter or holds a
    backslash, or the name of an existing folder. It never touches the network.

    Raises:
        MissingFolderError: a path at which there is no folder.
        ModelZooError: whatever `download` raises.
    """
    if isinstance(name_or_path, str) and not _looks_like_path(name_or_path):
        return download(
            name_or_path,
            cache_dir=cache_dir,
            endpoint=endpoint,
            local_files_only=local_files_only,
            progress=progress,
        )
    folder = Path(os.path.expanduser(name_or_path))
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.isfile(folder) else "does not exist"
        raise MissingFolderError(
            f"{folder} {what}; give the folder of a saved model, or a name of the zoo (`model-zoo list`)"
        )
    return folder


def _looks_like_path(text: str) -> bool:
    marked = text.startswith(("./", "../", "/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text) is not None
    return marked or os.path.isdir(text)


def _not_cached(model: Model, folder: Path, missing: Sequence[File], local_files_only: bool) -> NotCachedError:
    switch = "local_files_only" if local_files_only else "MODEL_ZOO_OFFLINE"
    named = ", ".join(file.path for file in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return NotCachedError(
        f"{model.name} is not complete in {folder} and {switch} keeps the network closed: {named}{more} missing;"
        f" run `model-zoo download {model.name}` with a connection, or put the files there"
    )


def _fetch(model: Model, folder: Path, files: Sequence[File], endpoint: str, progress: bool | None) -> dict[str, str]:
    """Download `files` one after the other under one progress bar; their sha256 by path."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # here, since only a download needs it

    shown = sys.stderr is not None and sys.stderr.isatty() if progress is None else progress
    total = sum(file.nominal_size or 0 for file in files)
    bar = tqdm(total=total, desc=model.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not shown)
    hashes = {}
    with bar, Hub(endpoint) as hub:
        for file in files:
            on_length = functools.partial(_correct_total, bar, file)
            hashes[file.path] = hub.fetch(model.name, file, folder / file.path, bar.update, on_length)
    return hashes


def _correct_total(bar: Any, file: File, length: int) -> None:
    """The catalogue may only know a rounded size, or none."""
    bar.total += length - (file.nominal_size or 0)
    bar.refresh()
