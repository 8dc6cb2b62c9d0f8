"""`ppdiffusers inpaint`: the masked part of a picture, painted anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.drawing import add_common, draw, plan, read_one
from ppdiffusers.cli.parsing import add

DEFAULT_MODEL = "CompVis/ldm-inpainting-big"
PURPOSE = "paint the masked part of a picture anew"
EXAMPLES = """
ppdiffusers inpaint photo.jpg mask.png --model ./inpainting           writes photo-inpainted.jpg beside it
ppdiffusers inpaint photo.png mask.png -o whole.png --model ./inpainting --count 3
"""


def add_parser(commands: Any) -> None:
    from ppdiffusers.masks import BLENDS

    parser = add(commands, "inpaint", PURPOSE, "PICTURE MASK [-o OUT] [options]", EXAMPLES)
    parser.add_argument("picture", metavar="PICTURE", help="what to paint in")
    parser.add_argument("mask", metavar="MASK", help="a picture of the same size, white where to paint")
    parser.add_argument("--blend", choices=BLENDS, default=BLENDS[0], metavar="HOW", help=f"{BLENDS[0]} (default) or "
                        f"{BLENDS[1]}: how both parts meet")  # fmt: skip
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ppdiffusers.images import ImageError, open_image
    from ppdiffusers.masks import mask_pictures
    from ppdiffusers.pictures import format_of

    source = Path(args.picture)
    ending = source.suffix if format_of(source.name) is not None else ".png"
    jobs = plan(args, f"{source.stem}-inpainted{ending}", inputs=(args.picture, args.mask))
    frame, mask = read_one(args.picture, jobs[0]), open_image(args.mask)
    if not mask_pictures(frame.pixels, mask)[0].mask.any():
        raise ImageError(f"{args.mask} is black everywhere, so there is nothing to paint; white is painted")
    return draw("LDMInpaintPipeline", jobs, args, {"blend": args.blend}, frame, image=frame.pixels, mask_image=mask,
                blend=args.blend)  # fmt: skip
