"""`ppdiffusers upscale`: what is read, where results go, and what a user is told. A stub stands for the model, but for
the last tests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stub_pipeline import Loader, upscale

from ppdiffusers.cli.main import main
from ppdiffusers.pictures import Document
from ppdiffusers.pictures.resampling import area_resize


def picture(file, size=(6, 4), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert(mode).save(file)
    return file


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Where results go


@pytest.mark.parametrize(
    "inputs, options, results",
    [
        (["a.png"], [], ["a-4x.png"]),
        (["sub/a.JPG"], [], ["sub/a-4x.JPG"]),
        (["a.png"], ["--scale", "2"], ["a-2x.png"]),
        (["a.png"], ["--scale", "1.5", "--suffix", "_big", "--ext", "webp"], ["a_big.webp"]),
        (["a.png"], ["-o", "b.tif"], ["b.tif"]),
        (["a.png"], ["-o", "new/"], ["new/a.png"]),
        (["a.png"], ["-o", "new"], ["new/a.png"]),
        (["a.png"], ["-o", "new/deep/b.png"], ["new/deep/b.png"]),
        (["a.png", "sub/a.JPG"], ["-o", "new.folder"], ["new.folder/a.JPG", "new.folder/a.png"]),
        (["a.png", "sub/a.JPG"], ["-o", "new", "--ext", ".png"], ["new/a-JPG.png", "new/a.png"]),
        (["a.png", "a.png", "./a.png"], [], ["a-4x.png"]),
        (["sub"], [], ["sub/a-4x.JPG", "sub/b-4x.png"]),
        (["sub"], ["-o", "out"], ["out/a.JPG", "out/b.png"]),
        (["sub"], ["-o", "out", "--suffix", "-4x"], ["out/a-4x.JPG", "out/b-4x.png"]),
        (["sub"], ["-o", "sub/out", "-r"], ["sub/out/a.JPG", "sub/out/b.png", "sub/out/in/c.gif"]),
        (["sub/*"], ["--ext", "png"], ["sub/a-4x.png", "sub/b-4x.png"]),
        (["**/*.gif"], [], ["sub/in/c-4x.gif"]),
        (["sub"], ["-r", "-o", "{number:02}-{folder}-{name}_{scale}{ext}"],
         ["01-.-a_4.JPG", "02-.-b_4.png", "03-in-c_4.gif"]),
        (["noending"], [], ["noending-4x.webp"]),
        (["icon.ico"], [], ["icon-4x.png"]),
    ],
)  # fmt: skip
def test_results(here, inputs, options, results):
    picture(here / "a.png")
    picture(here / "sub" / "a.JPG")
    picture(here / "sub" / "b.png")
    picture(here / "sub" / "in" / "c.gif")
    picture(here / "sub" / ".hidden.png")
    picture(here / "icon.ico", (16, 16))
    Image.new("RGB", (4, 4)).save(here / "noending", "WEBP")
    (here / "sub" / "notes.txt").write_text("not a picture")
    before = files(here)
    assert upscale(Loader(), *inputs, *options) == 0
    assert sorted(set(files(here)) - set(before)) == sorted(results)


def test_results_are_not_made_larger_again(here):
    picture(here / "in" / "a.png")
    for _ in range(2):
        assert upscale(Loader(), "in") == 0
        assert files(here) == ["in/a-4x.png", "in/a.png"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.png"], "missing.png does not exist"),
        (["no*.png"], "no picture fits no*.png"),
        (["empty"], "empty holds no pictures"),
        (["outer"], "--recursive"),
        (["a.png", "-o", "out.txt"], "suffix"),
        (["a.png", "--ext", "svg"], "--ext svg"),
        (["a.png", "-o", "a.png"], "overwrite the input a.png"),
        (["a.png", "-o", "./empty/../a.png", "--overwrite"], "overwrite the input a.png"),
        (["a.png", "b.png", "-o", "one.png"], "give a folder"),
        (["a.png", "-o", "taken.png"], "--overwrite"),
        (["a.png", "-o", "folder{ext}"], "folder.png is a folder"),
        (["a.png", "-o", "b.png/c.png"], "b.png is a file"),
        (["a.png", "-o", "{what}.png"], "no {what}"),
        (["a.png", "-o", "{name.__class__}.png"], "{name.__class__}"),
        (["a.png", "-o", "{name"], "template"),
        (["a.png", "-o", "{name}"], "end it in {ext}"),
        (["a.png", "b.png", "-o", "{scale}.png"], "both become"),
        (["a.png", "--suffix", "x" * 300], "255 bytes"),
        (["ftp://host/a.png"], "no http or https"),
        (["http://[::1/a.png"], "no http or https"),
        (["http://host:99999/a.png"], "no http or https"),
        (["a.png", "b.png", "-o", "-"], "one picture"),
        (["a.png", "-o", "-", "--json"], "--json"),
        (["a.png", "--seed", str(2**70)], "seed"),
        (["a.png", "--eta", "7"], "'7'"),
        (["a.png", "--steps", "0"], "'0'"),
        (["a.png", "--scale", "5"], "'5'"),
        (["a.png", "--jpeg-quality", "101"], "'101'"),
        (["a.png", "--overwrite", "--skip-existing"], "not allowed with"),
        ([], "INPUT"),
    ],
)
def test_bad_arguments_are_one_line_before_any_work(here, capsys, arguments, message):
    for name in ("a.png", "b.png", "taken.png", "outer/in/c.png"):
        picture(here / name)
    (here / "empty").mkdir()
    (here / "folder.png" / "full").mkdir(parents=True)
    before, loader = files(here), Loader()
    assert upscale(loader, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ppdiffusers: error: ") and message in line
    assert files(here) == before and loader.count == 0


def test_an_unwritable_folder_is_noticed_before_the_work(here, capsys, monkeypatch):
    picture(here / "a.png")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and "locked" not in str(path))
    (here / "locked").mkdir()
    loader = Loader()
    assert upscale(loader, "a.png", "-o", "locked/deep/") == 2
    assert "locked cannot be written" in capsys.readouterr().err and loader.count == 0


# Results that are there


def test_what_is_there_stays_unless_asked(here, capsys):
    for name in ("a", "b"):
        picture(here / f"{name}.png")
    (here / "a-4x.png").write_text("mine")
    assert upscale(Loader(), "a.png", "b.png") == 0
    assert "1 done, 1 there already" in capsys.readouterr().err
    assert (here / "a-4x.png").read_text() == "mine" and (here / "b-4x.png").exists()
    assert upscale(Loader(), "a.png") == 2  # of one picture, the user decides
    loader = Loader()
    assert upscale(loader, "a.png", "--skip-existing") == 0 and loader.count == 0
    assert (here / "a-4x.png").read_text() == "mine"
    assert upscale(Loader(), "a.png", "b.png", "--overwrite") == 0
    with Image.open(here / "a-4x.png") as image:
        assert image.size == (24, 16)


def test_a_result_that_appears_meanwhile_stays(here, capsys):
    picture(here / "a.png")

    class Slow(Loader):
        def __call__(self, args):
            (here / "a-4x.png").write_text("another process was faster")
            return super().__call__(args)

    assert upscale(Slow(), "a.png") == 1
    assert "appeared meanwhile" in capsys.readouterr().err
    assert (here / "a-4x.png").read_text() == "another process was faster"
    assert files(here) == ["a-4x.png", "a.png"]


# Failures


JUNK = {
    "empty.png": b"",
    "text.jpg": b"hello",
    "svg.png": b"<?xml version='1.0'?><svg><image href='/etc/passwd'/></svg>",
    "page.webp": b"<!DOCTYPE html><html>",
    "archive.png": b"PK\x03\x04" + bytes(50),
    "script.jpg": b"%!PS-Adobe-3.0 EPSF\n(/etc/passwd) (r) file",
    "bomb.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\2\0\0\0" + b"\x9b\xfa\x1c\xd6",
    "bomb.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;",
}


def write_junk(folder):
    for name, data in JUNK.items():
        (folder / name).write_bytes(data)
    data = picture(folder / "cut.png", (64, 64)).read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    return {*JUNK, "cut.png", "circle.png", "dangling.png"}


@pytest.mark.parametrize("name", sorted([*JUNK, "cut.png", "circle.png", "dangling.png"]))
def test_a_bad_picture_is_one_line_and_writes_nothing(here, capsys, name):
    write_junk(here)
    before, loader = files(here), Loader()
    assert upscale(loader, name) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ppdiffusers: error: ") and name in line
    assert files(here) == before and loader.count == 0


def test_failures_are_isolated_and_listed(here, capsys):
    junk = write_junk(here)
    good = [picture(here / f"good{i}.png").name for i in range(3)]
    loader = Loader()
    assert upscale(loader, ".", "--json") == 1
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert {row["input"] for row in rows if row["status"] == "failed"} == junk
    done = {row["input"]: row for row in rows if row["status"] == "done"}
    assert sorted(done) == good and done["good0.png"]["result_size"] == [24, 16]
    assert loader.count == 1
    last = said.err.splitlines()[-1]
    assert all(name in last for name in junk)


def test_what_the_pipeline_raises_is_isolated_too(here, capsys):
    class Faulty(Loader):
        def __call__(self, args):
            pipeline, steps, options = super().__call__(args)
            stream = pipeline.stream

            def broken(image, **options):
                if image.shape[0] == 5:
                    raise MemoryError("no memory for this one")
                return stream(image, **options)

            pipeline.stream = broken
            return pipeline, steps, options

    for name, size in (("a.png", (4, 4)), ("b.png", (4, 5)), ("c.png", (4, 6))):
        picture(here / name, size)
    assert upscale(Faulty(), "a.png", "b.png", "c.png") == 1
    assert "no memory for this one" in capsys.readouterr().err
    assert files(here) == ["a-4x.png", "a.png", "b.png", "c-4x.png", "c.png"]


def test_a_full_disk_ends_the_run(here, capsys, monkeypatch):
    import errno

    for name in ("a.png", "b.png", "c.png"):
        picture(here / name)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ppdiffusers.cli.saving.write", full)
    loader = Loader()
    assert upscale(loader, "a.png", "b.png", "c.png") == 1
    assert capsys.readouterr().err.count("No space left") == 1
    assert files(here) == ["a.png", "b.png", "c.png"]


def test_nothing_that_a_terminal_obeys_is_printed(here, capsys):
    (here / "in").mkdir()
    picture(here / "in" / "a\x1b]0;title\x07.png")
    (here / "in" / "b\x1b[2J.png").write_bytes(b"")
    assert upscale(Loader(), "in", "-v") == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err.split("Traceback")[0]


def test_links_to_folders_are_not_followed(here, capsys):
    picture(here / "in" / "a.png")
    (here / "in" / "loop").symlink_to(here / "in")
    picture(here / "elsewhere" / "secret.png")
    (here / "in" / "away").symlink_to(here / "elsewhere")
    assert upscale(Loader(), "in", "-r", "-o", "out", "-v") == 0
    assert files(here / "out") == ["a.png"]
    assert "not followed" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_with_a_name_does_not_hang(here, capsys):
    os.mkfifo(here / "pipe.png")
    assert upscale(Loader(), "pipe.png") == 1
    assert "no regular file" in capsys.readouterr().err


def test_unicode_and_odd_names(here):
    names = ["松 ü.png", "a'b\"c.png", "-dash.png", "a{b}.png", "[x].png", "new\nline.png"]
    for name in names:
        picture(here / "in" / name)
    assert upscale(Loader(), "in", "-o", "out") == 0
    assert files(here / "out") == sorted(names)
    assert upscale(Loader(), "in/[x].png") == 0


# Standard input and output, addresses


def run_python(code, *arguments, **options):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment, timeout=300, **options)


WITH_STUB = "import sys; from stub_pipeline import *; sys.exit(upscale(Loader(), *sys.argv[1:]))"


@pytest.mark.parametrize(
    "options, kind", [([], "JPEG"), (["--ext", "tif"], "TIFF"), (["-o", "-", "--ext", "gif"], "GIF")]
)
def test_standard_input_and_output(here, options, kind):
    import io

    data = picture(here / "a.jpg", (10, 6)).read_bytes()
    done = run_python(WITH_STUB, "-", *options, input=data)
    assert done.returncode == 0, done.stderr
    image = Image.open(io.BytesIO(done.stdout))
    assert image.size == (40, 24)
    assert image.format == (kind if options else "PNG")
    assert b"seed" in done.stderr


def test_standard_input_to_a_file_and_a_file_to_standard_output(here):
    data = picture(here / "a.png").read_bytes()
    assert run_python(WITH_STUB, "-", "-o", "b.png", input=data).returncode == 0
    assert Document(here / "b.png").width == 24
    done = run_python(WITH_STUB, "a.png", "-o", "-")
    (here / "c.png").write_bytes(done.stdout)
    assert Document(here / "c.png").height == 16


def test_standard_input_that_is_no_picture(here):
    done = run_python(WITH_STUB, "-", input=b"hello")
    assert done.returncode == 1 and not done.stdout and b"standard input is not a picture" in done.stderr


# Options


@pytest.mark.parametrize("scale", [1, 1.5, 2, 3, 3.7, 4])
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (257, 3)])
def test_scale_is_exact_and_averages_areas(here, scale, size):
    picture(here / "a.png", size)
    assert upscale(Loader(), "a.png", "--scale", scale, "-o", "b.png") == 0
    result = Document(here / "b.png").only().pixels
    assert result.shape[:2] == (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    before = Document(here / "a.png").only().pixels
    if scale == 1:
        np.testing.assert_array_equal(result, before)
    if min(size) > 1:
        assert result.mean() == pytest.approx(before.mean(), abs=1 if scale == round(scale) else 6)


@pytest.mark.parametrize(
    "shape, target", [((12, 8, 3), (5, 3)), ((16, 16, 4), (6, 16)), ((5, 7, 1), (5, 2)), ((4, 4, 2), (1, 1))]
)
def test_area_resize_against_a_slow_formula(shape, target):
    values = np.random.default_rng(0).random(shape)
    weights = []
    for before, after in zip(shape, target):
        edges = np.arange(after + 1) * before / after
        covered = [[max(0, min(b, i + 1) - max(a, i)) for i in range(before)] for a, b in zip(edges, edges[1:])]
        weights.append(np.array(covered) * after / before)
    wanted = np.einsum("ai,bj,ijc->abc", *weights, values)
    if shape[2] in (2, 4):
        alpha = values[..., -1:]
        colours = np.einsum("ai,bj,ijc->abc", *weights, values[..., :-1] * alpha)
        mean = np.einsum("ai,bj,ijc->abc", *weights, alpha)
        wanted = np.concatenate([colours / mean, mean], axis=-1)
    np.testing.assert_allclose(area_resize(values, *target), wanted, atol=1e-5)


def test_dry_run_does_nothing(here, capsys):
    picture(here / "a.png")
    picture(here / "b.png")
    (here / "b-4x.png").write_text("mine")
    loader = Loader()
    assert upscale(loader, "a.png", "b.png", "--dry-run") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["a.png -> a-4x.png"] and "1 to do, 1 there already" in said.err
    assert loader.count == 0 and not (here / "a-4x.png").exists()


def test_json_tells_what_quiet_hides(here, capsys):
    picture(here / "a.png")
    assert upscale(Loader(), "a.png", "--json", "-q", "--seed", "9") == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    wanted = {"status": "done", "input": "a.png", "output": "a-4x.png", "seed": 9, "size": [6, 4], "frames": 1}
    assert wanted.items() <= row.items() and row["seconds"] >= 0
    assert upscale(Loader(), "a.png", "-q", "--overwrite") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_verbose_shows_where_an_error_comes_from(here, capsys):
    (here / "a.png").write_bytes(b"hello")
    assert upscale(Loader(), "a.png", "-v") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_picture_does_not_depend_on_its_neighbours(here):
    for name in ("a.png", "b.png"):
        picture(here / name)
    loader = Loader()
    assert upscale(loader, "a.png", "b.png", "--seed", "4") == 0
    (_, first), (_, second) = loader.pipeline.calls
    np.testing.assert_array_equal(first, second)


# With the embedded model


def real(*arguments):
    return main(["upscale", *map(str, arguments), "--steps", "2"])


def test_the_embedded_model(here, capsys):
    picture(here / "a.png")
    assert real("a.png", "--seed", 3) == 0
    assert capsys.readouterr().out == "a-4x.png: 6x4 -> 24x16, seed 3\n"
    with Image.open("a-4x.png") as image:
        assert image.size == (24, 16)
        assert image.text["ppdiffusers:seed"] == "3" and image.text["ppdiffusers:steps"] == "2"
        assert re.fullmatch("[0-9a-f]{12}", image.text["ppdiffusers:revision"])
    first = (here / "a-4x.png").read_bytes()
    assert real("a.png", "--seed", 3, "--overwrite") == 0
    assert (here / "a-4x.png").read_bytes() == first


def test_the_drawn_seed_is_printed_and_repeats_the_picture(here, capsys):
    picture(here / "in.png")
    real("in.png", "-o", "a.png", "--eta", 1)
    seed = capsys.readouterr().out.split()[-1]
    real("in.png", "-o", "b.png", "--eta", 1, "--seed", seed)
    a, b = (np.asarray(Image.open(name)) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a, b)


def test_the_embedded_model_on_16_bits_one_pixel_and_an_animation(here):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6)).astype(np.uint16)
    Image.fromarray(deep).save(here / "deep.png")
    picture(here / "one.png", (1, 1))
    frame = Image.effect_noise((64, 48), 60)
    still = frame.copy()
    frame.putpixel((63, 47), 7)  # far from what is compared; Pillow would join frames that are equal
    frame.save(here / "move.gif", save_all=True, append_images=[still], duration=[50, 60], loop=0)
    assert real("deep.png", "one.png", "move.gif", "--seed", 1) == 0
    result = Document(here / "deep-4x.png").only().pixels
    assert result.shape == (20, 24, 1) and len(np.unique(result & 255)) > 100  # the low bytes are used
    assert Document(here / "one-4x.png").only().pixels.shape == (4, 4, 3)
    frames = [frame.pixels for frame in Document(here / "move-4x.gif").frames()]
    assert [frame.shape[:2] for frame in frames] == [(192, 256)] * 2
    assert np.abs(frames[0][:96, :128].astype(int) - frames[1][:96, :128]).mean() < 2  # what stands still stays


@pytest.mark.parametrize(
    "model, message", [("CompVis/ldm-superresolution", "CompVis/ldm-super-resolution-4x"), ("./nowhere", "nowhere")]
)
def test_a_model_that_is_not_there(here, capsys, model, message):
    picture(here / "a.png")
    assert real("a.png", "--model", model) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and files(here) == ["a.png"]
