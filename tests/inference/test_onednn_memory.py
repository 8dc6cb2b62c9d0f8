"""Plans where memory is short: one clear error or smaller blocks, and nothing that is half changed."""

import os
import subprocess
import sys
from pathlib import Path

import paddle
import pytest

from ppdiffusers.onednn import is_there

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space are Linux's"),
    pytest.mark.skipif(
        not hasattr(paddle, "pir_utils") or not is_there(), reason="this paddle writes no programs, or has no oneDNN"
    ),
]


def test_no_memory():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("memory_cases.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-2000:]}"
    assert done.stdout.count("held") == 5
    assert (done.stdout + done.stderr).count("attention is computed in smaller blocks") == 1
