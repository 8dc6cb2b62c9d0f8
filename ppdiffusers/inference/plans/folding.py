"""What the operators of Paddle's programs do to numpy arrays: everything that depends on shapes only, and views."""

from __future__ import annotations

from typing import Any, Callable, Dict

import numpy as np

from ppdiffusers.inference.plans.values import NUMPY_TYPES, full_shape

FOLDED: Dict[str, Callable[..., Any]] = {
    "full": lambda plan, attrs: np.full(list(attrs["shape"]), attrs["value"], NUMPY_TYPES[attrs["dtype"].name]),
    "full_int_array": lambda plan, attrs: np.array(attrs["value"], np.int64),
    "combine": lambda plan, attrs, *parts: list(parts),
    "stack": lambda plan, attrs, parts: np.stack(parts, attrs["axis"]),
    "concat": lambda plan, attrs, parts, axis: np.concatenate(parts, int(axis.reshape(-1)[0])),
    "add": lambda plan, attrs, x, y: x + y,
    "multiply": lambda plan, attrs, x, y: x * y,
    "subtract": lambda plan, attrs, x, y: x - y,
    "floor_divide": lambda plan, attrs, x, y: x // y,
    "slice": lambda plan, attrs, x, starts, ends: _folded_slice(attrs, x, starts, ends),
    "scale": lambda plan, attrs, x, factor: _folded_scale(attrs, x, factor),
    "cast": lambda plan, attrs, x: x.astype(NUMPY_TYPES[attrs["dtype"].name]),
    "reshape": lambda plan, attrs, x, shape: x.reshape(full_shape(x.shape, shape)),
    "unsqueeze": lambda plan, attrs, x, axes: np.expand_dims(x, tuple(axes.reshape(-1))),
    "squeeze": lambda plan, attrs, x, axes: np.squeeze(x, tuple(axes.reshape(-1))),
    "transpose": lambda plan, attrs, x: x.transpose(attrs["perm"]),
    "split_with_num": lambda plan, attrs, x, axis: np.split(x, attrs["num"], int(axis.reshape(()))),
    "expand": lambda plan, attrs, x, shape: np.broadcast_to(x, [n if m == -1 else m for n, m in zip(x.shape, shape)]),
    "arange": lambda plan, attrs, start, end, step: np.arange(
        *(each.reshape(())[()] for each in (start, end, step)), dtype=NUMPY_TYPES[attrs["dtype"].name]
    ),
}


def _folded_slice(attrs: Dict[str, Any], x: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    index = [slice(None)] * x.ndim
    for axis, start, end in zip(attrs["axes"], starts, ends):
        index[axis] = slice(int(start), int(end))
    return np.squeeze(x[tuple(index)], tuple(attrs["decrease_axis"]))


def _folded_scale(attrs: Dict[str, Any], x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    number, bias = x.dtype.type(factor.reshape(())), x.dtype.type(attrs["bias"])
    return x * number + bias if attrs["bias_after_scale"] else (x + bias) * number
