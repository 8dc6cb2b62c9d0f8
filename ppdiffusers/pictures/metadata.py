"""What a picture file says beside its pixels: EXIF, colour profile, resolution, XMP, text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple
from xml.sax.saxutils import quoteattr

from PIL import Image

from ppdiffusers.pictures.formats import Format
from ppdiffusers.pictures.ifd import EXIF_IFD, GPS_IFD, HEADER, INTEROP_IFD, pack_ifd

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x112, 0x11A, 0x11B, 0x128
_WIDTH, _HEIGHT, _MAKER_NOTE = 0xA002, 0xA003, 0x927C
# Tags of a TIFF directory that say how its pixels lie, or that are kept elsewhere: not what somebody said of a picture.
_STRUCTURE = frozenset(
    [
        0xFE,
        0xFF,
        *range(0x100, 0x108),
        0x10A,
        0x111,
        ORIENTATION,
        0x115,
        0x116,
        0x117,
        X_RESOLUTION,
        Y_RESOLUTION,
        0x11C,
    ]
    + [RESOLUTION_UNIT, 0x13D, 0x140, *range(0x142, 0x146), 0x14A, 0x152, 0x153, 0x154, 0x155, 0x15A, 0x15B]
    + [*range(0x200, 0x215), 0x2BC, 0x8773, EXIF_IFD, GPS_IFD, INTEROP_IFD, 0xFFFF]
)
_XMP_KEY = "XML:com.adobe.xmp"
_HOLDS_EXIF = re.compile(r"Raw profile type (exif|app1|xmp|icc)", re.IGNORECASE)  # ImageMagick's copies of what is kept
_LARGEST = 16 << 20  # bytes of one item
PROVENANCE = "ppdiffusers:"
NAMESPACE = "urn:ppdiffusers:1"


@dataclass(frozen=True)
class Metadata:
    """Of a whole file, or of one page of a TIFF.

    `exif`: tags of the first directory, with those of the EXIF and GPS directories as dicts under 0x8769 and 0x8825;
    without what describes the storage of pixels, and without a thumbnail. `icc`: the colour profile.
    `dpi`: horizontal and vertical. `text`: keyword to text, as in a PNG; a comment of other formats is "Comment".
    `colour`: gamma, chromaticities and rendering intent of a PNG, under Pillow's names. `provenance`: how the picture
    was made.
    """

    exif: Mapping[int, Any] = field(default_factory=dict)
    icc: Optional[bytes] = None
    dpi: Optional[Tuple[float, float]] = None
    xmp: Optional[bytes] = None
    text: Mapping[str, str] = field(default_factory=dict)
    colour: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def scaled(self, factor: float, width: int, height: int) -> Metadata:
        """That of the picture `factor` times as large, on the same paper."""
        exif = dict(self.exif)
        if EXIF_IFD in exif:
            sizes = {tag: n for tag, n in ((_WIDTH, width), (_HEIGHT, height)) if tag in exif[EXIF_IFD]}
            exif[EXIF_IFD] = {**exif[EXIF_IFD], **sizes}
        dpi = None if self.dpi is None else (self.dpi[0] * factor, self.dpi[1] * factor)
        xmp = self.xmp
        if xmp is not None:
            for name, value in (("PixelXDimension", width), ("PixelYDimension", height)):
                xmp = _set_xmp(xmp, b"exif:" + name.encode(), str(value).encode())
            for name, value in (("ImageWidth", width), ("ImageLength", height)):
                xmp = _set_xmp(xmp, b"tiff:" + name.encode(), str(value).encode())
            if dpi is not None:
                for key, ratio in ((b"tiff:XResolution", dpi[0]), (b"tiff:YResolution", dpi[1])):
                    xmp = _set_xmp(xmp, key, b"%d/10000" % round(ratio * 10_000))
        return replace(self, exif=exif, dpi=dpi, xmp=xmp)

    def with_profile_of(self, colours: str) -> Metadata:
        """Without a profile that is for other colours than "RGB" or "GRAY"."""
        if self.icc is not None and self.icc[16:20].strip() != colours.encode():
            return replace(self, icc=None)
        return self

    def exif_bytes(self, limit: int = 1 << 30, for_dpi: bool = False) -> Optional[bytes]:
        """What JPEG, WebP, PNG and AVIF hold: a TIFF without pixels; None where there is nothing to say.

        It has no orientation, since pixels are kept upright. The maker's note is left out where all would have more
        than `limit` bytes, and all of it where that is not enough. With `for_dpi` it is also made for the DPI alone.
        """
        if not self.exif and not (for_dpi and self.dpi is not None):
            return None
        tags = {**self.exif, **resolution_tags(self.dpi)}
        data = HEADER + pack_ifd(tags, len(HEADER))
        if len(data) > limit and EXIF_IFD in tags:
            tags[EXIF_IFD] = {tag: value for tag, value in tags[EXIF_IFD].items() if tag != _MAKER_NOTE}
            data = HEADER + pack_ifd(tags, len(HEADER))
        return data if len(data) <= limit else None

    def xmp_bytes(self) -> Optional[bytes]:
        """The packet, with the provenance in it."""
        if not self.provenance:
            return self.xmp
        attributes = "".join(
            f" ppdiffusers:{re.sub(r'[^A-Za-z0-9_-]', '_', name)}={quoteattr(_printable(value))}"
            for name, value in self.provenance.items()
        )
        said = f'<rdf:Description rdf:about="" xmlns:ppdiffusers="{NAMESPACE}"{attributes}/>'.encode()
        if self.xmp is not None and self.xmp.count(b"</rdf:RDF>") == 1:
            return self.xmp.replace(b"</rdf:RDF>", said + b"</rdf:RDF>")
        if self.xmp is not None:
            return self.xmp  # nothing that can be added to without understanding it
        return (
            b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' + said + b"</rdf:RDF></x:xmpmeta>"
            b'<?xpacket end="w"?>'
        )

    def lost_in(self, kind: Format) -> List[str]:
        """What a file of `kind` cannot hold, for a message."""
        comment = {"Comment"} if "comment" in kind.holds else set()
        here = {
            "EXIF": bool(self.exif) and "exif" not in kind.holds,
            "ICC profile": self.icc is not None and "icc" not in kind.holds,
            "DPI": self.dpi is not None and "dpi" not in kind.holds,
            "XMP": self.xmp is not None and "xmp" not in kind.holds,
            "text": "text" not in kind.holds and bool(set(self.text) - comment),
        }
        return [what for what, lost in here.items() if lost]


def resolution_tags(dpi: Optional[Tuple[float, float]]) -> Dict[int, Any]:
    return {} if dpi is None else {X_RESOLUTION: float(dpi[0]), Y_RESOLUTION: float(dpi[1]), RESOLUTION_UNIT: 2}


def read_metadata(image: Image.Image, xmp: Optional[bytes] = None) -> Metadata:
    """Of a loaded picture, and `xmp` where Pillow does not read it. Damaged items are left out: they are no reason to
    refuse its pixels."""
    info = image.info
    text = {key: str(value) for key, value in _texts(image).items() if len(str(value)) <= _LARGEST}
    xmp = xmp or _xmp(image, text)
    if xmp is not None:
        xmp = _without_provenance(_set_xmp(xmp, b"tiff:Orientation", b"1"))
    icc = info.get("icc_profile")
    if image.format == "TIFF":  # of this page: Pillow keeps what earlier ones had
        icc = image.tag_v2.get(0x8773)  # type: ignore[attr-defined]
    if not (isinstance(icc, bytes) and 128 <= len(icc) <= _LARGEST and icc[36:40] == b"acsp"):
        icc = None
    text = {
        key: value for key, value in text.items()
        if key != _XMP_KEY and not _HOLDS_EXIF.match(key) and not key.startswith(PROVENANCE)
    }  # fmt: skip
    colour: Dict[str, Any] = {
        name: info[name] for name in ("gamma", "chromaticity", "srgb") if name in info and icc is None
    }
    return Metadata(_exif(image), icc, _dpi(image), xmp, text, colour)


def _exif(image: Image.Image) -> Dict[int, Any]:
    try:
        source = image.getexif()
        tags = {tag: source[tag] for tag in list(source) if tag not in _STRUCTURE}
        for group in (EXIF_IFD, GPS_IFD):
            inner = dict(source.get_ifd(group)) if group in source else {}
            if INTEROP_IFD in inner and not isinstance(inner[INTEROP_IFD], dict):
                inner[INTEROP_IFD] = dict(source.get_ifd(INTEROP_IFD))
            inner = {tag: value for tag, value in inner.items() if value != {}}
            if inner:
                tags[group] = inner
        return tags
    except Exception:  # Pillow's reader of EXIF raises whatever damage leads to
        return {}


def _dpi(image: Image.Image) -> Optional[Tuple[float, float]]:
    try:
        if image.format == "JPEG" and "exif" not in image.info and image.info.get("jfif_unit", 1) not in (1, 2):
            return None  # the sides of a pixel, without a unit
        if image.format != "TIFF" and "dpi" in image.info:
            across, down = (float(value) for value in image.info["dpi"])
        else:  # the formats that have no place for it but EXIF
            tags: Any = image.tag_v2 if image.format == "TIFF" else image.getexif()  # type: ignore[attr-defined]
            unit = {2: 1.0, 3: 2.54}[int(tags.get(RESOLUTION_UNIT, 2))]
            across, down = float(tags[X_RESOLUTION]) * unit, float(tags[Y_RESOLUTION]) * unit
        usable = math.isfinite(across) and math.isfinite(down) and 0.1 < across < 1e6 and 0.1 < down < 1e6
        return (across, down) if usable else None
    except Exception:  # none, or damaged: 0 / 0, three values, text
        return None


def _texts(image: Image.Image) -> Dict[str, Any]:
    texts = dict(getattr(image, "text", None) or {})
    comment = image.info.get("comment")
    if isinstance(comment, (bytes, str)) and "Comment" not in texts and image.format != "PNG":
        said = comment if isinstance(comment, str) else comment.decode("utf-8", "replace")
        texts["Comment"] = "\n".join(line for line in said.split("\n") if not line.startswith("ppdiffusers "))
    return {key: value for key, value in texts.items() if isinstance(key, str) and isinstance(value, str) and value}


def _xmp(image: Image.Image, text: Mapping[str, str]) -> Optional[bytes]:
    found: Any = image.info.get("xmp") or image.info.get(_XMP_KEY) or text.get(_XMP_KEY)
    if not found and image.format in ("JPEG", "MPO"):  # Pillow before 11
        marker = b"http://ns.adobe.com/xap/1.0/\0"
        segments = [data for name, data in getattr(image, "applist", []) if name == "APP1" and data.startswith(marker)]
        found = segments[0][len(marker) :] if segments else None
    if not found and image.format == "TIFF":
        found = getattr(image, "tag_v2", {}).get(700)
    if isinstance(found, str):
        found = found.encode("utf-8")
    return found if isinstance(found, bytes) and len(found) <= _LARGEST and b"<" in found else None


def _without_provenance(xmp: bytes) -> bytes:
    """Without what an earlier run of ours said."""
    return re.sub(rb'<rdf:Description rdf:about="" xmlns:ppdiffusers="[^<>]*/>', b"", xmp)


def _set_xmp(xmp: bytes, name: bytes, value: bytes) -> bytes:
    """`xmp` with another value of a property that it has, written as an attribute or as an element."""
    xmp = re.sub(rb"(\s%s\s*=\s*)(\"[^\"]*\"|'[^']*')" % name, rb'\g<1>"' + value + b'"', xmp)
    return re.sub(rb"(<%s>)[^<]*(</%s>)" % (name, name), rb"\g<1>" + value + rb"\g<2>", xmp)


def _printable(value: str) -> str:
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", str(value))
