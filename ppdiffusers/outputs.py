"""Results that can be read by name, by index and by key, as diffusers' can."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterator, Tuple, Union


class Output(Dict[str, Any]):
    """Base of result dataclasses: `result.sample`, `result["sample"]`, `result[0]` and unpacking agree.

    A result is a dict of its fields, of which those that are None are left out, and of the positions too. Iterating
    gives values, as of a tuple; `keys()` and `items()` are a dict's.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if value is None:
            super().pop(name, None)
        elif name in self._names():
            super().__setitem__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def to_tuple(self) -> Tuple[Any, ...]:
        return tuple(self.values())

    def __getitem__(self, key: Union[int, slice, str]) -> Any:  # type: ignore[override]
        if isinstance(key, str):
            return getattr(self, key) if key in self._names() else super().__getitem__(key)
        return self.to_tuple()[key]

    def _names(self) -> Tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, name) for name in self._names())

    __hash__ = None  # type: ignore[assignment]
