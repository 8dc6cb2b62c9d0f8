"""What scripts/measure_pictures.py measures with, on pictures and processes whose numbers are known."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import measure_pictures as measure  # noqa: E402


def test_gradients_on_borders_show_seams_and_nothing_else():
    smooth = np.add.outer(np.arange(128.0), np.arange(192.0))[..., None].repeat(3, axis=-1)
    assert measure.border_ratio(smooth, 32) == pytest.approx(1)
    seams = smooth.copy()
    seams[64:] += 2  # across one of the three rows of borders, 1 becomes 9
    assert measure.border_ratio(seams, 32) > 1.2
    elsewhere = smooth.copy()
    elsewhere[80:] += 2
    assert measure.border_ratio(elsewhere, 32) < 1


def test_the_peak_is_that_of_the_process():
    code = "import time; x = b'x' * (200 << 20); time.sleep(0.2); del x; time.sleep(0.2)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    run = measure.finish(process, time.monotonic())
    assert run.code == 0 and 200 < run.peak < 300 and run.seconds > 0.4


def test_a_run_that_hangs_is_ended():
    process = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run = measure.finish(process, time.monotonic(), limit=0.3)
    assert run.code < 0 and "killed after" in run.errors


def test_pictures_of_the_folder_have_one_size(tmp_path):
    for name, size in (("a", (480, 320)), ("b", (320, 480)), ("c", (448, 300))):
        noise = np.asarray(Image.effect_noise(size, 60).convert("RGB"))
        measure.write(noise, tmp_path / "pictures" / "photographs" / f"{name}.png")
    args = argparse.Namespace(pictures=tmp_path / "pictures")
    assert measure.folder_of_120x80(args, tmp_path / "in", 5) == 5 * 9600
    pictures = [measure.read(path) for path in sorted((tmp_path / "in").iterdir())]
    assert [picture.shape for picture in pictures] == [(80, 120, 3)] * 5
    assert len({picture.tobytes() for picture in pictures}) == 5
    assert measure.mosaic(args, 700, 500).shape == (500, 700, 3)


def test_smaller_is_the_mean_of_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    result = measure.smaller(pixels)
    assert result.shape == (2, 3, 3) and result[1, 2, 0] == round(float(pixels[4:, 8:, 0].mean()))
