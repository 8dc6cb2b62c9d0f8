"""`ppdiffusers train`: a model from one's own pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.parsing import add

PURPOSE = "train a model on pictures of your own"
EXAMPLES = """
ppdiffusers train configs/vq-f4.json -o runs/vq --data pictures/
ppdiffusers train configs/super-resolution.json -o runs/sr --data pictures/ --set batch_size=8 data.size=128
ppdiffusers train configs/super-resolution.json -o runs/sr --data pictures/ --resume
ppdiffusers train configs/inpainting.json -o runs/paint --data pictures/ --init ./inpainting
"""


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """What `train` and `evaluate` share."""
    parser.add_argument("--set", dest="changes", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="in place of the configuration's values, such as data.size=128 steps=1000; all keys are "
                        "in ppdiffusers/training/configuration.py")  # fmt: skip
    parser.add_argument("--data", metavar="FOLDER", help="of the pictures (data.path=FOLDER)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures (data.workers=N)")
    parser.add_argument("--device", metavar="NAME", help="cpu, gpu, gpu:1 (default: a GPU, if paddle finds one)")


def read(args: argparse.Namespace) -> Any:
    """The configuration that the options say, on the device that they say."""
    import json

    import paddle

    from ppdiffusers.training.configuration import read_configuration

    if args.device:
        paddle.set_device(args.device)
    named = {"data.path": args.data, "data.workers": args.workers, "init": getattr(args, "init", None)}
    return read_configuration(
        args.config,
        [*(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None), *args.changes],
    )


def add_parser(commands: Any) -> None:
    parser = add(commands, "train", PURPOSE, "CONFIG -o OUT [options]", EXAMPLES)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a JSON file; see configs/")
    add_configuration(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the run")
    parser.add_argument("--init", metavar="NAME", help="a pipeline, by name or folder, to go on from (init=NAME)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT, if there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ppdiffusers.training.loop import TERMINATED, Stopped, Training

    training = Training(read(args), args.out, resume=args.resume)
    try:
        model = training.run()
    except Stopped as stopped:
        training.watcher.say(str(stopped))
        return TERMINATED
    training.watcher.say(f"the model is in {model}")
    return 0
