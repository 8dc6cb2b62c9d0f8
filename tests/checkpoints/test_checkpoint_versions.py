"""Files that old and new releases of PaddlePaddle and torch wrote (scripts/make_old_checkpoints.py) all load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppdiffusers.checkpoints import open_checkpoint
from scripts.make_old_checkpoints import arrays

FILES = sorted((Path(__file__).parent / "golden_versions").iterdir())
# What a case holds where that is not everything; the values of a model's own names.
NAMES = {
    "bfloat16": {"matrix": "matrix"},
    "attributes": {"matrix": "matrix"},
    "torch-training": {"weight": "matrix", "vector": "vector"},
}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_files_of_every_release(path):
    framework, case = path.stem.split("-")[0], path.stem.split("-")[-1]
    expected = arrays()
    if framework == "torch" and case in ("state", "protocol4"):
        expected["transposed"] = expected["vector"].reshape(1, 5)
    names = NAMES.get(case) or NAMES.get(f"{framework}-{case}") or {name: name for name in expected}
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.layout == framework
        assert sorted(checkpoint.keys()) == sorted(names)
        for name, source in names.items():
            array = checkpoint.read(name)
            assert array.dtype == expected[source].dtype and array.shape == expected[source].shape
            np.testing.assert_array_equal(array, expected[source])  # all of them are exact in bfloat16
            assert (checkpoint.dtype(name) == "bfloat16") == (case == "bfloat16")


def test_the_releases_are_there():
    releases = {tuple(path.name.split("-")[:2]) for path in FILES}
    assert {("paddle", "1.8.5"), ("paddle", "2.6.2"), ("paddle", "3.0.0"), ("paddle", "3.3.1")} <= releases
    assert {("torch", version) for version in ("1.0.0", "1.5.1", "1.6.0", "1.12.1", "2.13.0")} <= releases
    assert any("python2" in path.name for path in FILES)
