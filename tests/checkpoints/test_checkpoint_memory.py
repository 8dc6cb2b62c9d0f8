"""Reading a large file tensor by tensor never holds it twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppdiffusers.checkpoints import save_pdparams, save_safetensors

MIB = 2**20
READ = """
import sys
import numpy as np
from ppdiffusers.checkpoints import open_checkpoint

def peak():  # getrusage would count the peak of the process that started this one
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024

before = peak()
kept = []
with open_checkpoint(sys.argv[1]) as checkpoint:
    for name in checkpoint.keys():
        kept.append(np.array(checkpoint.read(name)))
        if sys.argv[2] == "release":
            checkpoint.release(name)
assert all(array[0, 0] == array[-1, -1] == index for index, array in enumerate(kept))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of the peak")
@pytest.mark.parametrize("save", [save_pdparams, lambda path, arrays: save_safetensors(path, arrays, {})])
def test_peak_memory(save, tmp_path):
    path = tmp_path / "large"
    save(path, {f"w{index}": np.full((1024, 5 * 1024), index, np.float32) for index in range(10)})
    size = path.stat().st_size
    assert size > 200 * MIB

    def peak(how: str) -> int:
        command = [sys.executable, "-c", READ, str(path), how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert size < peak("release") < 1.2 * size
    assert peak("keep") > 1.8 * size  # so that the bound above means something
