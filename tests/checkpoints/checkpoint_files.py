"""Weight files of every kind, made here or (torch's) by scripts/make_reference_checkpoints.py."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Dict

import numpy as np

from ppdiffusers.checkpoints import save_pdparams, save_safetensors

GOLDEN = Path(__file__).parent / "golden"
RELEASES = Path(__file__).parent / "golden_versions"  # by scripts/make_old_checkpoints.py
TORCH_FILES = sorted(path.name for path in GOLDEN.iterdir() if path.suffix != ".npz")


def every_type() -> Dict[str, np.ndarray]:
    """One array of each type; uint16 stands for bfloat16."""
    draw = np.random.default_rng(0)
    arrays = {
        "float64": draw.normal(size=(3, 4)),
        "float32": draw.normal(size=(2, 3, 4)).astype(np.float32),
        "float16": draw.normal(size=7).astype(np.float16),
        "bfloat16": draw.integers(0, 0x7F80, size=(4, 2)).astype(np.uint16),
        "bool": np.array([[True, False, True]]),
    }
    for name in ("int64", "int32", "int16", "int8", "uint8"):
        arrays[name] = draw.integers(0, 100, size=(2, 5)).astype(name)
    return arrays


def as_read(array: np.ndarray) -> np.ndarray:
    """What `read` must give for a stored array, by a way of its own."""
    if array.dtype != np.uint16:
        return array
    values = [struct.unpack("<f", b"\0\0" + struct.pack("<H", bits))[0] for bits in array.ravel()]
    return np.array(values, np.float32).reshape(array.shape)


def torch_zip(program: bytes, **storages: bytes) -> bytes:
    """An archive as torch.save makes it, around a given pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key.lstrip('_')}", content)
    return buffer.getvalue()


def good_files(folder: Path) -> Dict[str, bytes]:
    """Small good files of every kind; `folder` is for those that are written on the way."""
    files = {name: (GOLDEN / name).read_bytes() for name in TORCH_FILES if name != "diffusers.bin"}
    save_safetensors(folder / "safetensors", every_type(), {"format": "pd"})
    save_pdparams(folder / "pdparams", every_type())
    for name in ("safetensors", "pdparams"):
        files[name] = (folder / name).read_bytes()
    for protocol in range(6):
        files[f"pickle-{protocol}"] = pickle.dumps(every_type(), protocol)
    return files
