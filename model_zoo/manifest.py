"""The manifest of a model: what it says, and every check that it must pass before a word of it is believed.

`manifest.schema.json` says the same for editors and other programs.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

from model_zoo.addresses import public
from model_zoo.errors import ManifestError

MANIFESTS = "[!.]*/[!.]*.json"  # where they lie in a folder of them
BUILTIN_MANIFEST = "model.json"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}/[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
# No leading dot: neither `..`, nor a clash with the marker and part files of the cache, which need room for their own
# additions to the longest name that file systems take.
_PATH = re.compile(r"[A-Za-z0-9_][\w.+-]{0,149}(/[A-Za-z0-9_][\w.+-]{0,149}){0,9}", re.ASCII)
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
                f"file path {_short(self.path)} is refused: give a relative path of letters, digits and ._+- with"
                " forward slashes, without '..' and without leading dots"
            )
        for key in ("size", "approximate_size"):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < 0):
                raise ManifestError(f"{key} of {self.path} is {_short(value)}; give a whole number of bytes or null")
        if self.sha256 is not None and not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ManifestError(f"sha256 of {self.path} is {_short(self.sha256)}; give 64 lower-case hex digits")

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
        base_url: address under which `<name>/<file>` lies, instead of the endpoint of the settings.
        mirrors: more such addresses, to be tried in order.
        original: of a model that CompVis published: `checkpoint`, the address of its file; `member`, the file's name
            where that is a zip archive; `config`, what its yaml says under "model". None where nothing is known.
        folder: where the files lie if they need no download (built into this package, or beside their manifest).
        registry: the folder or address that the entry came from; None for this package.
        place: the model's folder in the cache, relative to it; the name, but for a model that overrides another.
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
    base_url: str | None = None
    mirrors: tuple[str, ...] = ()
    original: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
    folder: Path | None = None
    registry: str | None = None
    place: str = ""

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ManifestError(f"model name {_short(name)} is refused: give owner/name of letters, digits and ._-")
        for key in ("task", "pipeline", "licence", "origin"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value or not value.isprintable():
                raise ManifestError(f"{key} of {self.name} is {_short(value)}; give a text of one line")
        for key in ("paper", "description", "note"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and value.isprintable()):
                raise ManifestError(f"{key} of {self.name} is {_short(value)}; give a text of one line or leave it out")
        for address in (self.base_url, *self.mirrors):
            if address is not None and not is_address(address):
                shown = public(address) if isinstance(address, str) else address
                raise ManifestError(
                    f"{_short(shown)} is no base address for {self.name}; give http or https, a host and maybe a"
                    " path, without user, password, query and fragment"
                )
        if self.original is not None:
            _check_original(self.name, self.original)
        elif not self.files:
            raise ManifestError(f"{self.name} lists no files, and no original either; list its files")
        self._check_paths()
        if self.base_url is not None:
            object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        object.__setattr__(self, "mirrors", tuple(address.rstrip("/") for address in self.mirrors))
        object.__setattr__(self, "place", self.place or self.name)

    def _check_paths(self) -> None:
        paths = [file.path.lower() for file in self.files]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ManifestError(f"{self.name} lists {', '.join(twice)} twice (upper and lower case count as one)")
        folders = {path[: match.start()] for path in paths for match in re.finditer("/", path)}
        if folders & set(paths):
            raise ManifestError(f"{self.name} lists {min(folders & set(paths))} as a file and as a folder")

    @property
    def nominal_size(self) -> int | None:
        """Bytes of all files whose size is known, exactly or not; None if none is."""
        sizes = [file.nominal_size for file in self.files if file.nominal_size is not None]
        return sum(sizes) if sizes else None

    @property
    def size_is_exact(self) -> bool:
        return all(file.size is not None for file in self.files)


def is_address(value: object) -> bool:
    """Whether `value` is a plain http or https address: no user, password, query or fragment, no blanks."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        return (
            parts is not None
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0  # asking for it checks it
            and re.search(r"[^!-~]|[@?#\\]", value) is None  # type: ignore[call-overload]
        )
    except ValueError:
        return False


def read_manifest(file: Path) -> Model:
    """The model that `<owner>/<name>.json` describes.

    Raises:
        ManifestError: unreadable, or against the schema.
    """
    return _checked(file, f"{file.parent.name}/{file.stem}", parse)


def read_builtin(folder: Path) -> Model:
    """The model of a folder `<owner>/<name>` with a `model.json`; its files are what lies in the folder.

    Raises:
        ManifestError: unreadable, against the schema, or a file with a name that manifests refuse.
    """

    def build(values: Mapping[str, Any]) -> Model:
        if "files" in values:
            raise ManifestError("'files' of a built-in model are what lies in its folder; remove the key")
        return dataclasses.replace(parse({**values, "files": _files_in(folder)}), folder=folder)

    return _checked(folder / BUILTIN_MANIFEST, f"{folder.parent.name}/{folder.name}", build)


def parse(values: object) -> Model:
    """The model that the JSON object `values` describes.

    Raises:
        ManifestError: against the schema.
    """
    if not isinstance(values, dict):
        raise ManifestError(f"holds a JSON {type(values).__name__}; give an object")
    _check_keys(values, Model, "the manifest", omit=frozenset({"folder", "registry", "place"}))
    files = values["files"]
    if not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        raise ManifestError("'files' must be a list of objects")
    lists = {"aliases": "names", "mirrors": "addresses"}
    for key, what in lists.items():
        if not isinstance(values.get(key, []), list):
            raise ManifestError(f"'{key}' must be a list of {what}")
    for item in files:
        _check_keys(item, File, "a file")
    return Model(
        **{
            **values,
            "files": tuple(File(**item) for item in files),
            **{key: tuple(values.get(key, [])) for key in lists},
        }
    )


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ManifestError: unreadable, or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{file}: {error}") from None


def _files_in(folder: Path) -> list[dict[str, Any]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / BUILTIN_MANIFEST)
    relative = ((path, path.relative_to(folder)) for path in files)
    return [
        {"path": name.as_posix(), "size": path.stat().st_size}
        for path, name in relative
        if not any(part.startswith(".") for part in name.parts)
    ]


def _checked(file: Path, name: str, build: Callable[[Any], Model]) -> Model:
    """`build(values)` of a manifest; errors name the file, and the model must be called as the file is."""
    values = read_json(file)
    try:
        model = build(values)
        if model.name != name:
            raise ManifestError(f"name is {model.name!r}; the place of the file says {name!r}")
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from None
    return model


def _check_original(name: str, original: Any) -> None:
    texts, needed = {"checkpoint", "member"}, {"checkpoint", "config"}
    if not isinstance(original, Mapping) or not needed <= set(original) <= texts | needed:
        raise ManifestError(f"original of {name} must be an object with 'checkpoint', 'config' and maybe 'member'")
    for key, value in original.items():
        if not value or not isinstance(value, str if key in texts else Mapping):
            kind = "a text" if key in texts else "an object"
            raise ManifestError(f"{key} of the original of {name} is {_short(value)}; give {kind}")
    if not is_address(original["checkpoint"]):
        raise ManifestError(f"checkpoint of the original of {name} is no http or https address")


def _check_keys(values: Mapping[str, Any], kind: Any, where: str, omit: frozenset[str] = frozenset()) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name not in omit}
    unknown = [key for key in values if key not in fields]
    lacking = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in values]
    if unknown or lacking:
        complaints = [f"unknown key {_short(key)}" for key in unknown[:5]]
        complaints += [f"key {key!r} is missing" for key in lacking]
        raise ManifestError(f"{where} has {', '.join(complaints)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."
