"""Names to verified local files: the catalogue of models and their downloads.

`model_zoo.download("CompVis/ldm-super-resolution-4x-openimages")` returns the folder of the model.
"""

from model_zoo.errors import (
    CacheError,
    DownloadError,
    ManifestError,
    MissingFolderError,
    ModelZooError,
    NotCachedError,
    SettingsError,
    UnknownModelError,
    UnknownTaskError,
)
from model_zoo.registry import File, Model, find, list_models
from model_zoo.zoo import download, resolve

__all__ = [
    "CacheError",
    "DownloadError",
    "File",
    "ManifestError",
    "MissingFolderError",
    "Model",
    "ModelZooError",
    "NotCachedError",
    "SettingsError",
    "UnknownModelError",
    "UnknownTaskError",
    "download",
    "find",
    "list_models",
    "resolve",
]
