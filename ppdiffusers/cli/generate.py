"""`ppdiffusers generate`: pictures from text."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ppdiffusers.cli.drawing import add_common, draw, plan
from ppdiffusers.cli.parsing import add, positive

DEFAULT_MODEL = "CompVis/ldm-text2im-large-256"
DEFAULT_GUIDANCE = 6.0
PURPOSE = "paint what a sentence says"
EXAMPLES = """
ppdiffusers generate "a street sign"                         writes a-street-sign.png; fetches 5.5 GB, once
ppdiffusers generate "a street sign" -o signs/ --count 4 --seed 7
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "generate", PURPOSE, "PROMPT [-o OUT] [options]", EXAMPLES)
    parser.add_argument("prompt", metavar="PROMPT", help="what to paint")
    parser.add_argument("--negative", metavar="TEXT", help="what to lead away from")
    parser.add_argument("--guidance", type=float, default=DEFAULT_GUIDANCE, metavar="G", help="weight of the prompt; "
                        "1 is none (default: %(default)s)")  # fmt: skip
    parser.add_argument("--width", type=positive, metavar="W", help="pixels, a multiple of 8 (default: the model's)")
    parser.add_argument("--height", type=positive, metavar="H", help="pixels, a multiple of 8 (default: the model's)")
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    name = re.sub(r"[^\w]+", "-", args.prompt.lower()).strip("-_")[:50].strip("-") or "picture"
    jobs = plan(args, f"{name}.png")
    said = {"prompt": args.prompt, "negative_prompt": args.negative or "", "guidance": args.guidance}
    return draw("LDMTextToImagePipeline", jobs, args, said, prompt=args.prompt, negative_prompt=args.negative,
                height=args.height, width=args.width, guidance_scale=args.guidance)  # fmt: skip
