"""`--quality` and `--steps`: what a picture is sampled with."""

from __future__ import annotations

import argparse
import inspect
from typing import Any, Dict, Optional

from ppdiffusers.quality import QUALITIES


def add_options(parser: argparse.ArgumentParser, quality: Optional[str], steps: Optional[int] = None) -> None:
    """The two options; where there is no default `quality`, the model's own scheduler takes `steps`."""
    usual = quality or f"the model's own scheduler, {steps} steps"
    parser.add_argument(
        "--quality", choices=QUALITIES, default=quality, help=f"scheduler, spacing and steps; default: {usual}"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="default: those of the quality")
    parser.set_defaults(usual_steps=steps)


def choose(pipeline: Any, args: argparse.Namespace) -> int:
    """Set `pipeline` up; the number of steps. With an eta its scheduler stays where the recommended one has none."""
    steps, own = args.usual_steps, pipeline.scheduler
    if args.quality is not None:
        steps = pipeline.set_quality(args.quality)
        if args.eta and "eta" not in inspect.signature(pipeline.scheduler.step).parameters:
            pipeline.scheduler = own
    return steps if args.steps is None else args.steps


def described(args: argparse.Namespace, steps: int) -> Dict[str, Any]:
    """For the text of a PNG."""
    return {"steps": steps} if args.quality is None else {"quality": args.quality, "steps": steps}
