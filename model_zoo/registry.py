"""The catalogue: which models exist and which files each one has.

One manifest a model: `community/<owner>/<name>.json` for models that are downloaded,
`builtin/<owner>/<name>/model.json` for those whose files lie beside it. Adding a model is adding a file.

MODEL_ZOO_REGISTRY adds places of the user's own. A folder holds `<owner>/<name>.json`; a file or an address holds an
index, `{"models": [manifest, ...]}`, or one manifest. Where a manifest has no `base_url`, its files are beside the
place, `<place>/<owner>/<name>/<file>`: on disk they are used where they lie, and if they are not there, they come from
the endpoint of the settings. None of them redefines a name of this package or of an earlier place unless the setting
says `override=` before it. What is wrong with a place or an entry is warned of, and the rest goes on.

What addresses said and index files held is kept in `<MODEL_ZOO_HOME>/.registries`, one file each, one line an entry,
so that a name is found without reading all of them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import mmap
import os
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable

from model_zoo import settings
from model_zoo.disk import make_folder, write_text
from model_zoo.errors import (
    CacheError,
    DownloadError,
    ManifestError,
    RegistryError,
    UnknownModelError,
    UnknownTaskError,
    public,
)
from model_zoo.manifest import (
    BUILTIN_MANIFEST,
    MANIFESTS,
    SCHEMA,
    Model,
    is_address,
    is_name,
    parse,
    read_json,
    read_manifest,
)

COMMUNITY = Path(__file__).parent / "community"
BUILTIN = Path(__file__).parent / "builtin"

FRESH = 3600.0  # `list_models` asks an address again after so many seconds; `find` does for a name that it lacks
DEADLINE = 10.0  # seconds for all addresses together, by the clock
LARGEST = 64 << 20  # bytes of an index; a manifest has a few thousand
MOST_MODELS = 100_000
FOLDER = ".registries"


def list_models(task: str | None = None) -> list[Model]:
    """All models by name, or those of one task; what is wrong with entries and places is warned of.

    Raises:
        UnknownTaskError: no model has this task.
    """
    layers, problems = _layers(FRESH, read=True)
    models = []
    for index, layer in enumerate(layers):
        for model in layer.models():
            rival, by_name = _rival(model, layers[:index], layer)
            if rival is None:
                models.append(model)
            elif not by_name:
                problems.append(_clash(rival, model, layer))
        problems += layer.problems
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    models.sort(key=lambda model: model.name.lower())
    chosen = [model for model in models if task in (None, model.task)]
    if task is not None and not chosen:
        tasks = ", ".join(sorted({model.task for model in models}))
        raise UnknownTaskError(f"no model has the task {task!r}; the tasks are {tasks}")
    return chosen


def find(name: str, *, revision: str | None = None, refresh: bool = False, local_files_only: bool = False) -> Model:
    """The model of this name or alias.

    Args:
        revision: one of its revisions.
        refresh: ask the addresses of MODEL_ZOO_REGISTRY for their newest entries; otherwise they are asked only
            where what was last read there does not have the name.
        local_files_only: ask nobody, as MODEL_ZOO_OFFLINE does.

    Raises:
        UnknownModelError: no such model; names the nearest ones.
        RegistryError: the name is not known here, and an address could not or must not be asked for it.
        ManifestError: its own manifest breaks the schema, or has no such revision.
    """
    may_ask = not local_files_only and any(place.is_address for place in settings.registries())
    for max_age in (0.0,) if refresh and may_ask else (None, 0.0) if may_ask else (None,):
        layers, problems = _layers(max_age)
        for index, layer in enumerate(layers):
            model = layer.get(name)
            if model is not None and name in model.names and _rival(model, layers[:index], layer)[0] is None:
                return model.at(revision)
    if problems:
        raise RegistryError(problems[0])
    raise UnknownModelError(name, _nearest(name, layers))


def local_folder(model: Model) -> Path | None:
    """Where the files of a model lie that needs no download; None for other models.

    Raises:
        CacheError: a file is missing there, or has another size than the manifest says.
    """
    for file in model.files if model.folder is not None else ():
        path = model.folder / file.path  # type: ignore[operator]
        if not path.is_file() or file.size not in (None, path.stat().st_size):
            hint = (
                f"remove {model.folder} to have the model downloaded" if model.registry else "install the package again"
            )
            raise CacheError(
                f"{path} is missing or not as the manifest in {model.registry or 'this package'} describes it; complete"
                f" the copy, or {hint}"
            )
    return model.folder


# Layers: where entries come from, those that win first


class _Layer:
    """Entries of one place. `direct` finds one by name without reading all."""

    def __init__(self, label: str, override: bool = False):
        self.label, self.override = label, override
        self.problems: list[str] = []
        self._models: dict[str, Model] | None = None  # by their names and aliases in lower case

    def read(self) -> Iterator[Callable[[], Model]]:
        """What makes each model: calls that raise ManifestError where an entry is bad."""
        raise NotImplementedError

    def direct(self, name: str) -> Model | None:
        return None

    def finish(self, model: Model) -> Model:
        """A model as this place has it."""
        if not self.override:
            return model
        tag = hashlib.sha256(str(model.registry).encode()).hexdigest()[:8]  # its files must not mix with the other's
        return model.placed(place=f"{model.name}@{tag}")

    def models(self) -> list[Model]:
        if self._models is None:
            self._models = {}
            bad: list[Exception] = []
            try:
                for make in self.read():
                    try:
                        model = self.finish(make())
                        rivals = [self._models[name.lower()] for name in model.names if name.lower() in self._models]
                        if rivals:
                            self.problems.append(_clash(rivals[0], model, self))
                        else:
                            self._models.update((name.lower(), model) for name in model.names)
                    except ManifestError as error:
                        bad.append(error)
            except (ManifestError, OSError) as error:
                bad.append(error)
            if bad:
                count = f"{len(bad)} entries are" if len(bad) > 1 else "an entry is"
                self.problems.append(f"{count} passed over in {self.label}: {bad[0]}")
        return list({id(model): model for model in self._models.values()}.values())

    def get(self, name: str) -> Model | None:
        """By name or alias, upper and lower case being one."""
        found = self.direct(name) if self._models is None else None
        if found is None:
            self.models()
            found = (self._models or {}).get(name.lower())
        return found


class _Package(_Layer):
    def direct(self, name: str) -> Model | None:
        places = {COMMUNITY / f"{name}.json": False, BUILTIN / name / BUILTIN_MANIFEST: True} if is_name(name) else {}
        return next((read_manifest(file, builtin) for file, builtin in places.items() if file.is_file()), None)

    def read(self) -> Iterator[Callable[[], Model]]:
        for file in COMMUNITY.glob(MANIFESTS):
            yield functools.partial(read_manifest, file)
        for file in BUILTIN.glob(f"*/*/{BUILTIN_MANIFEST}"):  # a folder without a manifest is no model (yet)
            yield functools.partial(read_manifest, file, builtin=True)


class _Folder(_Layer):
    """A folder of manifests."""

    def __init__(self, place: Path, override: bool):
        super().__init__(str(place), override)
        self.place = place

    def direct(self, name: str) -> Model | None:
        file = self.place / f"{name}.json"
        return self.finish(read_manifest(file)) if is_name(name) and file.is_file() else None

    def finish(self, model: Model) -> Model:
        folder = self.place / model.name
        return super().finish(model.placed(registry=self.label, folder=folder if folder.is_dir() else None))

    def read(self) -> Iterator[Callable[[], Model]]:
        if not self.place.is_dir():
            raise ManifestError(
                "it does not exist; MODEL_ZOO_REGISTRY takes folders and files of manifests and addresses"
            )
        for file in sorted(self.place.glob(MANIFESTS)):
            yield functools.partial(read_manifest, file)


class _Copy(_Layer):
    """What an address last said: a line of JSON about it, then a line for each name and alias, `<key>\\t<entry>`."""

    def __init__(self, url: str, override: bool, label: str | None = None):
        super().__init__(label or public(url), override)
        self.url = url
        self.file = settings.home() / FOLDER / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.txt"
        self.about: dict[str, Any] = {}
        self._data: Any = b""
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError), open(self.file, "rb") as stream:
            about = json.loads(stream.readline())
            if about.get("url") == self.label and isinstance(about.get("asked"), (int, float)):
                self._keep(about, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

    def _keep(self, about: dict[str, Any], data: Any) -> None:
        self.about, self._data, self._models = about, data, None
        self.problems = [str(about["problem"])] if about.get("problem") else []

    def finish(self, model: Model) -> Model:
        addresses = [model.base_url or _base(self.url.partition("?")[0], model), *model.mirrors]
        if self.url.startswith("https:") and any(not address.startswith("https:") for address in addresses):
            raise ManifestError(f"{model.name} leads from https to http, where anyone on the way could replace files")
        return super().finish(model.placed(registry=self.label, base_url=addresses[0]))

    def read(self) -> Iterator[Callable[[], Model]]:
        for line in bytes(self._data).split(b"\n")[1:]:
            entry = line.partition(b"\t")[2]
            if entry[:1] == b"{":
                yield functools.partial(_parse_text, entry)

    def get(self, name: str) -> Model | None:
        if self._models is not None:
            return super().get(name)
        for _ in range(2):  # an alias leads to a name
            start = self._data.find(b"\n" + name.lower().encode() + b"\t") if is_name(name) else -1
            if start < 0:
                break
            line = self._data[start + 1 : self._data.find(b"\n", start + 1)].partition(b"\t")[2]
            if line[:1] == b"{":
                return self.finish(_parse_text(line))
            name = line.decode()
        return None

    def renew(self, until: float) -> None:
        """Ask the address, and keep what it says.

        Raises:
            RegistryError: it cannot be had, or is no registry. Such an answer never replaces a copy.
        """
        from model_zoo import http  # half of the start-up time
        from model_zoo.digests import Source

        conditions = {"If-None-Match": "etag", "If-Modified-Since": "date"}
        given = [(header, str(self.about[key])) for header, key in conditions.items() if self.about.get(key)]
        body = bytearray()
        with contextlib.closing(http.Client(http.POLICY, until)) as client:
            try:
                with client.ask(self.url, {"Accept": "application/json", **dict(given[:1])}) as answer:
                    if answer.status == 304 and self.about:
                        self._write({**self.about, "asked": time.time()}, bytes(self._data).split(b"\n", 1)[1])
                        return
                    if answer.status != 200:
                        raise RegistryError(answer.said)
                    if answer.encoding:
                        raise RegistryError("it was sent compressed although the plain text was asked for")
                    while block := answer.read(1 << 16):
                        body += block
                        if len(body) > LARGEST:
                            raise RegistryError(f"it has more than {LARGEST:,} bytes")
                    source = Source.of(answer, "")
            except (http.Unreachable, DownloadError) as error:
                raise RegistryError(str(error)) from None
        if source.length not in (None, len(body)):
            raise RegistryError(f"the connection closed after {len(body)} of {source.length} bytes")
        try:
            self._take(_decode(bytes(body)), source.etag, source.date)
        except ManifestError as error:
            raise RegistryError(str(error)) from None

    def _take(self, index: Any, etag: str | None, date: str | None = None) -> None:
        """Keep what an index holds.

        Raises:
            ManifestError: it is none.
        """
        lines, bad = [], []
        for values in _entries(index):
            try:
                model = self.finish(parse(values))
            except ManifestError as error:
                bad.append(error)
                continue
            lines.append(f"{model.name.lower()}\t{json.dumps(values)}\n")
            lines += [f"{alias.lower()}\t{model.name}\n" for alias in model.aliases]
        problem = f"{len(bad)} of its entries are passed over: {self.label}: {bad[0]}" if bad else None
        about = {"url": self.label, "etag": etag, "date": date, "asked": time.time(), "problem": problem}
        self._write(about, "".join(lines).encode())

    def _write(self, about: dict[str, Any], lines: bytes) -> None:
        self._keep(about, json.dumps(about).encode() + b"\n" + lines)
        with contextlib.suppress(OSError):  # a cache that is read-only or full: the address is asked each time
            make_folder(self.file.parent)
            write_text(self.file, self._data.decode())


class _File(_Copy):
    """An index or a single manifest on this machine. It has a copy, too: a large one takes a second to read."""

    def __init__(self, place: Path, override: bool):
        super().__init__(str(place), override, str(place))
        self.place = place

    def finish(self, model: Model) -> Model:
        folder = Path(_base(self.place.as_posix(), model)) / model.name
        file = self.place if self.place.name == f"{model.name.rpartition('/')[2]}.json" else None
        there = folder if folder.is_dir() else None
        return _Layer.finish(self, model.placed(registry=self.label, folder=there, file=file))

    def models(self) -> list[Model]:
        self._look()
        return super().models()

    def get(self, name: str) -> Model | None:
        self._look()
        return super().get(name)

    def _look(self) -> None:
        """Read the file where it is not as it was."""
        try:
            if self._models is None:
                status = self.place.stat()
                version = f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
                if self.about.get("etag") != version:
                    self._take(read_json(self.place), version)
        except (ManifestError, OSError) as error:
            self._keep({"problem": f"an entry is passed over in {self.label}: {error}"}, b"")


def _layers(max_age: float | None, read: bool = False) -> tuple[list[_Layer], list[str]]:
    """Every place in the order in which they win, and why addresses are not as they are now.

    Args:
        max_age: seconds after which an address is asked again; None asks none.
        read: whether all entries are wanted, so that they can be read while addresses are waited for.
    """
    layers: list[_Layer] = [_Package("this package")]
    problems: list[str] = []
    stale: list[_Copy] = []
    for place in settings.registries():
        if not place.is_address:
            path = Path(os.path.abspath(os.path.expanduser(place.place)))
            layers.append((_File if path.is_file() else _Folder)(path, place.override))
            continue
        if not is_address(place.place.partition("?")[0]):
            problems.append(
                f"MODEL_ZOO_REGISTRY names {public(place.place)!r}, which is no http or https address without user and"
                " password; it is passed over"
            )
            continue
        copy = _Copy(place.place, place.override)
        layers.append(copy)
        fresh = max_age is None or 0 <= time.time() - copy.about.get("asked", -1e9) < max_age
        if not fresh and not settings.offline():
            stale.append(copy)
        elif not copy.about:
            closed = "; MODEL_ZOO_OFFLINE keeps the network closed" if settings.offline() else ""
            problems.append(
                f"the registry {copy.label} cannot be used: it has not been read yet; `model-zoo list` reads it, with a"
                f" connection{closed}"
            )
    answers = _ask(stale, [layer for layer in layers if read and layer not in stale])
    for copy in stale:
        answer = answers.get(copy, f"it did not come within {DEADLINE:.0f} s")
        if isinstance(answer, _Copy):
            layers[layers.index(copy)] = answer
        else:
            state = "could not be asked again; what it said before is used" if copy.about else "cannot be used"
            problems.append(f"the registry {copy.label} {state}: {answer}")
    return sorted(layers, key=lambda layer: not layer.override), problems


def _ask(copies: list[_Copy], others: list[_Layer]) -> dict[_Layer, Any]:
    """Fresh copies of addresses that are asked at once, or why there is none; nothing of those that say nothing within
    `DEADLINE` seconds. `others` are read meanwhile."""
    until = time.monotonic() + DEADLINE
    answers: dict[_Layer, Any] = {}

    def work(copy: _Copy) -> None:
        try:
            fresh = _Copy(copy.url, copy.override)
            fresh.renew(until)
            if others:
                fresh.models()
            answers[copy] = fresh
        except Exception as error:
            answers[copy] = error

    threads = [threading.Thread(target=work, args=(copy,), daemon=True) for copy in copies]
    for thread in threads:
        thread.start()
    for layer in others:
        layer.models()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(answers)


def _entries(values: Any) -> Iterable[Any]:
    """The entries of an index, or a single manifest.

    Raises:
        ManifestError: it is neither.
    """
    if not isinstance(values, dict):
        raise ManifestError(f"it holds a JSON {type(values).__name__}, neither an index nor a manifest")
    if "models" not in values:
        parse(values)
        return [values]
    schema = values.get("schema", SCHEMA)
    if not isinstance(values["models"], list) or type(schema) is not int:
        raise ManifestError("the 'models' of an index must be a list of manifests")
    if schema > SCHEMA:
        raise ManifestError(f"it is an index of the schema {schema}; this release knows {SCHEMA}: update it")
    if len(values["models"]) > MOST_MODELS:
        raise ManifestError(f"it lists {len(values['models']):,} models; {MOST_MODELS:,} are read")
    return values["models"]


def _decode(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"it is no JSON ({str(error)[:100]}); give the address of an index.json or of a manifest"
        ) from None


def _parse_text(text: bytes) -> Model:
    return parse(_decode(text))


def _base(place: str, model: Model) -> str:
    """What lies above `<owner>/<name>`: the folder of an index, or that of a manifest in its own place."""
    stem = place[: -len(".json")] if place.endswith(".json") else place
    return stem[: -len(model.name) - 1] if stem.endswith(f"/{model.name}") else place.rpartition("/")[0]


def _rival(model: Model, earlier: list[_Layer], layer: _Layer) -> tuple[Model | None, bool]:
    """What hides a model of `layer`: one of an earlier place that has its name, or an alias that no override took from
    it; and whether it was replaced by an override, which is no clash."""
    for other in earlier:
        replaced = other.override and not layer.override
        for name in model.names[:1] if replaced else model.names:
            rival = other.get(name)
            if rival is not None:
                return rival, replaced
    return None, False


def _clash(other: Model, model: Model, layer: _Layer) -> str:
    shared = {name.lower() for name in other.names} & {name.lower() for name in model.names}
    label = f"{other.name} (from {other.registry})" if other.registry else other.name
    hint = "" if model.registry is None or layer.override else ", or write override= before it in MODEL_ZOO_REGISTRY"
    return (
        f"{model.name} is passed over in {layer.label}: {label} and it both claim the name {min(shared)}; rename"
        f" one{hint}"
    )


def _nearest(name: str, layers: list[_Layer]) -> list[str]:
    import difflib  # only a wrong name needs it

    # A user may mistype the whole name, or know only its last part.
    spellings: dict[str, str] = {}
    for model in (model for layer in layers for model in layer.models()):
        for accepted in model.names:
            spellings[accepted.lower()] = accepted
            spellings[accepted.lower().rsplit("/", 1)[-1]] = accepted
    wanted = name.lower()[:200]  # difflib is quadratic
    last = wanted.rsplit("/", 1)[-1]
    close = []
    for query in (wanted, last):
        close += [spellings[match] for match in difflib.get_close_matches(query, spellings, n=3)]
    if len(last) > 2:  # or a word of it, such as ffhq
        close += [spellings[key] for key in sorted(spellings) if last in key]
    return list(dict.fromkeys(close))[:3]
