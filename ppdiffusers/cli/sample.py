"""`ppdiffusers sample`: pictures from noise alone."""

from __future__ import annotations

import argparse
import functools
import secrets
from pathlib import Path
from typing import Any, Callable, Dict, List

from PIL import Image

from ppdiffusers.cli.upscale import save, use_all_cores

DEFAULT_MODEL = "CompVis/ldm-celebahq-256"
DEFAULT_STEPS = 50


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("sample", help="draw pictures of what a model was trained on")
    add_common(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def add_common(parser: argparse.ArgumentParser, model: str) -> None:
    """The options of every command that makes pictures from noise."""
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="a file; more are numbered")
    parser.add_argument("--model", default=model, metavar="NAME", help="name or folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, metavar="N", help="default: %(default)s")
    parser.add_argument("--eta", type=float, default=0.0, metavar="E", help="0 deterministic (default) to 1 as DDPM")
    parser.add_argument("--seed", type=int, metavar="S", help="of the first picture, the next has S + 1; else drawn")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="pictures to make (default: 1)")


def run(args: argparse.Namespace) -> int:
    targets = plan(args.output, args.count)

    from ppdiffusers import LDMPipeline

    load = functools.partial(LDMPipeline.from_pretrained, args.model)
    draw(load, targets, args.seed, {"model": args.model, "steps": args.steps, "eta": args.eta},
         num_inference_steps=args.steps, eta=args.eta)  # fmt: skip
    return 0


def plan(target: Path, count: int) -> List[Path]:
    """The output files: `target` for one picture, `name-1.png` ... for several.

    Raises:
        ValueError: no picture format that can be written, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"--count {count} makes no picture; give 1 or more")
    if Image.registered_extensions().get(target.suffix.lower()) not in Image.SAVE or target.is_dir():
        raise ValueError(f"{target} is no file name of a picture format; end it in .png")
    if count == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, count + 1)]


def draw(load: Callable[[], Any], targets: List[Path], seed: Any, parameters: Dict[str, Any], **arguments: Any) -> None:
    """Call the pipeline once a file, with seeds that count up, so that each picture can be made again alone."""
    from ppdiffusers import Generator

    seed = secrets.randbits(32) if seed is None else seed
    generators = [Generator(seed + i) for i in range(len(targets))]  # a bad seed is an error before loading
    use_all_cores()
    pipeline = load()
    for i, (target, generator) in enumerate(zip(targets, generators)):
        pipeline.set_progress_bar_config(desc=target.name, unit="step", disable=None)
        image = pipeline(generator=generator, **arguments)[0][0]
        save(image, target, {**parameters, "seed": seed + i})
        print(f"{target}: {image.width}x{image.height}, seed {seed + i}")
