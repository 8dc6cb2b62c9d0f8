"""Whether a file is whole by its own account: what can be told of one whose hash nobody knows, without running it."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from model_zoo.formats.zip_archive import Data

_LARGEST_JSON = 64 << 20
_MOST_OPCODES = 500_000  # about a second
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
    from model_zoo.formats.errors import FormatError  # here, as below: only a finished download needs them

    name = (name or path.name).lower()
    with open(path, "rb") as stream:
        start = stream.read(512)
        if is_page(name, start):
            return "is a web page"
        check = _check_for(name, start)
        if check is None:
            return None
        if not start:
            return "is empty"
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                check(data)
            except FormatError as error:
                return str(error)
            except (ValueError, RecursionError) as error:
                return f"is damaged: {error or type(error).__name__}"
    return None


def _check_for(name: str, start: bytes) -> Callable[[Data], object] | None:
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


def _json(data: Data) -> None:
    if len(data) <= _LARGEST_JSON:
        json.loads(data[:].decode("utf-8-sig"))


def _safetensors(data: Data) -> None:
    from model_zoo.formats.safetensors_header import read_header

    read_header(data)


def _zip(data: Data) -> None:
    from model_zoo.formats.zip_archive import read_entries

    read_entries(data)


def _pickle(data: Data) -> None:
    end = _end_of_pickle(data, 0)
    if end not in (None, len(data)):
        raise ValueError(f"it has {len(data)} bytes although its pickle ends after {end}")


def _pickles(data: Data) -> None:
    """A magic number, a version, the machine's sizes, the objects and the keys of their numbers; then the numbers."""
    end: int | None = 0
    for _ in range(5):
        if end is not None:
            end = _end_of_pickle(data, end)


def _end_of_pickle(data: Data, start: int) -> int | None:
    """Where the pickle ends that begins here; None for one of so many steps that following them would take its time.

    Raises:
        ValueError: it is damaged, or the file ends within it.
    """
    from model_zoo.formats.pickle_walk import Walk

    walk = Walk(data, start, len(data), limit=_MOST_OPCODES).run()
    if walk.whole:
        return walk.end
    if walk.steps >= _MOST_OPCODES:
        return None
    raise ValueError(f"{walk.findings[-1].what}, at byte {walk.at}")
