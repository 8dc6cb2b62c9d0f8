"""Image file directories: the tables that hold the tags of TIFF files and of EXIF data (TIFF 6.0, section 2)."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Tuple

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SLONG, SRATIONAL, DOUBLE = 1, 2, 3, 4, 5, 7, 9, 10, 12
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
HEADER = b"II*\0\x08\0\0\0"  # little-endian, the first directory at byte 8

_SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, SLONG: 4, SRATIONAL: 8, DOUBLE: 8}


def pack_ifd(tags: Mapping[int, Any], offset: int, group: int = 0) -> bytes:
    """The bytes of a directory at byte `offset` of its file, with the values and sub-directories behind it.

    Types follow from the values: text is ASCII, bytes are UNDEFINED in EXIF's own directory and BYTE elsewhere, ints
    are SHORT, LONG or SLONG, fractions RATIONAL, and dicts are directories. A value that fits no type is left out.
    The pointer to the next directory, 4 bytes at `offset + 2 + 12 * count`, is 0.
    """
    kept: Dict[int, Tuple[int, int, bytes, Optional[Mapping[int, Any]]]] = {}
    for tag, value in sorted(tags.items()):
        packed: Optional[Tuple[int, int, bytes]] = (LONG, 1, b"") if isinstance(value, Mapping) else _pack(value, group)
        if packed is not None and 0 < tag < 1 << 16:
            kept[tag] = (*packed, value if isinstance(value, Mapping) else None)
    entries: List[bytes] = []
    behind = b""
    start = offset + 2 + 12 * len(kept) + 4
    for tag, (kind, count, data, directory) in kept.items():
        if directory is not None:
            data = struct.pack("<I", start + len(behind))
            behind += _even(pack_ifd(directory, start + len(behind), tag))
        elif len(data) > 4:
            data, behind = struct.pack("<I", start + len(behind)), behind + _even(data)
        entries.append(struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0"))
    return struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + behind


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def _pack(value: Any, group: int) -> Optional[Tuple[int, int, bytes]]:
    """Type, count and bytes of a value."""
    if isinstance(value, str):
        try:
            data = value.encode("latin-1")  # as Pillow decodes: bytes of another encoding come back as they were
        except UnicodeEncodeError:
            data = value.encode("utf-8", "replace")
        data = data.rstrip(b"\0") + b"\0"
        return ASCII, len(data), data
    if isinstance(value, (bytes, bytearray)):
        return (UNDEFINED if group in (EXIF_IFD, INTEROP_IFD) else BYTE), len(value), bytes(value)
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    try:
        if not values:
            return None
        if all(isinstance(item, int) and not isinstance(item, bool) for item in values):
            kind, letter = (SLONG, "i") if min(values) < 0 else (SHORT, "H") if max(values) < 1 << 16 else (LONG, "I")
            return kind, len(values), struct.pack(f"<{len(values)}{letter}", *values)
        pairs = [_ratio(item) for item in values]
        signed = any(top < 0 for top, _ in pairs)
        data = b"".join(struct.pack("<ii" if signed else "<II", *pair) for pair in pairs)
        return (SRATIONAL if signed else RATIONAL), len(values), data
    except (TypeError, ValueError, OverflowError, ArithmeticError, struct.error, AttributeError):
        return None


def _ratio(value: Any) -> Tuple[int, int]:
    """Numerator and denominator; 0 / 0, which cameras write for "unknown", stays."""
    if hasattr(value, "numerator") and hasattr(value, "denominator"):
        top, bottom = value.numerator, value.denominator
        if isinstance(top, int) and isinstance(bottom, int) and max(abs(top), bottom) < 1 << 31:
            return top, bottom
        value = Fraction(int(top), int(bottom)) if bottom else Fraction(0)
    fraction = Fraction(value).limit_denominator(1_000_000)
    return fraction.numerator, fraction.denominator
