"""`ppdiffusers sample`: pictures from noise alone, or of classes."""

from __future__ import annotations

import argparse
from typing import Any, List

from ppdiffusers.cli.drawing import Wanted, add_common, draw_each, plan
from ppdiffusers.cli.parsing import add

DEFAULT_MODEL = "CompVis/ldm-celebahq-256"
PURPOSE = "draw pictures of what a model was trained on"
EXAMPLES = """
ppdiffusers sample -o face.png                                        fetches 1.2 GB, once
ppdiffusers sample --count 4 -o faces/ --seed 7
ppdiffusers sample --class 207,208 -o dog.png --model ./class-conditional
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "sample", PURPOSE, "[-o OUT] [options]", EXAMPLES)
    parser.add_argument("--class", dest="labels", type=class_numbers, default=[], metavar="N[,N...]", help="classes to "
                        "draw, --count pictures each, of a model that knows some")  # fmt: skip
    parser.add_argument(
        "--guidance", type=float, metavar="G", help="weight of the class; 1 is none (default: the model's)"
    )
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def class_numbers(text: str) -> List[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of class numbers such as 3 or 3,14") from None


def run(args: argparse.Namespace) -> int:
    jobs = plan(args, "sample.png", max(len(args.labels), 1))
    return draw_each("DiffusionPipeline", jobs, args, lambda pipeline: pictures(pipeline, args))


def pictures(pipeline: Any, args: argparse.Namespace) -> List[Wanted]:
    """What the options ask of this pipeline.

    Raises:
        ValueError: they do not fit it.
    """
    from ppdiffusers import LDMClassConditionalPipeline, LDMPipeline

    if isinstance(pipeline, LDMClassConditionalPipeline):
        if not args.labels:
            last = pipeline.class_embedder.config.num_classes - 1
            raise ValueError(f"{args.model} draws classes: name one or several of 0 ... {last} with --class")
        scale = pipeline.default_guidance_scale if args.guidance is None else args.guidance
        return [
            ({"class": n, "guidance": scale}, {"class_labels": n, "guidance_scale": scale})
            for n in pipeline.checked_classes("--class", args.labels)  # all of them, before the first is drawn
            for _ in range(args.count)
        ]
    if not isinstance(pipeline, LDMPipeline):
        kind = type(pipeline).__name__
        raise ValueError(f"{args.model} is a {kind}, which needs more than noise; see ppdiffusers --help")
    for name, given in (("--class", args.labels), ("--guidance", args.guidance is not None)):
        if given:
            raise ValueError(f"{args.model} knows no classes; leave {name} out")
    return [({}, {})] * args.count
