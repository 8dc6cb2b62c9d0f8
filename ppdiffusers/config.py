"""Configs: what a constructor was called with, frozen, and saved as the community's JSON."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterable, Iterator, Mapping, Set, Type, TypeVar, Union

from ppdiffusers.version import __version__

PathLike = Union[str, "os.PathLike[str]"]
Self = TypeVar("Self", bound="Configurable")


class ConfigError(ValueError):
    """A config file or a constructor argument that cannot be used; the message names it and the remedy."""


class FrozenConfig(Mapping[str, Any]):
    """Read-only mapping whose keys are attributes too: `config["sample_size"]`, `config.sample_size`.

    `defaults` names the keys that nobody gave: another class built from this config takes its own there.
    """

    __slots__ = ("_values", "_defaults")

    def __init__(self, values: Mapping[str, Any], defaults: Iterable[str] = ()):
        object.__setattr__(self, "_values", {key: _freeze(value) for key, value in values.items()})
        object.__setattr__(self, "_defaults", frozenset(defaults))

    def _updated(self, values: Mapping[str, Any]) -> FrozenConfig:
        """A copy with these values, which count as given."""
        return FrozenConfig({**self._values, **values}, self._defaults - set(values))

    def _without(self, key: str) -> FrozenConfig:
        """A copy that lacks this key."""
        return FrozenConfig({name: value for name, value in self._values.items() if name != key}, self._defaults)

    def _given(self) -> Dict[str, Any]:
        """What is no default."""
        return {key: value for key, value in self._values.items() if key not in self._defaults}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self._values[key]
        except KeyError:
            raise AttributeError(f"the config has no {key!r}; it has {', '.join(self._values)}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(
            f"a config is read-only: cannot set {key!r}; build a new object with from_config(config, {key}=...)"
        )

    def __repr__(self) -> str:
        return f"FrozenConfig({self._values!r})"

    def __reduce__(self) -> Any:
        return FrozenConfig, (self._values, self._defaults)


def _freeze(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's arrays and numbers can be changed and are not JSON
        value = value.tolist()
    return tuple(_freeze(item) for item in value) if isinstance(value, (list, tuple)) else value


def register_to_config(init):
    """Decorator of a `Configurable.__init__`: its arguments, defaults included, become `self.config`.

    A `FrozenConfig` in their place stands for what it holds.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        if len(args) == 1 and isinstance(args[0], FrozenConfig):  # LDMBertModel(config)
            return wrapper(self, **{**args[0]._given(), **kwargs})
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            unknown = [key for key in kwargs if key not in signature.parameters]
            if unknown:
                raise unknown_keys(type(self), unknown, f"{type(self).__name__}(...)") from None
            raise
        given = set(bound.arguments)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        arguments.pop("self")
        object.__setattr__(self, "_config", FrozenConfig(arguments, set(arguments) - given))
        init(self, **arguments)

    return wrapper


class Configurable:
    """Base of everything that is described by a JSON file: models and schedulers.

    Subclasses decorate `__init__` with `register_to_config`; its signature is the config.
    """

    config_name: ClassVar[str] = "config.json"
    # Keys of published files that mean nothing (any more), each with the reason.
    _legacy_config_keys: ClassVar[Dict[str, str]] = {}
    # Keys of sister classes: kept when one is built from the other's config, so that a swap can be undone.
    _foreign_config_keys: ClassVar[frozenset] = frozenset()

    _config: FrozenConfig

    @property
    def config(self) -> FrozenConfig:
        return self._config

    @classmethod
    def config_keys(cls) -> Set[str]:
        """Names of the constructor's arguments."""
        return set(inspect.signature(cls.__init__).parameters) - {"self"}

    @classmethod
    def from_config(cls: Type[Self], config: Union[Mapping[str, Any], PathLike], **overrides: Any) -> Self:
        """Build from a mapping or a JSON file; keyword arguments win over its values.

        Of the config of another object only what was given to that one counts: its class's own
        defaults are not carried over.

        Raises:
            ConfigError: a key that this class does not know.
        """
        if isinstance(config, FrozenConfig):
            values = config._given()
        else:
            values = dict(config) if isinstance(config, Mapping) else cls.load_config(config)
        source = "the given config" if isinstance(config, Mapping) else str(config)
        values.update(overrides)
        keys = cls.config_keys()
        known, carried, unknown = {}, {}, []
        for key, value in values.items():
            if key in keys:
                known[key] = value
            elif key.startswith("_") or key in cls._legacy_config_keys:
                continue
            elif key in cls._foreign_config_keys:
                carried[key] = value
            else:
                unknown.append(key)
        if unknown:
            raise unknown_keys(cls, unknown, source)
        instance = cls(**known)
        if carried:
            object.__setattr__(instance, "_config", instance._config._updated(carried))
        return instance

    @classmethod
    def load_config(cls, path: PathLike, return_unused_kwargs: bool = False, **options: Any) -> Any:
        """The JSON object of a config file, or of the folder that holds it.

        Args:
            return_unused_kwargs: return it beside a dict of the further arguments.
            options: `subfolder` of the folder; with `return_unused_kwargs` any others.
        """
        file = Path(path) / (options.pop("subfolder", None) or "")
        if options and not return_unused_kwargs:
            raise unknown_keys(cls, list(options), "load_config(...)")
        config = read_json(file / cls.config_name if file.is_dir() else file)
        return (config, options) if return_unused_kwargs else config

    def save_config(self, folder: PathLike) -> Path:
        """Write `folder/<config_name>`; the folder is made where it is missing."""
        values = {"_class_name": type(self).__name__, "_ppdiffusers_version": __version__, **self._config}
        file = Path(folder) / self.config_name
        write_json(file, values)
        return file


def unknown_keys(cls: type, unknown: list, source: str) -> ConfigError:
    keys = cls.config_keys()  # type: ignore[attr-defined]
    hints = []
    for key in unknown:
        close = difflib.get_close_matches(key, keys, n=1)
        hints.append(f"{key!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    return ConfigError(f"{cls.__name__} does not know {', '.join(hints)} of {source}; remove or correct it")


def read_json(file: PathLike) -> Dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigError: no such file, or not a JSON object.
    """
    file = Path(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; give the folder of a saved model") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file} is not JSON ({error}); fetch or save it again") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file} holds a JSON {type(value).__name__}, not an object; fetch or save it again")
    return value


def write_json(file: PathLike, values: Mapping[str, Any]) -> None:
    """Write a JSON object in one rename, so that a reader never meets half of it."""
    file = Path(file)
    text = json.dumps(dict(values), indent=2, default=list) + "\n"
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


class replacing:
    """`with replacing(file) as part:` write `part`; it becomes `file` if the block succeeds, else it is removed."""

    def __init__(self, file: PathLike):
        self.file = Path(file)

    def __enter__(self) -> Path:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.file.parent, prefix=f".{self.file.name}.", suffix=".part")
        os.close(descriptor)
        self.part = Path(name)
        return self.part

    def __exit__(self, kind, value, trace) -> None:
        try:
            if kind is None:
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(self.part, 0o666 & ~umask)  # mkstemp makes it private
                os.replace(self.part, self.file)
        finally:
            if self.part.exists():
                self.part.unlink()


@contextlib.contextmanager
def appearing(folder: PathLike) -> Iterator[Path]:
    """A folder beside `folder` that takes its name, from what has it too, if the block succeeds; else it is removed."""
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        part = work / "new"
        part.mkdir()
        yield part
        if target.exists():
            os.rename(target, work / "old")
        try:
            os.rename(part, target)
        except OSError:
            if (work / "old").exists():
                os.rename(work / "old", target)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
