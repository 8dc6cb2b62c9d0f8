"""Bounding boxes to token numbers, the condition of a layout-to-image model (arXiv 2112.10752, section 4.3.1).

The tokens are those of taming-transformers' bounding-box conditioning, which the published model was trained on: three
numbers an object (what it is, where its box begins and ends), "none" for every object that is missing, and two numbers
for the part of the scene that the picture shows.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple, Union

Box = Tuple[float, float, float, float]  # left, top, right, bottom, in [0, 1] of the scene's width and height
FULL_CROP: Box = (0.0, 0.0, 1.0, 1.0)
TOKENS_PER_OBJECT = 3
TOKENS_PER_CROP = 2
MODIFIERS = ("group", "occluded", "depiction", "inside")  # bits 1, 2, 4, 8 of the class token


@dataclass(frozen=True)
class LayoutBox:
    """One object of a layout.

    Args:
        label: the class number, from 0.
        box: left, top, right, bottom, in [0, 1] of the scene's width and height.
        group: several objects of the class in one box.
        occluded: something stands in front of it.
        depiction: a drawing of it, or another thing that is not real.
        inside: seen from within, as a room or a car.

    Raises:
        TypeError, ValueError: a value of the wrong type or out of range.
    """

    label: int
    box: Box
    group: bool = False
    occluded: bool = False
    depiction: bool = False
    inside: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.label, bool) or not isinstance(self.label, numbers.Integral):
            raise TypeError(f"the label of a box is a class number, not {self.label!r}")
        object.__setattr__(self, "box", check_box(f"the box of class {self.label}", self.box))
        for name in MODIFIERS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} of a box is True or False, not {getattr(self, name)!r}")

    @property
    def modifiers(self) -> int:
        """The bits that a class token carries, 0 to 15."""
        return sum(1 << bit for bit, name in enumerate(MODIFIERS) if getattr(self, name))


Layout = Sequence[Union[LayoutBox, Sequence[float]]]


def check_box(name: str, value: Any) -> Box:
    """Four finite numbers left, top, right, bottom.

    Raises:
        TypeError, ValueError: something else, a box without area, or one that leaves the scene.
    """
    numeric = isinstance(value, (list, tuple)) and len(value) == 4
    if not numeric or not all(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in value):
        raise TypeError(f"{name} must be the four numbers left, top, right, bottom, not {value!r}")
    left, top, right, bottom = (float(x) for x in value)
    if not all(0 <= x <= 1 for x in (left, top, right, bottom)):
        raise ValueError(f"{name}, {value!r}, leaves the scene; divide pixels by its width and height to get 0 ... 1")
    if not (left < right and top < bottom):
        raise ValueError(f"{name}, {value!r}, is empty; give left < right and top < bottom")
    return left, top, right, bottom


def read_layouts(value: Any) -> List[List[LayoutBox]]:
    """One layout, or a list of them, as a list of layouts.

    Args:
        value: a list of boxes, each a `LayoutBox` or the five numbers (class, left, top, right, bottom); or a list of
            such lists.

    Raises:
        TypeError, ValueError: none of these, an empty list, or a box that cannot be.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"boxes must be a list of boxes, or a list of such lists, not a {type(value).__name__}")
    layouts = [value] if not value or any(_is_box(item) for item in value) else value
    for layout in layouts:
        if not isinstance(layout, (list, tuple)):
            raise TypeError(f"boxes must be a list of boxes, or a list of such lists; one entry is {layout!r}")
        if not layout:
            raise ValueError("boxes is or holds an empty list; give at least one (class, left, top, right, bottom)")
        for box in layout:
            if not _is_box(box):
                raise TypeError(f"a box is (class, left, top, right, bottom) or a LayoutBox, not {box!r}")
    return [[box if isinstance(box, LayoutBox) else LayoutBox(box[0], box[1:]) for box in boxes] for boxes in layouts]


def _is_box(value: Any) -> bool:
    if isinstance(value, LayoutBox):
        return True
    return isinstance(value, (list, tuple)) and len(value) == 5 and all(isinstance(x, numbers.Real) for x in value)


def layout_tokens(
    layout: Sequence[LayoutBox],
    crop: Box,
    vocab_size: int,
    max_objects: int,
    num_object_classes: Optional[int] = None,
) -> List[int]:
    """The `3 * max_objects + 2` token numbers of a layout; of no object at all where it is empty.

    Args:
        crop: the part of the scene that the picture shows. Objects outside it are left out, as in training; the
            places of the others count from the scene's corner, not from the crop's.
        vocab_size: token numbers of the model. The last one is "none".
        num_object_classes: classes that the model was trained on; without it, no modifiers.

    Raises:
        ValueError: too many objects, a class that is not there, or modifiers without `num_object_classes`.
    """
    shown = [box for box in layout if _meet(box.box, crop)]
    if len(shown) > max_objects:
        raise ValueError(f"a layout has {len(shown)} objects; this model reads {max_objects} at most: leave some out")
    if layout and not shown:
        raise ValueError(f"no box of the layout lies in the crop {crop}; widen the crop")
    none = vocab_size - 1
    tokens: List[int] = []
    for item in shown:
        tokens += [_object_token(item, none, num_object_classes), *box_tokens(item.box, vocab_size)]
    tokens += [none] * (TOKENS_PER_OBJECT * (max_objects - len(shown)))
    return tokens + box_tokens(crop, vocab_size)


def box_tokens(box: Box, vocab_size: int) -> List[int]:
    """The tokens of the top-left and of the bottom-right corner."""
    return [point_token(box[0], box[1], vocab_size), point_token(box[2], box[3], vocab_size)]


def point_token(x: float, y: float, vocab_size: int) -> int:
    """The nearest point of a grid with as many rows and columns as the vocabulary has room for, row by row."""
    side = math.isqrt(vocab_size)
    return round(y * (side - 1)) * side + round(x * (side - 1))


def _object_token(item: LayoutBox, none: int, num_object_classes: Optional[int]) -> int:
    if item.modifiers and num_object_classes is None:
        raise ValueError(
            f"{item} has modifiers, whose tokens depend on the classes that the model was trained on; "
            "give the pipeline their number: from_pretrained(..., num_object_classes=...)"
        )
    classes = none if num_object_classes is None else num_object_classes
    if item.label not in range(classes):
        raise ValueError(f"{item}: this model has the classes 0 ... {classes - 1}, and no {item.label}")
    token = item.label + classes * item.modifiers
    if token >= none:
        raise ValueError(f"{item} has token {token}, and this model's end at {none - 1}; it has no such modifier")
    return token


def _meet(a: Box, b: Box) -> bool:
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
