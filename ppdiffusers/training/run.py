"""One training run: moving average, optimiser, a checkpoint to go on from, and a log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import paddle

from ppdiffusers.checkpoints import open_checkpoint, save_safetensors
from ppdiffusers.config import read_json, write_json
from ppdiffusers.models.model import Model
from ppdiffusers.training.recipes import learning_rate_at

_MOMENTS = ("moment1_0", "moment2_0", "beta1_pow_acc_0", "beta2_pow_acc_0")


class Run:
    """A training that can be stopped at any moment and started again.

    `out` receives `checkpoint-<step>.safetensors` (parameters, averages, optimiser), `state.json`
    (which checkpoint counts), `log.jsonl`, and `model/`, the averaged weights as a saved model.
    Batches are functions of the step number, so nothing else has to be kept.

    Args:
        recipe: steps, learning_rate, warmup_steps and ema_decay are read from it.
        trainable: parameters to optimise; all by default.
    """

    def __init__(self, out: Path, model: Model, recipe: Any, trainable: Optional[Sequence[Any]] = None):
        self.out, self.model, self.recipe = Path(out), model, recipe
        self.out.mkdir(parents=True, exist_ok=True)
        self.step, self.extra = 0, {}  # type: int, Dict[str, Any]
        self._rows: List[Dict[str, paddle.Tensor]] = []  # read when they are logged, so that no step waits for them
        self.optimizer = paddle.optimizer.AdamW(
            learning_rate=recipe.learning_rate,
            parameters=list(trainable) if trainable is not None else model.parameters(),
            weight_decay=1e-4,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
        )
        self.averages = {name: value.clone().detach() for name, value in model.state_dict().items()}
        seconds = 0.0
        if (self.out / "state.json").exists():
            seconds = self._resume()
        self._started = time.time() - seconds

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps

    def update(self, loss: paddle.Tensor, **logged: paddle.Tensor) -> None:
        """One optimiser step down `loss`."""
        recipe = self.recipe
        self.optimizer.set_lr(learning_rate_at(self.step, recipe.learning_rate, recipe.warmup_steps, recipe.steps))
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.step += 1
        decay = min(recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with paddle.no_grad():
            for name, value in self.model.state_dict().items():
                if not value.stop_gradient:  # what is frozen must not drift by rounding
                    average = self.averages[name]
                    paddle.assign(average * decay + value * (1 - decay), average)
        self._rows.append({"loss": loss.detach(), **{name: value.detach() for name, value in logged.items()}})

    def reset_average(self, name: str) -> None:
        """Start a parameter's average anew, where it was set by other means than a step."""
        paddle.assign(self.model.state_dict()[name], self.averages[name])

    def averaged(self, evaluate: Callable[[Model], Any]) -> Any:
        """`evaluate(model)` with the averaged weights in place of the current ones."""
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.set_state_dict(self.averages)
        self.model.eval()
        try:
            with paddle.no_grad():
                return evaluate(self.model)
        finally:
            self.model.set_state_dict(current)
            self.model.train()

    def log(self, **figures: float) -> None:
        """Write the mean losses since the last time and `figures` as one line."""
        means = {name: float(paddle.stack([row[name] for row in self._rows]).mean()) for name in self._rows[0]}
        self._rows = []
        row = {"step": self.step, "seconds": round(time.time() - self._started, 1), **means, **figures}
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({key: round(value, 5) for key, value in row.items()}), flush=True)

    def save(self) -> None:
        """Checkpoint, then the averaged model; a crash in between leaves the last checkpoint in force."""
        names = {value.name: name for name, value in self.model.state_dict().items()}
        moments = self.optimizer.state_dict()
        arrays = {f"model/{name}": value.numpy() for name, value in self.model.state_dict().items()}
        arrays.update({f"average/{name}": value.numpy() for name, value in self.averages.items()})
        for internal, name in names.items():
            for moment in _MOMENTS:
                if f"{internal}_{moment}" in moments:
                    arrays[f"{moment}/{name}"] = moments[f"{internal}_{moment}"].numpy()
        file = self.out / f"checkpoint-{self.step}.safetensors"
        save_safetensors(file, arrays, {"format": "pd"})
        state = {"checkpoint": file.name, "step": self.step, "seconds": time.time() - self._started}
        write_json(self.out / "state.json", {**state, "extra": self.extra})
        for old in self.out.glob("checkpoint-*.safetensors"):
            if old != file:
                old.unlink()
        self.averaged(lambda model: model.save_pretrained(self.out / "model"))

    def _resume(self) -> float:
        state = read_json(self.out / "state.json")
        parameters = self.model.state_dict()
        moments: Dict[str, paddle.Tensor] = {}
        with open_checkpoint(self.out / state["checkpoint"]) as checkpoint:
            for key in checkpoint.keys():
                kind, name = key.split("/", 1)
                value = paddle.to_tensor(np.array(checkpoint.read(key)))
                if kind == "model":
                    parameters[name].set_value(value)
                elif kind == "average":
                    paddle.assign(value, self.averages[name])
                else:
                    moments[f"{parameters[name].name}_{kind}"] = value
        self.optimizer.set_state_dict(moments)
        self.step, self.extra = state["step"], state["extra"]
        return float(state["seconds"])
