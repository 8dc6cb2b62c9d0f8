"""The places of manifests that MODEL_ZOO_REGISTRY names: folders, files and addresses.

A folder holds `<owner>/<name>.json`. A file or an address holds an index, `{"models": [manifest, ...]}`, or one
manifest. Where a manifest has no `base_url`, its files are beside the place, `<place>/<owner>/<name>/<file>`: on disk
they are used where they lie, and if they are not there, they come from the endpoint of the settings.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from model_zoo import remote
from model_zoo.addresses import public
from model_zoo.errors import ManifestError, RegistryError, SettingsError
from model_zoo.manifest import MANIFESTS, Model, parse, read_json, read_manifest
from model_zoo.settings import Registry


def read(place: Registry, max_age: float | None) -> tuple[list[Model], RegistryError | None]:
    """The models of a place, and why they are not the newest where an address could not be asked.

    Args:
        max_age: seconds after which an address is asked again; None asks none.

    Raises:
        ManifestError: a file on this machine breaks the schema.
        SettingsError: the place is no folder, file or http address.
    """
    if place.is_address:
        return remote.read(place.place, max_age, lambda values: _at_address(values, place.place))
    path = Path(os.path.abspath(os.path.expanduser(place.place)))
    if path.is_dir():
        models = [read_manifest(file) for file in sorted(path.glob(MANIFESTS))]
        return [_on_disk(model, path, path) for model in models], None
    if not path.is_file():
        raise SettingsError(
            f"MODEL_ZOO_REGISTRY names {place.place!r}, which does not exist; give folders or files of manifests, or"
            " http addresses"
        )
    values = read_json(path)
    try:
        return [_on_disk(model, path, _base(path.as_posix(), model)) for model in _parse(values)], None
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def _parse(values: object) -> list[Model]:
    """The models of an index or of a single manifest."""
    if not isinstance(values, dict) or "models" not in values:
        return [parse(values)]
    if not isinstance(values["models"], list) or values.keys() != {"models"}:
        raise ManifestError("an index holds one key, 'models', with a list of manifests")
    return [parse(item) for item in values["models"]]


def _base(place: str, model: Model) -> str:
    """What lies above `<owner>/<name>`: the folder of an index, or that of a manifest in its own place."""
    stem = place[: -len(".json")] if place.endswith(".json") else place
    if stem.endswith(f"/{model.name}"):
        return stem[: -len(model.name) - 1]
    return place.rpartition("/")[0]


def _on_disk(model: Model, place: Path, base: str | Path) -> Model:
    folder = Path(base, model.name)
    return dataclasses.replace(model, registry=str(place), folder=folder if folder.is_dir() else None)


def _at_address(values: object, url: str) -> list[Model]:
    models = []
    for model in _parse(values):
        addresses = [model.base_url or _base(url.partition("?")[0], model), *model.mirrors]
        if url.startswith("https:") and any(not address.startswith("https:") for address in addresses):
            raise ManifestError(f"{model.name} leads from https to http, where anyone on the way could replace files")
        models.append(dataclasses.replace(model, registry=public(url), base_url=addresses[0]))
    return models
