"""Shapes of tensors, also while a program is traced."""

from __future__ import annotations

from typing import Any, List

import paddle


def sizes(tensor: paddle.Tensor) -> List[Any]:
    """The shape: integers, or, of an axis whose size differs from call to call of a traced program, a tensor."""
    shape = list(tensor.shape)
    if all(not isinstance(size, int) or size >= 0 for size in shape):
        return shape
    unknown = paddle.shape(tensor)
    return [unknown[axis] if size < 0 else size for axis, size in enumerate(shape)]
