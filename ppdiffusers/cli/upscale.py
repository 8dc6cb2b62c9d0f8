"""`ppdiffusers upscale`: pictures, four times larger."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import secrets
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple

from ppdiffusers.cli import distributed, engine, quality, saving
from ppdiffusers.cli.jobs import STDIN, Job, Source, plan
from ppdiffusers.cli.parsing import UsageError, add, between, whole
from ppdiffusers.cli.report import Report

if TYPE_CHECKING:
    import numpy as np

    from ppdiffusers.pictures import Document, Frame

DEFAULT_MODEL = "ppdiffusers/ldm-super-resolution-4x-tiny"
PURPOSE = "make pictures four times larger"
EXAMPLES = """
ppdiffusers upscale photo.jpg                          writes photo-4x.jpg beside it
ppdiffusers upscale scans/ -o large/ --recursive       a folder; the same command goes on where it stopped
ppdiffusers upscale *.png -o 'out/{name}_{scale}x.webp' --scale 2
ppdiffusers upscale https://example.org/a.png -o a.png --quality best
curl -s https://example.org/a.png | ppdiffusers upscale - > large.png
"""
_FATAL = (errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", None))  # no further picture could be written either

_DENOISING = 0.75  # share of the time, about; the rest is decoding

Tell = Callable[[float, str], None]
# `load(args)`: a pipeline, its number of steps, and further arguments of its calls.
Load = Callable[[argparse.Namespace], Tuple[Any, int, Dict[str, Any]]]


def add_parser(commands: Any) -> None:
    parser = add(commands, "upscale", PURPOSE, "INPUT... [-o OUT] [options]", EXAMPLES)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, patterns, https addresses, or - "
                        "for standard input")  # fmt: skip
    parser.add_argument(
        "--recursive", "-r", action="store_true", help="with the folders in folders; their structure is kept"
    )
    parser.add_argument("--scale", type=between(1, 4), metavar="S", help="1 to 4: the model's 4x result, averaged down")
    parser.add_argument("--suffix", metavar="TEXT", help="behind the names of results (default: -4x, beside the input)")
    parser.add_argument("--ext", metavar="EXT", help="format of results, such as png (default: that of the input)")
    saving.add_options(parser, "a file, folder, - or template of {name} {ext} {folder} {number} {scale}")
    group = parser.add_argument_group("model")
    group.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="name or folder (default: a small one "
                       "for graphics, which comes along)")  # fmt: skip
    quality.add_options(group, "balanced")
    group.add_argument(
        "--eta", type=between(0, 1), default=0.0, metavar="E", help="0 deterministic (default) to 1 as DDPM"
    )
    group.add_argument("--consistency", type=whole(0, 100), metavar="N", help="rounds that bring back the input's "
                       "colours (default: 3; 0: none)")  # fmt: skip
    group.add_argument("--tile", type=whole(0, 1 << 20), metavar="N", help="most pixels of a result a side of a window "
                       "(default: by memory; 0: no windows)")  # fmt: skip
    group.add_argument("--seed", type=int, metavar="N", help="fixes the results; drawn and printed when not given")
    engine.add_options(group)
    distributed.add_options(parser)
    parser.set_defaults(run=run)


def load_pipeline(args: argparse.Namespace) -> Tuple[Any, int, Dict[str, Any]]:
    """The model of the options."""
    from ppdiffusers import LDMSuperResolutionPipeline
    from ppdiffusers.consistency import ROUNDS

    pipeline = LDMSuperResolutionPipeline.from_pretrained(args.model, **engine.loading(args))
    pipeline.set_progress_bar_config(disable=True)  # `Report` shows it
    steps = quality.choose(pipeline, args)
    if args.tile == 0:
        pipeline.disable_tiling()
    elif args.tile is not None:
        pipeline.enable_tiling(args.tile)
    return pipeline, steps, {"eta": args.eta, "consistency": ROUNDS if args.consistency is None else args.consistency}


def run(args: argparse.Namespace, load: Load = load_pipeline) -> int:
    from ppdiffusers.pictures.files import sweep
    from ppdiffusers.random import Generator

    distributed.check(args)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    Generator(seed)  # a seed that cannot be is an error before any work
    planned = plan(args)
    jobs = planned.jobs
    piped = any(job.target is None for job in jobs)
    if piped and not args.dry_run and sys.stdout.isatty():
        raise UsageError("standard output is a terminal, which shows no pictures; redirect it or give -o")
    report = Report(args, len(jobs), piped)
    for note in planned.notes:
        report.note(note)
    if args.dry_run:
        return _dry_run(jobs, report)
    folders = {job.target.parent for job in jobs if job.target is not None}
    for folder in folders:
        for part in sweep(folder):
            report.note(f"{part} was left by a run that was killed, and is removed")
    for job in jobs:
        if not job.exists and job.source.path is not None:
            job.pixels = _counted(job.source.path)
            report.expect(job.pixels)
    if args.distributed:
        args.threads = args.threads or 1  # a worker's
        try:
            distributed.run(functools.partial(_Upscaler, args, load, seed), jobs, report, args)
        finally:
            for folder in folders:  # of workers that died
                sweep(folder)
        return report.close()
    upscaler = _Upscaler(args, load, seed, report)
    for job in jobs:
        if job.exists:
            report.skip(job.source.name, str(job.target))
            continue
        if not upscaler.do(job):
            break
    return report.close()


class _Upscaler:
    """Does one job after the other with one pipeline, which is loaded when the first picture has been read."""

    def __init__(self, args: argparse.Namespace, load: Load, seed: int, report: Report):
        from ppdiffusers.random import Generator

        self.args, self.report = args, report
        self._load, self._seed, self._generator = load, seed, Generator(seed)
        self._loaded: Optional[Tuple[Any, int, Dict[str, Any], Dict[str, str]]] = None

    def do(self, job: Job) -> bool:
        """Make one picture. What goes wrong with it is reported.

        Returns:
            False if no further picture could be written, as where the disk is full.

        Raises:
            what keeps the model from being loaded.
        """
        name = job.source.shown
        begun = time.monotonic()
        self.report.begin(name, job.pixels)
        try:
            with _opened(job.source) as document:
                facts = self._convert(document, job)
        except _ModelError as error:
            raise error.reason from None
        except Exception as error:
            self.report.fail(name, error)
            return not (isinstance(error, OSError) and error.errno in _FATAL)
        else:
            target = "standard output" if job.target is None else str(job.target)
            frames = f", {facts['frames']} frames" if facts["frames"] > 1 else ""
            (width, height), (large_width, large_height) = facts["size"], facts["result_size"]
            self.report.finished(
                f"{target}: {width}x{height} -> {large_width}x{large_height}{frames}, seed {self._seed}",
                input=name, output=target, seed=self._seed, seconds=round(time.monotonic() - begun, 3), **facts,
            )  # fmt: skip
        return True

    def _convert(self, document: Document, job: Job) -> Dict[str, Any]:
        from ppdiffusers.pictures import ImageError, format_of, losses
        from ppdiffusers.pictures.writing import is_transparent

        kind = format_of(f"x{job.suffix}")
        if kind is None:
            raise ImageError(f"{job.target} is of no format that can be written; end it in .png")
        if document.count > 1 and not kind.frames:
            raise ImageError(
                f"{document.name} has {document.count} frames, and {job.suffix} holds one; "
                "write a .png, .gif, .webp or .tif"
            )
        frames = document.frames()
        first = next(frames)  # before the model is loaded: a bad picture should not cost that wait
        if not kind.alpha and is_transparent(first.pixels):
            raise ImageError(f"{document.name} is transparent, and {job.suffix} cannot hold that; write a .png")
        pipeline, _, _, made = self._pipeline()
        sizes: Dict[str, Any] = {}
        results = self._results(_chained(first, frames), document, made, sizes)
        shape = {"count": document.count, "loop": document.loop, "has_default": document.has_default}
        with saving.opened(job.target, self.args) as file:
            saving.write(file, kind, results, self.args, document.lossless, **shape)
        lost = [] if self.args.no_metadata else losses(kind, document.bits, first.metadata)
        if lost:
            self.report.note(f"{job.suffix} cannot hold {', '.join(lost)} of {document.name}", always=True)
        return {**sizes, "frames": document.count, "lost": lost}

    def _results(
        self, frames: Iterator[Frame], document: Document, made: Dict[str, str], sizes: Dict[str, Any]
    ) -> Iterator[Frame]:
        """Each frame enlarged, when the writer asks for it. All start from the same noise, so that what stands still in
        an animation does not flicker."""
        for number, frame in enumerate(frames):
            height, width = frame.pixels.shape[:2]
            place = f"frame {number + 1}/{document.count}, " if document.count > 1 else ""

            def tell(share: float, what: str, number: int = number, place: str = place) -> None:
                self.report.progress((number + share) / document.count, place + what)

            pixels = self._enlarged(frame.pixels, tell)
            large_height, large_width = pixels.shape[:2]
            sizes.setdefault("size", [width, height])
            sizes.setdefault("result_size", [large_width, large_height])
            metadata = frame.metadata.scaled(large_width / width, large_width, large_height)
            yield saving.finished(replace(frame, pixels=pixels, metadata=metadata), self.args, made)

    def _enlarged(self, pixels: np.ndarray, tell: Tell) -> Any:
        pipeline, steps, options, _ = self._pipeline()
        self._generator.manual_seed(self._seed)  # a picture's result does not depend on its neighbours
        return enlarge(
            pipeline, pixels, self.args.scale, tell, num_inference_steps=steps, generator=self._generator, **options
        )

    def _pipeline(self) -> Tuple[Any, int, Dict[str, Any], Dict[str, str]]:
        if self._loaded is None:
            self.report.progress(0.0, "loading the model")
            try:
                pipeline, steps, options = self._load(self.args)
                factor = getattr(pipeline, "upscale_factor", 4)
                if self.args.scale is not None and self.args.scale > factor:
                    raise UsageError(f"--scale {self.args.scale:g} is more than the {factor} of this model")
                described = {**quality.described(self.args, steps), **options}
                made = saving.provenance(self.args.model, described, self._seed)
            except Exception as error:
                raise _ModelError(error) from error
            self._loaded = pipeline, steps, options, made
        return self._loaded


class _ModelError(Exception):
    """The model cannot be had, so no picture can be made."""

    def __init__(self, reason: BaseException):
        self.reason = reason


def enlarge(
    pipeline: Any,
    pixels: np.ndarray,
    scale: Optional[float] = None,
    tell: Tell = lambda share, what: None,
    **options: Any,
) -> Any:
    """`[H, W, C]`, uint8 or uint16, by a super-resolution pipeline: of the same kind, exactly `round(scale * size)`.

    Args:
        scale: at most the pipeline's own factor, which is the default; its result is averaged down to it.
        tell: called with what share of the work is done, and in words.
        options: of the pipeline's `stream`.

    Returns:
        Rows that are decoded while they are read, of the pipeline's own factor; else an array.
    """
    import numpy as np

    from ppdiffusers.pictures.resampling import area_resize
    from ppdiffusers.pictures.rows import Rows

    height, width, channels = pixels.shape
    # A picture of one pixel, or one row of them, goes on beyond its edge as it is there: the model needs two.
    padded = np.pad(pixels, ((0, int(height < 2)), (0, int(width < 2)), (0, 0)), mode="edge")
    output: Any = None
    for progress in pipeline.stream(padded, output_type="rows", **options):
        tell(_DENOISING * progress.step / progress.total, f"step {progress.step}/{progress.total}")
        output = progress.output
    factor = pipeline.upscale_factor
    shape = factor * height, factor * width, channels

    def bands() -> Iterator[np.ndarray]:
        done = 0
        for band in output[0][0]:
            tell(_DENOISING + (1 - _DENOISING) * done / shape[0], f"decoding, row {done}/{shape[0]}")
            band = saving.with_channels(band[: shape[0] - done, : shape[1]], channels)
            done += len(band)
            yield band

    if scale is None or scale == factor:
        return Rows((saving.levels(band, pixels.dtype) for band in bands()), shape, pixels.dtype)
    whole = np.asarray(Rows(bands(), shape, np.float32))
    resized = area_resize(whole, max(1, round(height * scale)), max(1, round(width * scale)))
    return saving.levels(resized, pixels.dtype)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Document]:
    """The picture of a source; what comes from elsewhere is kept in a file until it is made."""
    from ppdiffusers.pictures import Document
    from ppdiffusers.pictures.files import copy_bounded, fetch, shown

    if source.path is not None:
        yield Document(source.path, source.name)
        return
    with tempfile.TemporaryDirectory(prefix="ppdiffusers-") as folder:
        path = Path(folder) / f"picture{source.suffix.lower()[:10]}"
        with open(path, "wb") as file:
            if source.name == STDIN:
                copy_bounded(sys.stdin.buffer, file, "standard input")
            else:
                _fetch(fetch, source.name, file)
        yield Document(path, "standard input" if source.name == STDIN else shown(source.name))


def _fetch(fetch: Callable[[str, IO[bytes]], None], url: str, file: IO[bytes]) -> None:
    from model_zoo import settings
    from ppdiffusers.pictures import ImageError
    from ppdiffusers.pictures.files import shown

    if settings.offline():
        raise ImageError(f"{shown(url)} cannot be fetched while MODEL_ZOO_OFFLINE keeps the network closed")
    fetch(url, file)


def _chained(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _counted(path: Path) -> float:
    from ppdiffusers.pictures import Document, ImageError

    try:
        document = Document(path)
        return float(document.width * document.height * document.count)
    except ImageError:
        return 0.0


def _dry_run(jobs: list, report: Report) -> int:
    """Say what would be done."""
    from ppdiffusers.pictures import Document, ImageError

    for job in jobs:
        target = "standard output" if job.target is None else str(job.target)
        if job.exists:
            report.skip(job.source.name, target)
            continue
        facts: Dict[str, Any] = {}
        try:
            if job.source.path is not None:
                document = Document(job.source.path, job.source.name)
                facts = {"size": [document.width, document.height], "frames": document.count}
        except ImageError as error:
            report.fail(job.source.name, error)
            continue
        report.finished(f"{job.source.name} -> {target}", input=job.source.name, output=target, dry_run=True, **facts)
    return report.close()
