"""The catalogue: which models exist and which files each one has.

One manifest a model: `community/<owner>/<name>.json` for models that are downloaded,
`builtin/<owner>/<name>/model.json` for those whose files lie beside it. Adding a model is adding a file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_zoo.errors import ManifestError, UnknownModelError, UnknownTaskError

COMMUNITY = Path(__file__).parent / "community"
BUILTIN = Path(__file__).parent / "builtin"
BUILTIN_MANIFEST = "model.json"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# No leading dot: neither `..`, nor a clash with the marker and part files of the cache.
_PATH = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a model.

    Attributes:
        path: relative to the model's folder, with forward slashes.
        size: exact bytes, where known; a download of another size is refused.
        sha256: lower-case hexadecimal, where known; a download with another hash is refused.
        approximate_size: bytes, where only a rounded or estimated size is known; for display only.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    approximate_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not _PATH.fullmatch(self.path):
            raise ManifestError(
                f"file path {self.path!r} is refused: give a relative path of letters, digits and ._+- with forward"
                " slashes, without '..' and without leading dots"
            )
        for key in ("size", "approximate_size"):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < 0):
                raise ManifestError(f"{key} of {self.path} is {value!r}; give a whole number of bytes or null")
        if self.sha256 is not None and not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ManifestError(f"sha256 of {self.path} is {self.sha256!r}; give 64 lower-case hex digits or null")

    @property
    def nominal_size(self) -> int | None:
        """The best known size in bytes, exact or not."""
        return self.approximate_size if self.size is None else self.size


@dataclasses.dataclass(frozen=True)
class Model:
    """One entry of the catalogue.

    Attributes:
        name: `owner/name`, the address under the endpoint and in the cache.
        task: what it does, such as `super-resolution`.
        pipeline: name of the pipeline class that runs it.
        licence: SPDX identifier of the weights.
        origin: where the weights come from, an address or a sentence.
        paper: address of the paper.
        files: what the folder of the model holds.
        aliases: other accepted names.
        description: one sentence.
        note: what a user should know about this entry itself, such as sizes that are estimates.
        folder: where the files lie if the model is built into this package, else None.
    """

    name: str
    task: str
    pipeline: str
    licence: str
    origin: str
    paper: str | None
    files: tuple[File, ...]
    aliases: tuple[str, ...] = ()
    description: str = ""
    note: str | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ManifestError(f"model name {name!r} is refused: give owner/name of letters, digits and ._-")
        for key in ("task", "pipeline", "licence", "origin"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value:
                raise ManifestError(f"{key} of {self.name} is {value!r}; give a text")
        for key in ("paper", "description", "note"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str):
                raise ManifestError(f"{key} of {self.name} is {value!r}; give a text or leave it out")
        paths = [file.path.lower() for file in self.files]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ManifestError(f"{self.name} lists {', '.join(twice)} twice (upper and lower case count as one)")

    @property
    def nominal_size(self) -> int | None:
        """Bytes of all files whose size is known, exactly or not; None if none is."""
        sizes = [file.nominal_size for file in self.files if file.nominal_size is not None]
        return sum(sizes) if sizes else None

    @property
    def size_is_exact(self) -> bool:
        return all(file.size is not None for file in self.files)


def list_models(task: str | None = None) -> list[Model]:
    """All models by name, or those of one task.

    Raises:
        UnknownTaskError: no model has this task.
    """
    models = list(catalogue().values())
    if task is None:
        return models
    chosen = [model for model in models if model.task == task]
    if not chosen:
        tasks = ", ".join(sorted({model.task for model in models}))
        raise UnknownTaskError(f"no model has the task {task!r}; the tasks are {tasks}")
    return chosen


def find(name: str) -> Model:
    """The model of this name or alias.

    Raises:
        UnknownModelError: no such model; names the nearest ones.
    """
    models = catalogue()
    if name in models:
        return models[name]
    for model in models.values():
        if name in model.aliases:
            return model
    raise UnknownModelError(name, _nearest(name, models.values()))


def _nearest(name: str, models: Any) -> list[str]:
    import difflib  # only a wrong name needs it

    # A user may mistype the whole name, or know only its last part.
    spellings: dict[str, str] = {}
    for model in models:
        for accepted in (model.name, *model.aliases):
            spellings[accepted.lower()] = accepted
            spellings[accepted.lower().rsplit("/", 1)[-1]] = accepted
    wanted = name.lower()[:200]  # difflib is quadratic
    close = []
    for query in (wanted, wanted.rsplit("/", 1)[-1]):
        close += [spellings[match] for match in difflib.get_close_matches(query, spellings, n=3)]
    return list(dict.fromkeys(close))[:3]


def catalogue() -> dict[str, Model]:
    """All models of this package by name, in the order of the names.

    Raises:
        ManifestError: a manifest breaks the schema, or two models claim one name.
    """
    models = [read_manifest(file) for file in COMMUNITY.glob("*/*.json")]
    # A folder without a manifest is no model (yet).
    models += [read_builtin(file.parent) for file in BUILTIN.glob(f"*/*/{BUILTIN_MANIFEST}")]
    claimed: dict[str, str] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if name in claimed:
                raise ManifestError(f"{claimed[name]} and {model.name} both claim the name {name}; rename one")
            claimed[name] = model.name
    return {model.name: model for model in sorted(models, key=lambda model: model.name.lower())}


def read_manifest(file: Path) -> Model:
    """The model that `<owner>/<name>.json` describes.

    Raises:
        ManifestError: unreadable, or against the schema.
    """
    return _checked(file, f"{file.parent.name}/{file.stem}", _model)


def read_builtin(folder: Path) -> Model:
    """The model of a folder `<owner>/<name>` with a `model.json`; its files are what lies in the folder.

    Raises:
        ManifestError: unreadable, against the schema, or a file with a name that manifests refuse.
    """

    def build(values: Mapping[str, Any]) -> Model:
        if "files" in values:
            raise ManifestError("'files' of a built-in model are what lies in its folder; remove the key")
        return _model({**values, "files": _files_in(folder)}, folder=folder)

    return _checked(folder / BUILTIN_MANIFEST, f"{folder.parent.name}/{folder.name}", build)


def _files_in(folder: Path) -> list[dict[str, Any]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / BUILTIN_MANIFEST)
    relative = ((path, path.relative_to(folder)) for path in files)
    return [
        {"path": name.as_posix(), "size": path.stat().st_size}
        for path, name in relative
        if not any(part.startswith(".") for part in name.parts)
    ]


def _checked(file: Path, name: str, build: Any) -> Model:
    """`build(values)` of a manifest; errors name the file, and the model must be called as the file is."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ManifestError(f"holds a JSON {type(values).__name__}; give an object")
        model = build(values)
        if model.name != name:
            raise ManifestError(f"name is {model.name!r}; the place of the file says {name!r}")
    except (OSError, ValueError, ManifestError) as error:
        raise ManifestError(f"{file}: {error}") from None
    return model


def _model(values: Mapping[str, Any], folder: Path | None = None) -> Model:
    _check_keys(values, Model, "the manifest", omit=frozenset({"folder"}))
    files, aliases = values["files"], values.get("aliases", [])
    if not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        raise ManifestError("'files' must be a list of objects")
    if not isinstance(aliases, list):
        raise ManifestError("'aliases' must be a list of names")
    for item in files:
        _check_keys(item, File, "a file")
    parsed = {**values, "files": tuple(File(**item) for item in files), "aliases": tuple(aliases), "folder": folder}
    return Model(**parsed)


def _check_keys(values: Mapping[str, Any], kind: Any, where: str, omit: frozenset[str] = frozenset()) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in omit}
    unknown = [key for key in values if key not in fields]
    lacking = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in values]
    if unknown or lacking:
        complaints = [f"unknown key {key!r}" for key in unknown] + [f"key {key!r} is missing" for key in lacking]
        raise ManifestError(f"{where} has {', '.join(complaints)}")
