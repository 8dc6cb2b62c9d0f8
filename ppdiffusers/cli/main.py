"""Entry point of the `ppdiffusers` command: sub-commands, and errors in one line."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import List, Optional

import model_zoo
from ppdiffusers.cli import convert, export, generate, inpaint, layout, sample, synthesize, upscale
from ppdiffusers.version import __version__


def main(argv: Optional[List[str]] = None) -> int:
    """Run one sub-command; the exit code is 0, 2 for an error of the user's, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="ppdiffusers", description="Latent diffusion in PaddlePaddle.")
    parser.add_argument("--version", action="version", version=f"ppdiffusers {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    upscale.add_parser(commands)
    generate.add_parser(commands)
    sample.add_parser(commands)
    inpaint.add_parser(commands)
    synthesize.add_parser(commands)
    layout.add_parser(commands)
    convert.add_parser(commands)
    export.add_parser(commands)
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="No ccache found")  # paddle's, at import; nothing is compiled here
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError, model_zoo.ModelZooError) as error:
        print(f"ppdiffusers: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppdiffusers: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
