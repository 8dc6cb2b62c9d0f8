"""`ppdiffusers generate`: pictures from text."""

from __future__ import annotations

import argparse
from typing import Any

from ppdiffusers.cli.sample import add_common, draw, plan

DEFAULT_MODEL = "CompVis/ldm-text2im-large-256"
DEFAULT_GUIDANCE = 6.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("generate", help="paint what a sentence says")
    parser.add_argument("prompt", metavar="PROMPT", help="what to paint")
    add_common(parser, DEFAULT_MODEL)
    parser.add_argument(
        "--guidance", type=float, default=DEFAULT_GUIDANCE, metavar="G", help="weight of the prompt; 1 is none "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--width", type=int, metavar="W", help="pixels, a multiple of 8 (default: the model's)")
    parser.add_argument("--height", type=int, metavar="H", help="pixels, a multiple of 8 (default: the model's)")
    parser.add_argument("--negative", metavar="TEXT", help="what to lead away from")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    targets = plan(args.output, args.count)

    from ppdiffusers import LDMTextToImagePipeline

    parameters = {
        "prompt": args.prompt,
        "negative_prompt": args.negative or "",
        "guidance": args.guidance,
    }
    draw(LDMTextToImagePipeline, targets, args, parameters, prompt=args.prompt, negative_prompt=args.negative,
         height=args.height, width=args.width, guidance_scale=args.guidance)  # fmt: skip
    return 0
