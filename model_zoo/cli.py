"""The `model-zoo` command."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NoReturn

from model_zoo import cache, registry, settings
from model_zoo.downloads import download, plan
from model_zoo.errors import (
    ModelZooError,
    SettingsError,
    age_text,
    parse_duration,
    parse_size,
    public,
    size_text,
    table,
)
from model_zoo.manifest import Model
from model_zoo.registry import find, list_models

CONVERT = "to be converted"

SETTINGS = """\
environment:
  MODEL_ZOO_HOME      the folder of the cache
  MODEL_ZOO_ENDPOINT  where models come from: mirrors, with blanks between them
  MODEL_ZOO_JOBS      how many files are downloaded at once (4)
  MODEL_ZOO_OFFLINE   1: open no socket
  MODEL_ZOO_REGISTRY  manifests of your own: folders, files and addresses,
                      separated as in PATH
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 for files found wrong, 2 for a user's error, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *rest, **options: _tell(f"warning: {message}")
            parser = _parser(argv)
            options = parser.parse_args(argv)
            if options.version:
                print(f"model-zoo {_version()}")
                return 0
            if not hasattr(options, "run"):
                parser.print_help()
                return 0
            with _told(options.quiet) if options.run in (_download, _verify) else contextlib.nullcontext():
                value, code = options.run(options)
            if options.json:
                print(json.dumps(value, indent=2, default=str))
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # whoever reads, as `head` does, has seen enough; Python must not flush into the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ModelZooError, OSError) as error:
        _tell(f"error: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted; the same command goes on from here")
        return 130


def _tell(text: str) -> None:
    print(f"model-zoo: {text}", file=sys.stderr)


def _say(options: argparse.Namespace, text: object) -> None:
    """A result, for people; programs get theirs as one JSON value at the end."""
    if not options.json:
        print(text, flush=True)


@contextlib.contextmanager
def _told(quiet: bool) -> Iterator[None]:
    """What downloads have to say reaches the user, also where stderr is no terminal."""
    import logging  # only this needs it

    log, handler = logging.getLogger("model_zoo"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("model-zoo: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.ERROR if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage as well, and name the sub-command's program.
        raise ModelZooError(f"{message}; see `{self.prog} --help`")


CACHE = ("--cache-dir", {"metavar": "FOLDER", "help": "the cache, instead of MODEL_ZOO_HOME"})
ENDPOINT = ("--endpoint", {"metavar": "URL", "help": "where files come from, instead of MODEL_ZOO_ENDPOINT"})
REVISION = ("--revision", {"metavar": "NAME", "help": "a revision of the model"})
NAME = ("name", {"metavar": "NAME"})
NAMES = ("names", {"metavar": "NAME", "nargs": "+"})


def _flag(name: str, purpose: str) -> tuple[str, dict[str, Any]]:
    return name, {"action": "store_true", "help": purpose}


def _value(name: str, metavar: str, purpose: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return name, {"metavar": metavar, "help": purpose, **options}


def _commands() -> dict[str, tuple[Any, str, list[tuple[str, dict[str, Any]]]]]:
    return {
        "list": (_list, "models that can be had, their tasks, sizes and last use", [
            CACHE,
            _value("--task", "TASK", "only the models of this task, such as super-resolution"),
            _flag("--downloaded", "only what is in the cache, and its size there"),
            _flag("--all", "those too that exist only as original checkpoints, to be converted"),
        ]),
        "show": (_show, "what is known about a model", [NAME, CACHE, REVISION]),
        "download": (_download, "download models and print their folders", [
            NAMES, CACHE, ENDPOINT, REVISION,
            _value("--include", "PATTERN", "only files such as 'unet/*'; may be repeated", action="append", default=[]),
            _value("--exclude", "PATTERN", "all files but such; may be repeated", action="append", default=[]),
            _value("--local-dir", "FOLDER", "put the model itself there, instead of into the cache"),
            _value("--jobs", "N", "files at once, instead of MODEL_ZOO_JOBS"),
            _flag("--force", "fetch every file anew"),
            _flag("--dry-run", "only say what would be fetched"),
        ]),
        "path": (_path, "print the folder of a model that is here, without the network", [NAME, CACHE, REVISION]),
        "verify": (_verify, "read downloaded models again and compare their hashes; all, if none is named", [
            ("names", {"metavar": "NAME", "nargs": "*"}), CACHE, ENDPOINT, REVISION,
            _flag("--remote", "ask the server, too, whether they have changed there"),
            _flag("--repair", "fetch the files that are wrong, and them alone"),
        ]),
        "remove": (_remove, "remove models from the cache", [NAMES, CACHE, _flag("--yes", "do not ask")]),
        "prune": (_prune, "remove models that were not used for long, and what crashed commands left behind", [
            CACHE,
            _value("--older-than", "TIME", "models unused for so long, such as 30d or 12h"),
            _value("--keep-size", "SIZE", "the longest unused, until the rest fits, such as 20GB"),
            _flag("--dry-run", "only say what would be removed"),
        ]),
        "import": (_import, "put a folder or archive (zip, tar, tar.gz) that was carried here into the cache", [
            ("source", {"metavar": "SOURCE"}), CACHE,
            _value("--name", "NAME", "which model it is, if its paths do not say so"),
        ]),
        "pack": (_pack, "describe a saved pipeline for others; without -o, print the manifest", [
            _value("folder", "FOLDER", "what save_pretrained wrote"),
            _value("--name", "OWNER/NAME", "of the model", required=True),
            ("--licence", {"required": True, "help": "of the weights, such as Apache-2.0"}),
            ("--origin", {"required": True, "help": "where the weights come from, an address or a sentence"}),
            ("--task", {"help": "default: that of other models of the same pipeline"}),
            _value("--paper", "URL", "of the model"),
            _value("--description", "TEXT", "one sentence", default=""),
            _value("--base-url", "URL", "where the files will be, if not beside the manifest"),
            _flag("--every-kind", "take pickles and other kinds of files, too"),
            _value("-o", "FOLDER", "zoo to publish in: files, manifest and index.json", dest="output"),
        ]),
        "pin": (_pin, "write the sizes and hashes of a model's files, which lie in FOLDER, into its manifest", [
            NAME, ("folder", {"metavar": "FOLDER"}), _value("-o", "FILE", "the manifest to write", dest="output"),
        ]),
        "scan": (_scan, "judge weight files: safe to unpickle, or refused and why; run nothing", [
            _value("paths", "PATH", "files, and folders of them", nargs="+"),
        ]),
        "env": (_env, "the settings as they are understood, for reports", [CACHE]),
    }  # fmt: skip


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is named gets its arguments: those of all take a third of the start-up time."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="model-zoo",
        description="Pretrained latent diffusion models by name.",
        epilog=SETTINGS,
        formatter_class=kind,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (run, purpose, arguments) in _commands().items():
        command = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        command.set_defaults(run=run)
        for argument, settings_of_it in arguments if name in argv else ():
            also = ["--license"] if argument == "--licence" else ["--output"] if argument == "-o" else []
            command.add_argument(argument, *also, **settings_of_it)
        command.add_argument("--json", action="store_true", help="for programs")
        command.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no notes")
    return parser


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("paddle-latent-diffusion")
    except metadata.PackageNotFoundError:
        return "of a folder that is not installed"


def _list(options: argparse.Namespace) -> tuple[Any, int]:
    on_disk = {entry.place: entry for entry in cache.cached(options.cache_dir)}
    home = settings.home(options.cache_dir)
    found: list[tuple[str, Model | None, cache.Cached | None, str]] = []
    for model in list_models(options.task):
        entry = on_disk.pop(model.place, None)
        if entry or not options.downloaded:
            found.append((model.name, model, entry, _state(model, home if entry else None)))
    if options.task is None:  # those in the cache that the catalogue does not know
        found += [(place, None, entry, "not in the catalogue") for place, entry in on_disk.items()]
    shown = [row for row in found if options.all or row[3] != CONVERT]
    cells, values = [("NAME", "TASK", "SIZE", "STATE", "LAST USED")], []
    for name, known, entry, state in shown:
        size, exact = (known.nominal_size, known.size_is_exact) if known else (None, False)
        there, used = (entry.size, entry.last_used) if entry else (0, None)
        text = size_text(there) if options.downloaded or known is None else size_text(size, exact)
        task = known and known.task
        cells.append((name, task or "-", "-" if state == CONVERT else text, state, _last_use(used)))
        row = {"name": name, "task": task, "state": state, "size": size, "size_is_exact": exact}
        values.append({**row, "bytes_on_disk": there, "last_used": used and int(used)})
    if not shown and not options.json:
        _tell(f"nothing is in the cache {home}")
    elif not options.json:
        print(table(cells))
        if len(found) > len(shown) and not options.quiet:
            hidden = len(found) - len(shown)
            _tell(f"{hidden} more exist only as original checkpoints; `model-zoo list --all` shows them")
    return values, 0


def _show(options: argparse.Namespace) -> tuple[Any, int]:
    model = find(options.name, revision=options.revision)
    folder = model.folder or cache.model_folder(model, options.cache_dir)
    entry = next((entry for entry in cache.cached(options.cache_dir) if entry.place == model.place), None)
    unverified = [file.path for file in model.files if file.sha256 is None]
    facts = {
        "name": model.name,
        "aliases": ", ".join(model.aliases),
        "description": model.description,
        "task": model.task,
        "pipeline": model.pipeline,
        "licence": model.licence,
        "origin": model.origin,
        "paper": model.paper,
        "note": model.note,
        "original": model.original and model.original["checkpoint"],
        "registry": model.registry,
        "served at": ", ".join(address for address in (model.base_url, *model.mirrors) if address),
        "revisions": ", ".join(model.revisions),
        "state": _state(model, settings.home(options.cache_dir)),
        "last used": entry and _last_use(entry.last_used),
        "folder": folder if model.files else None,
        "files": f"{len(model.files)}, {size_text(model.nominal_size, model.size_is_exact)}" if model.files else None,
        "unverified": f"no sha256 is known of {len(unverified)} files; `model-zoo pin {model.name} FOLDER` adds them"
        if unverified
        else None,
    }
    for key, value in facts.items():
        if value:
            _say(options, f"{key + ':':<13}{value}")
    for file in model.files:
        mark = "" if file.sha256 else "  (no sha256)"
        _say(options, f"  {size_text(file.nominal_size, exact=file.size is not None):>16}  {file.path}{mark}")
    known = {key: value for key, value in facts.items() if value and key != "files"}
    return {**known, "files": [vars(file) for file in model.files]}, 0


def _download(options: argparse.Namespace) -> tuple[Any, int]:
    keys = ("revision", "cache_dir", "local_dir", "endpoint", "include", "exclude", "force")
    given = {key: getattr(options, key) for key in keys}
    jobs = settings.jobs(options.jobs)
    if options.local_dir and len(options.names) > 1:
        raise SettingsError("--local-dir holds one model; name one")

    def fetch(name: str) -> dict[str, Any]:
        if not options.dry_run:
            folder = download(name, **given, jobs=jobs, progress=False if options.quiet else None)
            _say(options, folder)
            return {"name": name, "folder": folder}
        model, folder, files = plan(name, **given)
        for file, size in files:
            _say(options, f"  {size_text(size, file.size is not None) if size else '?':>16}  {file.path}")
        total = size_text(sum(size for _, size in files), model.size_is_exact)
        _say(options, f"{model.name}: {len(files)} files, {total}, into {folder}")
        return {
            "name": model.name, "folder": folder, "fetch": [{"path": file.path, "bytes": size} for file, size in files]
        }  # fmt: skip

    results, failed = _each(options.names, fetch, alone=len(options.names) == 1)
    return results, 2 if failed else 0


def _each(names: Sequence[str], work: Callable[[str], dict[str, Any]], alone: bool) -> tuple[list[Any], bool]:
    """What comes of each name, and whether one failed, which hides none of the others."""
    results: list[dict[str, Any]] = []
    for name in names:
        try:
            results.append(work(name))
        except ModelZooError as error:
            if alone:
                raise
            _tell(f"error: {error}")
            results.append({"name": name, "error": str(error)})
    return results, any("error" in result for result in results)


def _path(options: argparse.Namespace) -> tuple[Any, int]:
    folder = download(options.name, revision=options.revision, cache_dir=options.cache_dir, local_files_only=True)
    _say(options, folder)
    return {"name": options.name, "folder": folder}, 0


def _verify(options: argparse.Namespace) -> tuple[Any, int]:
    from model_zoo.verification import verify

    names = options.names
    if not names:
        known = {model.place: model.name for model in list_models()}
        there = [entry.place for entry in cache.cached(options.cache_dir)]
        names = [known[place] for place in there if place in known]
        for place in set(there) - set(known):
            _tell(f"{place} is not in the catalogue, so nothing can be said of it")
        if not there:
            _tell(f"nothing is in the cache {settings.home(options.cache_dir)}")
    given = {key: getattr(options, key) for key in ("revision", "cache_dir", "endpoint", "remote", "repair")}
    code = 0

    def check(name: str) -> dict[str, Any]:
        nonlocal code
        findings = verify(name, **given)
        rows = [(f"  {one.verdict.upper() if one.bad else one.verdict}", one.path, one.message) for one in findings]
        _say(options, f"{name}:\n{table(rows)}")
        verdicts = {found.verdict for found in findings}
        if "wrong" in verdicts:
            _tell(f"{name} is not what it should be; `model-zoo verify --repair {name}` fetches what is wrong")
        elif "changed" in verdicts:
            _tell(f"{name} has changed at its source; `model-zoo download --force {name}` brings what is there now")
        elif "unknown" in verdicts and not options.quiet:
            _tell(f"{name}: nothing is wrong; of some files no sha256 is known, or their source could not be asked")
        code = max(code, int(bool(verdicts & {"wrong", "changed"})))
        return {"name": name, "files": [vars(found) for found in findings]}

    results, failed = _each(names, check, alone=len(options.names) == 1)
    return results, 2 if failed else code


def _scan(options: argparse.Namespace) -> tuple[Any, int]:
    from model_zoo.formats.scan import ScanError, files_in, scan

    results, others = [], 0
    for path in options.paths:
        for file in files_in(path):
            try:
                report = scan(file)
            except ScanError:
                if not os.path.isdir(path):
                    raise
                others += 1  # a readme, a configuration
                continue
            _say(options, report)
            results.append({**vars(report), "safe": report.safe})
    if others:
        _tell(f"{others} other files hold neither weights nor pickles")
    return results, 0 if all(result["safe"] for result in results) else 1


def _remove(options: argparse.Namespace) -> tuple[Any, int]:
    entries = {entry.place: entry for entry in (cache.locate(name, options.cache_dir) for name in options.names)}
    if not options.yes:
        what = ", ".join(f"{entry.place} ({size_text(entry.size)})" for entry in entries.values())
        if not sys.stdin.isatty():
            raise SettingsError(f"this would remove {what}; say --yes where nobody can be asked")
        if input(f"remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            raise SettingsError("nothing was removed")
    for entry in entries.values():
        cache.remove(entry.place, cache_dir=options.cache_dir)
        _say(options, f"removed {entry.place}, {size_text(entry.size)}")
    return [{"name": entry.place, "bytes": entry.size} for entry in entries.values()], 0


def _prune(options: argparse.Namespace) -> tuple[Any, int]:
    gone, busy, leftovers = cache.prune(
        older_than=None if options.older_than is None else parse_duration(options.older_than),
        keep_size=None if options.keep_size is None else parse_size(options.keep_size),
        dry_run=options.dry_run,
        cache_dir=options.cache_dir,
    )
    verb = "would remove" if options.dry_run else "removed"
    for entry in gone:
        _say(options, f"{verb} {entry.place}, {size_text(entry.size)}, last used {_last_use(entry.last_used)}")
    for entry in busy:
        _say(options, f"kept {entry.place}, which is being downloaded")
    if leftovers:
        _say(options, f"{verb} leftovers of crashed commands, {size_text(leftovers)}")
    freed = sum(entry.size for entry in gone) + leftovers
    _say(options, f"{size_text(freed)} {'to free' if options.dry_run else 'freed'}")
    return {"removed": [entry.place for entry in gone], "busy": [entry.place for entry in busy], "bytes": freed}, 0


def _import(options: argparse.Namespace) -> tuple[Any, int]:
    from model_zoo.importing import import_model

    folder = import_model(options.source, options.name, cache_dir=options.cache_dir)
    _say(options, folder)
    return {"folder": folder}, 0


def _pack(options: argparse.Namespace) -> tuple[Any, int]:
    from model_zoo import pack

    keys = ("name", "licence", "origin", "task", "paper", "description", "base_url", "every_kind")
    manifest, hidden = pack.describe(options.folder, **{key: getattr(options, key) for key in keys})
    if hidden:
        _tell(f"left out hidden files: {', '.join(hidden)}")
    if options.output is None:
        _say(options, json.dumps(manifest, indent=2, ensure_ascii=False))
        return manifest, 0
    index = pack.publish(options.folder, manifest, options.output)
    _say(options, index)
    if not options.quiet:
        print(f"MODEL_ZOO_REGISTRY={index} model-zoo show {manifest['name']}", file=sys.stderr)
    return {"index": index, "manifest": manifest}, 0


def _pin(options: argparse.Namespace) -> tuple[Any, int]:
    from model_zoo import pack

    manifest = pack.pin(options.name, options.folder, options.output)
    _say(options, manifest)
    return {"manifest": manifest}, 0


def _env(options: argparse.Namespace) -> tuple[Any, int]:
    import platform

    facts = {
        "version": _version(),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "home": settings.home(options.cache_dir),
        "endpoints": [public(address) for address in settings.endpoints()],
        "jobs": settings.jobs(),
        "offline": settings.offline(),
        "registries": [public(place.place) for place in settings.registries()],
        "catalogue": registry.COMMUNITY.parent,
        "proxies": sorted(key for key in os.environ if key.lower().endswith("_proxy")),
    }
    for key, value in facts.items():
        _say(options, f"{key + ':':<13}{', '.join(map(str, value)) or '-' if isinstance(value, list) else value}")
    return facts, 0


def _state(model: Model, home: Path | None) -> str:
    if model.folder is not None:
        return "built in" if model.registry is None else "in its place"
    if not model.files:
        return CONVERT
    if home is None or not (home / model.place).is_dir():
        return "not downloaded"
    return "downloaded" if cache.is_complete(model, home / model.place) else "partly downloaded"


def _last_use(moment: float | None) -> str:
    return "-" if moment is None else age_text(time.time() - moment)


if __name__ == "__main__":
    sys.exit(main())
