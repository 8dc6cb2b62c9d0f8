"""What can go wrong between a name and its files; every message names the value and the remedy."""

from __future__ import annotations

from collections.abc import Sequence


class ModelZooError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownModelError(ModelZooError):
    """No model has this name or alias; `suggestions` holds the nearest accepted names, best first."""

    def __init__(self, name: str, suggestions: Sequence[str]):
        self.name = name
        self.suggestions = tuple(suggestions)
        shown = name if len(name) <= 100 else name[:100] + "..."
        hint = f"did you mean {' or '.join(suggestions)}?" if suggestions else "`model-zoo list` shows all models."
        super().__init__(f"no model is called {shown!r}; {hint} A folder is written with its path, such as ./my-model")


class UnknownTaskError(ModelZooError):
    """No model of the catalogue has this task."""


class ManifestError(ModelZooError):
    """A manifest of the catalogue breaks the schema."""


class SettingsError(ModelZooError):
    """An environment variable or argument that holds an address or a folder cannot be used."""


class MissingFolderError(ModelZooError):
    """A path was given instead of a name, and no folder is there."""


class CacheError(ModelZooError):
    """The cache folder cannot be read or written."""


class NotCachedError(CacheError):
    """Downloads are off and some files of the model are not in the cache."""


class NotConvertedError(ModelZooError):
    """The model has no files of its own yet: its original checkpoint must be converted first."""


class DownloadError(ModelZooError):
    """A file could not be had from the endpoint, or what came is not the file that the catalogue describes."""


class RegistryError(ModelZooError):
    """A registry at an address of MODEL_ZOO_REGISTRY could not be read."""


class SourceError(ModelZooError):
    """A folder or archive that shall be imported or packed cannot be used."""
