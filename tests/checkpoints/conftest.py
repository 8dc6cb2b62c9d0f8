"""Small weight files of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

import checkpoint_files
import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes, name: str = "model_state.pdparams") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="session")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, bytes]:
    """Small good files of every kind."""
    return checkpoint_files.good_files(tmp_path_factory.mktemp("good"))
