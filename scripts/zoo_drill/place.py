"""A published model, a server, a cache, and the judgement of what became of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fake_community import CommunityServer

import model_zoo
from zoo_drill import ROOT

NAME, WEIGHTS, CONFIG = "drill/model", "unet/model_state.pdparams", "model_index.json"
SIZE, BLOCK = 1_500_000, 1 << 16
HANG = 60.0  # seconds after which a run counts as hanging
CHILD = (
    "import sys, logging, model_zoo; from model_zoo import cache, disk, http; logging.disable()\n"
    f"http.POLICY = http.Policy(5.0, 5.0, backoff=0.02, block={BLOCK})\n"
)
FETCH = f"print(model_zoo.download({NAME!r}, progress=False))\n"


@dataclasses.dataclass
class Row:
    """One line of the table."""

    name: str
    runs: int = 0
    right: int = 0
    absent: int = 0
    wrong: int = 0
    over: int = 0  # runs that transferred more than they may
    ratio: float | None = None
    seconds: float = 0.0
    remarks: list[str] = dataclasses.field(default_factory=list)

    def count(self, outcome: str, ratio: float | None = None, allowed: float = float("inf"), remark: str = "") -> None:
        self.runs += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        if ratio is not None:
            self.ratio = max(self.ratio or 0.0, ratio)
            self.over += ratio > allowed
        if remark and (outcome == "wrong" or (ratio or 0) > allowed):
            self.remarks.append(remark)

    def __str__(self) -> str:
        ratio = "-" if self.ratio is None else f"{self.ratio:.3f}"
        return (
            f"| {self.name:<58} | {self.runs:>4} | {self.right:>5} | {self.absent:>6} | {self.wrong:>5} | {ratio:>6} |"
            f" {self.over:>4} | {self.seconds:>6.1f} |"
        )


class Place:
    """A published model, a server that has it, and a fresh cache for every run."""

    def __init__(self, root: Path, server: CommunityServer):
        self.root = root
        self.server = server
        self.home = root / "home"
        self.contents: dict[str, bytes] = {}
        os.environ.update(MODEL_ZOO_ENDPOINT=server.url, MODEL_ZOO_HOME=str(self.home), NO_PROXY="127.0.0.1")
        os.environ["MODEL_ZOO_REGISTRY"] = str(root / "registry")
        self.publish(random.Random(0))

    @property
    def folder(self) -> Path:
        return self.home / NAME

    @property
    def weights(self) -> bytes:
        return self.contents[WEIGHTS]

    @property
    def total(self) -> int:
        return sum(map(len, self.contents.values()))

    def publish(self, rng: random.Random, hashes: bool = False) -> None:
        """Put a new version of the model on the server."""
        noise = [rng.randbytes(SIZE // 3 + rng.randrange(1000)) for _ in range(3)]
        self.contents = {
            WEIGHTS: pickle.dumps(noise, 4),
            CONFIG: json.dumps({"_class_name": "X", "v": rng.random()}).encode(),
        }
        for path, content in self.contents.items():
            file = self.server.folder / NAME / path
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_name("fresh")
            fresh.write_bytes(content)
            os.utime(fresh, (rng.randrange(10**9), 0))
            os.replace(fresh, file)  # who has begun to send the older one goes on with that
        self.describe(hashes)

    def describe(self, hashes: bool) -> None:
        files: list[dict[str, Any]] = [{"path": path} for path in self.contents]
        if hashes:
            for file in files:
                file["sha256"] = hashlib.sha256(self.contents[file["path"]]).hexdigest()
        self.register({"files": files})

    def register(self, values: dict[str, Any], file: str = NAME) -> None:
        manifest = {
            "name": NAME,
            "task": "super-resolution",
            "pipeline": "LDMSuperResolutionPipeline",
            "licence": "Apache-2.0",
            "origin": "this drill",
            "paper": None,
            **values,
        }
        target = self.root / "registry" / f"{file}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(manifest))

    def reset(self) -> None:
        self.server.forget()
        shutil.rmtree(self.home, ignore_errors=True)

    def state(self, error: BaseException | None) -> tuple[str, str]:
        """Of the weights after a run that ended with `error`, and why it is wrong if it is."""
        file = self.folder / WEIGHTS
        if file.exists() and file.read_bytes() != self.weights:
            return "wrong", f"the file has other bytes ({error})"
        if error is None:
            return ("right", "") if file.exists() else ("wrong", "no error, and no file")
        if not isinstance(error, model_zoo.ModelZooError):
            return "wrong", f"{type(error).__name__}: {error}"
        if "\n" in str(error) or len(str(error)) > 3000:
            return "wrong", f"the error is not one line: {error}"
        return "absent", str(error)

    def download(self) -> BaseException | None:
        """In a thread, so that one that hangs is found out."""
        outcome: list[BaseException | None] = []

        def work() -> None:
            try:
                model_zoo.download(NAME, progress=False)
                outcome.append(None)
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(HANG)
        return outcome[0] if outcome else TimeoutError(f"it hangs, or takes longer than {HANG:.0f} s")

    def child(self, code: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, sys.executable, "-c", CHILD + code],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def parts(place: Place) -> Iterator[Path]:
    return place.folder.rglob(f".{WEIGHTS.rpartition('/')[2]}.*.part")


def until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.002)
