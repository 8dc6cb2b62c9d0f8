"""The `ppdiffusers` command."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ppdiffusers.cli.main import main


def picture(file, size=(6, 4), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert(mode).save(file)
    return file


def upscale(*arguments):
    return main(["upscale", *map(str, arguments), "--steps", "2"])


def one_error_line(capsys):
    output = capsys.readouterr().err.strip().splitlines()
    assert len(output) == 1 and output[0].startswith("ppdiffusers: error: ")
    return output[0]


def test_a_file(tmp_path, capsys):
    source = picture(tmp_path / "in.png")
    assert upscale(source, "-o", tmp_path / "out.png", "--seed", 3) == 0
    assert "6x4 -> 24x16, seed 3" in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (24, 16)
        assert image.text["ppdiffusers:seed"] == "3" and image.text["ppdiffusers:steps"] == "2"
    first = (tmp_path / "out.png").read_bytes()
    assert upscale(source, "-o", tmp_path / "out.png", "--seed", 3) == 0
    assert (tmp_path / "out.png").read_bytes() == first


def test_the_drawn_seed_is_printed_and_repeats_the_picture(tmp_path, capsys):
    source = picture(tmp_path / "in.png")
    upscale(source, "-o", tmp_path / "a.png", "--eta", 1)
    seed = capsys.readouterr().out.split()[-1]
    upscale(source, "-o", tmp_path / "b.png", "--eta", 1, "--seed", seed)
    a, b = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a, b)


def test_a_folder(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "b.jpg", (4, 4))
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    (tmp_path / "in" / "broken.png").write_text("not a picture either")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "--seed", 1) == 2
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "b.png"]
    assert "broken.png is not a picture" in capsys.readouterr().err
    upscale(tmp_path / "in" / "a.png", "-o", tmp_path / "alone.png", "--seed", 1)
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()


def write_zero_bytes(file):
    file.write_bytes(b"")


def write_text(file):
    file.write_text("hello")


def write_truncated(file):
    data = picture(file, (64, 64)).read_bytes()
    file.write_bytes(data[: len(data) // 2])


def write_bomb(file):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 15_000, 8, 2, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def write_one_pixel(file):
    picture(file, (1, 1))


@pytest.mark.parametrize(
    "write, message",
    [
        (write_zero_bytes, "0 bytes"),
        (write_text, "not a picture"),
        (write_truncated, "damaged"),
        (write_bomb, "megapixels"),
        (write_one_pixel, "1x1"),
    ],
)
def test_bad_pictures_are_one_line_and_write_nothing(tmp_path, capsys, write, message):
    source = tmp_path / "in.png"
    write(source)
    assert upscale(source, "-o", tmp_path / "out.png") == 2
    assert message in one_error_line(capsys)
    assert os.listdir(tmp_path) == ["in.png"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.png", "-o", "out.png"], "missing.png does not exist"),
        (["in.png", "-o", "out"], "suffix"),
        (["in.png", "-o", "out.txt"], "suffix"),
        (["in.png", "-o", "in.png"], "overwrite"),
        (["transparent.png", "-o", "out.jpg"], "transparent"),
        (["empty", "-o", "out"], "no pictures"),
        (["in.png", "-o", "out.png", "--model", "CompVis/ldm-superresolution"], "CompVis/ldm-super-resolution-4x"),
        (["in.png", "-o", "out.png", "--model", "./nowhere"], "nowhere"),
        (["in.png", "-o", "out.png", "--seed", str(2**70)], "seed"),
        (["in.png", "-o", "out.png", "--eta", "7"], "7"),
        (["in.png", "-o", "out.png", "--steps", "0"], "0"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in.png")
    picture(tmp_path / "transparent.png", mode="RGBA")
    (tmp_path / "empty").mkdir()
    before = sorted(os.listdir(tmp_path))
    assert main(["upscale", "--steps", "2", *arguments]) == 2
    assert message in one_error_line(capsys)
    assert sorted(os.listdir(tmp_path)) == before


def test_help_does_not_wait_for_paddle():
    code = "import sys, ppdiffusers.cli.main as m\ntry: m.main(['upscale', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
