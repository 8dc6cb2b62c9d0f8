"""The catalogue: which models exist and which files each one has.

One manifest a model: `community/<owner>/<name>.json` for models that are downloaded,
`builtin/<owner>/<name>/model.json` for those whose files lie beside it. Adding a model is adding a file.
MODEL_ZOO_REGISTRY adds places of the user's own, which `places` reads. None of them redefines a name of this package
or of another place unless the setting says `override=` before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path

from model_zoo import places, settings
from model_zoo.errors import CacheError, ManifestError, ModelZooError, UnknownModelError, UnknownTaskError
from model_zoo.manifest import BUILTIN_MANIFEST, MANIFESTS, File, Model, read_builtin, read_manifest

__all__ = ["File", "Model", "catalogue", "find", "list_models", "local_folder"]

COMMUNITY = Path(__file__).parent / "community"
BUILTIN = Path(__file__).parent / "builtin"

# `list_models` asks an address again after this many seconds; `find` does for a name that it does not know.
FRESH = 3600.0


def list_models(task: str | None = None) -> list[Model]:
    """All models by name, or those of one task.

    An address of MODEL_ZOO_REGISTRY that cannot be read is warned of, and what was last read there is listed.

    Raises:
        UnknownTaskError: no model has this task.
        ManifestError, SettingsError: as `catalogue`.
    """
    claims, problems = catalogue(FRESH)
    for problem in problems:
        warnings.warn(str(problem), stacklevel=2)
    models = sorted({model.name: model for model in claims.values()}.values(), key=lambda model: model.name.lower())
    if task is None:
        return models
    chosen = [model for model in models if model.task == task]
    if not chosen:
        tasks = ", ".join(sorted({model.task for model in models}))
        raise UnknownTaskError(f"no model has the task {task!r}; the tasks are {tasks}")
    return chosen


def find(name: str, *, refresh: bool = False, local_files_only: bool = False) -> Model:
    """The model of this name or alias.

    Args:
        refresh: ask the addresses of MODEL_ZOO_REGISTRY for their newest entries; otherwise they are asked only
            where what was last read there does not have the name.
        local_files_only: ask nobody, as MODEL_ZOO_OFFLINE does.

    Raises:
        UnknownModelError: no such model; names the nearest ones.
        RegistryError: the name is not known here, and an address could not or must not be asked for it.
        ManifestError, SettingsError: as `catalogue`.
    """
    refresh = refresh and not local_files_only
    claims, problems = catalogue(0.0 if refresh else None)
    model = _named(claims, name)
    unasked = not refresh and not local_files_only
    if model is None and unasked and any(place.is_address for place in settings.registries()):
        claims, problems = catalogue(0.0)
        model = _named(claims, name)
    if model is not None:
        return model
    if problems:
        raise problems[0]
    raise UnknownModelError(name, _nearest(name, claims))


def local_folder(model: Model) -> Path | None:
    """Where the files of a model lie that needs no download; None for other models.

    Raises:
        CacheError: a file is missing there, or has another size than the manifest says.
    """
    if model.folder is None or model.registry is None:  # no copy of this package is checked at every call
        return model.folder
    for file in model.files:
        path = model.folder / file.path
        if not path.is_file() or file.size not in (None, path.stat().st_size):
            raise CacheError(
                f"{path} is missing or not as the manifest in {model.registry} describes it; complete the copy, or"
                f" remove {model.folder} to have the model downloaded"
            )
    return model.folder


def catalogue(max_age: float | None = None) -> tuple[dict[str, Model], list[ModelZooError]]:
    """The models by their names and aliases, in lower case, and what could not be read at addresses.

    Args:
        max_age: seconds after which an address is asked again; None asks none.

    Raises:
        ManifestError: a manifest on this machine breaks the schema, or two models claim one name.
        SettingsError: MODEL_ZOO_REGISTRY names something that is no folder, file or http address.
    """
    models = [read_manifest(file) for file in COMMUNITY.glob(MANIFESTS)]
    # A folder without a manifest is no model (yet).
    models += [read_builtin(file.parent) for file in BUILTIN.glob(f"*/*/{BUILTIN_MANIFEST}")]
    claims: dict[str, Model] = {}
    _claim(claims, models, override=False)
    problems: list[ModelZooError] = []
    overriding: list[Model] = []
    for place in settings.registries():
        models, problem = places.read(place, max_age)
        if problem is not None:
            problems.append(problem)
        if place.override:
            overriding += models
        else:
            _claim(claims, models, override=False)
    _claim(claims, overriding, override=True)
    # A model whose name was taken over goes whole: its aliases must not lead to another's place in the cache.
    return {key: model for key, model in claims.items() if claims[model.name.lower()] is model}, problems


def _claim(claims: dict[str, Model], models: Iterable[Model], override: bool) -> None:
    """Enter `models` into `claims`; upper and lower case count as one, since some file systems know no other."""
    older = dict(claims)
    for model in models:
        if override:  # files of two models of one name must not be mixed in the cache
            tag = hashlib.sha256(str(model.registry).encode()).hexdigest()[:8]
            model = dataclasses.replace(model, place=f"{model.name}@{tag}")
        for name in (model.name, *model.aliases):
            other = claims.get(name.lower())
            if other is not None and not (override and other is older.get(name.lower())):
                raise ManifestError(
                    f"{_label(other)} and {_label(model)} both claim the name {name}; rename one"
                    + (", or write override= before one place in MODEL_ZOO_REGISTRY" if model.registry else "")
                )
            claims[name.lower()] = model


def _label(model: Model) -> str:
    return model.name if model.registry is None else f"{model.name} (from {model.registry})"


def _named(claims: dict[str, Model], name: str) -> Model | None:
    model = claims.get(name.lower())
    return model if model is not None and name in (model.name, *model.aliases) else None


def _nearest(name: str, claims: dict[str, Model]) -> list[str]:
    import difflib  # only a wrong name needs it

    # A user may mistype the whole name, or know only its last part.
    spellings: dict[str, str] = {}
    for model in claims.values():
        for accepted in (model.name, *model.aliases):
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
