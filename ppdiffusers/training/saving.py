"""Checkpoints of a run: each a folder that appears whole, the last few and the best, and what goes on from one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import paddle

from ppdiffusers.checkpoints import open_checkpoint, save_safetensors
from ppdiffusers.config import ConfigError, appearing, read_json, write_json

WEIGHTS = "state.safetensors"
STATE = "state.json"
FOLDER = "checkpoints"


class Checkpoints:
    """`OUT/checkpoints/step-<n>`, of which the last `keep` stay, and the one with the lowest validation loss."""

    def __init__(self, out: Path, keep: int):
        self.folder, self.keep = out / FOLDER, keep

    def all(self) -> List[Path]:
        """From the first to the last; what was being written when the machine stopped has another name."""
        found = [path for path in self.folder.glob("step-*") if (path / STATE).is_file()]
        return sorted(found, key=lambda path: int(path.name.partition("-")[2]))

    def write(self, arrays: Dict[str, np.ndarray], state: Dict[str, Any]) -> Path:
        """One that appears whole or not at all; then older ones go.

        Raises:
            OSError: no room, for one. The earlier checkpoints are still there.
        """
        target = self.folder / f"step-{state['step']:07d}"
        with appearing(target) as part:
            save_safetensors(part / WEIGHTS, arrays, {"format": "pd"})
            write_json(part / STATE, state)
        others = [path for path in self.all() if path.name != state.get("best")]
        for old in others[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def last(self) -> Optional[Path]:
        found = self.all()
        return found[-1] if found else None


def read(folder: Path) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
    """Arrays and state of a checkpoint."""
    with open_checkpoint(folder / WEIGHTS) as checkpoint:
        arrays = {key: np.array(checkpoint.read(key)) for key in checkpoint.keys()}
    return arrays, read_json(folder / STATE)


def averages(arrays: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The averaged weights among a checkpoint's arrays, and those that do not learn."""
    prefix = "average/"
    return {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}


def gather(stage: Any, optimizers: Dict[str, Any], averaged: Dict[str, paddle.Tensor]) -> Dict[str, np.ndarray]:
    """Everything that the next step depends on, by names that do not change from process to process."""
    arrays = {f"average/{name}": value.numpy() for name, value in averaged.items()}
    for objective, layer in stage.objectives.items():
        state = layer.state_dict()
        arrays.update({f"{objective}/{name}": value.numpy() for name, value in state.items()})
        names = {value.name: name for name, value in state.items()}
        for key, value in optimizers[objective].state_dict().items():
            owner = max((name for name in names if key.startswith(f"{name}_")), key=len, default=None)
            if owner is not None and isinstance(value, paddle.Tensor):  # of the learning rate there is no tensor
                arrays[f"{objective}.optimizer/{names[owner]}/{key[len(owner) + 1 :]}"] = value.numpy()
    return arrays


def scatter(
    arrays: Dict[str, np.ndarray], stage: Any, optimizers: Dict[str, Any], averaged: Dict[str, paddle.Tensor]
) -> None:
    """What `gather` found, back into the same objects.

    Raises:
        ConfigError: of another model.
    """
    states = {objective: layer.state_dict() for objective, layer in stage.objectives.items()}
    moments: Dict[str, Dict[str, paddle.Tensor]] = {objective: {} for objective in states}
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        objective, _, part = kind.partition(".")
        moment = ""
        if part:
            name, _, moment = name.rpartition("/")
        target = averaged.get(name) if kind == "average" else states.get(objective, {}).get(name)
        if target is None or (not moment and list(target.shape) != list(array.shape)):
            raise ConfigError(f"the checkpoint has a {key} that this configuration's models do not; use its own")
        if part:
            moments[objective][f"{target.name}_{moment}"] = paddle.to_tensor(array)
        elif kind == "average":
            paddle.assign(paddle.to_tensor(array), target)
        else:
            target.set_value(array)
    for objective, values in moments.items():
        optimizers[objective].set_state_dict(values)


def cut_log(file: Path, step: int) -> None:
    """Leave out what a log says of later steps, which are taken again; and a last line that is not whole."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    file.write_text("".join(kept), encoding="utf-8")
