"""Reading files: 16 bits in every arrangement, hostile and damaged ones, limits."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ppdiffusers.pictures.reading as reading
from ppdiffusers.pictures import Document, Frame, ImageError, Metadata, format_of, open_image, write_document

ROOT = Path(__file__).parents[2]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header, data, *chunks):
    rest = b"".join(chunk(*item) for item in chunks)
    packed = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + rest + packed + chunk(b"IEND", b"")


def values(channels, height=5, width=7):
    return np.random.default_rng(channels).integers(0, 65536, (height, width, channels)).astype(np.uint16)


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png(tmp_path, channels, interlaced):
    pixels = values(channels)
    big = pixels.astype(">u2")
    passes = [big[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [big]
    data = b"".join(b"\0" + row.tobytes() for part in passes for row in part if row.size)
    header = (7, 5, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, int(interlaced))
    (tmp_path / "a.png").write_bytes(png(header, data))
    document = Document(tmp_path / "a.png")
    assert document.bits == 16
    np.testing.assert_array_equal(document.only().pixels, pixels)


def test_16_bit_colour_that_stands_for_transparency(tmp_path):
    pixels = values(3)
    pixels[1, 2] = pixels[0, 0]
    pixels[3, 3] = pixels[0, 0] ^ 1  # another colour, with the same high bytes
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    key = pixels[0, 0].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png((7, 5, 16, 2, 0, 0, 0), data, (b"tRNS", key)))
    result = Document(tmp_path / "a.png").only().pixels
    np.testing.assert_array_equal(result[..., :3], pixels)
    clear = {(0, 0), (1, 2)}
    assert {tuple(place) for place in np.argwhere(result[..., 3] == 0)} == clear
    assert (result[..., 3] == 65535).sum() == 35 - len(clear)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_of_both_orders(tmp_path, order, channels):
    (tmp_path / "a.tif").write_bytes(tiff(values(channels), order))
    document = Document(tmp_path / "a.tif")
    assert document.bits == 16
    np.testing.assert_array_equal(document.only().pixels, values(channels))


def tiff(pixels, order):
    """Uncompressed, in one strip."""
    height, width, channels = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, None), (259, 3, 1, 1),
            (262, 3, 1, 1 if channels == 1 else 2), (273, 4, 1, 200), (277, 3, 1, channels), (278, 4, 1, height),
            (279, 4, 1, len(data))]  # fmt: skip
    tags += [(338, 3, 1, 2)] if channels == 4 else []
    entries = b""
    for tag, kind, count, value in tags:
        if value is None:
            packed = bits.ljust(4, b"\0") if len(bits) <= 4 else struct.pack(f"{order}I", 180)
        else:
            packed = struct.pack(f"{order}I" if kind == 4 else f"{order}Hxx", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return (head + entries + b"\0" * 4).ljust(180, b"\0") + bits.ljust(20, b"\0") + data


def test_16_bits_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    file = io.BytesIO()
    write_document(file, format_of("a.png"), iter([Frame(values(3), Metadata())]))
    data = file.getvalue()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + data[33:])
    np.testing.assert_array_equal(Document(tmp_path / "a.png").only().pixels, np.rot90(values(3), -1))


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.png", b"", "0 bytes"),
        ("a.png", b"\xef\xbb\xbf<svg onload='x'/>", "SVG"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", "SVG"),
        ("a.jpg", b"\x1f\x8b" + bytes(20), "gzip"),
        ("a.eps", b"%!PS-Adobe", "PostScript"),
        ("a.pdf", b"%PDF-1.7", "PDF"),
        ("a.psd", b"8BPS" + bytes(30), "Photoshop"),
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(30), "HEIC"),
        ("a.png", b"PK\3\4" + bytes(30), "archive"),
        ("a.png", b"<html>", "web page"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "damaged"),
        ("a.tga", b"\0\0\2" + bytes(40), "damaged"),
    ],
)
def test_what_is_no_picture(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=message) as raised:
        Document(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_the_first_bytes_decide_whatever_follows(tmp_path):
    """Files that are several things at once are read as the one thing that they begin as, and nothing else is kept."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 99, 199)).save(file, "PNG")
    tail = b"PK\3\4<script>alert(1)</script>%PDF-1.7" + bytes(50)
    (tmp_path / "a.gif").write_bytes(file.getvalue() + tail)
    document = Document(tmp_path / "a.gif")
    assert document.format.name == "PNG"
    result = io.BytesIO()
    write_document(result, document.format, document.frames())
    assert b"script" not in result.getvalue()


def bomb_png(size=60_000):
    return png((size, size, 8, 2, 0, 0, 0), b"")


def bomb_text():
    text = chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(200 << 20), 9))
    return png((1, 1, 8, 0, 0, 0, 0), b"\0\0")[:33] + text + png((1, 1, 8, 0, 0, 0, 0), b"\0\0")[33:]


def bomb_profile():
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200 << 20), 9))
    return png((1, 1, 8, 0, 0, 0, 0), b"\0\0")[:33] + profile + png((1, 1, 8, 0, 0, 0, 0), b"\0\0")[33:]


def bomb_gif():
    """Ten thousand frames of 5000x5000, of a few bytes each."""
    frame = b",\0\0\0\0" + struct.pack("<HH", 1, 1) + b"\0\2\2D\1\0"
    head = b"GIF89a" + struct.pack("<HH", 5000, 5000) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    return head + frame * 10_000 + b";"


def bomb_tiff():
    """A page whose next page is itself."""
    data = bytearray(tiff(values(1), "<"))
    data[8 + 2 + 12 * 9 : 8 + 2 + 12 * 9 + 4] = struct.pack("<I", 8)
    return bytes(data)


def bomb_pages():
    """Pages of the same 25 megapixels, 200 times."""
    head = b"II*\0" + struct.pack("<I", 8)
    data = head
    for i in range(200):
        tags = [(256, 4, 1, 5000), (257, 4, 1, 5000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
                (277, 3, 1, 1), (278, 4, 1, 5000), (279, 4, 1, 25_000_000)]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        data += struct.pack("<H", len(tags)) + entries
        data += struct.pack("<I", len(data) + 4 if i < 199 else 0)
    return data


def bomb_apng():
    return png((5000, 5000, 8, 0, 0, 0, 0), b"", (b"acTL", struct.pack(">II", 0x7FFFFFFF, 0)))


BOMBS = {"png": bomb_png, "text.png": bomb_text, "icc.png": bomb_profile, "gif": bomb_gif, "tif": bomb_tiff,
         "pages.tif": bomb_pages, "apng": bomb_apng}  # fmt: skip
READ = """
import resource, sys, time
from ppdiffusers.pictures import Document, ImageError
import numpy, PIL.ImageCms
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    frames = 0
    for frame in Document(sys.argv[1]).frames():
        frames += 1
    print(frames, "frames")
except ImageError as error:
    print("refused:", error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, int(time.process_time() - begun))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_neither_memory_nor_time(tmp_path, name):
    file = tmp_path / f"a.{name}"
    file.write_bytes(BOMBS[name]())
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said, figures = done.stdout.splitlines()
    memory, seconds = map(int, figures.split())
    assert said.startswith("refused") or name in ("tif", "text.png", "icc.png")
    assert memory < 250 and seconds < 20


def test_pages_that_are_larger_than_the_first(tmp_path, monkeypatch):
    pages = [Frame(np.zeros((side, side, 1), np.uint8), Metadata()) for side in (2, 30, 20, 25)]
    with open(tmp_path / "a.tif", "wb") as file:
        write_document(file, format_of("a.tif"), iter(pages), count=4)
    monkeypatch.setattr(reading, "MAX_PIXELS_OF_ALL", 1500)
    with pytest.raises(ImageError, match="in all"):
        list(Document(tmp_path / "a.tif").frames())
    with pytest.raises(ImageError, match="30x30"):
        list(Document(tmp_path / "a.tif", max_pixels=800).frames())


def test_a_file_that_is_read_whole_is_not_too_large(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.webp")
    monkeypatch.setattr(reading, "MAX_BYTES", 50)
    with pytest.raises(ImageError, match="more than"):
        Document(tmp_path / "a.webp")


def test_metadata_that_is_damaged_is_no_reason_to_refuse_pixels(tmp_path):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x10F], exif[0x112] = "Maker", 1
    Image.new("RGB", (4, 4), (9, 99, 199)).save(file, "JPEG", exif=exif, icc_profile=b"not a profile" * 20)
    data = bytearray(file.getvalue())
    place = data.index(b"Exif\0\0") + 14
    data[place : place + 2] = b"\xff\xff"  # 65535 entries
    (tmp_path / "a.jpg").write_bytes(data)
    frame = Document(tmp_path / "a.jpg").only()
    assert frame.pixels.shape == (4, 4, 3) and frame.metadata.icc is None


def test_open_image_reads_the_first_picture(tmp_path):
    with Image.new("L", (4, 3), 7) as first:
        first.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (4, 3), 200)])
    assert open_image(tmp_path / "a.gif").convert("L").getpixel((0, 0)) == 7


def test_mutated_files():
    import mutations

    counts, slowest, _ = mutations.run(250, seed=7, patience=60)
    assert counts["refused"] > 100 and counts["written"] > 20 and sum(counts.values()) == 250
    assert slowest < 60


@pytest.mark.slow
def test_a_thousand_mutated_files():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("mutations.py")), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-2]) < 1000
