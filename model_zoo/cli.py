"""The `model-zoo` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from model_zoo import cache
from model_zoo.errors import ModelZooError
from model_zoo.registry import Model, find, list_models
from model_zoo.zoo import download


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's error, 130 when interrupted."""
    try:
        options = _parser().parse_args(argv)
        options.run(options)
    except (ModelZooError, OSError) as error:
        print(f"model-zoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("model-zoo: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage as well, and name the sub-command's program.
        raise ModelZooError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="model-zoo", description="Pretrained latent diffusion models by name.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("list", help="all models, their tasks and sizes")
    command.add_argument("--task", help="only the models of this task, such as super-resolution")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", help="what is known about a model")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=_show)

    command = commands.add_parser("download", help="download a model and print its folder")
    command.add_argument("name", metavar="NAME")
    command.add_argument("--cache-dir", metavar="FOLDER", help="where models are kept (default: MODEL_ZOO_HOME)")
    command.set_defaults(run=_download)

    command = commands.add_parser("path", help="print the folder of a model that is here, without the network")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=_path)
    return parser


def _list(options: argparse.Namespace) -> None:
    rows = [(model.name, model.task, _size(model), _state(model)) for model in list_models(options.task)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _show(options: argparse.Namespace) -> None:
    model = find(options.name)
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
        "state": _state(model),
        "folder": model.folder or cache.model_folder(model),
        "files": f"{len(model.files)}, {_size(model)}",
    }
    for key, value in facts.items():
        if value:
            print(f"{key + ':':<13}{value}")
    for file in model.files:
        print(f"  {_bytes(file.nominal_size, exact=file.size is not None):>16}  {file.path}")


def _download(options: argparse.Namespace) -> None:
    print(download(options.name, cache_dir=options.cache_dir))


def _path(options: argparse.Namespace) -> None:
    print(download(options.name, local_files_only=True))


def _state(model: Model) -> str:
    if model.folder is not None:
        return "built in"
    return "downloaded" if cache.is_complete(model, cache.model_folder(model)) else "not downloaded"


def _size(model: Model) -> str:
    return _bytes(model.nominal_size, exact=model.size_is_exact)


def _bytes(size: int | None, exact: bool) -> str:
    """As the community's pages write it: 1 KB is 1024 bytes."""
    if size is None:
        return "unknown size"
    value, units = float(size), ["B", "KB", "MB", "GB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    text = f"{size} B" if size < 1024 else f"{value:.1f} {units[0]}"
    return text if exact else f"about {text}"


if __name__ == "__main__":
    sys.exit(main())
