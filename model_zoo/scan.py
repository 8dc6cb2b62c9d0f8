"""What a weight file would do to whoever unpickles it: `model-zoo scan FILE`.

The file is read as bytes; nothing that it names is imported or called. A file is clean when its pickles hold nothing
but names of the allow-list, used as weights use them, and nothing in it stays dark. What cannot be followed to its
end counts as suspicious.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

from model_zoo.errors import ModelZooError
from model_zoo.formats import safetensors_header, zip_archive
from model_zoo.formats.errors import FormatError, shorten
from model_zoo.formats.pickle_names import MAX_STEPS
from model_zoo.formats.pickle_values import DATA, FAULT, Bytes, Finding
from model_zoo.formats.pickle_walk import Walk
from model_zoo.formats.zip_archive import Data
from model_zoo.settings import PathLike

MAX_DEPTH = 8  # pickles in pickles in archives in archives
MAX_PARTS = 1000
MAX_UNPACKED = 2**26  # bytes, of all packed entries together

STEPS_OF_TEXT = 3  # a text may begin like a pickle, but not for long

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's files before 1.6; four more follow, then storages
PICKLED = (".pkl", ".pickle", ".p")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}


class ScanError(ModelZooError):
    """A file that cannot be read, or is of no kind that could hold a pickle."""


@dataclass
class Report:
    """What was found in a file.

    Attributes:
        path: the file.
        layout: "pickle", "torch's older format", "zip archive" or "safetensors".
        parts: how many pickles and headers were followed.
        findings: everything they hold, in the order of the file, each different thing of a part once.
    """

    path: Path
    layout: str
    parts: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def suspicious(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict != DATA]

    @property
    def clean(self) -> bool:
        return not self.suspicious

    def __str__(self) -> str:
        """Several lines for a terminal; nothing in them can drive it."""
        lines = [f"{self.path}: {self.layout}, {self.parts} {'part' if self.parts == 1 else 'parts'} followed"]
        where = ""
        for finding in self.findings:
            if finding.where != where:
                where = finding.where
                lines.append(f"  in {shorten(where)}")
            lines.append(f"  {finding.verdict:<12} {finding.what}  (byte {finding.position})")
        count = len(self.suspicious)
        things = f"{count} {'thing' if count == 1 else 'things'} that no weights need"
        lines.append("clean: it holds data only" if self.clean else f"suspicious: {things}; do not unpickle it")
        return "\n".join(lines)


def scan(path: PathLike) -> Report:
    """Follow every pickle of a file, and the header of a safetensors file, without running anything.

    Pickles are looked for in zip archives (torch's, and numpy's `.npz`) and in the bytes that a pickle hands to a
    function, such as `pickle.loads`, too.

    Raises:
        ScanError: no such file, or one of another kind.
    """
    file_path = Path(path)
    try:
        if file_path.exists() and not file_path.is_file():
            raise ScanError(f"{file_path} is a folder or a device; name the weight file itself")
        with file_path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ScanError(f"{file_path} is empty; fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Scan(file_path, data).run()
    except OSError as error:
        raise ScanError(f"{file_path} cannot be read: {error.strerror or error}") from None


class _Scan:
    def __init__(self, path: Path, data: Data):
        self.data = data
        self.report = Report(path, "pickle")
        self.unpacked = 0
        self.steps = 0

    def run(self) -> Report:
        data, report = self.data, self.report
        packed = next((name for magic, name in COMPRESSED.items() if data[: len(magic)] == magic), None)
        if packed is not None:
            raise ScanError(f"{report.path} is compressed ({packed}); unpack it and scan what comes out")
        if data[: len(zip_archive.MAGIC)] == zip_archive.MAGIC:
            report.layout = "zip archive"
            self.archive(data, 0, len(data), "", 0)
        elif _is_tar(data):  # whatever it begins with: torch.load tries this before anything else but zip
            report.layout = "tar archive"
            self.fault("is a tar archive, which torch.load unpickles too; unpack it and scan what comes out")
        elif safetensors_header.looks_like_safetensors(data):
            report.layout = "safetensors"
            self.safetensors()
        elif not self.array(data, 0, len(data), "", 0):
            self.stream(data, 0, len(data), "", 0)
            if _only_faults(report.findings) and data[0] != 0x80 and self.steps <= STEPS_OF_TEXT:
                raise ScanError(
                    f"{report.path} is neither a pickle nor a zip archive nor safetensors: it begins with"
                    f" {bytes(data[:16])!r}"
                )
        return report

    def fault(self, what: str, where: str = "", position: int = 0) -> None:
        self.report.findings.append(Finding(FAULT, what, position, where))

    def safetensors(self) -> None:
        self.report.parts += 1
        try:
            safetensors_header.read_header(self.data)
        except FormatError as error:
            self.fault(f"the file {error}")

    def stream(self, data: Data, start: int, stop: int, where: str, depth: int, storages: bool = False) -> None:
        """Pickles one after the other, as `pickle.load` reads them, or torch's older format."""
        walk = self.pickle(data, start, stop, where, depth, storages)
        if walk.value == TORCH_MAGIC:
            if not depth:
                self.report.layout = "torch's older format"
            elements = {}
            for storages in (False, False, True, False):  # version, system, value, keys
                walk = self.pickle(data, walk.end, stop, where, depth, storages)
                elements.update(walk.elements)
            left = stop - walk.end - sum(8 + size for size in elements.values())
            if walk.whole and left:
                self.fault(f"{left} bytes are left beside the elements of the tensors", where, walk.end - start)
            return
        while walk.whole and walk.end < stop and data[walk.end] == 0x80 and self.report.parts < MAX_PARTS:
            walk = self.pickle(data, walk.end, stop, where, depth, storages)
        if walk.whole and walk.end < stop:
            self.fault(f"{stop - walk.end} bytes follow the pickle", where, walk.end - start)

    def pickle(self, data: Data, start: int, stop: int, where: str, depth: int, storages: bool) -> Walk:
        walk = Walk(data, start, stop, where, storages, MAX_STEPS - self.steps).run()
        self.steps += walk.steps
        self.report.parts += 1
        self.report.findings += walk.findings
        for place in walk.nested.values():
            self.nested(data, place, where, depth + 1)
        return walk

    def nested(self, data: Data, place: Bytes | bytes, where: str, depth: int) -> None:
        """Bytes that a function would get: a pickle, perhaps."""
        if depth > MAX_DEPTH or self.report.parts >= MAX_PARTS:
            self.fault("it holds more pickles in pickles than are followed", where)
            return
        inner = f"{where}, in the bytes given to a call".lstrip(", ")
        try:
            if isinstance(place, Bytes) and place.encoding is None:
                start, stop = place.start, place.stop
            else:
                data = place.content(data) if isinstance(place, Bytes) else place
                start, stop = 0, len(data)
        except (FormatError, UnicodeError) as error:
            self.fault(f"bytes that a function would get are not looked into: {error}", where)
            return
        self.sniff(data, start, stop, inner, depth)

    def sniff(self, data: Data, start: int, stop: int, where: str, depth: int) -> None:
        """Bytes that may be a pickle or an archive, or nothing of the kind."""
        if data[start : min(start + len(zip_archive.MAGIC), stop)] == zip_archive.MAGIC:
            self.archive(data, start, stop, where, depth)
        elif not self.array(data, start, stop, where, depth) and start < stop:
            before, parts = len(self.report.findings), self.report.parts
            self.stream(data, start, stop, where, depth, storages=True)
            if _only_faults(self.report.findings[before:]):  # no pickle
                del self.report.findings[before:]
                self.report.parts = parts

    def array(self, data: Data, start: int, stop: int, where: str, depth: int) -> bool:
        """Whether it is one of numpy's `.npy` files; those of objects are a header and a pickle."""
        if stop - start < 12 or data[start : start + 6] != b"\x93NUMPY":
            return False
        width = 2 if data[start + 6 : start + 7] == b"\x01" else 4
        header = start + 8 + width
        self.report.parts += 1
        # Whatever type the header names: it has many ways of spelling it.
        self.sniff(data, min(header + int.from_bytes(data[start + 8 : header], "little"), stop), stop, where, depth + 1)
        return True

    def archive(self, data: Data, start: int, stop: int, where: str, depth: int) -> None:
        try:
            entries = zip_archive.read_entries(data, start, stop)
        except FormatError as error:
            self.fault(f"the archive {error}", where)
            return
        if depth >= MAX_DEPTH:
            self.fault("it holds more archives in archives than are followed", where)
            return
        seen: set[str] = set()
        for entry in entries:
            if self.report.parts >= MAX_PARTS:
                self.fault(f"it holds more than the {MAX_PARTS} parts that are looked into", where)
                break
            inner = f"{where}, {entry.name}".lstrip(", ")
            if entry.name in seen:
                self.fault("another entry has this name too: readers differ in which one they take", inner)
            seen.add(entry.name)
            parts = entry.name.replace("\\", "/").split("/")
            if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", parts[0]):
                self.fault("an entry has a path that leaves the archive", inner)
            if "code" in parts[:-1] and entry.name.endswith(".py"):
                self.fault("a TorchScript program, which torch.jit.load would run", inner)
            content, first, last = data, entry.start, entry.stop
            try:
                if entry.method != zip_archive.STORED:
                    content = entry.unpack(data, MAX_UNPACKED - self.unpacked)
                    self.unpacked += len(content)
                    first, last = 0, len(content)
            except FormatError as error:
                self.fault(f"not looked into: the file {error}", inner)
                continue
            if entry.name.lower().endswith(PICKLED):
                self.stream(content, first, last, inner, depth + 1, storages=True)
            else:
                self.sniff(content, first, last, inner, depth + 1)


def _is_tar(data: Data) -> bool:
    """By the checksum of the first header, which is all that readers of old archives look at."""
    header = data[:512]
    try:
        announced = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        announced = -1
    return announced == sum(header) - sum(header[148:156]) + 8 * 32 or header[257:262] == b"ustar"


def _only_faults(findings: list[Finding]) -> bool:
    return bool(findings) and all(finding.verdict == FAULT for finding in findings)
