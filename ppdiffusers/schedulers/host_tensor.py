"""Tensors whose values the host keeps too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle


class _Kind(type(paddle.Tensor)):  # type: ignore[misc]
    """Makes `type(tensor) == paddle.Tensor` true of a HostTensor: so `Layer.register_buffer` asks."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is paddle.Tensor

    __hash__ = type.__hash__


class HostTensor(paddle.Tensor, metaclass=_Kind):
    """A tensor of Paddle that is read without waiting for a device, and that numpy takes for an array.

    `int(t)`, `t.item()`, `tolist()`, `numpy()`, loops, and indices that are known on the host read values that the
    host kept; all else is what Paddle does with a tensor. Beside numpy's arrays numpy computes, beside tensors Paddle.
    A tensor that was written into is read from where it is.

    Args:
        values: float64 or int64. Numbers that are read one by one have all their digits, whatever the type.
        dtype: of the tensor.
        place: where the tensor is; None for the current device.
    """

    def __init__(self, values: np.ndarray, dtype: str, place: Any = None):
        self._values, self._arguments = values, (dtype, place)
        array = np.asarray(values, dtype)
        super().__init__(array if place is None else paddle.to_tensor(array, place=place))

    def _host(self) -> np.ndarray:
        return super().numpy() if self.inplace_version else self._values

    # These two write without counting it.
    def set_value(self, value: Any) -> None:
        super().set_value(value)
        self._values = super().numpy()

    def copy_(self, other: Any, blocking: bool = True) -> None:
        super().copy_(other, blocking)
        self._values = super().numpy()

    def numpy(self, *arguments: Any) -> np.ndarray:
        return np.array(self._host(), self._arguments[0])

    def tolist(self) -> Any:
        return self._host().tolist()

    def item(self, *index: Any) -> Any:
        return self._host().item(*index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._host(), self._arguments[0] if dtype is None else dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(value, paddle.Tensor) and not isinstance(value, HostTensor) for value in inputs):
            return NotImplemented
        arrays = [value.numpy() if isinstance(value, HostTensor) else value for value in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __getitem__(self, index: Any) -> paddle.Tensor:
        if isinstance(index, (int, np.integer, slice, list, np.ndarray)) and not self.inplace_version:
            return HostTensor(np.asarray(self._values[index]), *self._arguments)
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[paddle.Tensor]:
        return (self[index] for index in range(len(self)))

    def __int__(self) -> int:
        return int(self._host())

    def __index__(self) -> int:
        return self._host().__index__()

    def __float__(self) -> float:
        return float(self._host())

    def __bool__(self) -> bool:
        return bool(self._host())

    def __format__(self, spec: str) -> str:
        return str(self) if self.ndim else format(self.item(), spec)

    def __deepcopy__(self, memo: Any) -> HostTensor:
        return HostTensor(self._host(), *self._arguments)

    def __reduce__(self) -> Any:
        return HostTensor, (self._host(), self._arguments[0])


def place_of(device: Any) -> Any:
    """What Paddle calls a device, torch's names included; None, the current one, for a GPU that it cannot have."""
    name = device.replace("cuda", "gpu") if isinstance(device, str) else device
    if isinstance(name, str) and name.startswith("gpu") and not paddle.is_compiled_with_cuda():
        return None
    return name
