"""Which ways to run a program have been compared with its layers on this machine, and were right."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional

from ppdiffusers.config import ConfigError, read_json, write_json
from ppdiffusers.inference.programs import Program


class Verdicts:
    """The ways that were right, kept beside the program; nothing is kept of weights that are in no file.

    They hold for the weights, the versions of the engines and the features of the CPU that they were found with.

    Args:
        weights: what `weight_files` says of them.
    """

    def __init__(self, program: Program, weights: Optional[List[Any]]):
        self._file = program.file.with_suffix(".verdicts.json")
        self._circumstances = None if weights is None else _digest([weights, _versions(), _cpu()])

    def __contains__(self, setup: Any) -> bool:
        return self._circumstances is not None and str(setup) in self._read().get(self._circumstances, [])

    def add(self, setup: Any) -> None:
        if self._circumstances is None:
            return
        verdicts = self._read()
        verdicts[self._circumstances] = sorted({*verdicts.get(self._circumstances, []), str(setup)})
        try:
            write_json(self._file, verdicts)
        except OSError:
            pass  # a cache that cannot be written: compared again the next time

    def _read(self) -> Dict[str, List[str]]:
        try:
            return read_json(self._file)
        except ConfigError:
            return {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def weight_files(folder: Path, dtype: str) -> Optional[List[Any]]:
    """What tells the files of a `Model._source` from those of another time; None where they are gone."""
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
        return [str(folder), dtype, *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]
    except OSError:
        return None


def _versions() -> List[str]:
    found = []
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            pass
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
