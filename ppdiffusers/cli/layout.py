"""`ppdiffusers layout`: pictures from bounding boxes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, List

from ppdiffusers.cli.drawing import add_common, draw, plan
from ppdiffusers.cli.parsing import add, positive

if TYPE_CHECKING:
    from ppdiffusers.layout import LayoutBox

DEFAULT_MODEL = "CompVis/ldm-layout-to-image-openimages-256"
EXAMPLE = '[{"label": 3, "box": [0.1, 0.2, 0.6, 0.9]}]'
PURPOSE = "paint objects where their boxes are"
EXAMPLES = f"""
ppdiffusers layout boxes.json --model ./layout                        writes boxes.png beside it
echo '{EXAMPLE}' > boxes.json
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "layout", PURPOSE, "BOXES.json [-o OUT] [options]", EXAMPLES)
    parser.add_argument(
        "boxes", type=Path, metavar="BOXES.json", help="a list of boxes, as in the example: class number, and left, "
        "top, right, bottom in 0 ... 1; also group, occluded, depiction, inside: true",
    )  # fmt: skip
    parser.add_argument("--width", type=positive, metavar="W", help="pixels (default: the model's)")
    parser.add_argument("--height", type=positive, metavar="H", help="pixels (default: the model's)")
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    jobs = plan(args, f"{args.boxes.stem}.png", inputs=(str(args.boxes),))
    boxes = read_boxes(args.boxes)
    layout = json.dumps([{name: x for name, x in vars(box).items() if x is not False} for box in boxes])
    return draw("LDMLayoutToImagePipeline", jobs, args, {"boxes": layout}, boxes=boxes, height=args.height,
                width=args.width)  # fmt: skip


def read_boxes(file: Path) -> List[LayoutBox]:
    """The boxes of a JSON file.

    Raises:
        ValueError: not JSON, or no list of boxes.
    """
    from ppdiffusers.layout import LayoutBox

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
