"""PNG and APNG, written frame by frame and block by block, with 8 or 16 bits a channel (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from typing import IO, Iterator, Optional

import numpy as np

from ppdiffusers.pictures.metadata import PROVENANCE, Metadata

_BLOCK = 1 << 20  # bytes of rows that are filtered together
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


class PngWriter:
    """Writes pictures of one size, `[H, W, C]` uint8 or uint16 as the first one, into an open file.

    Args:
        count: of frames; more than one make an animation.
        loop: how often it runs; 0 for ever.
        has_default: the first frame stands for the animation where animations are not shown.
    """

    def __init__(self, file: IO[bytes], count: int, loop: Optional[int], has_default: bool, level: int = 6):
        self._file = file
        self._count = count
        self._loop = 1 if loop is None else loop
        self._has_default = has_default
        self._level = level
        self._frame = 0
        self._sequence = 0

    def write(self, pixels: np.ndarray, metadata: Metadata, duration: float = 0.0) -> None:
        first, self._frame = self._frame == 0, self._frame + 1
        if first:
            self._begin(pixels, metadata)
        if self._count > 1 and not (first and self._has_default):
            height, width = pixels.shape[:2]
            delay = Fraction(duration / 1000).limit_denominator(1000)
            if delay.numerator > 65535:
                delay = Fraction(min(round(duration / 1000), 65535))
            control = (self._next(), width, height, 0, 0, delay.numerator, delay.denominator, 0, 0)
            self._chunk(b"fcTL", struct.pack(">IIIIIHHBB", *control))
        for data in _deflated(pixels, self._level):
            if first:
                self._chunk(b"IDAT", data)
            else:
                self._chunk(b"fdAT", struct.pack(">I", self._next()) + data)

    def close(self) -> None:
        self._chunk(b"IEND", b"")

    def _begin(self, pixels: np.ndarray, metadata: Metadata) -> None:
        height, width, channels = pixels.shape
        self._file.write(b"\x89PNG\r\n\x1a\n")
        header = (width, height, 8 * pixels.dtype.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
        for kind, data in _ancillary(metadata.with_profile_of("GRAY" if channels < 3 else "RGB")):
            self._chunk(kind, data)
        if self._count > 1:
            self._chunk(b"acTL", struct.pack(">II", self._count - self._has_default, self._loop))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind)
        self._file.write(data)
        self._file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _deflated(pixels: np.ndarray, level: int) -> Iterator[bytes]:
    """The zlib stream of a picture's filtered rows, in pieces."""
    height, width, channels = pixels.shape
    step = channels * pixels.dtype.itemsize
    packer = zlib.compressobj(level, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    above = np.zeros(width * step, np.uint8)
    rows = max(1, _BLOCK // max(1, width * step))
    held = b""
    for start in range(0, height, rows):
        block = np.ascontiguousarray(pixels[start : start + rows], pixels.dtype.newbyteorder(">"))
        values = block.view(np.uint8).reshape(len(block), -1)
        held += packer.compress(filtered(values, above, step).tobytes())
        above = values[-1]
        if len(held) >= _BLOCK:
            yield held
            held = b""
    yield held + packer.flush()


def filtered(values: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows of bytes `[R, N]` behind the filter that leaves least, each: None, Sub, Up, Average or Paeth.

    Args:
        above: the row before the first one, `[N]`.
        step: bytes of a pixel.
    """
    up = np.concatenate([above[None], values[:-1]])
    left = np.pad(values[:, :-step], ((0, 0), (step, 0)))
    corner = np.pad(up[:, :-step], ((0, 0), (step, 0)))
    wide_left, wide_up = left.astype(np.int16), up.astype(np.int16)
    base = wide_left + wide_up - corner
    to_left, to_up, to_corner = np.abs(base - wide_left), np.abs(base - wide_up), np.abs(base - corner)
    nearest = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    average = ((wide_left + wide_up) >> 1).astype(np.uint8)
    candidates = [values, values - left, values - up, values - average, values - nearest]
    cost = [np.minimum(x, -x).sum(axis=1, dtype=np.int64) for x in candidates]  # bytes are signed here
    best = np.argmin(cost, axis=0)
    result = np.empty((values.shape[0], values.shape[1] + 1), np.uint8)
    result[:, 0] = best
    for number, candidate in enumerate(candidates):
        result[best == number, 1:] = candidate[best == number]
    return result


def _ancillary(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    colour = metadata.colour
    if metadata.icc is not None:
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)
    elif "srgb" in colour:
        yield b"sRGB", bytes([int(colour["srgb"]) & 3])
    if "gamma" in colour and metadata.icc is None:
        yield b"gAMA", struct.pack(">I", round(float(colour["gamma"]) * 100_000))
    if len(colour.get("chromaticity", ())) == 8 and metadata.icc is None:
        yield b"cHRM", struct.pack(">8I", *(round(float(value) * 100_000) for value in colour["chromaticity"]))
    if metadata.dpi is not None:
        across, down = (round(value / 0.0254) for value in metadata.dpi)
        yield b"pHYs", struct.pack(">IIB", across, down, 1)
    exif = metadata.exif_bytes()
    if exif is not None:
        yield b"eXIf", exif
    if metadata.xmp is not None:
        yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp
    said = {f"{PROVENANCE}{name}": value for name, value in metadata.provenance.items()}
    for key, value in {**metadata.text, **said}.items():
        yield from _text(key, str(value))


def _text(key: str, value: str) -> Iterator[tuple[bytes, bytes]]:
    """A keyword has 1 to 79 letters of Latin-1; a text in it is plain, another one is UTF-8."""
    keyword = " ".join(key.encode("latin-1", "replace").replace(b"\0", b" ").decode("latin-1").split())[:79]
    value = value.replace("\0", " ")
    if not keyword:
        return
    try:
        plain = value.encode("latin-1")
    except UnicodeEncodeError:
        yield b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode("utf-8", "replace")
        return
    if len(plain) > 1024:
        yield b"zTXt", keyword.encode("latin-1") + b"\0\0" + zlib.compress(plain)
    else:
        yield b"tEXt", keyword.encode("latin-1") + b"\0" + plain
