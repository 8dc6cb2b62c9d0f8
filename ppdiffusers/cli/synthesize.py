"""`ppdiffusers synthesize`: pictures from label maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.drawing import add_common, draw, plan
from ppdiffusers.cli.parsing import add

DEFAULT_MODEL = "CompVis/ldm-semantic-synthesis-512"
PURPOSE = "paint a picture after a map of classes"
EXAMPLES = """
ppdiffusers synthesize labels.png --model ./semantic                  writes labels-picture.png beside it
ppdiffusers synthesize labels.png -o landscapes/ --count 4 --model ./semantic
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "synthesize", PURPOSE, "MAP [-o OUT] [options]", EXAMPLES)
    parser.add_argument("map", metavar="MAP", help="a grey or palette picture: a pixel's value is its class")
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ppdiffusers.images import open_image

    source = Path(args.map)
    jobs = plan(args, f"{source.stem}-picture.png", inputs=(args.map,))
    return draw("LDMSemanticSynthesisPipeline", jobs, args, {}, segmentation=open_image(args.map))
