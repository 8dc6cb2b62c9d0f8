"""The options about results that all commands share, and how a result is saved."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Dict, Iterator, Mapping, Optional

from ppdiffusers.cli.parsing import whole
from ppdiffusers.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from ppdiffusers.pictures import Format, Frame

_HASHED_WHOLE = 32 << 20  # bytes; of larger files, both ends are


def add_options(parser: argparse.ArgumentParser, output: str) -> None:
    """`output`: the help of `-o`."""
    group = parser.add_argument_group("results and messages")
    group.add_argument("-o", "--output", metavar="OUT", help=output)
    existing = group.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="make results anew that are there already")
    existing.add_argument("--skip-existing", action="store_true", help="leave results that are there as they are")
    group.add_argument("--jpeg-quality", type=whole(1, 100), default=95, metavar="Q", help="of JPEG (always 4:4:4), "
                       "AVIF and lossy WebP (default: 95)")  # fmt: skip
    group.add_argument(
        "--lossless", action="store_true", default=None, help="WebP without loss (default: as the input)"
    )
    group.add_argument("--no-metadata", action="store_true", help="write pixels alone, in sRGB: no EXIF, seed, ...")
    group.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    group.add_argument("--json", action="store_true", help="a line of JSON a picture on standard output")
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="errors only")
    loudness.add_argument("-v", "--verbose", action="store_true", help="also what is left out, and tracebacks")


def provenance(model: str, values: Mapping[str, Any], seed: int) -> Dict[str, str]:
    """How a picture was made, for its metadata: what repeats it."""
    made = {"model": model, "revision": revision(model), **values, "seed": seed, "version": __version__}
    return {name: str(value) for name, value in made.items() if value is not None}


def revision(model: str) -> Optional[str]:
    """12 digits of a hash over a model's files: which weights these were. None where its folder is not known."""
    import model_zoo

    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(model_zoo.download(model, local_files_only=True))
        except model_zoo.ModelZooError:
            return None
    digest = hashlib.sha256()
    for file in sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in (".json", ".safetensors", ".pdparams", ".pdiparams", ".bin")
    ):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with open(file, "rb") as content:
            digest.update(content.read(_HASHED_WHOLE))
            if size > 2 * _HASHED_WHOLE:
                content.seek(-_HASHED_WHOLE, 2)
            digest.update(content.read())
    return digest.hexdigest()[:12]


def write(
    file: IO[bytes],
    kind: Format,
    frames: Iterator[Frame],
    args: argparse.Namespace,
    lossless: bool = True,
    **shape: Any,
) -> None:
    """`write_document` with the options; `shape`: count, loop and has_default."""
    from ppdiffusers.pictures import Encoding, write_document

    encoding = Encoding(args.jpeg_quality, lossless if args.lossless is None else args.lossless)
    write_document(file, kind, frames, encoding=encoding, **shape)


@contextlib.contextmanager
def opened(target: Optional[Path], args: argparse.Namespace) -> Iterator[IO[bytes]]:
    """A file to write, which appears as `target` when it is whole; None sends it to standard output then."""
    from ppdiffusers.pictures.files import publishing

    if target is not None:
        with publishing(target, args.overwrite) as file:
            yield file
        return
    with tempfile.TemporaryFile() as spool:
        yield spool
        spool.seek(0)
        shutil.copyfileobj(spool, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def with_channels(result: np.ndarray, channels: int) -> np.ndarray:
    """`[H, W, 3 or 4]` of a pipeline, as grey where the picture that it was made from has 1 or 2 channels."""
    import numpy as np

    if channels > 2:
        return result
    return np.concatenate([result[..., :3].mean(axis=-1, keepdims=True), result[..., 3:]], axis=-1)


def levels(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Floats in [0, 1] as uint8 or uint16."""
    import numpy as np

    return np.round(np.clip(values, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def finished(frame: Frame, args: argparse.Namespace, made: Mapping[str, str]) -> Frame:
    """With the provenance, or without any metadata where that is asked."""
    from dataclasses import replace

    if not args.no_metadata:
        return replace(frame, metadata=replace(frame.metadata, provenance=made))
    return stripped(frame)


def stripped(frame: Frame) -> Frame:
    """Pixels alone. Colours of another profile become those of sRGB; where Pillow cannot convert them (16 bits, grey),
    the profile stays, since it says what the numbers mean."""
    import numpy as np
    from PIL import Image

    from ppdiffusers.pictures import Frame, Metadata
    from ppdiffusers.pictures.reading import to_srgb

    icc, pixels = frame.metadata.icc, frame.pixels
    if icc is not None and pixels.dtype == np.uint8 and pixels.shape[2] > 2:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.info["icc_profile"] = icc
        pixels, icc = np.asarray(to_srgb(image)), None
    return Frame(pixels, Metadata(icc=icc), frame.duration)
