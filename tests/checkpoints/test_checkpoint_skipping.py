"""Training checkpoints read with `skip_objects`: hostile ones run as little as elsewhere, and good parts are found."""

from __future__ import annotations

import time

import numpy as np
import pytest
from checkpoint_files import GOLDEN, torch_zip
from hostile_files import TORCH
from hostile_pickles import CANARY, RUNS
from pickle_assembly import called, pickled, text

from ppdiffusers.checkpoints import CheckpointError, open_checkpoint

DATA = np.arange(6, dtype=np.float32)
SHELL = called("posix", "system", text(f"touch {CANARY}"))


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(program):
        (tmp_path / "training.ckpt").write_bytes(torch_zip(program, _0=DATA.tobytes()))
        return open_checkpoint(tmp_path / "training.ckpt", skip_objects=True)

    started = time.monotonic()
    yield load
    assert not (tmp_path / CANARY).exists()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_run_and_nothing_takes_long(name, opened):
    try:
        opened(RUNS[name]).close()
    except CheckpointError:
        pass


FOREIGN = {
    "class": b"cposix\nsystem\n",
    "called": SHELL,
    "made": b"cposix\nsystem\n" + text("touch canary") + b"\x85\x81",
    "made-with-keywords": b"cposix\nsystem\n)}\x92",
    "made-by-inst": b"(" + text("touch canary") + b"iposix\nsystem\n",
    "made-by-obj": b"(cposix\nsystem\n" + text("touch canary") + b"o",
    "allowed-but-odd": called("numpy", "dtype", text("O8"), b"\x89\x88"),
    "set": b"\x8f(K\x01K\x02\x90",
    "frozen-set": b"(K\x01\x91",
    "state": b"cfoo\nBar\n)\x81}" + text("state") + SHELL + b"sb",
    "list-of-it": b"cfoo\nList\n)\x81(" + SHELL + b"e",
    "dict-of-it": b"cfoo\nDict\n)R(" + text("a") + SHELL + b"u",
    "storage-of-unknown-type": TORCH["other-type"],
    "missing-storage": TORCH["missing"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_objects_are_placeholders(name, opened):
    """As a key, beside the state dict, and in it: there only the sound tensor can be used."""
    state = b"}(" + text("good") + TORCH["good"] + text("odd") + FOREIGN[name] + b"u"
    key = b"" if name.endswith("storage") else FOREIGN[name] + b"K\x01"
    items = key + text("callbacks") + FOREIGN[name] + text("state_dict") + state
    with opened(pickled(b"}(", items, b"u")) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("good"), DATA.reshape(2, 3))
        assert checkpoint.keys() == ["good", "odd"]
        for use in (checkpoint.read, checkpoint.shape, checkpoint.dtype):
            with pytest.raises(CheckpointError, match="'odd' is no tensor: it"):
                use("odd")


def test_a_foreign_object_alone(opened):
    with pytest.raises(CheckpointError, match="names foo.Model, which weights do not need"):
        opened(pickled(b"cfoo\nModel\n)\x81"))


@pytest.mark.parametrize("name", ["training.ckpt", "legacy-training.ckpt", "types.pt", "views.pt"])
def test_sound_files_read_as_ever(name):
    with open_checkpoint(GOLDEN / name) as strict, open_checkpoint(GOLDEN / name, skip_objects=True) as skipping:
        assert strict.keys() == skipping.keys()
        for key in strict.keys():
            np.testing.assert_array_equal(strict.read(key), skipping.read(key))
