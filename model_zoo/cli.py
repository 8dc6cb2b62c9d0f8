"""The `model-zoo` command."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from model_zoo import cache, maintenance, settings
from model_zoo.errors import ModelZooError, SettingsError
from model_zoo.registry import Model, find, list_models
from model_zoo.text import age_text, parse_duration, parse_size, size_text, table
from model_zoo.zoo import download

CONVERT = "to be converted"

SETTINGS = """\
environment:
  MODEL_ZOO_HOME      the folder of the cache
  MODEL_ZOO_ENDPOINT  where models come from: mirrors, with blanks between them
  MODEL_ZOO_JOBS      how many files are downloaded at once (4)
  MODEL_ZOO_OFFLINE   1: open no socket
  MODEL_ZOO_REGISTRY  manifests of your own: folders, files and addresses,
                      separated as in PATH
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 for files found wrong, 2 for a user's error, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _warn
            options = _parser().parse_args(argv)
            with _told():
                code = options.run(options) or 0
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # whoever reads, as `head` does, has seen enough; Python must not flush into the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ModelZooError, OSError) as error:
        print(f"model-zoo: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("model-zoo: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _warn(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"model-zoo: warning: {message}", file=sys.stderr)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What downloads have to say reaches the user, also where stderr is no terminal."""
    log, handler = logging.getLogger("model_zoo"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("model-zoo: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage as well, and name the sub-command's program.
        raise ModelZooError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="model-zoo",
        description="Pretrained latent diffusion models by name.",
        epilog=SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Any, purpose: str, cached: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if cached:
            command.add_argument("--cache-dir", metavar="FOLDER", help="the cache, instead of MODEL_ZOO_HOME")
        command.set_defaults(run=run)
        return command

    command = add("list", _list, "all models, their tasks, sizes and last use")
    command.add_argument("--task", help="only the models of this task, such as super-resolution")
    command.add_argument("--downloaded", action="store_true", help="only what is in the cache, and its size there")
    command.add_argument("--json", action="store_true", help="for programs")

    command = add("show", _show, "what is known about a model")
    command.add_argument("name", metavar="NAME")

    command = add("download", _download, "download a model and print its folder")
    command.add_argument("names", metavar="NAME", nargs="+")

    command = add("path", _path, "print the folder of a model that is here, without the network")
    command.add_argument("name", metavar="NAME")

    command = add("verify", _verify, "read downloaded models again and compare their hashes; all, if none is named")
    command.add_argument("names", metavar="NAME", nargs="*")
    command.add_argument("--remote", action="store_true", help="ask the server, too, whether they have changed there")

    command = add("remove", _remove, "remove models from the cache")
    command.add_argument("names", metavar="NAME", nargs="+")
    command.add_argument("--yes", action="store_true", help="do not ask")

    command = add("prune", _prune, "remove models that were not used for long, and what crashed commands left behind")
    command.add_argument("--older-than", metavar="TIME", help="models unused for so long, such as 30d or 12h")
    command.add_argument("--keep-size", metavar="SIZE", help="the longest unused, until the rest fits, such as 20GB")
    command.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    command = add("import", _import, "put a folder or archive (zip, tar, tar.gz) that was carried here into the cache")
    command.add_argument("source", metavar="SOURCE")
    command.add_argument("--name", help="which model it is, if its paths do not say so")

    command = add("pack", _pack, "describe a saved pipeline for others; without -o, print the manifest", cached=False)
    command.add_argument("folder", metavar="FOLDER", help="what save_pretrained wrote")
    command.add_argument("--name", metavar="OWNER/NAME", required=True)
    command.add_argument("--licence", "--license", required=True, help="of the weights, such as Apache-2.0")
    command.add_argument("--origin", required=True, help="where the weights come from, an address or a sentence")
    command.add_argument("--task", help="default: that of other models of the same pipeline")
    command.add_argument("--paper", metavar="URL")
    command.add_argument("--description", default="", metavar="TEXT")
    command.add_argument("--base-url", metavar="URL", help="where the files will be, if not beside the manifest")
    command.add_argument("--every-kind", action="store_true", help="take pickles and other kinds of files, too")
    command.add_argument("-o", "--output", metavar="FOLDER", help="zoo to publish in: files, manifest and index.json")

    command = add("scan", _scan, "say what a pickle (.pdparams, .bin, .ckpt) would run; run nothing", cached=False)
    command.add_argument("paths", metavar="PATH", nargs="+", help="weight files, and folders of them")
    return parser


def _list(options: argparse.Namespace) -> None:
    rows = _inventory(options)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"nothing is in the cache {settings.home(options.cache_dir)}", file=sys.stderr)
        return
    cells = [
        (row["name"], row["task"] or "-", _row_size(row, options.downloaded), row["state"], _last_use(row["last_used"]))
        for row in rows
    ]
    print(table([("NAME", "TASK", "SIZE", "STATE", "LAST USED"), *cells]))


def _inventory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One JSON object a model: of the catalogue, and those in the cache that it does not know."""
    on_disk = {entry.place: entry for entry in maintenance.cached(options.cache_dir)}
    rows = []
    for model in list_models(options.task):
        entry = on_disk.pop(model.place, None)
        if entry or not options.downloaded:
            rows.append(_row(model.name, model, entry, _state(model, options.cache_dir)))
    if options.task is None:
        rows += [_row(place, None, entry, "not in the catalogue") for place, entry in on_disk.items()]
    return rows


def _row(name: str, model: Model | None, entry: maintenance.Cached | None, state: str) -> dict[str, Any]:
    return {
        "name": name,
        "task": model and model.task,
        "state": state,
        "size": model and model.nominal_size,
        "size_is_exact": model is not None and model.size_is_exact,
        "bytes_on_disk": entry.size if entry else 0,
        "last_used": entry and int(entry.last_used),
    }


def _row_size(row: dict[str, Any], on_disk: bool) -> str:
    if on_disk or row["task"] is None:
        return size_text(row["bytes_on_disk"])
    return "-" if row["state"] == CONVERT else size_text(row["size"], row["size_is_exact"])


def _show(options: argparse.Namespace) -> None:
    model = find(options.name)
    folder = model.folder or cache.model_folder(model, options.cache_dir)
    entry = next((entry for entry in maintenance.cached(options.cache_dir) if entry.place == model.place), None)
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
        "state": _state(model, options.cache_dir),
        "last used": entry and _last_use(entry.last_used),
        "folder": folder if model.files else None,
        "files": f"{len(model.files)}, {_size(model)}" if model.files else None,
    }
    for key, value in facts.items():
        if value:
            print(f"{key + ':':<13}{value}")
    for file in model.files:
        print(f"  {size_text(file.nominal_size, exact=file.size is not None):>16}  {file.path}")


def _download(options: argparse.Namespace) -> None:
    for name in options.names:
        print(download(name, cache_dir=options.cache_dir), flush=True)


def _path(options: argparse.Namespace) -> None:
    print(download(options.name, cache_dir=options.cache_dir, local_files_only=True))


def _verify(options: argparse.Namespace) -> int:
    from model_zoo.verification import verify

    names = options.names
    if not names:
        known = {model.place: model.name for model in list_models()}
        places = [entry.place for entry in maintenance.cached(options.cache_dir)]
        names = [known[place] for place in places if place in known]
        for place in set(places) - set(known):
            print(f"model-zoo: {place} is not in the catalogue, so nothing can be said of it", file=sys.stderr)
        if not places:
            print(f"nothing is in the cache {settings.home(options.cache_dir)}", file=sys.stderr)
    bad = []
    for name in names:
        findings = verify(name, cache_dir=options.cache_dir, remote=options.remote)
        print(f"{name}:")
        rows = [(found.verdict if found.ok else found.verdict.upper(), found.path, found.message) for found in findings]
        print(table([(f"  {verdict}", path, message) for verdict, path, message in rows]), flush=True)
        bad.append((name, {found.verdict for found in findings if not found.ok}))
    for name, verdicts in bad:
        renew = f"`model-zoo remove {name}` and `model-zoo download {name}` bring"
        if "wrong" in verdicts:
            advice = f"is not what it should be; {renew} it anew"
        elif "changed" in verdicts:
            advice = f"is as it was, and has changed at its source; {renew} what is there now"
        else:
            advice = "is right here; its source could not be asked, so try again later"
        if verdicts:
            print(f"model-zoo: {name} {advice}", file=sys.stderr)
    return 1 if any(verdicts for _, verdicts in bad) else 0


def _scan(options: argparse.Namespace) -> int:
    from model_zoo.formats.scan import ScanError, files_in, scan

    refused, others = 0, 0
    for path in options.paths:
        for file in files_in(path):
            try:
                report = scan(file)
            except ScanError:
                if not os.path.isdir(path):
                    raise
                others += 1  # a readme, a configuration
                continue
            print(report)
            refused += not report.safe
    if others:
        print(f"model-zoo: {others} other files hold neither weights nor pickles", file=sys.stderr)
    return 1 if refused else 0


def _remove(options: argparse.Namespace) -> None:
    entries = [maintenance.locate(name, options.cache_dir) for name in options.names]
    entries = list({entry.place: entry for entry in entries}.values())
    if not options.yes:
        what = ", ".join(f"{entry.place} ({size_text(entry.size)})" for entry in entries)
        if not sys.stdin.isatty():
            raise SettingsError(f"this would remove {what}; say --yes where nobody can be asked")
        if input(f"remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            raise SettingsError("nothing was removed")
    for entry in entries:
        maintenance.remove(entry.place, cache_dir=options.cache_dir)
        print(f"removed {entry.place}, {size_text(entry.size)}")


def _prune(options: argparse.Namespace) -> None:
    gone, busy, leftovers = maintenance.prune(
        older_than=None if options.older_than is None else parse_duration(options.older_than),
        keep_size=None if options.keep_size is None else parse_size(options.keep_size),
        dry_run=options.dry_run,
        cache_dir=options.cache_dir,
    )
    for entry in gone:
        verb = "would remove" if options.dry_run else "removed"
        print(f"{verb} {entry.place}, {size_text(entry.size)}, last used {_last_use(entry.last_used)}")
    for entry in busy:
        print(f"kept {entry.place}, which is being downloaded")
    if leftovers:
        print(
            f"{'would remove' if options.dry_run else 'removed'} leftovers of crashed commands, {size_text(leftovers)}"
        )
    freed = size_text(sum(entry.size for entry in gone) + leftovers)
    print(f"{freed} {'to free' if options.dry_run else 'freed'}")


def _import(options: argparse.Namespace) -> None:
    from model_zoo.importing import import_model

    print(import_model(options.source, options.name, cache_dir=options.cache_dir))


def _pack(options: argparse.Namespace) -> None:
    from model_zoo import pack

    keys = ("name", "licence", "origin", "task", "paper", "description", "base_url", "every_kind")
    manifest, hidden = pack.describe(options.folder, **{key: getattr(options, key) for key in keys})
    if hidden:
        print(f"model-zoo: left out hidden files: {', '.join(hidden)}", file=sys.stderr)
    if options.output is None:
        print(json.dumps(manifest, indent=2, ensure_ascii=False))
        return
    index = pack.publish(options.folder, manifest, options.output)
    print(index)
    print(f"MODEL_ZOO_REGISTRY={index} model-zoo show {manifest['name']}", file=sys.stderr)


def _state(model: Model, cache_dir: str | None) -> str:
    if model.folder is not None:
        return "built in" if model.registry is None else "in its place"
    if not model.files:
        return CONVERT
    folder = cache.model_folder(model, cache_dir)
    if cache.is_complete(model, folder):
        return "downloaded"
    return "partly downloaded" if folder.is_dir() else "not downloaded"


def _last_use(moment: float | None) -> str:
    return "-" if moment is None else age_text(time.time() - moment)


def _size(model: Model) -> str:
    return size_text(model.nominal_size, exact=model.size_is_exact)


if __name__ == "__main__":
    sys.exit(main())
