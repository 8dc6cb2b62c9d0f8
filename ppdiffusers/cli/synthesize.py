"""`ppdiffusers synthesize`: pictures from label maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.sample import add_common, draw, plan
from ppdiffusers.images import ImageError, open_image

DEFAULT_MODEL = "CompVis/ldm-semantic-synthesis-512"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("synthesize", help="paint a picture after a map of classes")
    parser.add_argument("map", type=Path, metavar="MAP", help="a grey or palette picture: a pixel's value is its class")
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    targets = plan(args.output, args.count)
    if args.map.resolve() in (target.resolve() for target in targets):
        raise ImageError(f"the output would overwrite the input {args.map}; name another file")
    labels = open_image(args.map)

    from ppdiffusers import LDMSemanticSynthesisPipeline

    draw(LDMSemanticSynthesisPipeline, targets, args, {}, segmentation=labels)
    return 0
