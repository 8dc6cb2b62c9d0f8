"""Writing pictures, with all that their format can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import IO, Any, Dict, Iterator, List, Optional, Union

import numpy as np
from PIL import Image

from ppdiffusers.pictures.errors import ImageError
from ppdiffusers.pictures.formats import Format
from ppdiffusers.pictures.gif import GifWriter
from ppdiffusers.pictures.metadata import Metadata
from ppdiffusers.pictures.png import PngWriter
from ppdiffusers.pictures.reading import Frame
from ppdiffusers.pictures.tiff import TiffWriter

_SEGMENT = 65_533  # bytes of a segment of a JPEG
_XMP_MARKER = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class Encoding:
    """How pictures are stored. `quality` of JPEG, AVIF and lossy WebP, 1 to 100; `lossless`: WebP without loss."""

    quality: int = 95
    lossless: bool = True


def write_document(
    file: IO[bytes],
    kind: Format,
    frames: Iterator[Frame],
    count: int = 1,
    loop: Optional[int] = None,
    has_default: bool = False,
    encoding: Encoding = Encoding(),
) -> None:
    """Write frames, each asked for when the one before is written, into a file that is open for writing and seeking.

    What `kind` cannot hold is left out (`losses` says what), but neither frames nor transparency are.

    Args:
        count: of frames. loop, has_default: of an animation, as of `Document`.

    Raises:
        ImageError: more frames than one, transparency or sides that a file of `kind` cannot hold.
    """
    if count > 1 and not kind.frames:
        raise ImageError(f"{kind.name} holds one picture, and this has {count}; write a .png, .gif, .webp or .tif")
    prepared = _prepared(frames, kind, count)
    if has_default and kind.name not in ("PNG", "TIFF"):
        next(prepared)
        count, has_default = count - 1, False
    if kind.name in ("PNG", "TIFF", "GIF"):
        writer: Union[PngWriter, TiffWriter, GifWriter]
        if kind.name == "PNG":
            writer = PngWriter(file, count, loop, has_default)
        else:
            writer = TiffWriter(file) if kind.name == "TIFF" else GifWriter(file, count, loop)
        for frame in prepared:
            writer.write(frame.pixels, frame.metadata, frame.duration)
        writer.close()
    elif count > 1:
        _write_animation(file, kind, prepared, count, loop, encoding)
    else:
        frame = next(prepared)
        image = Image.fromarray(np.ascontiguousarray(_squeezed(frame.pixels)))
        image.save(file, kind.name, **_options(kind, frame, encoding))


def losses(kind: Format, bits: int, metadata: Metadata) -> List[str]:
    """What a picture loses in a file of `kind`, in words."""
    return ([f"{bits} bits a channel (8 are kept)"] if bits > kind.bits else []) + metadata.lost_in(kind)


def is_transparent(pixels: np.ndarray) -> bool:
    return pixels.shape[2] in (2, 4) and bool(pixels[..., -1].min() < np.iinfo(pixels.dtype).max)


def _prepared(frames: Iterator[Frame], kind: Format, count: int) -> Iterator[Frame]:
    """With the bits and channels that `kind` has, and those of an animated PNG alike."""
    shape: Any = None
    for frame in frames:
        pixels = frame.pixels
        if max(pixels.shape[:2]) > kind.side:
            height, width = pixels.shape[:2]
            raise ImageError(f"the result has {width}x{height} pixels, and {kind.name} at most {kind.side} a side")
        as_it_is = pixels.shape[2] in ((1, 2, 3, 4) if kind.name == "PNG" else (1, 3))
        if count == 1 and kind.name in ("PNG", "TIFF") and as_it_is:
            yield frame  # its rows may be computed while they are written
            continue
        pixels = np.asarray(pixels)
        if pixels.dtype == np.uint16 and kind.bits == 8:
            pixels = np.round(pixels / 257).astype(np.uint8)
        if not kind.alpha and pixels.shape[2] in (2, 4):
            if is_transparent(pixels):
                raise ImageError(f"the picture is transparent, and {kind.name} cannot hold that; write a .png")
            pixels = pixels[..., :-1]
        unusual = kind.name == "TIFF" and pixels.shape[2] == 2 and pixels.dtype == np.uint16  # hardly any reader has it
        if unusual or (kind.name == "PNG" and count > 1):
            pixels = _with_channels(pixels, 4)
        if kind.frames == "animation":
            if shape not in (None, pixels.shape[:2]):
                raise ImageError(f"the pages differ in size, which {kind.name} cannot hold; write a .tif")
            shape = pixels.shape[:2]
        yield Frame(pixels, frame.metadata, frame.duration)


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """RGB or RGBA of anything."""
    has_alpha = pixels.shape[2] in (2, 4)
    colours, alpha = (pixels[..., :-1], pixels[..., -1:]) if has_alpha else (pixels, None)
    if colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=-1)
    if channels == 3:
        return colours
    return np.concatenate(
        [colours, np.full_like(colours[..., :1], np.iinfo(pixels.dtype).max) if alpha is None else alpha], axis=-1
    )


def _squeezed(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _options(kind: Format, frame: Frame, encoding: Encoding) -> Dict[str, Any]:
    """Of Pillow's `save`."""
    grey = frame.pixels.shape[2] < 3 and kind.grey
    metadata = frame.metadata.with_profile_of("GRAY" if grey else "RGB")
    options: Dict[str, Any] = {}
    if kind.name == "JPEG":
        options.update(quality=encoding.quality, subsampling=0)
        if metadata.dpi is not None:
            options["dpi"] = tuple(min(value, 65_535) for value in metadata.dpi)
        comment = metadata.text.get("Comment", "").encode("utf-8", "replace")[: _SEGMENT - 2]
        if comment:
            options["comment"] = comment
    elif kind.name == "WEBP":
        options.update(lossless=encoding.lossless, quality=100 if encoding.lossless else encoding.quality, method=4)
        options["exact"] = encoding.lossless
    elif kind.name == "AVIF":
        options.update(quality=encoding.quality, subsampling="4:4:4")
    elif kind.name == "BMP" and metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if "exif" in kind.holds:
        jpeg = kind.name == "JPEG"
        exif = metadata.exif_bytes(_SEGMENT - 8 if jpeg else 1 << 30, for_dpi=not jpeg)
        if exif is not None:
            options["exif"] = b"Exif\0\0" + exif
    if "icc" in kind.holds and metadata.icc is not None:
        options["icc_profile"] = metadata.icc
    xmp = metadata.xmp_bytes() if "xmp" in kind.holds else None
    if xmp is not None and kind.name == "JPEG":
        segment = _XMP_MARKER + xmp
        if len(segment) <= _SEGMENT:
            options["extra"] = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    elif xmp is not None:
        options["xmp"] = xmp
    return options


class _Frames(Image.Image):
    """Pillow's writers of animations ask for one frame after the other; each is computed when it is asked for."""

    def __init__(self, frames: Iterator[Frame], count: int, durations: List[float]):
        super().__init__()
        self._frames = frames
        self._durations = durations
        self.n_frames = count
        self.is_animated = True
        self._at = -1
        self.first = next(frames)
        self._show(self.first)

    def _show(self, frame: Frame) -> None:
        image = Image.fromarray(
            np.ascontiguousarray(_with_channels(frame.pixels, 3 + (frame.pixels.shape[2] in (2, 4))))
        )
        self.im = image.im
        self._mode = image.mode
        self._size = image.size
        self._at += 1
        # The writers look durations up by number after the frame is read: one that grows is as good as a whole one.
        self._durations.append(frame.duration)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        if frame == self._at + 1:
            self._show(next(self._frames))

    def tell(self) -> int:
        return max(self._at, 0)


def _write_animation(
    file: IO[bytes], kind: Format, frames: Iterator[Frame], count: int, loop: Optional[int], encoding: Encoding
) -> None:
    durations: List[float] = []
    if kind.name == "AVIF":  # whole milliseconds only
        frames = (replace(frame, duration=round(frame.duration)) for frame in frames)
    sequence = _Frames(frames, count, durations)
    options = _options(kind, sequence.first, encoding)
    options.pop("exact", None)
    if kind.name == "WEBP":  # the format counts runs, as GIF counts repetitions
        options["loop"] = 1 if loop is None else loop
    sequence.save(file, kind.name, save_all=True, duration=durations, **options)
