"""Formats of picture files: how they are recognised, and what each of them can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Dict, FrozenSet, Optional, Tuple

from ppdiffusers.pictures.errors import ImageError

ALL = frozenset({"exif", "icc", "dpi", "xmp", "text", "comment"})


@dataclass(frozen=True)
class Format:
    """What files of a format can hold.

    `name` is Pillow's. `bits` a channel, at most. `frames`: "animation", "pages", or "" for one picture. `holds`: kinds
    of metadata, out of `ALL`. `side`: the most pixels of a side.
    """

    name: str
    suffixes: Tuple[str, ...]
    bits: int = 8
    grey: bool = True
    alpha: bool = True
    frames: str = ""
    holds: FrozenSet[str] = frozenset()
    side: int = 2**31 - 1

    @property
    def suffix(self) -> str:
        return self.suffixes[0]


# EXIF has a place for the resolution, so what holds EXIF holds DPI.
WRITABLE = (
    Format("PNG", (".png", ".apng"), bits=16, frames="animation", holds=ALL),
    Format("JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), alpha=False, holds=ALL - {"text"}, side=65_500),
    Format("TIFF", (".tif", ".tiff"), bits=16, frames="pages", holds=ALL - {"text"}),
    Format("WEBP", (".webp",), grey=False, frames="animation", holds=ALL - {"text", "comment"}, side=16_383),
    Format("GIF", (".gif",), frames="animation", holds=frozenset({"xmp", "comment"}), side=65_535),
    Format("AVIF", (".avif",), grey=False, frames="animation", holds=ALL - {"text", "comment"}, side=65_536),
    Format("BMP", (".bmp", ".dib"), alpha=False, holds=frozenset({"dpi"})),
    Format("PPM", (".ppm", ".pgm", ".pnm"), alpha=False),
    Format("TGA", (".tga",), side=65_535),
)
BY_SUFFIX: Dict[str, Format] = {suffix: kind for kind in WRITABLE for suffix in kind.suffixes}
BY_NAME: Dict[str, Format] = {kind.name: kind for kind in WRITABLE}
BY_NAME["MPO"] = BY_NAME["JPEG"]  # a JPEG with further ones behind it, such as a preview
BY_NAME["DIB"] = BY_NAME["BMP"]

# Files with these endings are looked into when a folder is named.
READABLE = frozenset(BY_SUFFIX) | {".mpo", ".pbm", ".jp2", ".j2k", ".ico", ".qoi"}

# The first bytes decide which one parser sees a file; nothing that runs programs (PostScript) or has no need here is
# among them.
_SIGNATURES = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"BM", "BMP"),
    (rb"P[1-6][\s#]", "PPM"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
    (rb"\0\0\x01\0", "ICO"),
    (rb"qoif", "QOI"),
)
_REFUSED = (
    (
        rb"(\xef\xbb\xbf)?\s*(<\?xml|<!--|<!DOCTYPE svg|<svg)",
        "is SVG or XML: a drawing without pixels; export a PNG",
    ),
    (rb"\x1f\x8b", "is compressed (gzip, perhaps SVGZ); unpack it, and export drawings as PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "is PostScript, which is a program; export a PNG"),
    (rb"%PDF", "is a PDF; export its pages as PNG"),
    (rb"8BPS", "is a Photoshop document; export a PNG or TIFF"),
    (rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)", "is HEIC, which Pillow does not read; export a JPEG"),
    (rb"PK\x03\x04|Rar!|7z\xbc\xaf|.{257}ustar", "is an archive; unpack it and give the folder"),
    (rb"(?i)\s*(<!doctype html|<html)", "is a web page"),
)


def sniff(head: bytes, name: str) -> str:
    """Pillow's name of the format of a file that begins with `head`.

    Raises:
        ImageError: empty, or nothing that is read as a picture.
    """
    if not head:
        raise ImageError(f"{name} is empty (0 bytes)")
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return kind
    if PurePath(name).suffix.lower() == ".tga":  # has no signature
        return "TGA"
    for pattern, what in _REFUSED:
        if re.match(pattern, head, re.DOTALL):
            raise ImageError(f"{name} {what}")
    raise ImageError(f"{name} is not a picture in a format that is read (PNG, JPEG, TIFF, WebP, GIF, AVIF, BMP, ...)")


def format_of(target: str) -> Optional[Format]:
    """The format that the ending of a file's name stands for, if it can be written."""
    from PIL import Image

    found = BY_SUFFIX.get(PurePath(target).suffix.lower())
    if found is not None and found.name == "AVIF":
        Image.init()
        return found if "AVIF" in Image.SAVE else None
    return found


def writable_suffixes() -> str:
    """For messages."""
    return " ".join(kind.suffix for kind in WRITABLE)
