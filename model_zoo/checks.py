"""Whether a file is whole by its own account: what can be told of one whose hash nobody knows, without running it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import BinaryIO, Callable

_LARGEST_JSON = 64 << 20
_LARGEST_HEADER = 100 << 20
_MOST_OPCODES = 500_000  # about half a second
_PICKLES = (".pdparams", ".pdopt", ".pkl", ".pickle")
_TORCH = (".bin", ".ckpt", ".pt", ".pth")
_OLD_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # a pickle of torch's magic number, before 1.6
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*(<!doctype\s+html|<html[\s>])", re.IGNORECASE)


def is_page(name: str, start: bytes) -> bool:
    """Whether these first bytes are a web page's although the file is none: a hotel's login page, a proxy's message."""
    return not name.lower().endswith((".html", ".htm")) and _PAGE.match(start) is not None


def complaint(path: Path, name: str | None = None) -> str | None:
    """What is wrong with the container that the file's name promises; None if nothing is to be seen.

    Args:
        name: the name to go by, where the file does not bear it yet.
    """
    name = (name or path.name).lower()
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(512)
        stream.seek(0)
        if is_page(name, start):
            return "is a web page"
        check = _check_for(name, start)
        try:
            return check(stream, size) if check is not None else None
        except (ValueError, EOFError, RecursionError) as error:
            return f"is damaged: {error or type(error).__name__}"


def _check_for(name: str, start: bytes) -> Callable[[BinaryIO, int], str | None] | None:
    if name.endswith(".json"):
        return _json
    if name.endswith(".safetensors"):
        return _safetensors
    if name.endswith(".zip") or (name.endswith(_PICKLES + _TORCH) and start.startswith(b"PK\x03\x04")):
        return _zip
    if name.endswith(_PICKLES):
        return _pickle
    if name.endswith(_TORCH) and start.startswith(_OLD_TORCH):
        return _pickles
    return None


def _json(stream: BinaryIO, size: int) -> str | None:
    if size <= _LARGEST_JSON:
        json.loads(stream.read().decode("utf-8-sig"))
    return None


def _safetensors(stream: BinaryIO, size: int) -> str | None:
    """Eight bytes with the length of a JSON header, the header, and then exactly the bytes that it lays out."""
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
        return f"has a safetensors header of {length} bytes in a file of {size}"
    header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        return "has a safetensors header that is no object"
    try:
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        promised = 8 + length + max(ends, default=0)
    except (TypeError, LookupError):
        return "has a safetensors header without offsets"
    return None if size == promised else f"has {size} bytes although its header lays out {promised}"


def _zip(stream: BinaryIO, size: int) -> str | None:
    """A zip's directory stands at its end, so one that was cut has none."""
    import zipfile  # here, since only a finished download needs it

    try:
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                if entry.header_offset + entry.compress_size > size:
                    return f"ends before its entry {entry.filename[:100]!r} does"
    except (zipfile.BadZipFile, NotImplementedError) as error:
        return f"is damaged: {error}"
    return None


def _pickle(stream: BinaryIO, size: int) -> str | None:
    end = _end_of_pickle(stream, size)
    return None if end in (None, size) else f"has {size} bytes although its pickle ends after {end}"


def _pickles(stream: BinaryIO, size: int) -> str | None:
    """A magic number, a version, the machine's sizes, the objects and the keys of their numbers; then the numbers."""
    for _ in range(5):
        if _end_of_pickle(stream, size) is None:
            break
    return None


def _end_of_pickle(stream: BinaryIO, size: int) -> int | None:
    """Where the STOP of the pickle stands that begins here, found by going from opcode to opcode; nothing is loaded.

    None for one of so many opcodes that walking it would take its time.

    Raises:
        ValueError: there is an opcode that does not exist, or the file ends within one.
    """
    skips = _skips()
    for _ in range(_MOST_OPCODES):
        code = stream.read(1)
        if code == b".":
            return stream.tell()
        if not code or code[0] not in skips:
            raise ValueError(f"no pickle opcode at byte {stream.tell() - len(code)} of {size}")
        width = skips[code[0]]
        if width is None:
            line = stream.readline(1 << 20)
            if not line.endswith(b"\n"):
                raise ValueError("a pickle's line does not end")
            if code in (b"c", b"i"):  # two lines
                stream.readline(1 << 20)
            continue
        if width < 0:  # so many bytes hold the length of what follows
            width = int.from_bytes(stream.read(-width), "little")
        if width > size - stream.tell():
            raise ValueError(f"it ends {width - (size - stream.tell())} bytes before its pickle does")
        stream.seek(width, os.SEEK_CUR)
    return None


def _skips() -> dict[int, int | None]:
    """Bytes to skip after each opcode: so many, or -n for a length in n bytes, or None for a line of text."""
    import pickletools  # here, since only a finished download needs it

    lengths = {
        pickletools.TAKEN_FROM_ARGUMENT1: -1,
        pickletools.TAKEN_FROM_ARGUMENT4: -4,
        pickletools.TAKEN_FROM_ARGUMENT4U: -4,
        pickletools.TAKEN_FROM_ARGUMENT8U: -8,
        pickletools.UP_TO_NEWLINE: None,
    }
    widths = ((ord(code.code), code.arg.n if code.arg is not None else 0) for code in pickletools.opcodes)
    return {code: lengths.get(width, width) for code, width in widths}
