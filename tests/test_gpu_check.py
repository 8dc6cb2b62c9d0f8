"""scripts/gpu_check.sh on a CPU, so that it is known to work where there is a GPU, and what it does with failures."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import paddle
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
GPU_ONLY = [
    "driver",
    "Paddle Inference, fp16",
    "Paddle Inference, bf16",
    "TensorRT, fp32",
    "TensorRT, fp16",
    "the same in automatic mixed precision, fp16",
    "attention, float16",
    "attention, bfloat16",
    "super-resolution, TF32 where paddle takes it",
    "embedded model, layers, fp16 weights",
    "embedded model, Paddle Inference, fp16",
    "embedded model, TensorRT, fp16",
    "published architecture, layers, fp32",
    "published architecture, layers, fp16 weights",
]
FAKE = """
import os
import gpu_check
from gpu_check_subjects import Skip

def skipped(device):
    raise Skip("not today")

def wrong(device):
    raise ValueError("three\\nis not four")

CHECKS = {
    "right": lambda device: f"fine on {device}",
    "skipped": skipped,
    "wrong": wrong,
    "right again": lambda device: "fine",
    "crashes": lambda device: os.abort(),
    "ends": lambda device: os._exit(0),
    "right at last": lambda device: "fine",
}
gpu_check.CHECKS[:] = [("fake", name, check) for name, check in CHECKS.items()]
raise SystemExit(gpu_check.main())
"""


@pytest.fixture
def modules(monkeypatch):
    """The script's own, by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu_check
    import gpu_check_subjects

    return gpu_check, gpu_check_subjects


def run(*command):
    paths = os.pathsep.join(map(str, (ROOT, SCRIPTS)))
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": paths}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


def rows(report):
    """By name, state and text."""
    lines = re.findall(r"^  (ok|FAILED|skipped) +(\S.*?)  +(.*)$", report, re.M)
    return {name: (state, text) for state, name, text in lines}


def test_the_whole_check_on_a_cpu():
    done = run("bash", SCRIPTS / "gpu_check.sh", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(done.stdout)
    assert f"paddle {paddle.__version__}" in found["versions"][1]
    skipped = [name for name, (state, _) in found.items() if state == "skipped"]
    programs = ["Paddle Inference, fp32", "embedded model, Paddle Inference, fp32"]
    assert sorted(skipped) == sorted(GPU_ONLY + ([] if hasattr(paddle, "pir_utils") else programs))
    assert {state for state, _ in found.values()} == {"ok", "skipped"}
    assert f"{len(found) - len(skipped)} ok, 0 failed, {len(skipped)} skipped, 0 not run" in done.stdout
    assert re.search(r"1 of 64x64 in 4 steps", found["super-resolution, embedded model"][1])
    assert re.search(r"[\d.]+ s a step, [\d.]+ pictures a second", found["embedded model, layers, fp32"][1])
    assert "latents off by 0.0e+00, 8-bit values by 0" in found["text-to-image, float32"][1]


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this paddle has CUDA")
def test_a_gpu_that_is_not_there():
    done = run("bash", SCRIPTS / "gpu_check.sh")
    assert done.returncode == 1 and "install paddlepaddle-gpu" in rows(done.stdout)["device"][1]
    assert "1 ok, 1 failed, 0 skipped" in done.stdout
    done = run("bash", SCRIPTS / "gpu_check.sh", "tpu")
    assert done.returncode == 2 and done.stderr == "'tpu' is no device; use gpu, gpu:1 or cpu\n"


def test_what_fails_is_told_and_takes_nothing_with_it(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    done = run(sys.executable, tmp_path / "fake.py", "cpu")
    assert done.returncode == 1
    assert rows(done.stdout) == {
        "right": ("ok", "fine on cpu"),
        "skipped": ("skipped", "not today"),
        "wrong": ("FAILED", "ValueError: is not four"),
        "right again": ("ok", "fine"),
        "crashes": ("FAILED", "its process ended with status -6"),
        "ends": ("FAILED", "its process ended with status 0"),
        "right at last": ("ok", "fine"),
    }
    assert "3 ok, 3 failed, 1 skipped, 0 not run" in done.stdout
    assert "fake, wrong:\nTraceback" in done.stdout and "Fatal Python error" not in done.stdout.partition("fake, ")[0]


def test_a_worker_that_hangs_is_killed(modules):
    check, _ = modules
    killed = threading.Event()

    class Worker:
        kill = killed.set

    def lines():
        yield f'{check.MARK}["fake", "first", "ok", "fine"]\n'
        assert killed.wait(60)

    worker = Worker()
    worker.stdout = lines()
    assert list(check.rows_of(worker, 0.01)) == [("fake", "first", "ok", "fine", "")]


def test_a_host_round_trip_is_seen(modules):
    """Of a callback that looks at the latents, in the steps that are counted: the second and the third of four."""
    _, subjects = modules
    pipeline, arguments, options = subjects.made("unconditional", "cpu", True)

    def look(pipeline, step, timestep, values):
        return {"latents": values["latents"] * (1 + 0 * float(values["latents"].mean()))}

    counted, steps = subjects.transfers(pipeline, *arguments, **options, callback_on_step_end=look)
    assert steps == 2 and counted.down == {"__float__": 2}
    counted, _ = subjects.transfers(pipeline, *arguments, **options)
    assert not counted.down and counted.up


def test_differences_are_seen(modules):
    _, subjects = modules
    wanted, got = (subjects.results("unconditional", "cpu", True, dtype) for dtype in (None, "float16"))
    with pytest.raises(AssertionError, match="latents off by"):
        subjects.compared(wanted, got, 1e-6, 1.0)
    with pytest.raises(AssertionError, match="100.00% by more than 2"):
        subjects.compared(wanted, (wanted[0], wanted[1] + 3), 1e-6, 0.5)
