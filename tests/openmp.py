"""What OpenMP, by whose threads paddle and oneDNN compute, was told."""

import ctypes
from pathlib import Path

import paddle
import pytest


def threads_here():
    """How many threads a computation of this thread would use; skips where paddle brings no OpenMP of its own."""
    found = sorted(Path(paddle.__file__).parent.glob("libs/libiomp5*"))
    if not found:
        pytest.skip("this paddle brings no OpenMP of its own to ask")
    return ctypes.CDLL(str(found[0])).omp_get_max_threads()
