"""`ppdiffusers inpaint`: the masked part of a picture, painted anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.sample import add_common, draw, plan
from ppdiffusers.cli.upscale import open_source
from ppdiffusers.images import ImageError, open_image
from ppdiffusers.masks import BLENDS, mask_pictures

DEFAULT_MODEL = "CompVis/ldm-inpainting-big"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("inpaint", help="paint the masked part of a picture anew")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="what to paint in")
    parser.add_argument("mask", type=Path, metavar="MASK", help="a picture of the same size, white where to paint")
    add_common(parser, DEFAULT_MODEL)
    parser.add_argument("--blend", choices=BLENDS, default=BLENDS[0], help="how both parts meet (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    targets = plan(args.output, args.count)
    sources = {file.resolve(): file for file in (args.picture, args.mask)}
    for target in targets:
        if target.resolve() in sources:
            raise ImageError(f"the output would overwrite the input {sources[target.resolve()]}; name another file")
    image, mask = open_source(args.picture, targets[0]), open_image(args.mask)
    if not mask_pictures(image, mask)[0].mask.any():  # before the model is loaded: an error should not cost that wait
        raise ImageError(f"{args.mask} is black everywhere, so there is nothing to paint; white is painted")

    from ppdiffusers import LDMInpaintPipeline

    draw(LDMInpaintPipeline, targets, args, {"blend": args.blend}, image=image, mask_image=mask, blend=args.blend)
    return 0
