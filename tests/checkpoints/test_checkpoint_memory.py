"""Reading a large file tensor by tensor never holds it twice."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import torch_zip
from pickle_assembly import called, pickled, text

from ppdiffusers.checkpoints import save_pdparams, save_safetensors

MIB = 2**20
TENSORS = 6
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
assert [int(array.flat[0]) for array in kept] == [int(array.flat[-1]) for array in kept] == list(range(len(kept)))
print(peak() - before)
"""


def tensors():
    """10 MiB each, of bytes that text needs one or two bytes for."""
    values = np.random.default_rng(0).integers(0, 256, 10 * MIB, np.uint8)
    for index in range(TENSORS):
        values[[0, -1]] = index
        yield f"w{index}", values.copy()


def as_torch(layout: str) -> bytes:
    """As torch.save writes them, before 1.6 or since."""
    content = b"}"
    for name, array in tensors():
        storage = b"(" + text("storage") + b"ctorch\nByteStorage\n" + text(name) + text("cpu")
        storage += b"J" + struct.pack("<i", array.size) + (b"NtQ" if layout == "stream" else b"tQ")
        size = b"J" + struct.pack("<i", array.size) + b"\x85"
        content += text(name) + called("torch._utils", "_rebuild_tensor_v2", storage, b"K\0", size, b"K\x01\x85\x89N")
        content += b"s"
    if layout == "zip":
        return torch_zip(pickled(content), **{name: array.tobytes() for name, array in tensors()})
    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, file, 2)
    file.write(pickled(content))
    pickle.dump([name for name, _ in tensors()], file, 2)
    for _, array in tensors():
        file.write(struct.pack("<q", array.size) + array.tobytes())
    return file.getvalue()


WRITERS = {
    "pdparams": lambda path: save_pdparams(path, dict(tensors())),
    "safetensors": lambda path: save_safetensors(path, dict(tensors()), {}),
    "torch-zip": lambda path: path.write_bytes(as_torch("zip")),
    "torch-stream": lambda path: path.write_bytes(as_torch("stream")),
    **{
        f"pickle-{protocol}": lambda path, protocol=protocol: path.write_bytes(pickle.dumps(dict(tensors()), protocol))
        for protocol in (0, 2, 5)
    },
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of the peak")
@pytest.mark.parametrize("kind", WRITERS)
def test_peak_memory(kind, tmp_path):
    path = tmp_path / "large"
    WRITERS[kind](path)
    size = path.stat().st_size
    assert size > 10 * MIB * TENSORS

    def peak(how: str) -> int:
        command = [sys.executable, "-c", READ, str(path), how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak("release") < 1.2 * size
    if kind in ("pdparams", "torch-zip"):
        assert peak("keep") > 1.8 * size  # so that the bound above means something


SPLIT = """
import sys
import numpy as np
import paddle
values = np.arange(3 * 90_000_000, dtype=np.float32).reshape(3, -1)
paddle.save({"large": paddle.to_tensor(values), "small": paddle.ones([3])}, sys.argv[1], protocol=int(sys.argv[2]))
"""
READ_SPLIT = (
    READ[: READ.index("before")]
    + """
before = peak()
with open_checkpoint(sys.argv[1]) as checkpoint:
    large = checkpoint.read("large")
    assert sorted(checkpoint.keys()) == ["large", "small"] and large.shape == (3, 90_000_000)
    assert large[0, 1] == 1 and large[2, -1] == np.float32(3 * 90_000_000 - 1)
print(peak() - before)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["2", "3"])
def test_an_array_that_paddle_itself_split(protocol, tmp_path):
    """1.08 GB: Paddle writes two parts of it."""
    path = tmp_path / "large.pdparams"
    subprocess.run([sys.executable, "-c", SPLIT, str(path), protocol], check=True, capture_output=True)
    assert b"UnpackBigParamInfor@@" in path.read_bytes()[-1000:]
    command = [sys.executable, "-c", READ_SPLIT, str(path)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 1.2 * path.stat().st_size
