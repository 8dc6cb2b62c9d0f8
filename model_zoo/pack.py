"""A saved pipeline becomes an entry of a zoo: its manifest, and a folder that any static web server can publish.

<zoo>/index.json              what MODEL_ZOO_REGISTRY names, on disk or at its address
<zoo>/<owner>/<name>.json     the manifest
<zoo>/<owner>/<name>/...      the files
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model_zoo import cache
from model_zoo.disk import files_in, remove_tree, token, write_text
from model_zoo.errors import CacheError, ManifestError, SourceError
from model_zoo.formats.scan import complaint
from model_zoo.manifest import BUILTIN_MANIFEST, MANIFESTS, SCHEMA, parse, read_json, read_manifest
from model_zoo.registry import find, list_models
from model_zoo.settings import PathLike

INDEX = "index.json"
PIPELINE_INDEX = "model_index.json"

# What a pipeline is saved as. A pickle is none of it: whoever opens it with another program runs what it says.
PLAIN_KINDS = (".json", ".md", ".safetensors", ".txt", ".yaml", ".png", ".jpg", ".jpeg", ".webp")
PLAIN_NAMES = ("LICENSE", "LICENCE", "NOTICE", "README")


def describe(
    folder: PathLike,
    *,
    name: str,
    licence: str,
    origin: str,
    task: str | None = None,
    paper: str | None = None,
    description: str = "",
    base_url: str | None = None,
    every_kind: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a saved pipeline as a JSON object, with the size and sha256 of every file.

    Args:
        folder: what `save_pretrained` wrote; its `model_index.json` names the pipeline.
        name: `owner/name` of the model.
        licence: SPDX identifier of the licence of the weights.
        origin: where the weights come from, an address or a sentence.
        task: None takes that of the models of the same pipeline in the catalogue.
        paper, description: as in `Model`.
        base_url: address under which `<name>/<file>` will lie, if it is not the manifest's own place.
        every_kind: take files of other kinds too, pickles such as `.pdparams` included.

    Returns:
        The manifest, and the hidden files that it leaves out.

    Raises:
        SourceError: no saved pipeline, or it holds links or files of other kinds.
        ManifestError: a name, address or text that manifests refuse.
    """
    root = Path(os.path.abspath(os.path.expanduser(folder)))
    pipeline = _pipeline(root)
    files, hidden, odd = [], [], []
    for path in _files(root):
        relative = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in relative.split("/")):
            hidden.append(relative)
        elif not every_kind and path.suffix.lower() not in PLAIN_KINDS and path.name not in PLAIN_NAMES:
            odd.append(relative)
        else:
            files.append(path)
    if odd:
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise SourceError(
            f"{root} holds {', '.join(odd[:5])}{more}: neither configuration, text, picture nor safetensors. Remove"
            " them (save_pretrained writes safetensors), or pack them too with --every-kind"
        )
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "task": task or _task(pipeline),
        "pipeline": pipeline,
        "licence": licence,
        "origin": origin,
        "paper": paper,
        "aliases": [],
        "description": description,
        **({"base_url": base_url.rstrip("/")} if base_url else {}),
        "files": [],
    }
    parse({**manifest, "files": [{"path": path.relative_to(root).as_posix()} for path in files]})  # before the hashing
    manifest["files"] = [_described(root, path.relative_to(root).as_posix()) for path in files]
    return manifest, hidden


def pin(name: str, folder: PathLike, output: PathLike | None = None) -> Path:
    """Write the sizes and hashes of a model's files, which lie in `folder`, into its manifest; the manifest.

    Args:
        name: name or alias of a model of the catalogue.
        folder: its files, as they lie under its name in the zoo.
        output: where to write the manifest; None writes it in its place.

    Raises:
        SourceError: a file is missing, or is not what the manifest knows of it.
        CacheError: the manifest cannot be written, or is no file of this machine.
    """
    model, root = find(name), Path(os.path.abspath(os.path.expanduser(folder)))
    if model.file is None:
        raise CacheError(
            f"the manifest of {model.name} is no file of its own on this machine; pin it where it is published"
        )
    builtin = model.file.name == BUILTIN_MANIFEST
    values = read_json(model.file)
    paths = [file.path for file in model.files]
    if builtin:  # its files are what lies in its folder
        shown = (path.relative_to(root).as_posix() for path in _files(root))
        paths = [path for path in shown if not path.startswith(".") and "/." not in path and path != BUILTIN_MANIFEST]
    older = {item["path"]: item for item in values["files"]}
    pinned = []
    for path in paths:
        if not (root / path).is_file():
            raise SourceError(f"{root} has no {path} of {model.name}; give the folder that holds its files")
        described = _described(root, path)
        known = next((file for file in model.files if file.path == path), None)
        if known is not None and not builtin:
            wrong = known.mismatch(described["size"], described["sha256"]) or complaint(root / path)
            if wrong:
                raise SourceError(f"{root / path} {wrong}: it is another file")
        kept = {key: value for key, value in older.get(path, {}).items() if key != "approximate_size"}
        pinned.append({**kept, **described})
    target = Path(output) if output is not None else model.file
    try:
        write_text(target, _json({**values, "files": pinned}))
    except OSError as error:
        raise CacheError(f"cannot write {target}: {error.strerror or error}; say -o FILE") from error
    return target


def publish(folder: PathLike, manifest: dict[str, Any], zoo: PathLike) -> Path:
    """Put a described model into a zoo folder, in place of an older one of its name; the zoo's index.

    The files come first and the index last, so that a server that is asked meanwhile never promises what is not there.

    Raises:
        SourceError: a file has changed since it was described.
        CacheError: the zoo cannot be written.
    """
    root, target = (Path(os.path.abspath(os.path.expanduser(path))) for path in (folder, zoo))
    place = target / manifest["name"]
    if root in (place, *place.parents) or place in root.parents:
        raise SourceError(f"{root} and {place} lie in one another; choose another output folder with -o")
    stage, older = (target / f".{kind}-{token()}" for kind in ("staging", "older"))
    try:
        for file in manifest["files"]:
            copy = stage / file["path"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file["path"], copy)
            if copy.stat().st_size != file["size"] or cache.hash_file(copy) != file["sha256"]:
                raise SourceError(f"{root / file['path']} changed while it was packed; pack it again")
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            os.rename(place, older)
        try:
            os.rename(stage, place)
        except OSError:
            if older.exists():
                os.rename(older, place)
            raise
        write_text(place.with_name(f"{place.name}.json"), _json(manifest))
        models = []
        for file in sorted(target.glob(MANIFESTS)):
            try:
                read_manifest(file)
            except ManifestError as error:
                warnings.warn(f"left out of {target / INDEX}: {error}", stacklevel=2)
            else:
                models.append(read_json(file))
        write_text(target / INDEX, _json({"schema": SCHEMA, "models": models}))
    except OSError as error:
        raise CacheError(f"cannot write to {target}: {error}; free or repair that place, or choose another") from error
    finally:
        remove_tree(stage)
    remove_tree(older)
    return target / INDEX


def _pipeline(root: Path) -> str:
    """The class that `model_index.json` names; all of its components must be there."""
    if not (root / PIPELINE_INDEX).is_file():
        raise SourceError(f"{root} has no {PIPELINE_INDEX}; give the folder that save_pretrained of a pipeline wrote")
    index = read_json(root / PIPELINE_INDEX)
    pipeline = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(pipeline, str) or not pipeline.isidentifier():
        raise SourceError(f"{root / PIPELINE_INDEX} names no pipeline as _class_name; save the pipeline again")
    for key, value in index.items():
        present = isinstance(value, list) and any(part is not None for part in value)
        if not key.startswith("_") and present and not (root / key).is_dir():
            raise SourceError(f"{root / PIPELINE_INDEX} names {key!r}, but there is no such folder beside it")
    return pipeline


def _task(pipeline: str) -> str:
    tasks = {model.pipeline: model.task for model in list_models()}
    if pipeline not in tasks:
        known = ", ".join(sorted(set(tasks.values())))
        raise SourceError(f"no model of the catalogue is run by {pipeline}; say the task with --task, such as {known}")
    return tasks[pipeline]


def _files(root: Path) -> Iterator[Path]:
    for path, plain in files_in(root):
        if not plain:
            raise SourceError(f"{path} is a link or device; put a plain file there")
        yield path


def _described(root: Path, path: str) -> dict[str, Any]:
    file = root / path
    return {"path": path, "size": file.stat().st_size, "sha256": cache.hash_file(file)}


def _json(values: dict[str, Any]) -> str:
    """As the catalogue is written: a line for each file."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return re.sub(r"\{\s+(\"path\": [^{}]*?)\s+\}", lambda m: "{" + re.sub(r",\s+", ", ", m[1]) + "}", text) + "\n"
