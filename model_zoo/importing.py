"""Models that came by hand: a folder or archive becomes a complete model of the cache, or nothing at all.

What an archive is, its first bytes say. It is read as if an enemy had packed it: by readers of our own that take what
`tar`, `zip` and `gzip` write of plain files, once from front to back, and refuse everything else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Callable

from model_zoo import cache, disk, settings
from model_zoo.errors import CacheError, SourceError
from model_zoo.formats import FormatError
from model_zoo.manifest import File, Model
from model_zoo.registry import find, list_models
from model_zoo.settings import PathLike

BLOCK = 1 << 20
MOST_ENTRIES = 100_000
# A file of which the manifest knows no size at all may have this many bytes.
MOST_UNKNOWN = 1 << 30
# Weights hardly shrink. What unpacks to this many times its size, and to more than the slack, is a trap.
MOST_INFLATION, INFLATION_SLACK = 200, 1 << 30
MOST_HEADER = 1 << 16  # bytes of a long name or of extended headers in a tar

Chunks = Iterator[bytes]


def import_model(source: PathLike, name: str | None = None, *, cache_dir: PathLike | None = None) -> Path:
    """Put the files of a folder, zip, tar or tar.gz into the cache as a model; its folder there.

    The files may lie at any depth, as they lie under the model's name in the zoo. All of them must be there, with the
    sizes and hashes that the manifest knows. Others are left out.

    Args:
        source: where they are.
        name: name or alias of the model; None finds it by `<owner>/<name>` in the paths.
        cache_dir: folder that holds the models, instead of MODEL_ZOO_HOME.

    Raises:
        SourceError: files are missing or not those of the manifest, or the archive cannot be trusted.
        UnknownModelError: the catalogue has no such model.
        CacheError: the model is there already, or the cache cannot be written.
    """
    path = Path(os.path.abspath(os.path.expanduser(source)))
    with _explained(path):
        found = [member for member, _ in members(path)]
    model = _recognise(path, found) if name is None else find(name)
    if model.folder is not None or not model.files:
        state = f"lies in {model.folder}" if model.folder else "has no files in the zoo"
        raise SourceError(f"{model.name} {state}: there is nothing to import")
    root = _root(path, model, found)
    home = settings.home(cache_dir)
    folder = home / model.place
    cache.check_place(home, folder, model)
    disk.check_space(home, model.nominal_size or 0)
    if cache.is_complete(model, folder):
        raise CacheError(f"{model.name} is already complete in {folder}; to replace it, remove it first")
    try:
        with cache.staging(home) as stage, _explained(path):
            hashes = _copy_all(path, model, root, stage)
            cache.mark_complete(model, stage, hashes)
            return cache.publish(stage, model, home)
    except OSError as error:
        raise CacheError(
            f"cannot import into {home}: {error}; free or repair that place, or choose another with MODEL_ZOO_HOME"
        ) from error


def _recognise(source: Path, found: Iterable[str]) -> Model:
    """The one model whose name is in the paths, or ends the path of the source."""
    stem = source.name.split(".")[0] if source.is_file() else source.name
    names = {"/".join(pair) for path in found for parts in [path.split("/")] for pair in zip(parts, parts[1:-1])}
    names.add(f"{source.parent.name}/{stem}")
    models = [model for model in list_models() if names & {model.name, *model.aliases}]
    if len(models) == 1:
        return models[0]
    said = f"has {' and '.join(model.name for model in models)}" if models else "does not say which model it is"
    raise SourceError(f"{source} {said}; say it with --name owner/name")


def _root(source: Path, model: Model, found: Iterable[str]) -> str:
    """What comes before the paths of the manifest: nothing, or folders and a slash."""
    there = set(found)
    lead = model.files[0].path
    roots = [path[: -len(lead)] for path in there if path == lead or path.endswith("/" + lead)][:1000]
    counts = {root: sum(root + file.path in there for file in model.files) for root in roots}
    complete = [root for root, count in counts.items() if count == len(model.files)]
    if len(complete) == 1:
        return complete[0]
    if complete:
        raise SourceError(f"{source} has {model.name} in {' and in '.join(sorted(complete))}; give one of them")
    nearest = max(counts, key=lambda root: counts[root], default="")
    missing = [file.path for file in model.files if nearest + file.path not in there]
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    raise SourceError(
        f"{source} lacks {', '.join(missing[:5])}{more} of {model.name} (links do not count); add them and import again"
    )


def _copy_all(source: Path, model: Model, root: str, stage: Path) -> dict[str, str]:
    """Copy the files of the manifest; their sha256 by path."""
    from model_zoo.formats.scan import complaint  # only this needs the readers

    wanted = {root + file.path: file for file in model.files}
    hashes: dict[str, str] = {}
    for path, chunks in members(source):
        file = wanted.get(path)
        if file is None:
            continue
        if file.path in hashes:
            raise SourceError(f"{source} holds {path} twice: refused")
        target = stage / file.path
        disk.make_folder(target.parent)
        what = f"{path} of {source}"
        hashes[file.path] = _copy(chunks(), target, file, what)
        wrong = complaint(target) if file.sha256 is None else None
        if wrong:
            raise SourceError(f"{what} {wrong}; carry it here again")
    return hashes


def _copy(chunks: Chunks, target: Path, file: File, what: str) -> str:
    limit = MOST_UNKNOWN
    if file.size is not None:
        limit = file.size
    elif file.approximate_size is not None:
        limit = file.approximate_size + file.slack
    digest, size = hashlib.sha256(), 0
    with open(target, "xb") as copy:
        for block in chunks:
            size += len(block)
            if size > limit:
                raise SourceError(f"{what} has more bytes, not {limit:,} as catalogued")
            digest.update(block)
            copy.write(block)
        copy.flush()
        disk.sync(copy.fileno())  # before the marker vouches for it
    disk.share(target)
    wrong = file.mismatch(size, digest.hexdigest())
    if wrong:
        raise SourceError(f"{what} {wrong}")
    return digest.hexdigest()


# The files of a source


def members(source: Path) -> Iterator[tuple[str, Callable[[], Chunks]]]:
    """Every regular file of a folder, zip, tar or tar.gz: its path with forward slashes, and what reads it.

    A file can be read until the next one is asked for. Nothing is written. Links in a folder are passed over; one link,
    device or path that leaves the archive has the whole archive refused.

    Raises:
        SourceError: no folder or archive of these kinds.
        FormatError: a damaged one, or one made to do harm. `_explained` takes it, and what the libraries raise.
    """
    if source.is_dir():
        for path, plain in disk.files_in(source):
            if plain:
                yield path.relative_to(source).as_posix(), functools.partial(_blocks, path)
        return
    if not source.is_file():
        raise SourceError(f"{source} does not exist; give a folder, or a zip, tar or tar.gz file")
    count = 0
    with open(source, "rb") as stream:
        magic = stream.read(4)
        stream.seek(0)
        for name, chunks in _zip(stream) if magic[:2] == b"PK" else _tar(stream, magic[:2] == b"\x1f\x8b"):
            count += 1
            if count > MOST_ENTRIES:
                raise FormatError(f"has more than {MOST_ENTRIES:,} entries: refused")
            inside = _safe_path(name)
            if chunks is not None:
                yield inside, chunks


@contextlib.contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Turns what is said of an archive while it is read into a SourceError."""
    try:
        yield
    except (FormatError, zlib.error, EOFError, ValueError) as error:
        said = str(error) if isinstance(error, FormatError) else f"is damaged: {error}; carry it here again"
        raise SourceError(f"{source} {said}") from None


def _blocks(path: Path) -> Chunks:
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _zip(stream: BinaryIO) -> Iterator[tuple[str, Callable[[], Chunks] | None]]:
    from model_zoo.formats import archive

    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        entries = archive.read_entries(data)
        _check_size(len(data), sum(entry.size for entry in entries))
        for entry in entries:
            if entry.kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise FormatError(f"holds a link or device, {entry.name[:200]!r}: refused")
            folder = entry.name.endswith("/")
            yield entry.name, None if folder else functools.partial(entry.stream, data)


def _tar(stream: BinaryIO, packed: bool) -> Iterator[tuple[str, Callable[[], Chunks] | None]]:
    """What `tar` writes of files and folders: headers of 512 bytes, long names as GNU and POSIX write them."""
    total = os.fstat(stream.fileno()).st_size
    tape = _Tape(stream, total, packed)
    long_name: str | None = None
    zeros = first = 0
    while zeros < 2:
        try:
            header = tape.read(512)
            if not any(header):
                zeros += 1
                continue
            if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
                raise FormatError("is damaged: a header has another checksum; carry it here again")
        except FormatError:
            if first:
                raise
            raise FormatError("is no folder, zip, tar or tar.gz; give one of these") from None
        zeros, first, kind, size = 0, 1, header[156:157], _octal(header[124:136])
        name = _text(header[:100])
        if header[257:263] == b"ustar\0" and header[345:500].strip(b"\0"):
            name = f"{_text(header[345:500])}/{name}"
        if kind in b"Lxg" and kind:
            if size > MOST_HEADER:
                raise FormatError(f"has a header of {size:,} bytes: refused")
            content = tape.read(size)
            tape.skip(-size % 512)
            extended = _text(content) if kind == b"L" else _pax(content)
            long_name = extended if kind != b"g" and extended is not None else long_name
            continue
        if kind not in (b"0", b"\0", b"5"):
            raise FormatError(f"holds a link or device, or a file of a rare kind, {name[:200]!r}: refused")
        name, long_name = long_name or name, None
        tape.begin(size if kind != b"5" else 0)
        yield name, None if kind == b"5" or name.endswith("/") else tape.chunks
        tape.skip(tape.left + -size % 512 if kind != b"5" else 0)
    tape.end()


class _Tape:
    """The bytes of a tar or tar.gz, once from front to back."""

    def __init__(self, stream: BinaryIO, total: int, packed: bool):
        self.left = 0  # of the file under way
        self._stream, self._total = stream, total
        self._unpacker = zlib.decompressobj(31) if packed else None
        self._done = 0

    def begin(self, size: int) -> None:
        _check_size(self._total, self._done + size)
        self.left = size

    def chunks(self) -> Chunks:
        """What is left of the file under way."""
        while self.left:
            block = self._some(min(self.left, BLOCK))
            if not block:
                raise FormatError("is damaged: it ends early; carry it here again")
            self.left -= len(block)
            yield block

    def read(self, size: int) -> bytes:
        """The next bytes, few enough to be held."""
        self.begin(size)
        return b"".join(self.chunks())

    def skip(self, size: int) -> None:
        self.begin(size)
        for _ in self.chunks():
            pass

    def end(self) -> None:
        """Read what is left: the checksum of a gzip stands at its end."""
        while self._some(BLOCK):
            pass
        if self._unpacker is not None and not self._unpacker.eof:
            raise FormatError("is damaged: it ends early; carry it here again")

    def _some(self, size: int) -> bytes:
        if self._unpacker is None:
            return self._stream.read(size)
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._stream.read(1 << 16)
            block = self._unpacker.decompress(packed, size)
            self._done += len(block)
            _check_size(self._total, self._done)
            if block or not packed:
                return block
        following = self._unpacker.unused_data or self._stream.read(1 << 16)
        if following.strip(b"\0"):
            raise FormatError("holds more than one gzip stream: refused")
        return b""


def _check_size(packed: int, unpacked: int) -> None:
    if unpacked > packed * MOST_INFLATION + INFLATION_SLACK:
        raise FormatError(
            f"unpacks to more than {MOST_INFLATION} times its size: refused as a trap; if it is none, unpack it by hand"
            " and import the folder"
        )


def _octal(field: bytes) -> int:
    if field[:1] == b"\x80":  # GNU's way of writing large sizes
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise FormatError(f"is damaged: {digits[:20]!r} is no number of a header; carry it here again")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax(content: bytes) -> str | None:
    """The path in POSIX's extended header; what would change how files are read is refused."""
    path = None
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not len(length) < int(length[:6]) <= len(content):
            raise FormatError("is damaged: an extended header; carry it here again")
        key, _, value = content[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        content = content[int(length) :]
        if key == b"path":
            path = _text(value)
        elif key in (b"size", b"linkpath", b"hdrcharset") or key.startswith(b"GNU.sparse"):
            raise FormatError(f"has an extended header {key[:40].decode('ascii', 'replace')!r}: refused")
    return path


def _safe_path(name: str) -> str:
    """The path of an entry, without `./` before it and `/` after it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise FormatError(f"holds {name[:200]!r}, a path that leaves the archive: refused")
    return "/".join(parts)
