"""Tensors on their way from one file to another; none is read before it is written."""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set

import numpy as np

from ppdiffusers.checkpoints import Checkpoint, Pending
from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.conversion.rows import Rows, Rule, Shape, listed
from ppdiffusers.models.model import to_dtype


class Taking:
    """Takes the tensors of several models out of one checkpoint, and gathers what does not fit.

    Args:
        checkpoint: open until the tensors have been written.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._names = set(checkpoint.keys())
        self._used: Set[str] = set()
        self._missing: List[str] = []
        self._misshaped: List[str] = []

    def take(self, rows: Rows, rename: Callable[[str], str]) -> Dict[str, Pending]:
        """The tensors of a model, by our names.

        Args:
            rename: from the name in a row to that in the checkpoint.
        """
        tensors = {}
        for row in rows:
            name, shape = rename(row.theirs), rows.shapes[row.ours[0]]
            if name not in self._names:
                self._missing.append(name)
                continue
            self._used.add(name)
            stored, wanted = tuple(self.checkpoint.shape(name)), row.rule.theirs_shape(shape)
            if stored != wanted:
                self._misshaped.append(f"{name} is {list(stored)}, not {list(wanted)}")
            for part, ours in enumerate(row.ours):
                tensors[ours] = self._pending(name, shape, row.rule, part)
        return tensors

    def _pending(self, name: str, shape: Shape, rule: Rule, part: int) -> Pending:
        checkpoint, dtype = self.checkpoint, self.checkpoint.dtype(name)

        def make() -> np.ndarray:
            array = np.array(rule.to_ours(checkpoint.read(name), part), order="C")  # a copy: the file's pages go back
            checkpoint.release(name)
            return to_dtype(array, dtype) if dtype == "bfloat16" else array

        return Pending(dtype, shape, make)

    def check(self, ignored: Callable[[str], bool], what: str) -> None:
        """
        Args:
            ignored: whether a tensor that was not taken may be there.
            what: that the checkpoint should fit.

        Raises:
            ConversionError: names every tensor that is missing, unexpected or of another shape.
        """
        unexpected = [name for name in self.checkpoint.keys() if not (name in self._used or ignored(name))]
        kinds = (("missing", self._missing), ("unexpected", unexpected), ("of another shape", self._misshaped))
        texts = [f"{kind}: {listed(names)}" for kind, names in kinds if names]
        if texts:
            raise ConversionError(f"{self.checkpoint.path} does not fit {what}; {'; '.join(texts)}")


def give(rows: Rows, tensors: Mapping[str, Pending]) -> Dict[str, Pending]:
    """The foreign state dict, by the names in the rows, of our tensors.

    Raises:
        ConversionError: tensors that become one are of different types.
    """
    return {row.theirs: _joined([tensors[name] for name in row.ours], row.rule) for row in rows}


def _joined(ours: Sequence[Pending], rule: Rule) -> Pending:
    dtypes = sorted({tensor.dtype for tensor in ours})
    if len(dtypes) > 1:
        raise ConversionError(f"tensors that are one there are {' and '.join(dtypes)}; choose one with --dtype")
    shape = rule.theirs_shape(ours[0].shape)
    return Pending(dtypes[0], shape, lambda: rule.to_theirs([tensor.make() for tensor in ours]))


def cast(tensors: Mapping[str, Pending], dtype: Optional[str]) -> Dict[str, Pending]:
    """As another floating type; as they are for None."""
    return {name: tensor if dtype in (None, tensor.dtype) else _cast(tensor, dtype) for name, tensor in tensors.items()}


def _cast(tensor: Pending, dtype: str) -> Pending:
    def make() -> np.ndarray:
        array = tensor.make()
        if tensor.dtype == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return to_dtype(array, dtype)

    return Pending(dtype, tensor.shape, make)
