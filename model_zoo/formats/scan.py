"""What a file is, judged by the readers that load it: `model-zoo scan`, and the look at downloads of unknown hash.

The file is read as bytes; nothing that it names is imported or called. It is safe where the one reader of pickles
takes it, so that it names nothing but data, and where no other reader could take it for something else.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_zoo import disk
from model_zoo.errors import ModelZooError
from model_zoo.formats import Data, FormatError, archive, shorten
from model_zoo.formats.archive import LEGACY_MAGIC, MAX_UNPACKED, read_legacy, read_zip
from model_zoo.formats.machine import SkippingMachine, load_pickle
from model_zoo.formats.names import Foreign, PickledArray, TorchTensor
from model_zoo.formats.safetensors import looks_like_safetensors, read_header
from model_zoo.settings import PathLike

MAX_RUNS = 100  # things that a report lists
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}
NUMPY = b"\x93NUMPY"

_LARGEST_JSON = 64 << 20
_PICKLES = (".pdparams", ".pdopt", ".pkl", ".pickle")
_TORCH = (".bin", ".ckpt", ".pt", ".pth")
_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*|<\?xml.*?\?>\s*)*<(!doctype|html|head|body|script|meta|title|error)\b",
    re.IGNORECASE | re.DOTALL,
)
_ERROR_KEYS = set("error errors code message msg status detail reason success path timestamp".split())


class ScanError(ModelZooError):
    """A file that cannot be read, or is of no kind that could hold weights or a pickle."""


@dataclass
class Report:
    """The verdict on one file.

    Attributes:
        path: the file.
        layout: what it is, such as "a torch archive".
        reason: why it is refused, said as what it does; None where it is safe.
        runs: what it would have run, as far as that can be told.
    """

    path: Path
    layout: str
    reason: str | None = None
    runs: list[str] = field(default_factory=list)

    @property
    def safe(self) -> bool:
        return self.reason is None

    def __str__(self) -> str:
        """Lines for a terminal; nothing in them can drive it."""
        if self.safe:
            return f"{shorten_path(self.path)}: safe: {self.layout} that names nothing but data"
        lines = [f"{shorten_path(self.path)}: refused: it {self.reason}", *(f"  would {run}" for run in self.runs)]
        return "\n".join(lines)


def shorten_path(path: Path) -> str:
    return str(path) if str(path).isprintable() else repr(str(path))[1:-1]


def scan(path: PathLike) -> Report:
    """Judge one file.

    Raises:
        ScanError: no such file, or one that holds neither weights nor a pickle.
    """
    file_path = Path(path)
    try:
        if file_path.exists() and not file_path.is_file():
            raise ScanError(f"{file_path} is a folder or a device; name the weight file itself")
        with file_path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ScanError(f"{file_path} is empty; fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _scan(file_path, data)
    except OSError as error:
        raise ScanError(f"{file_path} cannot be read: {error.strerror or error}") from None


def files_in(path: PathLike) -> list[Path]:
    """The file itself, or every regular file of a folder; links are not followed."""
    if not os.path.isdir(path):
        return [Path(path)]
    return [file for file, plain in disk.files_in(Path(path)) if plain]


def _scan(path: Path, data: Data) -> Report:
    layout = _layout(data)
    runs: list[str] = []
    try:
        _judge(data, layout)
    except Exception as error:  # whatever damaged bytes lead to
        runs = _would_run(data)
        reason = str(error) if isinstance(error, FormatError) else f"is damaged ({type(error).__name__})"
        if layout or any(re.match(r"(import|call) [\w.]+", run) for run in runs):
            return Report(path, layout, reason, runs)
        raise ScanError(
            f"{path} is neither a pickle nor a zip archive nor safetensors: it begins with {bytes(data[:16])!r}"
        ) from None
    return Report(path, layout)


def _layout(data: Data) -> str:
    """What the first bytes say; "" where they say nothing that could hold weights."""
    if data[:4] == archive.MAGIC:
        return "a torch archive"
    if _is_tar(data):  # whatever it begins with: torch.load tries this before anything else but zip
        return "a tar archive"
    if looks_like_safetensors(data):
        return "a safetensors file"
    packed = next((name for magic, name in COMPRESSED.items() if data[: len(magic)] == magic), None)
    if packed:
        return f"packed ({packed})"
    return "numpy's" if data[:6] == NUMPY else "a pickle" if data[0] == 0x80 else ""


def _judge(data: Data, layout: str) -> None:
    """Read the file as the loaders do, and see that no other reader takes it for something else.

    Raises:
        FormatError: it is refused. Damaged bytes may raise other exceptions too.
    """
    if layout.startswith(("packed", "numpy", "a tar")):
        raise FormatError(f"is {layout}, which is not read here; unpack it and scan what comes out")
    if layout == "a torch archive":
        if _is_tar(data):
            raise FormatError("is a zip archive for one reader and a tar archive for another")
        _check_tensors(read_zip(data))
        return
    if archive.ends_here(data):
        raise FormatError("ends as a zip archive does: it is two formats at once")
    if layout == "a safetensors file":
        read_header(data)
        if _names_as_pickle(data):
            raise FormatError("is safetensors for one reader and a pickle for another")
        return
    if not layout and data[0] not in b"(}c":  # how a dictionary begins at protocols 0 and 1
        raise FormatError("is no weight file")
    value, end = load_pickle(data, 0, len(data))
    if value == LEGACY_MAGIC:
        value = read_legacy(data, end)
    elif end != len(data):
        raise FormatError(f"has {len(data) - end} bytes after its end")
    _check_tensors(value)


def _check_tensors(value: Any) -> None:
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, (PickledArray, TorchTensor)):
            item.tensor()
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)


def _is_tar(data: Data) -> bool:
    """By the reader that torch.load tries: it takes several spellings of the checksum, and needs no magic."""
    if len(data) < 512:
        return False
    import tarfile

    try:
        tarfile.TarInfo.frombuf(bytes(data[:512]), "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, IndexError):
        return bytes(data[257:262]) == b"ustar"
    return True


# What would have run


class _Named(Exception):
    pass


class _Prober(SkippingMachine):
    """Whether the bytes, as a pickle, come to name anything that could be imported."""

    def find(self, module: Any, name: Any) -> Any:
        if type(module) is str and re.fullmatch(r"[\w.]+", module):
            raise _Named
        raise FormatError("names nothing")


def _names_as_pickle(data: Data) -> bool:
    try:
        load_pickle(data, 0, len(data), lambda identity: None, _Prober)
    except _Named:
        return True
    except Exception:
        pass
    return False


def _would_run(data: Data) -> list[str]:
    """What unpickling the file, or an entry of the archive that it is, would import and call."""
    found: dict[str, None] = {}  # in order, each once

    class Witness(SkippingMachine):
        def seen(self, what: str, arguments: Any = None) -> None:
            if len(found) < MAX_RUNS:
                found[f"import {what}" if arguments is None else f"call {what}({_show(arguments)})"] = None

    def follow(content: Data, start: int, stop: int) -> None:
        try:
            while start < stop:  # one pickle after the other, as torch wrote them
                _, start = load_pickle(content, start, stop, lambda identity: Foreign("", "storage"), Witness)
        except Exception:  # what was seen until there
            pass

    if data[:6] == NUMPY:
        width = 2 if data[6] == 1 else 4
        follow(data, 8 + width + int.from_bytes(data[8 : 8 + width], "little"), len(data))
    elif data[:4] == archive.MAGIC:
        budget = MAX_UNPACKED
        try:
            for entry in archive.read_entries(data)[:1000]:
                if entry.size <= budget and "/data/" not in entry.name:
                    budget -= entry.size
                    content = entry.unpack(data, MAX_UNPACKED)
                    for run in _would_run(content) if content else ():
                        found[run] = None
        except (FormatError, RecursionError):
            pass
    else:
        follow(data, 0, len(data))
    return list(found)[:MAX_RUNS]


def _show(value: Any, depth: int = 2) -> str:
    """A value for a message, short whatever it holds."""
    if isinstance(value, tuple):
        inner = (
            ", ".join([_show(item, depth - 1) for item in value[:4]] + ["..."] * (len(value) > 4)) if depth else "..."
        )
        return inner if depth == 2 else f"({inner})"
    if isinstance(value, (str, bytes)):
        return shorten(repr(value[:80]))
    if type(value) in (int, float, bool, type(None)):
        return shorten(value) if type(value) is not int or abs(value) < 2**64 else "<a long number>"
    return value.name if isinstance(value, Foreign) else f"<{type(value).__name__}>"


# Whether a file is whole by its own account: what can be told of one whose hash nobody knows


def is_page(name: str, start: bytes) -> bool:
    """Whether these first bytes are a web page's or an error document's although the file is none."""
    return not name.lower().endswith((".html", ".htm", ".xml")) and _PAGE.match(start) is not None


def complaint(path: Path, name: str | None = None) -> str | None:
    """What is wrong with the container that the file's name promises; None if nothing is to be seen.

    Args:
        name: the name to go by, where the file does not bear it yet.
    """
    name = (name or path.name).lower()
    with open(path, "rb") as stream:
        start = stream.read(4096)
        if is_page(name, start):
            return "is a web page or an error document"
        if not start:  # only the catalogue knows whether it should be
            return "is empty" if _is_container(name) else None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _check_structure(data, name)
            except FormatError as error:
                return str(error)
            except Exception as error:  # whatever damaged bytes lead to
                return f"is damaged: {error or type(error).__name__}"
    return None


def _is_container(name: str) -> bool:
    return name.endswith((".json", ".safetensors", ".zip", *_PICKLES, *_TORCH))


def _check_structure(data: Data, name: str) -> None:
    if name.endswith(".json"):
        if len(data) <= _LARGEST_JSON:
            _check_json(json.loads(data[:].decode("utf-8-sig")), name)
    elif name.endswith(".safetensors"):
        read_header(data)
    elif name.endswith(".zip") or (name.endswith(_PICKLES + _TORCH) and data[:4] == archive.MAGIC):
        archive.read_entries(data)
    elif name.endswith(_PICKLES) or (name.endswith(_TORCH) and data[0] == 0x80):
        # What it names is for whoever opens it to judge: here, whether it is whole.
        value, end = load_pickle(data, 0, len(data), None, SkippingMachine)
        if value == LEGACY_MAGIC:
            read_legacy(data, end, SkippingMachine)
        elif end != len(data):
            raise FormatError(f"has {len(data) - end} bytes after its end")


def _check_json(values: Any, name: str) -> None:
    if name.rpartition("/")[2] == "model_index.json" and not (isinstance(values, dict) and "_class_name" in values):
        raise FormatError("is no index of a pipeline: it names no _class_name")
    if isinstance(values, dict) and values.keys() & {"error", "errors", "message"} and values.keys() <= _ERROR_KEYS:
        raise FormatError("is an error document")
