"""Models that came by hand: a folder or archive becomes a complete model of the cache, or nothing at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from model_zoo import cache, settings
from model_zoo.archives import BLOCK, explained, members
from model_zoo.errors import CacheError, SourceError
from model_zoo.formats import scan as checks
from model_zoo.maintenance import publish, staging
from model_zoo.manifest import File, Model
from model_zoo.registry import find, list_models
from model_zoo.settings import PathLike
from model_zoo.sharing import make_folder, share

# A file of which the manifest knows no size at all may have this many bytes; one of which it knows a rounded size,
# twice that size and a mebibyte.
MOST_UNKNOWN = 1 << 30


def import_model(source: PathLike, name: str | None = None, *, cache_dir: PathLike | None = None) -> Path:
    """Put the files of a folder, zip, tar or tar.gz into the cache as a model; its folder there.

    The files may lie at any depth, as they lie under the model's name in the zoo. All of them must be there, with the
    sizes and hashes that the manifest knows. Others are left out.

    Args:
        source: where they are.
        name: name or alias of the model; None finds it by `<owner>/<name>` in the paths.
        cache_dir: folder that holds the models, instead of MODEL_ZOO_HOME.

    Raises:
        SourceError: files are missing or not those of the manifest, or the archive cannot be trusted.
        UnknownModelError: the catalogue has no such model.
        CacheError: the model is there already, or the cache cannot be written.
    """
    path = Path(os.path.abspath(os.path.expanduser(source)))
    with explained(path):
        found = [member for member, _ in members(path)]
    model = _recognise(path, found) if name is None else find(name)
    if model.folder is not None or not model.files:
        state = f"lies in {model.folder}" if model.folder else "has no files in the zoo"
        raise SourceError(f"{model.name} {state}: there is nothing to import")
    root = _root(path, model, found)
    home = settings.home(cache_dir)
    folder = home / model.place
    cache.check_place(home, folder, model)
    cache.check_space(home, model.nominal_size or 0, cache.SPARE)
    if cache.is_complete(model, folder):
        raise CacheError(f"{model.name} is already complete in {folder}; to replace it, remove it first")
    try:
        with staging(home) as stage, explained(path):
            hashes = _copy_all(path, model, root, stage)
            cache.mark_complete(model, stage, hashes)
            return publish(stage, model, home)
    except OSError as error:
        raise CacheError(
            f"cannot import into {home}: {error}; free or repair that place, or choose another with MODEL_ZOO_HOME"
        ) from error


def _recognise(source: Path, found: Iterable[str]) -> Model:
    """The one model whose name is in the paths, or ends the path of the source."""
    stem = source.name.split(".")[0] if source.is_file() else source.name
    names = {"/".join(pair) for path in found for parts in [path.split("/")] for pair in zip(parts, parts[1:-1])}
    names.add(f"{source.parent.name}/{stem}")
    models = [model for model in list_models() if names & {model.name, *model.aliases}]
    if len(models) == 1:
        return models[0]
    said = f"has {' and '.join(model.name for model in models)}" if models else "does not say which model it is"
    raise SourceError(f"{source} {said}; say it with --name owner/name")


def _root(source: Path, model: Model, found: Iterable[str]) -> str:
    """What comes before the paths of the manifest: nothing, or folders and a slash."""
    there = set(found)
    lead = model.files[0].path
    roots = [path[: -len(lead)] for path in there if path == lead or path.endswith("/" + lead)]
    complete = [root for root in roots if all(root + file.path in there for file in model.files)]
    if len(complete) == 1:
        return complete[0]
    if complete:
        raise SourceError(f"{source} has {model.name} in {' and in '.join(sorted(complete))}; give one of them")
    nearest = max(roots, key=lambda root: sum(root + file.path in there for file in model.files), default="")
    missing = [file.path for file in model.files if nearest + file.path not in there]
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    raise SourceError(
        f"{source} lacks {', '.join(missing[:5])}{more} of {model.name} (links do not count); add them and import again"
    )


def _copy_all(source: Path, model: Model, root: str, stage: Path) -> dict[str, str]:
    """Copy the files of the manifest; their sha256 by path."""
    wanted = {root + file.path: file for file in model.files}
    hashes: dict[str, str] = {}
    for path, open_member in members(source):
        file = wanted.get(path)
        if file is None:
            continue
        if file.path in hashes:
            raise SourceError(f"{source} holds {path} twice: refused")
        target = stage / file.path
        make_folder(target.parent)
        what = f"{path} of {source}"
        with open_member() as stream:
            hashes[file.path] = _copy(stream, target, file, what)
        if file.sha256 is None and (complaint := checks.complaint(target)):
            raise SourceError(f"{what} {complaint}; carry it here again")
    return hashes


def _copy(stream: IO[bytes], target: Path, file: File, what: str) -> str:
    limit = MOST_UNKNOWN
    if file.size is not None:
        limit = file.size
    elif file.approximate_size is not None:
        limit = 2 * file.approximate_size + (1 << 20)
    digest, size = hashlib.sha256(), 0
    with open(target, "xb") as copy:
        while block := stream.read(BLOCK):
            size += len(block)
            if size > limit:
                break
            digest.update(block)
            copy.write(block)
        copy.flush()
        cache.sync(copy.fileno())  # before the marker vouches for it
    share(target)
    if size > limit or file.size not in (None, size):
        expected = f"{file.size:,}" if file.size is not None else f"at most {limit:,}"
        raise SourceError(f"{what} has {'more' if size > limit else f'{size:,}'} bytes, not {expected} as catalogued")
    if file.sha256 not in (None, digest.hexdigest()):
        raise SourceError(f"{what} has the sha256 {digest.hexdigest()}, not {file.sha256} as catalogued")
    return digest.hexdigest()
