"""`ppdiffusers layout`: pictures from bounding boxes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, List

from ppdiffusers.cli.sample import add_common, draw, plan
from ppdiffusers.layout import LayoutBox

DEFAULT_MODEL = "CompVis/ldm-layout-to-image-openimages-256"
EXAMPLE = '[{"label": 3, "box": [0.1, 0.2, 0.6, 0.9]}]'


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("layout", help="paint objects where their boxes are")
    parser.add_argument(
        "boxes", type=Path, metavar="BOXES.json", help=f"a list of boxes such as {EXAMPLE}: class number, and left, "
        "top, right, bottom in 0 ... 1; also group, occluded, depiction, inside: true",
    )  # fmt: skip
    add_common(parser, DEFAULT_MODEL)
    parser.add_argument("--width", type=int, metavar="W", help="pixels (default: the model's)")
    parser.add_argument("--height", type=int, metavar="H", help="pixels (default: the model's)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    targets = plan(args.output, args.count)
    boxes = read_boxes(args.boxes)

    from ppdiffusers import LDMLayoutToImagePipeline

    layout = json.dumps([{name: x for name, x in vars(box).items() if x is not False} for box in boxes])
    draw(LDMLayoutToImagePipeline, targets, args, {"boxes": layout}, boxes=boxes, height=args.height, width=args.width)
    return 0


def read_boxes(file: Path) -> List[LayoutBox]:
    """The boxes of a JSON file.

    Raises:
        ValueError: not JSON, or no list of boxes.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not JSON ({error}); it holds a list such as {EXAMPLE}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} holds no list of boxes; write one such as {EXAMPLE}")
    known = {field.name for field in dataclasses.fields(LayoutBox)}
    boxes = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"label", "box"} <= set(entry) <= known:
            raise ValueError(f"box {number} of {file} is {json.dumps(entry)}; write a list such as {EXAMPLE}")
        try:
            boxes.append(LayoutBox(**entry))
        except (TypeError, ValueError) as error:
            raise ValueError(f"box {number} of {file}: {error}") from None
    return boxes
