"""The entrance of the distribution `paddle-latent-diffusion`: its packages are `ppdiffusers` and `model_zoo`.

Baidu's distribution `ppdiffusers` has a package of the same name. In one environment the files of both mix, whichever
is installed last, and nothing works; so that is looked for first, in a module whose name only this distribution has.
"""

from __future__ import annotations

import os
import sys
from typing import Any

REMEDY = (
    "the distribution ppdiffusers {version} is installed in the same environment as paddle-latent-diffusion, and their "
    "files mix; type: pip uninstall -y ppdiffusers paddle-latent-diffusion, and then, in this one's source, "
    'pip install ".[cpu]"'
)


def refuse_mixture(folder: str) -> None:
    """Raises ImportError if the distribution `ppdiffusers` is installed in `folder`, where the packages are."""
    try:
        names = os.listdir(folder)
    except OSError:  # in an archive, for one
        return
    for name in names:
        if name.startswith("ppdiffusers-") and name.endswith((".dist-info", ".egg-info")):
            raise ImportError(REMEDY.format(version=name.split("-")[1].replace(".dist", "")))


def main() -> Any:
    """The command `ppdiffusers`."""
    try:
        refuse_mixture(os.path.dirname(os.path.abspath(__file__)))
    except ImportError as error:
        print(f"ppdiffusers: error: {error}", file=sys.stderr)
        return 2
    from ppdiffusers.cli.main import main as command

    return command()
