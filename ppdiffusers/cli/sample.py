"""`ppdiffusers sample`: pictures from noise alone, or of classes."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from PIL import Image

from ppdiffusers.cli import engine, quality
from ppdiffusers.cli.upscale import save

DEFAULT_MODEL = "CompVis/ldm-celebahq-256"
DEFAULT_STEPS = 50

# Of one picture: what its PNG tells, and what the pipeline is called with.
Picture = Tuple[Dict[str, Any], Dict[str, Any]]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("sample", help="draw pictures of what a model was trained on")
    add_common(parser, DEFAULT_MODEL)
    parser.add_argument(
        "--class", dest="labels", type=class_numbers, default=[], metavar="N[,N...]", help="classes to draw, --count "
        "pictures each, of a model that knows some",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=float, metavar="G", help="weight of the class; 1 is none (default: the model's)"
    )
    parser.set_defaults(run=run)


def class_numbers(text: str) -> List[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of class numbers such as 3 or 3,14") from None


def add_common(parser: argparse.ArgumentParser, model: str) -> None:
    """The options of every command that makes pictures from noise."""
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="a file; more are numbered")
    parser.add_argument("--model", default=model, metavar="NAME", help="name or folder (default: %(default)s)")
    quality.add_options(parser, None, DEFAULT_STEPS)
    parser.add_argument("--eta", type=float, default=0.0, metavar="E", help="0 deterministic (default) to 1 as DDPM")
    parser.add_argument("--seed", type=int, metavar="S", help="of the first picture, the next has S + 1; else drawn")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="pictures to make (default: 1)")
    engine.add_options(parser)


def run(args: argparse.Namespace) -> int:
    targets = plan(args.output, args.count, max(len(args.labels), 1))

    from ppdiffusers import DiffusionPipeline

    draw_each(DiffusionPipeline, targets, args, lambda pipeline: pictures(pipeline, args))
    return 0


def pictures(pipeline: Any, args: argparse.Namespace) -> List[Picture]:
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


def plan(target: Path, count: int, groups: int = 1) -> List[Path]:
    """The output files: `target` for one picture, `name-1.png` ... for several, `count` for each of the groups.

    Raises:
        ValueError: no picture format that can be written, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"--count {count} makes no picture; give 1 or more")
    if Image.registered_extensions().get(target.suffix.lower()) not in Image.SAVE or target.is_dir():
        raise ValueError(f"{target} is no file name of a picture format; end it in .png")
    if count * groups == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, count * groups + 1)]


def draw(
    kind: Any,
    targets: List[Path],
    args: argparse.Namespace,
    parameters: Dict[str, Any],
    **arguments: Any,
) -> None:
    """`draw_each` of pictures that differ in their seeds only."""
    draw_each(kind, targets, args, lambda pipeline: [(parameters, arguments)] * len(targets))


def draw_each(
    kind: Any,
    targets: List[Path],
    args: argparse.Namespace,
    describe: Callable[[Any], List[Picture]],
) -> None:
    """Call the pipeline once a file, with seeds that count up, so that each picture can be made again alone.

    `describe(pipeline)` says what is wanted, for each file, beyond the options of `add_common`.
    """
    from ppdiffusers import Generator

    seed = secrets.randbits(32) if args.seed is None else args.seed
    generators = [Generator(seed + i) for i in range(len(targets))]  # a bad seed is an error before loading
    pipeline = kind.from_pretrained(args.model, **engine.loading(args))
    wanted = describe(pipeline)
    steps = quality.choose(pipeline, args)
    common = {"model": args.model, **quality.described(args, steps), "eta": args.eta}
    for i, (target, generator, (parameters, arguments)) in enumerate(zip(targets, generators, wanted)):
        pipeline.set_progress_bar_config(desc=target.name, unit="step", disable=None)
        image = pipeline(generator=generator, num_inference_steps=steps, eta=args.eta, **arguments)[0][0]
        save(image, target, {**parameters, **common, "seed": seed + i})
        print(f"{target}: {image.width}x{image.height}, seed {seed + i}")
