"""`--engine`, `--precision` and `--threads`: what a command computes with."""

from __future__ import annotations

import argparse
from typing import Any, Dict

from ppdiffusers.cli.parsing import positive


def add_options(group: Any) -> None:
    group.add_argument("--engine", default="auto", choices=("auto", "eager", "onednn", "inference"), metavar="NAME",
                       help="eager, onednn, inference, or auto: compile where that pays (default)")  # fmt: skip
    group.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), metavar="P",
                       help="fp32, bf16, or auto: bf16 if that is fast here (default)")  # fmt: skip
    group.add_argument(
        "--threads", type=positive, metavar="N", help="default: PPDIFFUSERS_THREADS, OMP_NUM_THREADS, or all cores"
    )


def loading(args: argparse.Namespace) -> Dict[str, Any]:
    """Arguments of `from_pretrained`; sets the number of threads."""
    from ppdiffusers.threads import set_num_threads, use_threads

    if args.threads is not None:
        set_num_threads(args.threads)
    use_threads()
    return {"engine": args.engine, "precision": args.precision}
