"""Parameters of the original's classes: what a yaml says, checked, and the way back from our configs."""

from __future__ import annotations

import inspect
from typing import Any, Dict, Iterable, Mapping, Tuple, Type

from ppdiffusers.config import Configurable
from ppdiffusers.conversion.errors import ConversionError

REQUIRED: Any = object()  # in place of a default
Known = Mapping[str, Tuple[type, Any]]  # key -> int, float, bool, str, list (of integers) or dict, and its default


def read_params(
    where: str, params: Any, known: Known, only: Mapping[str, Any], ignored: Iterable[str] = ()
) -> Dict[str, Any]:
    """The values of the `known` keys.

    Args:
        where: the name of the class, for messages.
        params: what the yaml gives it.
        only: keys of which a single value is supported, which is the default too.
        ignored: keys that no result depends on.

    Raises:
        ConversionError: a key that is missing or unknown, or a value that is not supported.
    """
    if not isinstance(params, Mapping):
        raise ConversionError(f"the yaml's params of {where} are {params!r}, not a mapping")
    unknown = sorted(map(str, set(params) - set(known) - set(only) - set(ignored)))
    missing = [key for key, (_, default) in known.items() if default is REQUIRED and key not in params]
    if unknown or missing:
        texts = [f"{kind} {', '.join(keys)}" for kind, keys in (("unknown", unknown), ("missing", missing)) if keys]
        raise ConversionError(f"the yaml's params of {where} do not fit: {'; '.join(texts)}")
    for key, value in only.items():
        if params.get(key, value) != value:
            raise ConversionError(f"{where} with {key}: {params[key]!r} has no counterpart here; {key}: {value!r} has")
    return {
        key: _checked(f"{key} of {where}", kind, params[key]) if params.get(key, default) != default else default
        for key, (kind, default) in known.items()
    }


def _checked(where: str, kind: type, value: Any) -> Any:
    if kind is float:
        return number(where, value)
    if kind is list and isinstance(value, (list, tuple)) and all(map(_is_count, value)):
        return list(value)
    if _is_count(value) if kind is int else isinstance(value, Mapping) if kind is dict else type(value) is kind:
        return value
    expected = {int: "a whole number", bool: "true or false", list: "a list of whole numbers", dict: "a mapping"}
    raise ConversionError(f"{where} is {value!r} in the yaml; it must be {expected.get(kind, 'a text')}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def number(where: str, value: Any) -> float:
    """A number of a yaml; PyYAML takes `1e-4` for a text."""
    try:
        if type(value) in (int, float, str):
            return float(value)
    except ValueError:
        pass
    raise ConversionError(f"{where} is {value!r} in the yaml; it must be a number")


def require_equal(
    where: str, kind: Type[Configurable], config: Mapping[str, Any], back: Mapping[str, Any], ignored: Iterable[str]
) -> None:
    """Check a translation of ours by translating it `back`.

    Args:
        where: the foreign class.
        ignored: keys that no result depends on.

    Raises:
        ConversionError: the foreign class has no such model; names the first key that differs.
    """
    defaults = {name: item.default for name, item in inspect.signature(kind.__init__).parameters.items()}
    for key in sorted(kind.config_keys() - set(ignored)):
        theirs, ours = (_plain(values.get(key, defaults[key])) for values in (back, config))
        if theirs != ours:
            raise ConversionError(
                f"{kind.__name__} with {key}={ours!r} has no counterpart in the original's {where}, "
                f"which could only be {theirs!r}"
            )


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
