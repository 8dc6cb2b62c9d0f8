"""`ppdiffusers upscale`: pictures, four times larger."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

from PIL import Image, PngImagePlugin

from ppdiffusers.cli import engine, quality
from ppdiffusers.config import replacing
from ppdiffusers.images import ImageError, open_image

DEFAULT_MODEL = "ppdiffusers/ldm-super-resolution-4x-tiny"
_OPAQUE = (".jpg", ".jpeg", ".jfif", ".ppm", ".eps")  # formats without an alpha channel


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("upscale", help="make a picture, or a folder of them, four times larger")
    parser.add_argument("input", type=Path, metavar="IN", help="a picture, or a folder of pictures")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="a file; a folder for a folder")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="name or folder (default: %(default)s)")
    quality.add_options(parser, "balanced")
    parser.add_argument("--eta", type=float, default=0.0, metavar="E", help="0 deterministic (default) to 1 as DDPM")
    parser.add_argument("--seed", type=int, metavar="S", help="fixes the result; drawn and printed when not given")
    engine.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    jobs = plan(args.input, args.output)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    opened, failures = [], 0
    for source, target in jobs:  # before the model is loaded: a bad picture should not cost that wait
        try:
            open_source(source, target)
            opened.append((source, target))
        except ImageError as error:
            if len(jobs) == 1:
                raise
            failures += 1
            print(f"ppdiffusers: skipped: {error}", file=sys.stderr)
    if not opened:
        raise ImageError(f"no usable picture in {args.input}")

    from ppdiffusers import Generator, LDMSuperResolutionPipeline

    generator = Generator(seed)  # a seed that cannot be is an error before the model is loaded
    pipeline = LDMSuperResolutionPipeline.from_pretrained(args.model, **engine.loading(args))
    steps = quality.choose(pipeline, args)
    parameters = {"model": args.model, **quality.described(args, steps), "eta": args.eta, "seed": seed}
    for source, target in opened:
        image = open_image(source)
        pipeline.set_progress_bar_config(desc=source.name, unit="step", disable=None)
        generator.manual_seed(seed)  # a picture's result does not depend on its neighbours
        result = pipeline(image, num_inference_steps=steps, eta=args.eta, generator=generator)[0][0]
        save(result, target, parameters)
        print(f"{target}: {image.width}x{image.height} -> {result.width}x{result.height}, seed {seed}")
    return 2 if failures else 0


def open_source(source: Path, target: Path) -> Image.Image:
    """`open_image` of what becomes `target`; raises ImageError where that cannot hold the picture's transparency."""
    image = open_image(source)
    if target.suffix.lower() in _OPAQUE and ("A" in image.mode or "transparency" in image.info):
        raise ImageError(f"{source} is transparent, and {target.suffix} cannot hold that; write a .png")
    return image


def plan(source: Path, target: Path) -> List[Tuple[Path, Path]]:
    """Pairs of input and output files.

    Raises:
        ImageError: nothing to do, no format for the output, or outputs that would overwrite something.
    """
    formats = Image.registered_extensions()
    if not source.is_dir():
        if not source.exists():
            raise ImageError(f"{source} does not exist")
        if target.is_dir():
            target = target / f"{source.stem}.png"
        if formats.get(target.suffix.lower()) not in Image.SAVE:
            raise ImageError(f"{target} has no suffix of a picture format; end it in .png")
        if target.resolve() == source.resolve():
            raise ImageError(f"the output would overwrite the input {source}; name another file")
        return [(source, target)]
    if target.is_file():
        raise ImageError(f"{source} is a folder and {target} a file; give a folder as output")
    if target.resolve() == source.resolve():
        raise ImageError(f"the output folder is the input folder {source}; name another")
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in formats and file.is_file())
    if not files:
        raise ImageError(f"{source} holds no pictures")
    targets: Dict[Path, Path] = {}
    for file in files:
        clash = targets.setdefault(target / f"{file.stem}.png", file)
        if clash is not file:
            raise ImageError(f"{clash.name} and {file.name} would both become {file.stem}.png; rename one")
    return [(file, output) for output, file in targets.items()]


def save(image: Image.Image, target: Path, parameters: Dict[str, Any]) -> None:
    """Write in one rename; a PNG carries the parameters as text."""
    kind = Image.registered_extensions()[target.suffix.lower()]
    options: Dict[str, Any] = {}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        for name, value in parameters.items():
            text.add_text(f"ppdiffusers:{name}", str(value))
        options["pnginfo"] = text
    with replacing(target) as part:
        image.save(part, format=kind, **options)
