"""What the user names, as a list of pictures and where their results go; checked before any work."""

from __future__ import annotations

import argparse
import glob
import os
import re
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import urlsplit

from ppdiffusers.cli.parsing import UsageError

STDIN = "-"
FIELDS = ("name", "ext", "folder", "number", "scale")  # of a template


@dataclass
class Source:
    """A picture that was named, or found where a folder or pattern was named.

    `name` for messages; `path` of a file, None for an address or standard input; `folder`: where it lies below the
    folder that was named; `found`: whether it was found.
    """

    name: str
    path: Optional[Path] = None
    folder: Path = Path()
    found: bool = False

    @property
    def shown(self) -> str:
        """For messages about the work; an address without what is secret in it."""
        from ppdiffusers.pictures.files import shown

        return shown(self.name) if self.path is None else self.name

    @property
    def stem(self) -> str:
        return Path(self._file).stem

    @property
    def suffix(self) -> str:
        return Path(self._file).suffix

    @property
    def _file(self) -> str:
        from ppdiffusers.pictures.files import name_of

        if self.path is not None:
            return self.path.name
        return "picture" if self.name == STDIN else name_of(self.name)


@dataclass
class Job:
    """`target` None is standard output, written as the format of `suffix`; `exists`: the result is there, and stays;
    `pixels`: of the input, 0 where a look does not tell."""

    source: Source
    target: Optional[Path]
    suffix: str
    exists: bool = False
    pixels: float = 0.0


@dataclass
class Plan:
    jobs: List[Job]
    notes: List[str] = field(default_factory=list)  # what was left out, and why


def find(inputs: List[str], recursive: bool, avoid: Optional[Path] = None) -> Tuple[List[Source], List[str]]:
    """Every picture that `inputs` name, once: files, folders, patterns, addresses, and - for standard input.

    Args:
        recursive: folders with what lies below them. Links to folders are not followed, so there are no circles.
        avoid: the folder of the results, which is not searched.

    Raises:
        UsageError: nothing there, or nothing that is a picture.
    """
    from ppdiffusers.pictures.files import is_address, shown
    from ppdiffusers.pictures.formats import READABLE

    sources: List[Source] = []
    notes: List[str] = []
    for text in inputs:
        path = Path(text)
        if text == STDIN:
            sources.append(Source(STDIN))
        elif is_address(text):
            if not re.match(r"https?://[^/]", text, re.IGNORECASE) or not _is_whole(text):
                raise UsageError(f"{shown(text)} is no http or https address; give one, or a file")
            sources.append(Source(text))
        elif path.is_dir():
            found = list(_walk(path, recursive, avoid, notes))
            if not found:
                deeper = "" if recursive else "; --recursive looks into its folders too"
                raise UsageError(f"{text} holds no pictures{deeper}")
            sources += found
        elif os.path.lexists(path):
            sources.append(Source(text, path))
        elif glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            files = [
                Source(str(match), match, found=True)
                for match in matches if match.suffix.lower() in READABLE and match.is_file()
            ]  # fmt: skip
            if not files:
                raise UsageError(f"no picture fits {text}")
            sources += files
        else:
            raise UsageError(f"{text} does not exist")
    seen: Set[str] = set()
    once = []
    for source in sources:
        key = source.name if source.path is None else str(_resolved(source.path))
        if key not in seen:
            once.append(source)
        seen.add(key)
    return once, notes


def _is_whole(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0  # asking for the port checks it
    except ValueError:
        return False


def _walk(top: Path, recursive: bool, avoid: Optional[Path], notes: List[str]) -> Iterator[Source]:
    """The picture files of a folder, in the order of their names; hidden ones are not looked at."""
    from ppdiffusers.pictures.formats import READABLE

    barred = None if avoid is None else _resolved(avoid)
    for folder, below, files in os.walk(top):
        below.sort()
        kept = [name for name in below if not name.startswith(".") and _resolved(Path(folder, name)) != barred]
        links = [name for name in kept if Path(folder, name).is_symlink()]
        if recursive:
            notes += [f"{Path(folder, name)} is a link to a folder, and not followed" for name in links]
        elif kept:
            notes.append(f"{folder} has folders inside, which --recursive looks into")
        below[:] = kept if recursive else []
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in READABLE and (path.is_file() or path.is_symlink()):
                yield Source(str(path), path, Path(folder).relative_to(top), found=True)


def plan(args: argparse.Namespace) -> Plan:
    """Jobs for `args.inputs`, with the results where `args.output`, `suffix`, `ext` and `scale` say.

    Raises:
        UsageError: nothing to do, a target that cannot be written or would replace an input, or one that is there and
            neither to be replaced nor skipped.
    """
    output, ext = args.output, _ending(args.ext)
    folder = _folder(output, args.inputs)
    sources, notes = find(args.inputs, args.recursive, folder)
    many = len(sources) > 1 or any(source.found for source in sources)
    if any(source.name == STDIN for source in sources) and output is None:
        output = STDIN
    if output == STDIN:
        if len(sources) > 1:
            raise UsageError("standard output takes one picture; give a folder with -o")
        if args.json:
            raise UsageError("--json and a picture cannot both go to standard output; name a file with -o")
        return Plan([Job(sources[0], None, ext or _own_ending(sources[0]))], notes)
    one_file = output is not None and folder is None and not _is_template(output)
    if one_file and (many or args.suffix is not None):
        what = "several pictures cannot become one file" if many else "--suffix goes with names that are made"
        raise UsageError(f"{output} is one file: {what}; give a folder, such as {Path(output).stem}/")
    jobs = []
    for number, source in enumerate(sources, 1):
        ending = ext or _own_ending(source)
        if one_file:
            target = Path(output)
        elif output is not None and _is_template(output):
            target = _from_template(output, source, ending, number, args.scale)
        else:
            home = folder / source.folder if folder is not None else (source.path or Path()).parent
            suffix = args.suffix
            if suffix is None:
                suffix = "" if folder is not None and not _same(home, source) else f"-{args.scale or 4:g}x"
            target = home / f"{source.stem}{suffix}{ending}"
        jobs.append(Job(source, target, target.suffix))
    jobs, more = _without_results(jobs)
    _part_clashes(jobs)
    for job in jobs:
        check(job, args, many)
    return Plan(jobs, notes + more)


def _ending(ext: Optional[str]) -> Optional[str]:
    """`.png` of `png` or `.png`.

    Raises:
        UsageError: no format that can be written.
    """
    from ppdiffusers.pictures import format_of
    from ppdiffusers.pictures.formats import writable_suffixes

    if ext is None:
        return None
    ending = f".{ext.lstrip('.')}"
    if format_of(f"x{ending}") is None:
        raise UsageError(f"--ext {ext} is no format that can be written; take one of {writable_suffixes()}")
    return ending


def _own_ending(source: Source) -> str:
    """Of a file's name, if it is of a format that can be written; else of what the file turns out to be, or .png."""
    from ppdiffusers.pictures import ImageError, format_of
    from ppdiffusers.pictures.formats import BY_NAME, READABLE, sniff

    if format_of(f"x{source.suffix}") is not None:
        return source.suffix
    if source.suffix.lower() not in READABLE and source.path is not None and source.path.is_file():
        try:
            with open(source.path, "rb") as file:
                kind = BY_NAME.get(sniff(file.read(512), source.name))
            return kind.suffix if kind is not None else ".png"
        except (ImageError, OSError):  # said when its turn comes
            pass
    return ".jpg" if source.suffix.lower() == ".mpo" else ".png"


def _is_template(output: str) -> bool:
    return "{" in output


def _folder(output: Optional[str], inputs: List[str]) -> Optional[Path]:
    """`-o` as a folder: one that is there or ends in a slash, or a name without the ending of a format.

    Raises:
        UsageError: one picture shall become a file of a format that is none.
    """
    from ppdiffusers.pictures import format_of
    from ppdiffusers.pictures.formats import writable_suffixes

    if output is None or output == STDIN:
        return None
    if _is_template(output):
        return None
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)):
        return path
    if format_of(output) is not None:
        return None
    if path.suffix and len(inputs) == 1 and not Path(inputs[0]).is_dir() and not glob.has_magic(inputs[0]):
        raise UsageError(
            f"{output} has no suffix of a format that can be written; end it in one of {writable_suffixes()}, "
            "or in / for a folder"
        )
    return path


def _from_template(template: str, source: Source, ending: str, number: int, scale: Optional[float]) -> Path:
    values = {"name": source.stem, "ext": ending, "folder": str(source.folder), "number": number,
              "scale": f"{scale or 4:g}"}  # fmt: skip
    try:
        for _, name, _, _ in string.Formatter().parse(template):
            if name is not None and name not in FIELDS:
                raise ValueError(f"there is no {{{name}}}")
        target = Path(template.format(**values))
    except (ValueError, IndexError, KeyError) as error:
        fields = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise UsageError(f"the template {template!r} cannot be filled in ({error}); it may hold {fields}") from None
    from ppdiffusers.pictures import format_of

    if format_of(target.name) is None:
        raise UsageError(f"the template {template!r} gives {target}, which is no picture format; end it in {{ext}}")
    return target


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links
        return path.absolute()


def _same(home: Path, source: Source) -> bool:
    return source.path is not None and _resolved(home) == _resolved(source.path).parent


def _without_results(jobs: List[Job]) -> Tuple[List[Job], List[str]]:
    """Without pictures that are results of others here: `a-4x.png` beside `a.png` is not enlarged again."""
    targets = {str(_resolved(job.target)): job for job in jobs if job.target is not None}
    kept, notes = [], []
    for job in jobs:
        maker = targets.get(str(_resolved(job.source.path))) if job.source.path is not None else None
        if maker is not None and maker is not job:
            notes.append(f"{job.source.name} is the result of {maker.source.name}, and left out")
        else:
            kept.append(job)
    return kept, notes


def _part_clashes(jobs: List[Job]) -> None:
    """`a.jpg` and `a.png`, both to become `a.webp`: the ones of another format keep their ending in the name.

    Raises:
        UsageError: two would still become one file.
    """
    groups: Dict[str, List[Job]] = {}
    for job in jobs:
        groups.setdefault(os.path.normcase(str(job.target)), []).append(job)
    for group in (group for group in groups.values() if len(group) > 1):
        for job in group:
            if job.target is not None and job.source.suffix.lower() != job.target.suffix.lower():
                tag = job.source.suffix.lstrip(".")
                job.target = job.target.with_name(f"{job.target.stem}-{tag}{job.target.suffix}")
    taken: Dict[str, Job] = {}
    for job in jobs:
        other = taken.setdefault(os.path.normcase(str(job.target)), job)
        if other is not job:
            raise UsageError(f"{other.source.name} and {job.source.name} would both become {job.target}; rename one")


def check(job: Job, args: argparse.Namespace, many: bool) -> None:
    """Whether the target can be written, and is to be: sets `job.exists`.

    Results that are there stay, since another run made them or a person: of many pictures they are skipped, so that a
    command that was interrupted goes on; for one picture the user is asked to decide.

    Raises:
        UsageError: it cannot, or the user has to decide.
    """
    target = job.target
    if target is None:
        return
    if len(os.fsencode(target.name)) > 255:
        raise UsageError(f"{target.name[:40]}... is a name of more than 255 bytes; take a shorter --suffix or -o")
    if "\0" in str(target):
        raise UsageError("a file name holds a NUL")
    if job.source.path is not None and _resolved(target) == _resolved(job.source.path):
        raise UsageError(f"the output would overwrite the input {job.source.name}; name another file")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file")
    for folder in target.absolute().parents:
        if folder.exists():
            if not folder.is_dir():
                raise UsageError(f"{folder} is a file, so {target} cannot be written; name another folder")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise UsageError(f"{folder} cannot be written to; name another folder with -o")
            break
    if os.path.lexists(target) and not args.overwrite:
        if not many and not args.skip_existing:
            raise UsageError(f"{target} exists; --overwrite replaces it, --skip-existing leaves it")
        job.exists = True
