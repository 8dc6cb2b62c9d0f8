"""From a name to a folder: download what is missing, or nothing at all."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_zoo import cache, settings
from model_zoo.errors import (
    CacheError,
    MissingFolderError,
    NotCachedError,
    NotConvertedError,
    RegistryError,
    SettingsError,
    UnknownModelError,
    public,
)
from model_zoo.manifest import File, Model
from model_zoo.registry import find, local_folder
from model_zoo.settings import PathLike


def download(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: PathLike | None = None,
    local_dir: PathLike | None = None,
    endpoint: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int | None = None,
    force: bool = False,
    local_files_only: bool = False,
    progress: bool | None = None,
) -> Path:
    """The local folder of a model, downloaded first where it is not there yet.

    A model that is built in or completely cached is answered without opening a socket. Each file appears under its
    name only when it is whole and verified; an interrupted download goes on where it was when it is called again.

    Args:
        name: name or alias of a model, such as `CompVis/ldm-super-resolution-4x-openimages`.
        revision: one of the model's revisions.
        cache_dir: folder that holds the models, instead of MODEL_ZOO_HOME.
        local_dir: folder that shall hold this model itself, instead of its place in the cache.
        endpoint: base address, or several between blanks or commas, instead of MODEL_ZOO_ENDPOINT.
        include, exclude: patterns such as `unet/*` of the files that are wanted, and of those that are not.
        jobs: how many files at once, instead of MODEL_ZOO_JOBS.
        force: fetch every file anew; those that are here stay until then.
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
        SettingsError: an argument or setting is no address, folder, number or pattern that fits.
        RegistryError: only an address of MODEL_ZOO_REGISTRY may know the name, and it could not or must not be asked.
    """
    try:
        model = find(name, revision=revision, local_files_only=local_files_only)
    except (UnknownModelError, RegistryError):  # whatever became of its registry, what is complete is here
        kept = None if force or local_dir else cache.kept(name, settings.home(cache_dir))
        if kept is None or revision is not None:
            raise
        return kept
    home, folder, local = places(model, cache_dir, local_dir)
    if local:
        return folder
    wanted = chosen(model, include, exclude)
    if not force and len(wanted) == len(model.files) and cache.is_complete(model, folder):
        cache.touch(folder)
        return folder
    missing = wanted if force else cache.missing_files(model, folder, wanted)
    if missing:
        if local_files_only or settings.offline():
            raise _not_cached(model, folder, missing)
        if "://" in (model.registry or ""):  # what was last read there may be of an older version
            model = find(model.name, revision=revision, refresh=True)
            wanted = chosen(model, include, exclude)
            missing = wanted if force else cache.missing_files(model, folder, wanted)
        from model_zoo.transfer import Download  # only this needs all that it imports

        with Download(model, home, folder, mirrors(model, endpoint), progress, force) as work:
            work.bring(missing, jobs or settings.jobs())
    with contextlib.nullcontext() if missing else contextlib.suppress(CacheError):  # or a cache that cannot be written
        if not cache.missing_files(model, folder):
            cache.check_place(home, folder, model)
            cache.mark_complete(model, folder)
    return folder


def plan(name: str, **options: Any) -> tuple[Model, Path, list[tuple[File, int]]]:
    """What `download` with the same arguments would fetch: the model, its folder, and files with their known bytes
    that are still to come."""
    from model_zoo.part import bytes_left  # only this needs it

    model = find(name, revision=options.get("revision"))
    _, folder, local = places(model, options.get("cache_dir"), options.get("local_dir"))
    if local:
        return model, folder, []
    wanted = chosen(model, options.get("include") or (), options.get("exclude") or ())
    missing = wanted if options.get("force") else cache.missing_files(model, folder, wanted)
    left = ((file, bytes_left(folder / file.path, file.sha256 is not None)) for file in missing)
    return model, folder, [(file, max(0, (file.nominal_size or 0) - size)) for file, size in left]


def resolve(name_or_path: PathLike, **options: Any) -> Path:
    """The folder that a user means: a path as it is, or a name through `download`, which explains the options.

    A path is a `pathlib.Path` or the like, a text that starts with `./`, `../`, `/`, `~` or a drive letter or holds a
    backslash, or the name of an existing folder. It never touches the network.

    Raises:
        MissingFolderError: a path at which there is no folder.
        ModelZooError: whatever `download` raises.
    """
    if isinstance(name_or_path, str) and not _looks_like_path(name_or_path):
        return download(name_or_path, **options)
    folder = Path(os.path.expanduser(name_or_path))
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.isfile(folder) else "does not exist"
        raise MissingFolderError(
            f"{folder} {what}; give the folder of a saved model, or a name of the zoo (`model-zoo list`)"
        )
    return folder


def places(model: Model, cache_dir: PathLike | None, local_dir: PathLike | None) -> tuple[Path, Path, bool]:
    """The folder that nothing is written out of, the model's own, and whether the files are there without a download.

    Raises:
        NotConvertedError: it has no files of its own yet.
    """
    local = local_folder(model)
    if local is not None and not local_dir:
        return local, local, True
    if not model.files and model.original is not None:
        raise _not_converted(model, model.original)
    home = settings.home(local_dir or cache_dir)
    return home, home if local_dir else home / model.place, False


def chosen(model: Model, include: Sequence[str], exclude: Sequence[str]) -> tuple[File, ...]:
    """The files that patterns pick.

    Raises:
        SettingsError: a pattern fits none, or nothing is left.
    """
    paths = [file.path for file in model.files]
    for pattern in (*include, *exclude):
        if not fnmatch.filter(paths, pattern):
            raise SettingsError(
                f"no file of {model.name} fits {pattern[:100]!r}; `model-zoo show {model.name}` lists them"
            )
    picked = {path for pattern in include or ("*",) for path in fnmatch.filter(paths, pattern)}
    picked -= {path for pattern in exclude for path in fnmatch.filter(paths, pattern)}
    if not picked:
        raise SettingsError(f"no file of {model.name} is left by --include and --exclude")
    return tuple(file for file in model.files if file.path in picked)


def mirrors(model: Model, override: str | None) -> tuple[list[str], str]:
    """Base addresses in the order in which they are tried, and what to do if none of them has a file."""
    if model.base_url is not None and override is None:
        return [model.base_url, *model.mirrors], f"try again later; {model.registry or 'the catalogue'} names no others"
    endpoints = [*settings.endpoints(override), *(() if override else model.mirrors)]
    shown = ", ".join(map(public, endpoints))
    return endpoints, f"try again later, or choose another mirror with MODEL_ZOO_ENDPOINT or --endpoint (now {shown})"


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


def _not_cached(model: Model, folder: Path, missing: Sequence[File]) -> NotCachedError:
    named = ", ".join(file.path for file in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    switch = "MODEL_ZOO_OFFLINE keeps the network closed" if settings.offline() else "downloads are off here"
    return NotCachedError(
        f"{model.name} is not complete in {folder} and {switch}: {named}{more} missing;"
        f" run `model-zoo download {model.name}` with a connection, or put the files there"
    )
