"""`--engine`, `--precision` and `--threads`: what a command computes with."""

from __future__ import annotations

import argparse
from typing import Any, Dict


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "eager", "onednn", "inference"),
        help="auto compiles where that is worth it (default), for oneDNN if it can; inference is Paddle Inference",
    )
    group.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of compiled models; auto: bf16 if fast"
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="default: PPDIFFUSERS_THREADS, OMP_NUM_THREADS, or all cores"
    )


def loading(args: argparse.Namespace) -> Dict[str, Any]:
    """Arguments of `from_pretrained`; sets the number of threads."""
    from ppdiffusers.threads import set_num_threads, use_threads

    if args.threads is not None:
        set_num_threads(args.threads)
    use_threads()
    return {"engine": args.engine, "precision": args.precision}
