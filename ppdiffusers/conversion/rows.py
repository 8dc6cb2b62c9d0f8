"""Tables between the tensors of a model here and those of a foreign state dict.

A `Row` says which tensors hold the same numbers, and its `Rule` how they are laid out; both are read in both
directions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
from paddle import nn

from ppdiffusers.checkpoints.errors import shorten
from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.models.model import linear_weights

Shape = Tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one foreign tensor is laid out beside ours.

    Attributes:
        transposed: a matrix [out, in] is [in, out] here, as Paddle's linear layers have it.
        kernel: axes of size 1 behind it: the linear layer is a 1-d (1) or 2-d (2) convolution there.
        parts: tensors of ours that it holds, one under the other ...
        heads: ... in this many groups of rows: the rows of every head are those of its first part, its second, ...
    """

    transposed: bool = False
    kernel: int = 0
    parts: int = 1
    heads: int = 1

    def bias(self) -> Rule:
        """The rule of the bias beside a weight."""
        return dataclasses.replace(self, transposed=False, kernel=0)

    def theirs_shape(self, ours: Shape) -> Shape:
        shape = ours[::-1] if self.transposed else ours
        return (shape[0] * self.parts, *shape[1:], *[1] * self.kernel) if shape else shape

    def to_ours(self, theirs: np.ndarray, part: int) -> np.ndarray:
        array: Any = theirs.reshape(theirs.shape[: theirs.ndim - self.kernel])
        if self.parts > 1:
            grouped = array.reshape(self.heads, self.parts, -1, *array.shape[1:])
            array = grouped[:, part].reshape(-1, *array.shape[1:])
        return array.T if self.transposed else array

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        arrays = [array.T if self.transposed else array for array in ours]
        array = arrays[0]
        if self.parts > 1:
            rest = array.shape[1:]
            array = np.stack([part.reshape(self.heads, -1, *rest) for part in arrays], axis=1).reshape(-1, *rest)
        return array.reshape(*array.shape, *[1] * self.kernel)


SAME = Rule()  # convolutions, norms, embeddings
LINEAR = Rule(transposed=True)
POINTWISE = Rule(transposed=True, kernel=2)  # a 1x1 convolution there, a linear layer here
POINTWISE_1D = Rule(transposed=True, kernel=1)

Table = Mapping[str, Tuple[str, Rule]]  # our sub-layer -> theirs, and the rule of its weight


@dataclasses.dataclass(frozen=True)
class Row:
    """Names of our tensors, relative to the model, of the foreign one, relative to its module, and the rule."""

    ours: Tuple[str, ...]
    theirs: str
    rule: Rule = SAME


class Rows(List[Row]):
    """The rows of one model, added layer by layer; those that the model does not have are left out.

    Args:
        model: ours; only the names and shapes of its parameters are looked at, so they need no memory (LazyGuard).
    """

    def __init__(self, model: nn.Layer):
        super().__init__()
        self.shapes: Dict[str, Shape] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        self.model_name = type(model).__name__

    def add(self, ours: str, theirs: str, rule: Rule = SAME) -> None:
        """The weight and bias of a layer."""
        self.add_parts((ours,), theirs, rule)

    def add_parts(self, ours: Sequence[str], theirs: str, rule: Rule) -> None:
        """The weight and bias of several layers that are one there."""
        for kind, its_rule in (("weight", rule), ("bias", rule.bias())):
            names = tuple(f"{layer}.{kind}" for layer in ours)
            if all(name in self.shapes for name in names):
                self.append(Row(names, f"{theirs}.{kind}", its_rule))

    def add_table(self, ours: str, theirs: str, table: Table) -> None:
        """The layers of a block, by a table of their names in it."""
        for ours_part, (theirs_part, rule) in table.items():
            self.add(f"{ours}.{ours_part}", f"{theirs}.{theirs_part}", rule)

    def complete(self) -> Rows:
        """Itself, checked to hold every parameter of the model once."""
        named = [name for row in self for name in row.ours]
        left = set(self.shapes) ^ set(named)
        if left or len(named) != len(self.shapes):
            raise ConversionError(f"{self.model_name} has parameters without a counterpart: {listed(sorted(left))}")
        return self


def layout_rows(model: nn.Layer, layout: str) -> Rows:
    """The rows between a model and a file of it under today's names, in the `layout` "torch" or "paddle"."""
    rows = Rows(model)
    transposed = linear_weights(model) if layout == "torch" else set()
    rows.extend(Row((name,), name, LINEAR if name in transposed else SAME) for name in rows.shapes)
    return rows


def listed(names: Sequence[str]) -> str:
    """All of them, up to a number at which nobody reads on."""
    shown = ", ".join(shorten(name) for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")
