"""GIF, written frame by frame (GIF89a); Pillow packs the pixels."""

from __future__ import annotations

import struct
from typing import IO, Any, Dict, Optional

import numpy as np
from PIL import GifImagePlugin, Image

from ppdiffusers.pictures.metadata import Metadata

_TRANSPARENT = 255  # the last entry of a palette, where there is transparency


class GifWriter:
    """Writes whole frames `[H, W, C]`, uint8, into an open file, each with its own palette of 256 colours."""

    def __init__(self, file: IO[bytes], count: int, loop: Optional[int]):
        self._file = file
        self._count = count
        self._loop = loop
        self._begun = False
        self._owed = 0.0

    def write(self, pixels: np.ndarray, metadata: Metadata, duration: float = 0.0) -> None:
        if not self._begun:
            self._begin(pixels, metadata)
        image, transparent = _with_palette(pixels)
        options: Dict[str, Any] = (
            {"disposal": 2} if transparent else {}
        )  # each frame is whole: nothing of the last one shows through
        if transparent:
            options["transparency"] = _TRANSPARENT
        hundredths = round((duration + self._owed) / 10)  # roundings of other formats' milliseconds do not add up
        self._owed += duration - hundredths * 10
        for data in GifImagePlugin.getdata(image, duration=hundredths * 10, include_color_table=True, **options):
            self._file.write(data)

    def _begin(self, pixels: np.ndarray, metadata: Metadata) -> None:
        self._begun = True
        height, width = pixels.shape[:2]
        self._file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
        if self._count > 1 and self._loop is not None:
            self._file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", min(self._loop, 65535)) + b"\0")
        if metadata.xmp is not None and b"\0" not in metadata.xmp:
            # The packet is not cut into blocks: whatever of it a reader takes for a length leads into this ramp.
            ramp = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
            self._file.write(b"!\xff\x0bXMP DataXMP" + metadata.xmp + ramp)
        comment = metadata.text.get("Comment", "")
        said = "; ".join(f"{name}: {value}" for name, value in metadata.provenance.items())
        for text in filter(None, (comment, said and f"ppdiffusers {said}")):
            data = text.encode("utf-8", "replace")
            blocks = [data[i : i + 255] for i in range(0, len(data), 255)]
            self._file.write(b"!\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0")

    def close(self) -> None:
        self._file.write(b";")


def _with_palette(pixels: np.ndarray) -> tuple[Image.Image, bool]:
    """With a palette, and whether its entry `_TRANSPARENT` is: pixels less than half opaque."""
    channels = pixels.shape[2]
    opaque = pixels[..., -1] >= 128 if channels in (2, 4) else None
    transparent = opaque is not None and not opaque.all()
    if channels < 3:
        grey = pixels[..., 0]
        image = Image.fromarray(np.minimum(grey, 254) if transparent else np.ascontiguousarray(grey))
        image.putpalette(bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
    else:
        colours = pixels[..., :3]
        if transparent and opaque is not None:  # hidden colours need no entries
            shown = colours[opaque]
            colours = np.where(opaque[..., None], colours, shown[0] if len(shown) else 0).astype(np.uint8)
        image = Image.fromarray(np.ascontiguousarray(colours)).quantize(
            255 if transparent else 256, Image.Quantize.MEDIANCUT
        )
    if transparent and opaque is not None:
        palette = (image.getpalette() or [])[:768]
        index = np.where(opaque, np.asarray(image), _TRANSPARENT).astype(np.uint8)
        image = Image.fromarray(index)
        image.putpalette(bytes(palette + [0] * (768 - len(palette))))
    return image, bool(transparent)
