"""`ppdiffusers convert`: models between CompVis' checkpoints, diffusers' folders and ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ppdiffusers.cli.parsing import add

PURPOSE = "turn a CompVis checkpoint or a pipeline's folder into another kind"
EXAMPLES = """
ppdiffusers convert last.ckpt ./inpainting --model CompVis/ldm-inpainting-big
ppdiffusers convert ./mine ./for-diffusers --to diffusers
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "convert", PURPOSE, "SOURCE TARGET [options]", EXAMPLES)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a .ckpt file, or a folder: CompVis, diffusers, ours"
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="a folder that is not there yet")
    parser.add_argument(
        "--to", default="ours", choices=("ours", "diffusers", "compvis"), help="kind of the target (default: ours)"
    )
    described = parser.add_mutually_exclusive_group()
    described.add_argument(
        "--config", type=Path, metavar="YAML", help="of a checkpoint (default: config.yaml beside it)"
    )
    described.add_argument("--model", metavar="NAME", help="name in `model-zoo list` of what the checkpoint is")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="with the vocab.txt of a CompVis text model")
    parser.add_argument("--no-ema", action="store_true", help="the trained weights, not their running average")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="of the weights (default: as they are)"
    )
    parser.add_argument("--force", action="store_true", help="replace a converted model at TARGET")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ppdiffusers.conversion import convert

    name = convert(args.source, args.target, args.to, config=args.config, model=args.model, ema=not args.no_ema,
                   dtype=args.dtype, tokenizer=args.tokenizer, force=args.force)  # fmt: skip
    size = sum(file.stat().st_size for file in args.target.rglob("*") if file.is_file())
    print(f"{args.target}: {name} for {args.to}, {size / 2**20:.0f} MB")
    return 0
