"""Names to verified local files: the catalogue of models and their downloads.

`model_zoo.download("CompVis/ldm-super-resolution-4x-openimages")` returns the folder of the model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from model_zoo.cache import cached, prune, remove
from model_zoo.downloads import download, resolve
from model_zoo.errors import (
    CacheError,
    DownloadError,
    ManifestError,
    MissingFolderError,
    ModelZooError,
    NotCachedError,
    NotConvertedError,
    RegistryError,
    SettingsError,
    SourceError,
    UnknownModelError,
    UnknownTaskError,
)
from model_zoo.manifest import File, Model
from model_zoo.registry import find, list_models

if TYPE_CHECKING:
    from model_zoo.importing import import_model
    from model_zoo.verification import Finding, verify

__all__ = [
    "CacheError",
    "DownloadError",
    "File",
    "Finding",
    "ManifestError",
    "MissingFolderError",
    "Model",
    "ModelZooError",
    "NotCachedError",
    "NotConvertedError",
    "RegistryError",
    "SettingsError",
    "SourceError",
    "UnknownModelError",
    "UnknownTaskError",
    "cached",
    "download",
    "find",
    "import_model",
    "list_models",
    "prune",
    "remove",
    "resolve",
    "verify",
]

_LATE = {"import_model": "importing", "Finding": "verification", "verify": "verification"}  # not for every start


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'model_zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"model_zoo.{_LATE[name]}"), name)
