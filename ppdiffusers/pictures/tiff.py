"""TIFF of one or many pages, written strip by strip, with 8 or 16 bits a channel (TIFF 6.0; Adobe Deflate)."""

from __future__ import annotations

import struct
import zlib
from typing import IO, Any, Dict

import numpy as np

from ppdiffusers.pictures.errors import ImageError
from ppdiffusers.pictures.ifd import HEADER, pack_ifd
from ppdiffusers.pictures.metadata import Metadata, resolution_tags

_STRIP = 1 << 18  # bytes, before compression
_LARGEST_DIRECTORY = 1 << 26  # bytes, with all metadata
_DESCRIPTION = 0x10E


class TiffWriter:
    """Writes pages `[H, W, C]`, uint8 or uint16 and of any sizes, into an open file that can be sought in."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        file.write(HEADER[:4])
        self._link = file.tell()  # where the offset of the next directory goes
        file.write(b"\0\0\0\0")

    def write(self, pixels: np.ndarray, metadata: Metadata, duration: float = 0.0) -> None:
        """Add a page.

        Raises:
            ImageError: the file grows past the 4 GB that its offsets reach.
        """
        height, width, channels = pixels.shape
        rows = max(1, _STRIP // (width * channels * pixels.dtype.itemsize))
        offsets, lengths = [], []
        for start in range(0, height, rows):
            strip = zlib.compress(_predicted(pixels[start : start + rows]).tobytes(), 6)
            offsets.append(self._file.tell())
            lengths.append(len(strip))
            self._file.write(strip)
        metadata = metadata.with_profile_of("GRAY" if channels < 3 else "RGB")
        tags: Dict[int, Any] = {
            **metadata.exif,
            **resolution_tags(metadata.dpi or (72.0, 72.0)),
            0x100: width,
            0x101: height,
            0x102: (8 * pixels.dtype.itemsize,) * channels,
            0x103: 8,
            0x106: 1 if channels < 3 else 2,
            0x111: offsets,
            0x115: channels,
            0x116: rows,
            0x117: lengths,
            0x11C: 1,
            0x13D: 2,
        }
        if metadata.dpi is None:
            tags[0x128] = 1  # no unit: only the shape of a pixel
        if channels in (2, 4):
            tags[0x152] = 2  # alpha, not multiplied in
        if metadata.icc is not None:
            tags[0x8773] = metadata.icc
        xmp = metadata.xmp_bytes()
        if xmp is not None:
            tags[0x2BC] = xmp
        comment = metadata.text.get("Comment") or metadata.text.get("Description")
        if comment and _DESCRIPTION not in tags:
            tags[_DESCRIPTION] = comment
        self._directory(tags)

    def _directory(self, tags: Dict[int, Any]) -> None:
        place = self._file.tell()
        place += place % 2
        if place > (1 << 32) - _LARGEST_DIRECTORY:
            raise ImageError("the result has more than 4 GB, which TIFF cannot address; write a .png")
        directory = pack_ifd(tags, place)
        self._file.seek(place)
        self._file.write(directory)
        self._file.seek(self._link)
        self._file.write(struct.pack("<I", place))
        self._link = place + 2 + 12 * struct.unpack_from("<H", directory)[0]
        self._file.seek(0, 2)

    def close(self) -> None:
        pass


def _predicted(rows: np.ndarray) -> np.ndarray:
    """Differences along the rows, in the order of bytes of the header (predictor 2)."""
    little = rows.dtype.newbyteorder("<")
    values = rows.astype(rows.dtype, copy=True)
    values[:, 1:] -= rows[:, :-1]
    return values.astype(little)
