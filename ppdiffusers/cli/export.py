"""`ppdiffusers export`: a model as programs, for deployment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.parsing import add

PURPOSE = "write a model for deployment: programs, parameters, a manifest"
EXAMPLES = """
ppdiffusers export ppdiffusers/ldm-super-resolution-4x-tiny deployed/
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "export", PURPOSE, "MODEL DIR [options]", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="name or folder")
    parser.add_argument("target", type=Path, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"), help="what the programs run in where the "
        "loader does not say; auto is bf16 where its CPU has that (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an exported model at DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ppdiffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(args.model, engine="eager")
    pipeline.export(args.target, args.precision, args.force)
    size = sum(file.stat().st_size for file in args.target.rglob("*") if file.is_file())
    print(f"{args.target}: {type(pipeline).__name__} for deployment, {size / 2**20:.0f} MB")
    return 0
