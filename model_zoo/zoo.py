"""From a name to a folder: download what is missing, or nothing at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_zoo import cache, settings
from model_zoo.addresses import public
from model_zoo.errors import CacheError, MissingFolderError, NotCachedError, NotConvertedError
from model_zoo.maintenance import touch
from model_zoo.registry import File, Model, find, local_folder
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
        endpoint: base address, or several between blanks or commas, instead of MODEL_ZOO_ENDPOINT.
        local_files_only: raise instead of using the network, as MODEL_ZOO_OFFLINE does.
        progress: show a progress bar on stderr; None shows it where stderr is a terminal.

    Returns:
        The folder, absolute.

    Raises:
        UnknownModelError: no such model; names the nearest ones.
        NotConvertedError: the model exists only as an original checkpoint; says how to convert it.
        NotCachedError: files are missing and downloads are off.
        DownloadError: a file could not be had, or was not the one that the catalogue describes.
        CacheError: the cache could not be written.
        SettingsError: the endpoint or the cache folder is no such thing.
        RegistryError: only an address of MODEL_ZOO_REGISTRY may know the name, and it could not or must not be asked.
    """
    model = find(name, local_files_only=local_files_only)
    local = local_folder(model)
    if local is not None:
        return local
    if model.original is not None and not model.files:
        raise _not_converted(model, model.original)
    folder = cache.model_folder(model, cache_dir)
    if cache.is_complete(model, folder):
        touch(folder)
        return folder
    missing = cache.missing_files(model, folder)
    if not missing:
        with contextlib.suppress(CacheError):  # all is there, in a cache that cannot be written
            cache.check_place(folder.parent.parent, folder, model)
            cache.mark_complete(model, folder)
        return folder
    if local_files_only or settings.offline():
        raise _not_cached(model, folder, missing, local_files_only)
    if "://" in (model.registry or ""):  # what was last read there may be of an older version
        model = find(model.name, refresh=True)
        missing = cache.missing_files(model, folder)
    from model_zoo.fetch import fetch  # only a download needs all that it imports

    endpoints, advice = mirrors(model, endpoint)
    fetch(model, folder, missing, endpoints, advice, settings.jobs(), progress)
    cache.mark_complete(model, folder)
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


def mirrors(model: Model, override: str | None) -> tuple[tuple[str, ...], str]:
    """Base addresses in the order in which they are tried, and what to do if none of them has a file."""
    if model.base_url is not None and override is None:
        return (model.base_url, *model.mirrors), f"try again later; {model.registry or 'the catalogue'} names no others"
    endpoints = (*settings.endpoints(override), *(() if override else model.mirrors))
    shown = ", ".join(public(address) for address in endpoints)
    return endpoints, f"try again later, or set MODEL_ZOO_ENDPOINT (now {shown}) to another mirror"


def _looks_like_path(text: str) -> bool:
    marked = text.startswith(("./", "../", "/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text) is not None
    return marked or os.path.isdir(text)


def _not_converted(model: Model, original: Mapping[str, Any]) -> NotConvertedError:
    checkpoint, member = original["checkpoint"], original.get("member")
    fetch = f"fetch {checkpoint}" + (f" and unpack its {member}" if member else "")
    file = member or checkpoint.rpartition("/")[2]
    return NotConvertedError(
        f"{model.name} is published only as an original checkpoint: {fetch}, run `ppdiffusers convert {file} FOLDER"
        f" --model {model.name}`, and load FOLDER"
    )


def _not_cached(model: Model, folder: Path, missing: Sequence[File], local_files_only: bool) -> NotCachedError:
    switch = "local_files_only" if local_files_only else "MODEL_ZOO_OFFLINE"
    named = ", ".join(file.path for file in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return NotCachedError(
        f"{model.name} is not complete in {folder} and {switch} keeps the network closed: {named}{more} missing;"
        f" run `model-zoo download {model.name}` with a connection, or put the files there"
    )
