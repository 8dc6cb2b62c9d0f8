"""Entry point of the `ppdiffusers` command: sub-commands, and errors in one line."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from typing import List, Optional

from ppdiffusers.cli.parsing import Help, Parser
from ppdiffusers.version import __version__

# The modules of commands that are not asked for are not imported.
COMMANDS = {
    "upscale": "make pictures four times larger",
    "generate": "paint what a sentence says",
    "sample": "draw pictures of what a model was trained on",
    "inpaint": "paint the masked part of a picture anew",
    "synthesize": "paint a picture after a map of classes",
    "layout": "paint objects where their boxes are",
    "train": "train a model on pictures of your own",
    "evaluate": "measure a trained model on pictures that it has not seen",
    "convert": "turn a CompVis checkpoint or a pipeline's folder into another kind",
    "export": "write a model for deployment: programs, parameters, a manifest",
    "deploy-runner": "print the script that runs an exported model without this package",
    "completion": "print what makes a shell complete these commands",
}
EXAMPLES = """\
examples:
  ppdiffusers upscale photo.jpg          writes photo-4x.jpg beside it
  ppdiffusers upscale --help             all of one command
  eval "$(ppdiffusers completion bash)"  completion with the Tab key

exit codes: 0 all done, 1 a picture failed, 2 cannot be done as asked, 130 interrupted
"""
INSTALL = (
    "PaddlePaddle is not installed: `pip install paddlepaddle` brings it (for an NVIDIA GPU, paddlepaddle-gpu; "
    "see https://www.paddlepaddle.org.cn/en/install/quick)"
)


def build_parser(wanted: Optional[str]) -> Parser:
    """With the options of the command `wanted`, or of all of them where it is None."""
    parser = Parser(prog="ppdiffusers", description="Latent diffusion in PaddlePaddle.", epilog=EXAMPLES,
                    formatter_class=Help)  # fmt: skip
    parser.add_argument("--version", action="version", version=f"ppdiffusers {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name, purpose in COMMANDS.items():
        if wanted in (None, name):
            importlib.import_module(f"ppdiffusers.cli.{name.replace('-', '_')}").add_parser(commands)
        else:
            commands.add_parser(name, help=purpose)
    return parser


def main(argv: Optional[List[str]] = None) -> int:
    """Run one sub-command.

    The exit code is 0, 1 if pictures failed, 2 for what cannot be done as it was asked, 130 for Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    wanted = next((word for word in argv if not word.startswith("-")), "")
    warnings.filterwarnings("ignore", message="No ccache found")  # paddle's, at import; nothing is compiled here
    import model_zoo

    try:
        args = build_parser(wanted).parse_args(_joined(argv))
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough; Python must not flush into the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        message = INSTALL if error.name == "paddle" else str(error)
        print(f"ppdiffusers: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError, model_zoo.ModelZooError) as error:
        print(f"ppdiffusers: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ppdiffusers: interrupted", file=sys.stderr)
        return 130


def _joined(argv: List[str]) -> List[str]:
    """`--suffix -4x` as `--suffix=-4x`: argparse takes what begins with a dash for an option."""
    joined: List[str] = []
    for word in argv:
        if joined and joined[-1] == "--suffix":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


if __name__ == "__main__":
    sys.exit(main())
