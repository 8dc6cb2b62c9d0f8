"""What `generate`, `sample`, `inpaint`, `synthesize` and `layout` share: names, files that stay, messages, metadata."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppdiffusers.cli.main import main
from ppdiffusers.pictures import Document, Frame, Metadata, format_of, write_document

PIPELINES = Path(__file__).parents[1] / "pipelines"
NOISE = str(PIPELINES / "golden_text" / "unconditional")
INPAINT = str(PIPELINES / "golden_tasks" / "inpaint")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sample(*arguments):
    return main(["sample", "--model", NOISE, "--steps", "1", *arguments])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "options, results",
    [
        ([], ["sample.png"]),
        (["-o", "new/", "--count", "2"], ["new/sample-1.png", "new/sample-2.png"]),
        (["-o", "new"], ["new/sample.png"]),
        (["-o", "deep/a.webp"], ["deep/a.webp"]),
    ],
)
def test_names(here, options, results):
    assert sample(*options) == 0
    assert names(here) == results


def test_what_is_there_stays_unless_asked(here, capsys):
    (here / "a-1.png").write_text("mine")
    assert sample("-o", "a.png", "--count", "2") == 2
    assert "a-1.png exists; --overwrite" in capsys.readouterr().err and names(here) == ["a-1.png"]
    assert sample("-o", "a.png", "--count", "2", "--skip-existing", "--seed", "5", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["status"] for row in rows] == ["skipped", "done"] and rows[1]["seed"] == 6
    assert (here / "a-1.png").read_text() == "mine"
    assert sample("-o", "a.png", "--count", "2", "--overwrite", "--seed", "5") == 0
    second = (here / "a-2.png").read_bytes()
    assert sample("-o", "alone.png", "--seed", "6") == 0
    assert (here / "alone.png").read_bytes() == second


def test_dry_run_quiet_and_no_metadata(here, capsys):
    assert sample("--dry-run") == 0 and not names(here)
    assert "sample.png" in capsys.readouterr().out
    assert sample("-q", "--no-metadata") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""
    assert (
        Document(here / "sample.png").only().metadata == Metadata()
        and b"tEXt" not in (here / "sample.png").read_bytes()
    )


def test_jpeg_holds_how_a_picture_was_made(here):
    assert sample("-o", "a.jpg", "--seed", "3", "--jpeg-quality", "80") == 0
    assert b'ppdiffusers:seed="3"' in (here / "a.jpg").read_bytes()


def test_inpainting_keeps_bits_metadata_and_what_is_not_masked(here):
    pixels = np.random.default_rng(0).integers(0, 65536, (12, 16, 3)).astype(np.uint16)
    with open("photo.png", "wb") as file:
        metadata = Metadata({0x10F: "Maker"}, dpi=(300.0, 300.0), text={"Title": "words"})
        write_document(file, format_of("a.png"), iter([Frame(pixels, metadata)]))
    mask = np.zeros((12, 16), np.uint8)
    mask[4:8, 4:9] = 255
    Image.fromarray(mask).save("mask.png")
    assert main(["inpaint", "photo.png", "mask.png", "--model", INPAINT, "--steps", "1"]) == 0
    result = Document(here / "photo-inpainted.png").only()
    assert result.pixels.dtype == np.uint16 and result.metadata.exif[0x10F] == "Maker"
    assert result.metadata.dpi == pytest.approx((300, 300), rel=1e-4) and result.metadata.text == {"Title": "words"}
    difference = np.abs(result.pixels.astype(int) - pixels)
    assert difference[mask == 0].max() <= 1 and difference[mask > 0].mean() > 1000


def test_several_frames_are_refused(here, capsys):
    Image.new("L", (16, 12)).save("a.gif", save_all=True, append_images=[Image.new("L", (16, 12), 99)])
    Image.new("L", (16, 12), 255).save("mask.png")
    assert main(["inpaint", "a.gif", "mask.png", "--model", INPAINT]) == 2
    assert "2 frames" in capsys.readouterr().err
