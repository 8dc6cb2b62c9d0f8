"""Hostile files end in one clear error; nothing that they name is run, and none takes long or much memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import hostile_files
import numpy as np
import pytest
from checkpoint_files import torch_zip
from hostile_pickles import RUNS
from pickle_assembly import GOOD_ARRAY, pickled, text, under_w

from ppdiffusers.checkpoints import CheckpointError, open_checkpoint

LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's limits and records")
KINDS = {
    "refused": hostile_files.REFUSED,
    "composed": hostile_files.COMPOSED,
    "torch": [name for name in hostile_files.TORCH if name != "good"],
    "archive": hostile_files.ARCHIVES,
    "safetensors": hostile_files.SAFETENSORS,
    "other": hostile_files.OTHERS,
}
QUIET = [f"{kind} {name}" for kind, names in KINDS.items() for name in names]


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.keys():
                checkpoint.read(name)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) < len(str(path)) + 500 and message.isprintable()
    return message


@pytest.fixture(scope="module")
def outcomes():
    """What became of every hostile file, in processes of their own."""
    command = [sys.executable, str(Path(__file__).with_name("pickle_drill.py")), "hostile"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {outcome["name"]: outcome for outcome in map(json.loads, lines)}


@LINUX
@pytest.mark.parametrize("name", RUNS)
def test_pickles_that_run_something(name, outcomes):
    outcome = outcomes[f"runs {name}"]
    assert outcome["proof"], "the attack does not work on Python's own pickle"
    assert not outcome["canary"]
    assert outcome["read"].startswith("refused: "), outcome
    assert outcome["scan"].startswith("refused: "), outcome


@LINUX
@pytest.mark.parametrize("name", QUIET)
def test_other_hostile_files(name, outcomes):
    outcome = outcomes[name]
    assert not outcome["canary"]
    assert outcome["read"].startswith("refused: "), outcome
    assert outcome["scan"].startswith(("refused: ", "safe", "no weight file")), outcome


@LINUX
def test_there_are_enough_and_they_cost_little(outcomes):
    assert len(RUNS) >= 60 and len(QUIET) >= 200
    assert max(outcome["peak_mb"] for outcome in outcomes.values()) < 200
    assert sorted(outcome["seconds"] for outcome in outcomes.values())[-10] < 2


@LINUX
def test_what_the_scan_says_is_what_would_run(outcomes):
    for name, wanted in {
        "reduce-4": ".system('touch canary')",  # posix.system
        "inst": "call os.system('touch canary')",
        "eval": "calls eval, and not in the one form",
        "escaped-name": "call os.system('touch canary')",
        "pickle.loads": "call pickle.loads(<Span>)",
        "setstate": "call functools.partial(...).__setstate__",
        "append-to-foreign": "call types.SimpleNamespace(...).append('touch canary')",
        "ext1": "EXT1",
        "zip": ".system('touch canary')",
        "zip-deflated": ".system('touch canary')",
        "zip-in-zip": ".system('touch canary')",
        "zip-same-name": "two entries of one name",
        "npy": ".system('touch canary')",
        "torch-stream-3": ".system('touch canary')",
        "import-only": "import evil_module.x",
    }.items():
        assert wanted in outcomes[f"runs {name}"]["scan"], (name, outcomes[f"runs {name}"]["scan"])


def test_the_message_names_what_would_have_run(write):
    assert "posix.system" in refused(write(RUNS["reduce-4"])) or os.name != "posix"
    assert "numpy.f2py.crackfortran.myeval" in refused(write(RUNS["numpy.f2py"]))
    assert "os.system" in refused(write(RUNS["inst"]))
    assert "safetensors" in refused(write(RUNS["inst"]))  # the remedy
    assert "not executed" in refused(write(RUNS["eval-as-if-paddle"]))
    assert "\\x1b[2J" in refused(write(pickled(text("\x1b[2J"), text("\n"), b"\x93")))


def test_hostile_pickles_in_archives(write):
    for name in ("reduce-2", "inst", "ext1", "setstate", "dotted"):
        message = refused(write(torch_zip(RUNS[name], _0=bytes(24)), "weights.bin"))
        assert "not executed" in message or "opcode" in message


def test_an_archive_of_the_same_make_is_read(write):
    """Else the refusals above would show nothing."""
    program = under_w(hostile_files.TORCH["good"])
    with open_checkpoint(write(torch_zip(program, _0=np.arange(6, dtype="<f4").tobytes()))) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("w"), [[0, 1, 2], [3, 4, 5]])
    with open_checkpoint(write(under_w(GOOD_ARRAY))) as checkpoint:
        assert checkpoint.shape("w") == (2,)


def test_values_that_are_left_out_may_be_deep(write):
    deep = b"]" * 100_000 + b"a" * 99_999
    path = write(pickled(b"}(", text("w"), GOOD_ARRAY, text("deep"), deep, b"u"))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.keys() == ["w"]


@pytest.mark.parametrize("name", hostile_files.SAFETENSORS)
def test_safetensors_headers(name, write):
    header, reason = hostile_files.SAFETENSORS[name]
    assert reason in refused(write(hostile_files.safetensors(header), "model.safetensors"))


def test_safetensors_header_length(write):
    good = hostile_files.safetensors({"a": hostile_files.entry(0, 8)})
    for length in (0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1):
        refused(write(struct.pack("<Q", length) + good[8:], "model.safetensors"))


def test_safetensors_header_that_would_fill_the_memory(tmp_path):
    """Python makes ten bytes of one of JSON's."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**25) + b"{")
        file.truncate(8 + 2**25 + 8)
    assert "has a header of 33554432 bytes" in refused(path)


def test_files_that_are_not_there(tmp_path):
    assert "No such file" in refused(tmp_path / "missing.pdparams")
    assert "folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe")


@LINUX
@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_what_scan_calls_safe_makes_data_and_nothing_else(count):
    """Composed of allowed names, opcodes and memory; opened by everything that is here."""
    command = [sys.executable, str(Path(__file__).with_name("pickle_property.py")), "--count", str(count)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["wrong"] == []
    assert found["safe"] > 0.5 * count and found["refused"] > 0.1 * count
    assert found["opened as data"]["pickle"] > 0.4 * count and found["opened as data"]["steps"] > 0.4 * count
    assert all(not value for oracle in found["oracles"].values() for key, value in oracle.items() if key != "of")
