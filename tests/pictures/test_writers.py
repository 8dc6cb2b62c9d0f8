"""The writers of PNG, TIFF and GIF and of tags: what other readers make of their files."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from ppdiffusers.pictures import Frame, ImageError, Metadata, format_of, write_document
from ppdiffusers.pictures.ifd import EXIF_IFD, HEADER, pack_ifd
from ppdiffusers.pictures.png import filtered


def written(suffix, *frames, **shape):
    file = io.BytesIO()
    write_document(file, format_of(f"a.{suffix}"), iter(frames), count=len(frames), **shape)
    file.seek(0)
    return file


def smooth(height, width, channels):
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 90 * np.sin(x / (9 + i)) * np.cos(y / (7 + i)) for i in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("step", [1, 2, 3, 6, 8])
def test_filters_are_undone_by_the_formulas_of_the_standard(step):
    rng = np.random.default_rng(step)
    rows = np.cumsum(rng.integers(0, 3, (9, 8 * step)), axis=1).astype(np.uint8)
    rows[3:6] = rng.integers(0, 256, (3, 8 * step))
    rows[6:] = rows[5]
    above = rng.integers(0, 256, 8 * step).astype(np.uint8)
    result = filtered(rows, above, step)
    assert len(set(result[:, 0])) > 1
    for kind_and_row, wanted in zip(result, rows):
        kind, row, undone = kind_and_row[0], kind_and_row[1:], []
        for i, value in enumerate(row):
            a = undone[i - step] if i >= step else 0
            b, c = int(above[i]), int(above[i - step]) if i >= step else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            undone.append((int(value) + {0: 0, 1: a, 2: b, 3: (a + b) // 2, 4: paeth}[int(kind)]) % 256)
        np.testing.assert_array_equal(undone, wanted)
        above = wanted


def test_a_png_is_hardly_larger_than_pillows():
    pixels = smooth(300, 400, 3) + np.random.default_rng(0).integers(0, 3, (300, 400, 3)).astype(np.uint8)
    theirs = io.BytesIO()
    Image.fromarray(pixels).save(theirs, "PNG")
    assert len(written("png", Frame(pixels, Metadata())).getvalue()) < 1.05 * len(theirs.getvalue())


def test_rows_are_written_in_blocks(monkeypatch):
    monkeypatch.setattr("ppdiffusers.pictures.png._BLOCK", 2000)
    monkeypatch.setattr("ppdiffusers.pictures.tiff._STRIP", 2000)
    pixels = smooth(70, 50, 3)
    for suffix in ("png", "tif"):
        np.testing.assert_array_equal(np.asarray(Image.open(written(suffix, Frame(pixels, Metadata())))), pixels)


def test_a_tiff_says_what_its_pages_are():
    with Image.open(written("tif", *[Frame(smooth(6, 5, n), Metadata(dpi=(300, 150))) for n in (1, 2, 3, 4)])) as image:
        assert image.n_frames == 4
        for page, mode in enumerate(("L", "LA", "RGB", "RGBA")):
            image.seek(page)
            assert image.mode == mode and image.info["dpi"] == (300, 150)
            np.testing.assert_array_equal(np.asarray(image).reshape(6, 5, page + 1), smooth(6, 5, page + 1))


def test_a_tiff_beyond_its_offsets_is_an_error():
    class Huge(io.BytesIO):
        def tell(self):
            return super().tell() + (1 << 32) if super().tell() > 8 else super().tell()

    with pytest.raises(ImageError, match="4 GB"):
        write_document(Huge(), format_of("a.tif"), iter([Frame(smooth(6, 5, 1), Metadata())]))


@pytest.mark.parametrize("suffix, side", [("webp", 16_384), ("jpg", 65_501), ("gif", 65_536)])
def test_sides_that_a_format_does_not_have(suffix, side):
    with pytest.raises(ImageError, match=f"{side}x1"):
        written(suffix, Frame(np.zeros((1, side, 1), np.uint8), Metadata()))


def test_tags_of_every_type():
    tags = {
        0x124: -7, 0x100: 70_000, 0x101: 7, 0x102: (8, 8, 8), 0x10E: "words", 0x13B: "松", 0x11A: 72.5,
        0x2BC: b"\1\2\3\4\5", 0x9C9B: b"", 0x1234: object(), 0x1235: (), 0x1236: float("nan"),
        EXIF_IFD: {0x9204: -0.5, 0x9000: b"0232", 0x8827: 100, 0x829A: (0.25, 3.0), 0xA005: {1: "R98"}},
    }  # fmt: skip
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + HEADER + pack_ifd(tags, 8))
    assert exif[0x100] == 70_000 and exif[0x124] == -7 and exif[0x101] == 7 and exif[0x102] == (8, 8, 8)
    assert exif[0x10E] == "words" and exif[0x13B].encode("latin-1").decode() == "松"
    assert exif[0x11A] == 72.5 and exif[0x2BC] == b"\1\2\3\4\5"
    assert not {0x1234, 0x1235, 0x1236} & set(exif)
    inner = exif.get_ifd(EXIF_IFD)
    assert inner[0x9204] == -0.5 and inner[0x9000] == b"0232" and inner[0x8827] == 100 and inner[0x829A] == (0.25, 3.0)
    assert exif.get_ifd(0xA005)[1] == "R98"


def test_exif_that_is_too_long_for_a_jpeg_loses_the_makers_note_first():
    exif = {0x10F: "Maker", EXIF_IFD: {0x927C: bytes(70_000), 0x8827: 100}}
    with Image.open(written("jpg", Frame(smooth(4, 4, 3), Metadata(exif)))) as image:
        assert image.getexif()[0x10F] == "Maker"
        assert 0x927C not in image.getexif().get_ifd(EXIF_IFD) and image.getexif().get_ifd(EXIF_IFD)[0x8827] == 100


def test_durations_of_a_gif_do_not_drift():
    frames = [Frame(np.full((2, 2, 1), i, np.uint8), Metadata(), 1000 / 30) for i in range(60)]
    with Image.open(written("gif", *frames, loop=0)) as image:
        total = 0
        for number in range(60):
            image.seek(number)
            total += image.info["duration"]
    assert total == 2000


def test_a_gif_of_many_colours_and_transparency():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 4)).astype(np.uint8)
    with Image.open(written("gif", Frame(pixels, Metadata()))) as image:
        result = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(result[..., 3] == 255, pixels[..., 3] >= 128)


def test_text_chunks_follow_the_standard():
    text = {"Title": "x" * 3000, " two  words ": "ü", "bad\0key" + "k" * 100: "a\0b", "Title2": "松"}
    file = written("png", Frame(smooth(4, 4, 3), Metadata(text=text)))
    with Image.open(file) as image:
        image.load()
        assert image.text["Title"] == "x" * 3000 and image.text["two words"] == "ü" and image.text["Title2"] == "松"
        assert all(len(key) <= 79 for key in image.text)
    data, place, kinds = file.getvalue(), 8, []
    while place < len(data):  # every chunk is whole
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == int.from_bytes(data[place + 8 + length : place + 12 + length], "big")
        kinds.append(body[:4])
        place += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND" and {b"zTXt", b"tEXt", b"iTXt"} <= set(kinds)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_can_be_written_while_its_rows_are_computed(suffix):
    class Rows:
        shape, dtype = (3000, 700, 3), np.dtype(np.uint8)
        largest = end = 0

        def __getitem__(self, rows):
            assert rows.start == self.end
            self.end = min(rows.stop, 3000)
            self.largest = max(self.largest, self.end - rows.start)
            return np.broadcast_to(
                np.arange(rows.start, self.end)[:, None, None] % 256, (self.end - rows.start, 700, 3)
            ).astype(np.uint8)

    rows = Rows()
    with Image.open(written(suffix, Frame(rows, Metadata()))) as image:
        np.testing.assert_array_equal(np.asarray(image)[:, 3, 1], np.arange(3000) % 256)
    assert rows.end == 3000 and rows.largest < 1000
