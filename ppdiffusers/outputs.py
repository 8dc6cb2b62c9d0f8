"""Results that can be read by name, by index and by key, as diffusers' can."""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator, Tuple, Union


class Output:
    """Base of result dataclasses: `result.sample`, `result["sample"]`, `result[0]` and unpacking agree.

    Fields that are None are left out of the positions.
    """

    def to_tuple(self) -> Tuple[Any, ...]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return tuple(value for value in (getattr(self, field.name) for field in fields) if value is not None)

    def __getitem__(self, key: Union[int, slice, str]) -> Any:
        if isinstance(key, str):
            if key not in {field.name for field in dataclasses.fields(self)}:  # type: ignore[arg-type]
                raise KeyError(key)
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.to_tuple())
