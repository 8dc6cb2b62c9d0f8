"""A folder of 500 pictures with 20 that are none; the process is killed in the middle, and run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ppdiffusers.pictures import Document
from ppdiffusers.pictures.files import publishing, sweep

TESTS = Path(__file__).parents[1]
# Every picture that the pipeline is given leaves its number, which is its top left pixel, on a line.
CODE = """
import sys
from stub_pipeline import Loader, upscale
loader = Loader(seconds=0.002)
stream = loader.pipeline.stream
def noted(image, **options):
    with open(sys.argv[1], "a") as log:
        print(int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]), file=log)
    yield from stream(image, **options)
loader.pipeline.stream = noted
sys.exit(upscale(loader, *sys.argv[2:]))
"""
GOOD, JUNK = 480, 20


def run(log, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, "-c", CODE, str(log), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)


def test_killed_and_run_again(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(GOOD):
        file = folder / f"{number % 7}" / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((3, 5, 3), 90, np.uint8)
        pixels[0, 0, :2] = divmod(number, 256)
        Image.fromarray(pixels).save(file)
    junk = [folder / f"{number % 7}" / f"junk{number}.png" for number in range(JUNK)]
    for number, file in enumerate(junk):
        file.write_bytes((b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\xff\xd8\xff" * 20)[number % 4])

    first = run(tmp_path / "first", folder, "-r", "-o", out, "--seed", 1)
    while len(list(out.rglob("*.png"))) < 100:
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    left = out / "0" / ".ppdiffusers-0123456789ab.part"  # a kill while writing leaves such a file
    left.write_bytes(b"half a picture")
    done = {int(path.stem): path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert 100 <= len(done) < GOOD

    second = run(tmp_path / "second", folder, "-r", "-o", out, "--seed", 1)
    said, errors = second.communicate(timeout=300)
    assert second.returncode == 1, errors
    assert {path.relative_to(out) for path in out.rglob("*") if path.is_file()} == {
        path.relative_to(folder) for path in folder.rglob("*.png") if path not in junk
    }
    made = [int(line) for line in (tmp_path / "second").read_text().split()]
    assert sorted(made + list(done)) == list(range(GOOD))  # every good one once
    for path in out.rglob("*.png"):
        pixels = Document(path).only().pixels
        assert pixels.shape == (12, 20, 3) and int(pixels[0, 0, 0]) * 256 + int(pixels[0, 0, 1]) == int(path.stem)
        assert done.get(int(path.stem), path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    last = errors.splitlines()[-1]
    assert all(str(file) in last for file in junk) and str(folder / "0" / "000.png") not in last
    assert f"{GOOD - len(done)} done, {len(done)} there already" in errors


def test_sweeping_leaves_what_is_being_written(tmp_path):
    with publishing(tmp_path / "a.png") as file:
        file.write(b"half")
        file.flush()
        (tmp_path / ".ppdiffusers-left.part").write_bytes(b"")
        (tmp_path / "mine.part").write_bytes(b"")
        assert [path.name for path in sweep(tmp_path)] == [".ppdiffusers-left.part"]
        file.write(b" and half")
    assert (tmp_path / "a.png").read_bytes() == b"half and half"
    assert sorted(os.listdir(tmp_path)) == ["a.png", "mine.part"]


def test_a_result_has_the_permissions_of_any_new_file(tmp_path):
    mask = os.umask(0o027)
    try:
        with publishing(tmp_path / "a.png") as file:
            file.write(b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


def test_interrupting_leaves_nothing_half_made(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    from stub_pipeline import Loader, upscale

    class Interrupted(Loader):
        def __call__(self, args):
            pipeline, steps, options = super().__call__(args)

            def stream(*args, **kwargs):
                raise KeyboardInterrupt
                yield

            pipeline.stream = stream
            return pipeline, steps, options

    assert upscale(Interrupted(), tmp_path / "a.png") == 130
    assert os.listdir(tmp_path) == ["a.png"]
