"""Other names of modules: those of ppdiffusers 0.29 and diffusers, without a file each."""

from __future__ import annotations

import sys


def answer_to(module: str, *names: str) -> None:
    """Let `import module.name` give `module`, for each of `names`; called where `module` ends.

    Python looks into `sys.modules` once it has imported the parent. What a name's own module had is in its parent.
    """
    own = sys.modules[module]
    for name in names:
        sys.modules[f"{module}.{name}"] = own
        setattr(own, name.partition(".")[0], own)
