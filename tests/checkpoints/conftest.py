"""Small weight files of every kind."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from checkpoint_files import GOLDEN, TORCH_FILES, every_type

from ppdiffusers.checkpoints import save_pdparams, save_safetensors


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes, name: str = "model_state.pdparams") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def _written_by(save: Callable[..., None], folder: Path, *arguments: Any) -> bytes:
    save(folder / "file", every_type(), *arguments)
    return (folder / "file").read_bytes()


@pytest.fixture(scope="session")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, bytes]:
    """Small good files of every kind."""
    folder = tmp_path_factory.mktemp("good")
    files = {name: (GOLDEN / name).read_bytes() for name in TORCH_FILES if name != "diffusers.bin"}
    files["safetensors"] = _written_by(save_safetensors, folder, {"format": "pd"})
    files["pdparams"] = _written_by(save_pdparams, folder)
    for protocol in range(6):
        files[f"pickle-{protocol}"] = pickle.dumps(every_type(), protocol)
    return files
