"""Damaged files: whatever is cut off or changed, the answer is a CheckpointError or sound arrays."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import TORCH_FILES

from ppdiffusers.checkpoints import CheckpointError, open_checkpoint

KINDS = [name for name in TORCH_FILES if name != "diffusers.bin"]
KINDS += ["safetensors", "pdparams", *(f"pickle-{protocol}" for protocol in range(6))]


def read_all(path) -> int:
    """Bytes of all tensors, each looked at."""
    total = 0
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.keys():
            array = checkpoint.read(name)
            assert array.shape == checkpoint.shape(name)
            with np.errstate(all="ignore"):
                array.sum()
            total += array.nbytes
            checkpoint.release(name)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_noticed(kind, good_files, write):
    content = good_files[kind]
    assert read_all(write(content)) > 0
    points = {*range(0, len(content), max(1, len(content) // 20)), *range(8), *range(len(content) - 24, len(content))}
    for point in sorted(points):
        with pytest.raises(CheckpointError):
            read_all(write(content[:point]))


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes(kind, good_files, write):
    """Most changes hit the data and pass; those that hit the structure must not lead anywhere else."""
    draw = random.Random(kind)
    content = good_files[kind]
    refused = 0
    for _ in range(50):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 8])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            # No change of a few bytes can make little data much (the factor is bfloat16 read as float32).
            assert read_all(write(bytes(changed))) <= 2 * len(content)
        except CheckpointError:
            refused += 1
    assert refused > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's limits and records")
@pytest.mark.parametrize(
    "kind, count", [("good", 0), ("mutants", 150), pytest.param("mutants", 1000, marks=pytest.mark.slow)]
)
def test_good_files_and_mutants_of_them(kind, count):
    """Read and scanned in a process with limits: bytes changed, cut, inserted, moved, mixed."""
    script = str(Path(__file__).with_name("pickle_drill.py"))
    command = [sys.executable, script, kind, "--count", str(count), "--seed", str(count)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    outcomes = list(map(json.loads, lines))
    assert len(outcomes) == count or (kind == "good" and len(outcomes) >= 60)
    for outcome in outcomes:
        assert outcome["read"] == "arrays" or (kind == "mutants" and outcome["read"].startswith("refused: ")), outcome
        assert outcome["scan"].startswith(("safe", "refused: ", "no weight file")), outcome
        assert outcome["scan"] == "safe" or outcome["read"] != "arrays", outcome  # one reader, one verdict
        assert outcome["peak_mb"] < 50 and outcome["seconds"] < 5, outcome
    if kind == "mutants":  # both happen, else the mutations would show nothing
        answers = [outcome["read"] == "arrays" for outcome in outcomes]
        assert 0.02 * count < sum(answers) < 0.5 * count
