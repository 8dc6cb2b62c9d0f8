"""`ppdiffusers deploy-runner`: the script that runs an exported folder without this package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ppdiffusers.cli.parsing import UsageError, add

PURPOSE = "print the script that runs an exported model without this package"
EXAMPLES = """
ppdiffusers deploy-runner > run.py     then: python run.py deployed in.png out.png
ppdiffusers deploy-runner runner/      its description and a program in C++, too
"""
DEPLOY = Path(__file__).parent.parent / "deploy"
RUNNER = "run_super_resolution.py"


def add_parser(commands: Any) -> None:
    parser = add(commands, "deploy-runner", PURPOSE, "[DIR]", EXAMPLES)
    parser.add_argument("target", type=Path, metavar="DIR", nargs="?", help="write all files of deployment there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    files = {file.name: file.read_text(encoding="utf-8") for file in sorted(DEPLOY.iterdir()) if file.is_file()}
    if args.target is None:
        sys.stdout.write(files[RUNNER])
        return 0
    there = [name for name in files if (args.target / name).exists()]
    if there:
        raise UsageError(f"{args.target / there[0]} exists; give another folder")
    args.target.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (args.target / name).write_text(text, encoding="utf-8")
        print(args.target / name)
    return 0
