"""Every operator of plans against numpy, on every kind of CPU that oneDNN can be held to, from two threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import paddle
import pytest

from ppdiffusers.onednn import is_there

pytestmark = pytest.mark.skipif(
    not hasattr(paddle, "pir_utils") or not is_there(), reason="this paddle writes no programs, or carries no oneDNN"
)
BOUNDS = {"SSE41": 0x1, "AVX": 0x3, "AVX2": 0x7, "AVX512_CORE": 0x27, "DEFAULT": None}


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_operator_agrees_with_numpy(bound):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("operator_cases.py")],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": bound, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == [] and found["missing"] == [] and found["cases"] > 150
    if BOUNDS[bound] is not None:
        assert found["isa"] <= BOUNDS[bound]
