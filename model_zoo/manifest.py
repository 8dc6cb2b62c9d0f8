"""The manifest of a model: what it says, and every check that it must pass before a word of it is believed.

`manifest.schema.json` says the same for editors and other programs. Keys that this release does not know are kept and
passed over; a `schema` above its own has it pass over the whole manifest.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_zoo.errors import ManifestError, address_parts, public

SCHEMA = 1
MANIFESTS = "[!.]*/[!.]*.json"  # where they lie in a folder of them
BUILTIN_MANIFEST = "model.json"
MOST_FILES = 10_000  # of a model
LARGEST = 2**53  # bytes

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}/[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
# No leading dot: neither `..`, nor a clash with the marker and part files of the cache, which need room for their own
# additions to the longest name that file systems take.
_PATH = re.compile(r"[A-Za-z0-9_][\w.+-]{0,149}(/[A-Za-z0-9_][\w.+-]{0,149}){0,9}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,49}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a model.

    Attributes:
        path: relative to the model's folder, with forward slashes.
        size: exact bytes, where known; a file of another size is refused.
        sha256: lower-case hexadecimal, where known; a file with another hash is refused.
        approximate_size: bytes, where only a rounded or computed size is known; a file that differs by more than 2 %
            (or by the half of a tenth of a kilobyte to which sizes are rounded) is refused.
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
            if value is not None and (type(value) is not int or not 0 <= value <= LARGEST):
                raise ManifestError(f"{key} of {self.path} is {_short(value)}; give a whole number of bytes or null")
        if self.sha256 is not None and not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise ManifestError(f"sha256 of {self.path} is {_short(self.sha256)}; give 64 lower-case hex digits")

    @property
    def nominal_size(self) -> int | None:
        """The best known size in bytes, exact or not."""
        return self.approximate_size if self.size is None else self.size

    def wrong_size(self, size: int) -> str | None:
        """What is wrong with a file of `size` bytes; None if nothing is."""
        if self.size is not None:
            return None if size == self.size else f"has {size:,} bytes, not {self.size:,} as catalogued"
        if size == 0 and self.sha256 is None:
            return "is empty"
        if self.approximate_size is not None and abs(size - self.approximate_size) > self.slack:
            return f"has {size:,} bytes, not about {self.approximate_size:,} as catalogued"
        return None

    def mismatch(self, size: int, sha256: str) -> str | None:
        """What the manifest has against a file; None if nothing."""
        wrong = self.wrong_size(size)
        if wrong is None and self.sha256 not in (None, sha256):
            return f"has the sha256 {sha256}, not {self.sha256} as catalogued"
        return wrong

    @property
    def slack(self) -> int:
        """How far an approximate size may be off, in bytes."""
        return max(52, (self.approximate_size or 0) // 50)


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
        revisions: other versions by name, each the list of its files; they lie under `<name>@<revision>`.
        folder: where the files lie if they need no download (built into this package, or beside their manifest).
        registry: the folder or address that the entry came from; None for this package.
        file: the manifest, where it is a file of this machine.
        place: the model's folder in the cache, relative to it; the name, but for a model that overrides another.
        remote: what stands for `<name>` in addresses.
    """

    name: str
    task: str
    pipeline: str
    licence: str
    origin: str
    paper: str | None
    files: tuple[File, ...]
    aliases: tuple[str, ...] = ()
    description: str | None = ""
    note: str | None = None
    base_url: str | None = None
    mirrors: tuple[str, ...] = ()
    original: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)
    revisions: Mapping[str, tuple[File, ...]] = dataclasses.field(default_factory=dict, hash=False)
    folder: Path | None = None
    registry: str | None = None
    file: Path | None = None
    place: str = ""
    remote: str = ""

    def __post_init__(self) -> None:
        for name in self.names:
            if not is_name(name):
                raise ManifestError(f"model name {_short(name)} is refused: give owner/name of letters, digits and ._-")
        for key in ("task", "pipeline", "licence", "origin", "paper", "description", "note"):
            value, needed = getattr(self, key), key in ("task", "pipeline", "licence", "origin")
            if not (value is None or (isinstance(value, str) and value.isprintable())) or (needed and not value):
                hint = "" if needed else " or leave it out"
                raise ManifestError(f"{key} of {self.name} is {_short(value)}; give a text of one line{hint}")
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
        for files in (self.files, *self.revisions.values()):
            _check_paths(self.name, files)
        object.__setattr__(self, "base_url", self.base_url and self.base_url.rstrip("/"))
        object.__setattr__(self, "mirrors", tuple(address.rstrip("/") for address in self.mirrors))
        object.__setattr__(self, "place", self.place or self.name)
        object.__setattr__(self, "remote", self.remote or self.name)

    def placed(self, **fields: Any) -> Model:
        """The same with fields that need no check any more: thousands of entries are read at once."""
        model = copy.copy(self)
        for key, value in fields.items():
            object.__setattr__(model, key, value)
        return model

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return self.name, *self.aliases

    @property
    def nominal_size(self) -> int | None:
        """Bytes of all files whose size is known, exactly or not; None if none is."""
        sizes = [file.nominal_size for file in self.files if file.nominal_size is not None]
        return sum(sizes) if sizes else None

    @property
    def size_is_exact(self) -> bool:
        return all(file.size is not None for file in self.files)

    def at(self, revision: str | None) -> Model:
        """This model in another revision.

        Raises:
            ManifestError: it has none of this name.
        """
        if revision is None:
            return self
        if revision not in self.revisions:
            known = ", ".join(sorted(self.revisions)) or "there are none"
            raise ManifestError(f"{self.name} has no revision {_short(revision)}; known: {known}")
        place, remote = f"{self.place}@{revision}", f"{self.remote}@{revision}"
        return self.placed(files=self.revisions[revision], folder=None, place=place, remote=remote)


_OURS = ("folder", "registry", "file", "place", "remote")
_FIELDS = {field.name: field.default for field in dataclasses.fields(Model) if field.name not in _OURS}
_NEEDED = [key for key in _FIELDS if key in ("name", "task", "pipeline", "licence", "origin", "paper", "files")]


def is_name(value: object) -> bool:
    """Whether `value` is a name that models may have."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_address(value: Any) -> bool:
    """Whether `value` is a plain http or https address: no user, password, query or fragment, no blanks."""
    return address_parts(value) is not None and re.search(r"[^!-~]|[@?#\\]", value) is None


def parse(values: Any) -> Model:
    """The model that the JSON object `values` describes.

    Raises:
        ManifestError: against the schema.
    """
    if not isinstance(values, dict):
        raise ManifestError(f"holds a JSON {type(values).__name__}; give an object")
    schema = values.get("schema", SCHEMA)
    if type(schema) is not int or schema > SCHEMA:
        raise ManifestError(f"is of the schema {_short(schema)}; this release knows {SCHEMA}: update it")
    lacking = [key for key in _NEEDED if key not in values]
    if lacking:
        raise ManifestError(f"key {lacking[0]!r} is missing")
    known = {key: value for key, value in values.items() if key in _FIELDS}
    for key, what in {"aliases": "names", "mirrors": "addresses"}.items():
        if not isinstance(known.get(key, []), list):
            raise ManifestError(f"'{key}' must be a list of {what}")
        known[key] = tuple(known.get(key, []))
    revisions = known.get("revisions") or {}
    if not isinstance(revisions, dict) or not all(map(_REVISION.fullmatch, revisions)):
        raise ManifestError("'revisions' must be an object of lists of files by short names of letters and digits")
    known["revisions"] = {key: _files(files) for key, files in revisions.items()}
    return Model(**{**known, "files": _files(known["files"])})


def read_manifest(file: Path, builtin: bool = False) -> Model:
    """The model that `<owner>/<name>.json` describes, or of a built-in one `<owner>/<name>/model.json`.

    Raises:
        ManifestError: unreadable, against the schema, or not called as the file is.
    """
    folder = file.parent if builtin else None
    name = "/".join(file.parent.parts[-2:]) if builtin else f"{file.parent.name}/{file.stem}"
    values = read_json(file)
    try:
        model = parse(values).placed(folder=folder, file=file)
        if model.name != name:
            raise ManifestError(f"name is {model.name!r}; the place of the file says {name!r}")
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from None
    return model


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ManifestError: unreadable, or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{file}: {error}") from None


def _files(items: Any) -> tuple[File, ...]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ManifestError("'files' must be a list of objects")
    if len(items) > MOST_FILES:
        raise ManifestError(f"'files' lists {len(items):,} files; {MOST_FILES:,} are read")
    if not all("path" in item for item in items):
        raise ManifestError("key 'path' is missing")
    return tuple(File(*map(item.get, ("path", "size", "sha256", "approximate_size"))) for item in items)


def _check_paths(name: str, files: tuple[File, ...]) -> None:
    counts = collections.Counter(file.path.lower() for file in files)
    twice = sorted(path for path, count in counts.items() if count > 1)
    if twice:
        raise ManifestError(f"{name} lists {', '.join(twice[:5])} twice (upper and lower case count as one)")
    folders = {path[: match.start()] for path in counts for match in re.finditer("/", path)}
    both = folders & counts.keys()
    if both:
        raise ManifestError(f"{name} lists {min(both)} as a file and as a folder")


def _check_original(name: str, original: Any) -> None:
    if not isinstance(original, Mapping) or not is_address(original.get("checkpoint")):
        raise ManifestError(f"original of {name} must be an object with the address of a 'checkpoint' and its 'config'")
    config, member = original.get("config"), original.get("member", "x")
    if not config or not isinstance(config, Mapping):
        raise ManifestError(f"config of the original of {name} is {_short(config)}; give an object")
    if not member or not isinstance(member, str):
        raise ManifestError(f"member of the original of {name} is {_short(member)}; give a text")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "..."
