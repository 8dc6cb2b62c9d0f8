"""What a run says of itself: a line of progress, `log.jsonl`, sheets of pictures, VisualDL."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import paddle

from ppdiffusers.config import ConfigError
from ppdiffusers.images import to_pil


class Watcher:
    """Writes for one process only; the others' do nothing.

    Args:
        batch_size: pictures a step, of all processes.
    """

    def __init__(self, out: Path, steps: int, batch_size: int, writes: bool, visualdl: bool = False):
        self.out, self.steps, self.batch_size, self.writes = out, steps, batch_size, writes
        self._rows: List[Dict[str, paddle.Tensor]] = []  # read when they are logged, so that no step waits for them
        self._since = time.monotonic(), -1
        self._writer: Any = None
        if visualdl and writes:
            try:
                from visualdl import LogWriter
            except ImportError as error:
                raise ConfigError(
                    f'visualdl is asked for and cannot be imported ({error}); pip install ".[train]", or visualdl=false'
                ) from None
            self._writer = LogWriter(str(out / "visualdl"))

    def begin(self, step: int) -> None:
        """Time counts from here."""
        self._since = time.monotonic(), step

    def add(self, figures: Dict[str, paddle.Tensor]) -> None:
        self._rows.append(figures)

    def pending(self) -> List[Dict[str, float]]:
        """What is not logged yet, for a checkpoint."""
        return [{name: float(value.mean()) for name, value in row.items()} for row in self._rows]

    def restore(self, rows: List[Dict[str, float]]) -> None:
        """What `pending` returned."""
        self._rows = [{name: paddle.to_tensor(value) for name, value in row.items()} for row in rows]

    def log(self, step: int, learning_rate: float) -> Dict[str, float]:
        """The means since the last time, over all processes.

        Raises:
            FloatingPointError: a loss that is no number.
        """
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        means = paddle.stack([paddle.stack([row[n].mean() for row in self._rows if n in row]).mean() for n in names])
        if paddle.distributed.get_world_size() > 1:
            paddle.distributed.all_reduce(means)
            means = means / paddle.distributed.get_world_size()
        figures = {name: float(value) for name, value in zip(names, means.numpy())}
        self._rows = []
        bad = [name for name, value in figures.items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"{', '.join(bad)} is not finite at step {step}; lower learning_rate, or set clip_norm, and --resume"
            )
        now = time.monotonic()
        seconds = max(now - self._since[0], 1e-9)
        rate = (step - self._since[1]) * self.batch_size / seconds
        left = (self.steps - step) * self.batch_size / max(rate, 1e-9)
        self._since = now, step
        self.write({"step": step, "learning_rate": learning_rate, **figures, "pictures_per_second": round(rate, 2)})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.say(f"step {step}/{self.steps}  {shown}  {rate:.1f} pictures/s  {_clock(left)} left")
        return figures

    def write(self, row: Dict[str, Any]) -> None:
        """A line of the log; one that cannot be written, on a full disk, does not end the run."""
        if not self.writes:
            return
        try:
            with open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.say(f"log.jsonl cannot be written: {error}")
        if self._writer is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, row["step"])

    def pictures(self, step: int, rows: Sequence[Sequence[np.ndarray]]) -> None:
        """A sheet of rows of pictures `[H, W, 3]` in [-1, 1]."""
        if not self.writes:
            return
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0) / 2 + 0.5
        try:
            (self.out / "samples").mkdir(exist_ok=True)
            to_pil(sheet).save(self.out / "samples" / f"step-{step:07d}.png")
        except OSError as error:
            self.say(f"samples cannot be written: {error}")
        if self._writer is not None:
            self._writer.add_image("samples", np.round(np.clip(sheet, 0, 1) * 255).astype(np.uint8), step)

    def say(self, text: str) -> None:
        if self.writes:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
