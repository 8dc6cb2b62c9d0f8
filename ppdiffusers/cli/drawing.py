"""What the commands share that make pictures from noise: options, names of results, and the work."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from ppdiffusers.cli import engine, quality, saving
from ppdiffusers.cli.jobs import STDIN, Job, Source, check
from ppdiffusers.cli.parsing import UsageError, between, positive
from ppdiffusers.cli.report import Report

if TYPE_CHECKING:
    from ppdiffusers.pictures import Frame

DEFAULT_STEPS = 50

# Of one picture: what its metadata tell, and what the pipeline is called with.
Wanted = Tuple[Dict[str, Any], Dict[str, Any]]


def add_common(parser: argparse.ArgumentParser, model: str) -> None:
    """The options of every command that makes pictures from noise."""
    parser.add_argument("--count", type=positive, default=1, metavar="N", help="pictures to make (default: 1)")
    saving.add_options(parser, "a file (several are numbered), a folder, or - for standard output")
    group = parser.add_argument_group("model")
    group.add_argument("--model", default=model, metavar="NAME", help="name or folder (default: %(default)s)")
    quality.add_options(group, None, DEFAULT_STEPS)
    group.add_argument(
        "--eta", type=between(0, 1), default=0.0, metavar="E", help="0 deterministic (default) to 1 as DDPM"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of the first picture, the next has N + 1; else drawn")
    engine.add_options(group)


def plan(args: argparse.Namespace, default: str, groups: int = 1, inputs: Sequence[str] = ()) -> List[Job]:
    """Where the results go, `args.count` for each of the groups; several are numbered: `name-1.png` ...

    Args:
        default: the file's name where `-o` says none; beside the first of the inputs, else in the current folder.
        inputs: files that no result may replace.

    Raises:
        UsageError: no format that can be written, or a target that cannot be used.
    """
    from ppdiffusers.pictures import format_of
    from ppdiffusers.pictures.formats import writable_suffixes

    count = args.count * groups
    if args.output == STDIN:
        if count > 1 or args.json:
            raise UsageError("standard output takes one picture and nothing else; name a file with -o")
        if sys.stdout.isatty() and not args.dry_run:
            raise UsageError("standard output is a terminal, which shows no pictures; redirect it or give -o")
        return [Job(Source("picture"), None, ".png")]
    if args.output is None:
        target = (Path(inputs[0]).parent if inputs else Path()) / default
    elif args.output.endswith(("/", os.sep)) or Path(args.output).is_dir() or not Path(args.output).suffix:
        target = Path(args.output) / default
    else:
        target = Path(args.output)
    if format_of(target.name) is None:
        raise UsageError(
            f"{target} is no file name of a picture format; end it in .png or another of {writable_suffixes()}, "
            "or in / for a folder"
        )
    numbers = [""] if count == 1 else [f"-{number}" for number in range(1, count + 1)]
    files = [target.with_name(f"{target.stem}{number}{target.suffix}") for number in numbers]
    jobs = [Job(Source(file.stem), file, file.suffix) for file in files]
    sources = {Path(file).resolve(): file for file in inputs}
    for job, file in zip(jobs, files):
        if file.resolve() in sources:
            name = sources[file.resolve()]
            raise UsageError(f"the output would overwrite the input {name}; name another file")
        check(job, args, many=False)
    return jobs


def draw(kind: str, jobs: List[Job], args: argparse.Namespace, said: Dict[str, Any], like: Optional[Frame] = None,
         **arguments: Any) -> int:  # fmt: skip
    """`draw_each` of pictures that differ in their seeds only."""
    return draw_each(kind, jobs, args, lambda pipeline: [(said, arguments)] * len(jobs), like)


def draw_each(
    kind: str,
    jobs: List[Job],
    args: argparse.Namespace,
    describe: Callable[[Any], List[Wanted]],
    like: Optional[Frame] = None,
) -> int:
    """Call the pipeline once a file, with seeds that count up, so that each picture can be made again alone.

    Args:
        kind: name of the pipeline's class.
        describe: `describe(pipeline)` says what is wanted, for each file, beyond the options of `add_common`.
        like: the picture that the results are made from: they have its channels, bits and metadata.

    Returns:
        The exit code.
    """
    from ppdiffusers.random import Generator

    seed = secrets.randbits(32) if args.seed is None else args.seed
    generators = [Generator(seed + i) for i in range(len(jobs))]  # a bad seed is an error before loading
    report = Report(args, len(jobs), piped=jobs[0].target is None)
    if args.dry_run:
        for job in jobs:
            report.finished(
                f"{job.source.name} -> {job.target or 'standard output'}", output=str(job.target), dry_run=True
            )
        return report.close()
    left = [job for job in jobs if not job.exists]
    for job in jobs:
        if job.exists:
            report.skip(job.source.name, str(job.target))
    if not left:
        return report.close()

    import ppdiffusers

    pipeline = getattr(ppdiffusers, kind).from_pretrained(args.model, **engine.loading(args))
    wanted = describe(pipeline)
    steps = quality.choose(pipeline, args)
    common = {**quality.described(args, steps), "eta": args.eta}
    pipeline.set_progress_bar_config(disable=True)  # `Report` shows it
    for _ in left:
        report.expect(1)
    for i, (job, generator, (said, arguments)) in enumerate(zip(jobs, generators, wanted)):
        if job.exists:
            continue
        begun = time.monotonic()
        report.begin(job.source.name, 1)
        output: Any = None
        run = pipeline.stream(
            generator=generator, num_inference_steps=steps, eta=args.eta, output_type="np", **arguments
        )
        for progress in run:
            what = (
                f"step {progress.step}/{progress.total}"
                if progress.step < progress.total - 1
                else "last step, decoding"
            )
            report.progress(progress.step / (progress.total + 1), what)
            output = progress.output
        made = saving.provenance(args.model, {**said, **common}, seed + i)
        width, height = _save(output[0][0], job, args, made, like)
        report.finished(
            f"{job.target or 'standard output'}: {width}x{height}, seed {seed + i}", output=str(job.target or STDIN),
            seed=seed + i, result_size=[width, height], seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
    return report.close()


def _save(
    result: Any, job: Job, args: argparse.Namespace, made: Dict[str, str], like: Optional[Frame]
) -> Tuple[int, int]:
    """Write one picture; its width and height."""
    import numpy as np

    from ppdiffusers.pictures import Frame, Metadata, format_of

    kind = format_of(f"x{job.suffix}")
    assert kind is not None  # `plan` has looked
    channels, dtype = (result.shape[2], np.uint8) if like is None else (like.pixels.shape[2], like.pixels.dtype)
    pixels = saving.levels(saving.with_channels(np.asarray(result), channels), dtype)
    frame = Frame(pixels, Metadata() if like is None else like.metadata)
    with saving.opened(job.target, args) as file:
        saving.write(file, kind, iter([saving.finished(frame, args, made)]), args)
    return pixels.shape[1], pixels.shape[0]


def read_one(file: str, target: Optional[Job] = None) -> Frame:
    """The picture of a file, before the model is loaded: an error should not cost that wait.

    Raises:
        ImageError: it cannot be used, or its transparency cannot be kept in the target's format.
    """
    from ppdiffusers.pictures import Document, ImageError, format_of
    from ppdiffusers.pictures.writing import is_transparent

    frame = Document(file).only()
    kind = format_of(f"x{target.suffix}") if target is not None else None
    if target is not None and kind is not None and not kind.alpha and is_transparent(frame.pixels):
        raise ImageError(f"{file} is transparent, and {target.suffix} cannot hold that; write a .png")
    return frame
