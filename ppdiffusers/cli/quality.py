"""`--quality` and `--steps`: what a picture is sampled with."""

from __future__ import annotations

import argparse
import inspect
from typing import Any, Dict, Optional

from ppdiffusers.cli.parsing import positive
from ppdiffusers.quality import QUALITIES


def add_options(group: Any, quality: Optional[str], steps: Optional[int] = None) -> None:
    """The two options; where there is no default `quality`, the model's own scheduler takes `steps`."""
    usual = quality or f"the model's own, {steps} steps"
    group.add_argument("--quality", choices=QUALITIES, default=quality, metavar="Q",
                       help=f"{', '.join(QUALITIES)}: scheduler and steps (default: {usual})")  # fmt: skip
    group.add_argument("--steps", type=positive, metavar="N", help="denoising steps (default: those of the quality)")
    group.set_defaults(usual_steps=steps)


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
