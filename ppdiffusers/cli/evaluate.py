"""`ppdiffusers evaluate`: figures of a trained model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ppdiffusers.cli.parsing import add
from ppdiffusers.cli.train import add_configuration, read

PURPOSE = "measure a trained model on pictures that it has not seen"
EXAMPLES = """
ppdiffusers evaluate configs/super-resolution.json runs/sr --data pictures/
ppdiffusers evaluate configs/vq-f4.json runs/vq/model --data others/ --sheet vq.png
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "evaluate", PURPOSE, "CONFIG CHECKPOINT [options]", EXAMPLES)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="of the run; a JSON file")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's folder, one of its checkpoints, "
                        "or a saved model")  # fmt: skip
    add_configuration(parser)
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write pictures: given, made")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from ppdiffusers.images import to_pil
    from ppdiffusers.training.loop import evaluate, join

    figures, rows = evaluate(read(args), args.checkpoint)
    if join()[0] == 0:
        print(json.dumps({name: round(value, 6) for name, value in figures.items()}))
        if args.sheet is not None:
            shown = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
            to_pil(shown / 2 + 0.5).save(args.sheet)
    return 0
