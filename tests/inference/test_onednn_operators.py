"""Every operator of plans against numpy, on every kind of CPU that oneDNN can be held to, from two threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_statistics_of_a_group_norm_do_not_depend_on_the_number_of_threads(monkeypatch):
    """Of 16 channels, one register full: the pixels are what threads share."""
    import paddle.nn.functional as F
    from operator_cases import program

    from ppdiffusers.inference.plans import Arena, Weights, make_plan
    from ppdiffusers.onednn import library
    from ppdiffusers.onednn.library import FP32

    if library.library().get_effective_cpu_isa() < BOUNDS["AVX2"]:
        pytest.skip("kernels of older CPUs divide the work in other ways")
    draw = np.random.default_rng(0)
    x = draw.standard_normal((1, 16, 63, 33)).astype("float32") * 3 + 100
    vectors = [draw.standard_normal(16).astype("float32") for _ in range(2)]
    made, named = program(lambda x, a, b: F.group_norm(x, 4, 1e-5, a, b), [x.shape], vectors, [x.dtype])
    results = []
    for count in (1, 2, 3, 7):
        monkeypatch.setenv("PPDIFFUSERS_THREADS", str(count))
        (result,) = make_plan(made, Weights(named, FP32), {"x0": x.shape}, Arena()).run({"x0": x})
        results.append(result)
    groups = x.astype(np.float64).reshape(4, -1)
    scaled = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-5)
    a, b = (vector[:, None, None] for vector in vectors)
    np.testing.assert_allclose(results[0], (scaled.reshape(x.shape) * a + b), atol=2e-4)
    assert all(np.array_equal(result, results[0]) for result in results)
