"""The command on pictures of every mode, format, size and with every kind of metadata: exactly four times as large,
with all that the format can hold. A stub enlarges by repetition, so that pixels are known."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, ImageSequence
from stub_pipeline import Loader, upscale

from ppdiffusers.pictures import Document, Frame, Metadata, format_of, write_document

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="1" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/"><exif:PixelXDimension>7</exif:PixelXDimension>'
    b"<tiff:Artist>somebody</tiff:Artist></rdf:Description></rdf:RDF></x:xmpmeta>"
)
SIZES = [(1, 1), (1, 7), (9, 1), (2, 2), (3, 5), (16, 16), (33, 20), (64, 48), (257, 131)]
LOSSLESS = ("png", "tif", "webp", "gif", "bmp", "ppm", "tga")

# suffix, channels, bits; sizes and metadata take turns
KINDS = [
    *[("png", channels, bits) for channels in (1, 2, 3, 4) for bits in (8, 16)],
    *[("tif", channels, bits) for channels in (1, 3, 4) for bits in (8, 16)],
    ("tif", 2, 8),
    *[("jpg", channels, 8) for channels in (1, 3)],
    *[("webp", channels, 8) for channels in (3, 4)],
    *[("gif", channels, 8) for channels in (1, 3, 4)],
    *[("bmp", channels, 8) for channels in (1, 3)],
    *[("ppm", channels, 8) for channels in (1, 3)],
    *[("tga", channels, 8) for channels in (1, 2, 3, 4)],
]
METADATA = ("all", "exif", "none")
CASES = [
    pytest.param(*kind, SIZES[(i * 2 + j * 5) % len(SIZES)], METADATA[(i + j) % 3], id="-".join(map(str, (*kind, j))))
    for i, kind in enumerate(KINDS)
    for j in range(2)
]


def pixels_of(channels, bits, size, few=False):
    """A smooth picture, so that lossy formats keep it; with `few` colours of a palette, and alpha that is 0 or 1."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    planes = [x / max(width, 2), y / max(height, 2), (x + y) / (width + height), (x + 2 * y) / (width + 2 * height)]
    values = np.stack(planes[:channels], axis=-1)
    if few:
        values = np.round(values * 3) / 3
    if few and channels in (2, 4):
        values[..., -1] = (x + y) % 2
    top = 2**bits - 1
    return np.round(values * top).astype(np.uint8 if bits == 8 else np.uint16)


def metadata_of(kind):
    exif = {
        0x10F: "Maker", 0x110: "Camera 7", 0x131: "firmware 1.0", 0x8298: "© somebody",
        0x8769: {0x829A: 0.004, 0x9003: "2020:02:03 04:05:06", 0x9286: b"ASCII\0\0\0words", 0xA002: 7, 0x9204: -0.5},
        0x8825: {1: "N", 2: (47.0, 22.0, 12.5), 3: "E", 4: (8.0, 32.0, 30.25)},
    }  # fmt: skip
    text = {"Title": "a title", "Author": "松 ü", "Comment": "a comment"}
    everything = Metadata(exif, SRGB, (72.0, 72.0), XMP, text)
    return {"none": Metadata(), "exif": Metadata(exif, dpi=(300.0, 150.0)), "all": everything}[kind]


def write(file, frames, **shape):
    with open(file, "wb") as target:
        write_document(target, format_of(file.name), iter(frames), count=len(frames), **shape)
    return file


@pytest.mark.parametrize("suffix, channels, bits, size, kind", CASES)
def test_kept(tmp_path, suffix, channels, bits, size, kind):
    pixels = pixels_of(channels, bits, size, few=suffix == "gif")
    source = write(tmp_path / f"in.{suffix}", [Frame(pixels, metadata_of(kind))])
    assert upscale(Loader(), source, "--seed", 3) == 0
    target = tmp_path / f"in-4x.{suffix}"
    with Image.open(target) as image:
        assert image.size == (4 * size[0], 4 * size[1])
        assert image.format == format_of(target.name).name
    before, after = Document(source).only(), Document(target).only()
    assert after.pixels.dtype == pixels.dtype
    if suffix in ("png", "tif", "jpg", "tga", "gif", "bmp", "ppm"):  # grey stays grey; WebP has none
        assert after.pixels.shape[2] == before.pixels.shape[2]
    wanted = before.pixels.repeat(4, axis=0).repeat(4, axis=1)
    if channels == 4 and suffix == "gif":  # hidden colours are nobody's
        wanted = np.where(wanted[..., 3:] > 0, wanted, after.pixels)
    if channels in (2, 4) and suffix in ("png", "tif", "webp", "tga"):  # what shines through from under transparency
        hidden = wanted[..., -1:] == 0
        wanted = np.where(hidden, np.concatenate([after.pixels[..., :-1], wanted[..., -1:]], axis=-1), wanted)
        tolerance = 0.6 * np.iinfo(pixels.dtype).max  # bleeding changes nearly transparent colours
        partly = wanted[..., -1] < np.iinfo(pixels.dtype).max
        assert np.abs(after.pixels[~partly].astype(int) - wanted[~partly]).max(initial=0) <= 1
        assert np.abs(after.pixels.astype(int) - wanted).max() <= tolerance
        np.testing.assert_array_equal(after.pixels[..., -1], wanted[..., -1])
    else:
        assert np.abs(after.pixels.astype(int) - wanted).max() <= (1 if suffix in LOSSLESS else 12)
    check_metadata(before.metadata, after.metadata, format_of(source.name).holds, size)


def check_metadata(before, after, holds, size):
    if before.dpi is not None:
        assert after.dpi == pytest.approx([4 * value for value in before.dpi], rel=1e-4)
    assert (after.dpi is None) == (before.dpi is None)
    assert after.icc == before.icc
    if "exif" in holds:
        assert dict(after.exif).keys() == dict(before.exif).keys()
        for tag, value in before.exif.items():
            if tag == 0x8769:
                value = {**value, 0xA002: 4 * size[0]}
            assert after.exif[tag] == value
    if before.xmp is not None:
        assert b"<tiff:Artist>somebody</tiff:Artist>" in after.xmp
        assert b'tiff:Orientation="1"' in after.xmp
        assert b"<exif:PixelXDimension>%d<" % (4 * size[0]) in after.xmp
    assert after.text == before.text


def test_there_are_sixty_cases():
    assert len(CASES) >= 60
    assert {size for *_, size, _ in (case.values for case in CASES)} == set(SIZES)


@pytest.mark.skipif(format_of("x.avif") is None, reason="this Pillow writes no AVIF")
@pytest.mark.parametrize("channels", [3, 4])
def test_avif(tmp_path, channels):
    source = write(tmp_path / "in.avif", [Frame(pixels_of(channels, 8, (40, 24)), metadata_of("all"))])
    assert upscale(Loader(), source) == 0
    before, after = Document(source).only(), Document(tmp_path / "in-4x.avif").only()
    assert after.pixels.shape == (96, 160, channels)
    check_metadata(before.metadata, after.metadata, format_of("x.avif").holds, (40, 24))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_is_applied_once_and_the_thumbnail_dropped(tmp_path, orientation, suffix):
    rgb = np.zeros((8, 16, 3), np.uint8)
    rgb[:4, :8] = 255  # white at the top left
    exif = Image.Exif()
    exif[0x112] = orientation
    exif[0x10F] = "Maker"
    data = exif.tobytes()
    if suffix == "jpg":
        data = with_thumbnail(data)
    Image.fromarray(rgb).save(tmp_path / f"in.{suffix}", exif=data, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(tmp_path / f"in.{suffix}") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert upscale(Loader(), tmp_path / f"in.{suffix}") == 0
    target = tmp_path / f"in-4x.{suffix}"
    with Image.open(target) as image:
        result = image.getexif()
        assert result.get(0x112, 1) == 1 and result[0x10F] == "Maker"
        assert not result.get_ifd(1) and b"thumbnail" not in target.read_bytes()
        difference = np.abs(np.asarray(image).astype(int) - upright.repeat(4, axis=0).repeat(4, axis=1))
        assert difference.max() < 40


def test_the_orientation_that_xmp_repeats_is_reset_too(tmp_path):
    xmp = XMP.replace(b'Orientation="1"', b'Orientation="6"')
    source = write(tmp_path / "in.jpg", [Frame(pixels_of(3, 8, (8, 16)), Metadata(xmp=xmp))])
    assert upscale(Loader(), source) == 0
    result = Document(tmp_path / "in-4x.jpg").only()
    assert result.pixels.shape == (32, 64, 3) and b'tiff:Orientation="1"' in result.metadata.xmp


def with_thumbnail(exif):
    """With a second directory, as cameras write it: what a viewer would show of the old picture."""
    head, directory = exif[:6], bytearray(exif[6:])
    endian = "<" if directory[:2] == b"II" else ">"
    first = struct.unpack_from(endian + "I", directory, 4)[0]
    count = struct.unpack_from(endian + "H", directory, first)[0]
    struct.pack_into(endian + "I", directory, first + 2 + 12 * count, len(directory))
    place = len(directory) + 2 + 24 + 4
    entries = struct.pack(endian + "HHHII", 2, 0x201, 4, 1, place) + struct.pack(endian + "HHII", 0x202, 4, 1, 9)
    return head + bytes(directory) + entries + b"\0\0\0\0" + b"thumbnail"


DURATIONS = [70, 130, 40]


def moving(alpha):
    """Three frames of few colours: a square that moves, over nothing or over grey."""
    frames = []
    for i in range(3):
        rgba = np.zeros((12, 20, 4), np.uint8)
        rgba[..., :3] = (90, 120, 150)
        rgba[..., 3] = 0 if alpha else 255
        rgba[3:8, 2 + 5 * i : 7 + 5 * i] = (200, 30 + i, 60, 255)
        frames.append(Frame(rgba if alpha else rgba[..., :3], Metadata(), DURATIONS[i]))
    return frames


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("loop", [0, 3])
@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations(tmp_path, suffix, loop, alpha):
    source = write(tmp_path / f"in.{suffix}", moving(alpha), loop=loop)
    loader = Loader()
    assert upscale(loader, source, "--seed", 1) == 0
    assert len({noise.tobytes() for _, noise in loader.pipeline.calls}) == 1  # one noise for all frames
    with Image.open(tmp_path / f"in-4x.{suffix}") as image:
        assert image.size == (80, 48) and image.n_frames == 3 and image.info["loop"] == loop
        durations, shown = [], []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            durations.append(frame.info["duration"])
            shown.append(np.asarray(frame.convert("RGBA")))
    assert durations == DURATIONS
    for frame, result in zip(moving(alpha), shown):
        wanted = frame.pixels.repeat(4, axis=0).repeat(4, axis=1)
        opaque = wanted[..., 3] == 255 if alpha else np.ones(wanted.shape[:2], bool)
        np.testing.assert_array_equal(result[..., 3] == 255, opaque)
        assert np.abs(result[opaque][:, :3].astype(int) - wanted[opaque][:, :3]).max() <= 4


@pytest.mark.parametrize(
    "before, after", [("gif", "webp"), ("gif", "png"), ("webp", "gif"), ("png", "webp"), ("gif", "tif")]
)
def test_animations_change_their_format(tmp_path, before, after):
    source = write(tmp_path / f"in.{before}", moving(True), loop=2)
    assert upscale(Loader(), source, "-o", tmp_path / f"out.{after}") == 0
    document = Document(tmp_path / f"out.{after}")
    assert document.count == 3 and document.loop == (None if after == "tif" else 2)
    durations = [frame.duration for frame in document.frames()]
    assert durations == ([0.0] * 3 if after == "tif" else DURATIONS)


def test_a_gif_without_a_loop_runs_once(tmp_path):
    source = write(tmp_path / "in.gif", moving(False), loop=None)
    assert b"NETSCAPE" not in source.read_bytes()
    assert upscale(Loader(), source) == 0
    assert b"NETSCAPE" not in (tmp_path / "in-4x.gif").read_bytes()


def test_a_grey_animation_stays_grey(tmp_path):
    frames = [Frame(pixels_of(1, 8, (10, 6), few=True), Metadata(), 50.0) for _ in range(2)]
    assert upscale(Loader(), write(tmp_path / "in.gif", frames, loop=0)) == 0
    assert [frame.pixels.shape[2] for frame in Document(tmp_path / "in-4x.gif").frames()] == [1, 1]


def test_the_default_picture_of_an_animated_png(tmp_path):
    source = write(tmp_path / "in.png", moving(False), loop=0, has_default=True)
    for suffix, count in (("png", 3), ("gif", 2)):
        assert upscale(Loader(), source, "--ext", suffix) == 0
        document = Document(tmp_path / f"in-4x.{suffix}")
        assert document.count == count and document.has_default == (suffix == "png")


def test_pages_of_a_tiff_have_their_own_sizes_kinds_and_metadata(tmp_path):
    pages = [
        Frame(pixels_of(1, 16, (9, 5)), Metadata({0x11D: "one"}, dpi=(100.0, 100.0))),
        Frame(pixels_of(3, 8, (4, 7)), Metadata({0x11D: "two"}, SRGB, dpi=(200.0, 200.0))),
        Frame(pixels_of(3, 16, (5, 5)), Metadata({0x11D: "three"})),
    ]
    source = write(tmp_path / "in.tif", pages)
    assert upscale(Loader(), source) == 0
    for page, result in zip(pages, Document(tmp_path / "in-4x.tif").frames()):
        np.testing.assert_array_equal(result.pixels, page.pixels.repeat(4, axis=0).repeat(4, axis=1))
        assert result.metadata.exif[0x11D] == page.metadata.exif[0x11D]
        assert result.metadata.icc == page.metadata.icc
        dpi = page.metadata.dpi
        assert result.metadata.dpi == (None if dpi is None else (4 * dpi[0], 4 * dpi[1]))


def test_a_profile_of_grey_stays_with_grey(tmp_path):
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    for suffix in ("png", "tif", "jpg"):
        source = write(tmp_path / f"in.{suffix}", [Frame(pixels_of(1, 8, (6, 4)), Metadata(icc=profile))])
        assert upscale(Loader(), source) == 0
        assert Document(tmp_path / f"in-4x.{suffix}").only().metadata.icc == profile


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_pages_of_several_sizes_are_no_animation(tmp_path, capsys, suffix):
    pages = [Frame(pixels_of(3, 8, size), Metadata()) for size in ((4, 4), (5, 4))]
    assert upscale(Loader(), write(tmp_path / "in.tif", pages), "--ext", suffix) == 1
    assert "differ in size" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_one_pixel_goes_on_beyond_its_edge(tmp_path):
    source = write(tmp_path / "in.png", [Frame(np.full((1, 3, 3), (9, 99, 199), np.uint8), Metadata())])
    loader = Loader()
    assert upscale(loader, source) == 0
    ((given, _),) = loader.pipeline.calls
    assert given.shape == (2, 3, 3) and (given == (9, 99, 199)).all()


def test_png_keeps_gamma_and_chromaticities(tmp_path):
    source = tmp_path / "in.png"
    Image.new("RGB", (4, 4), (9, 99, 199)).save(source)
    data = source.read_bytes()
    chunks = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"cHRM", struct.pack(">8I", *range(30000, 38000, 1000)))
    source.write_bytes(data[:33] + chunks + data[33:])
    assert upscale(Loader(), source) == 0
    with Image.open(tmp_path / "in-4x.png") as image:
        assert image.info["gamma"] == 0.45455 and image.info["chromaticity"][7] == 0.37


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_provenance_replaces_that_of_an_earlier_run(tmp_path):
    first = write(tmp_path / "a.png", [Frame(pixels_of(3, 8, (4, 4)), metadata_of("all"))])
    for suffix in ("png", "jpg", "webp", "tif", "gif"):
        once, twice = tmp_path / f"once.{suffix}", tmp_path / f"twice.{suffix}"
        assert upscale(Loader(), first, "-o", once, "--seed", 11) == 0
        assert upscale(Loader(), once, "-o", twice, "--seed", 22) == 0
        data = twice.read_bytes()
        said = {"png": b"ppdiffusers:seed\x0022", "gif": b"seed: 22"}.get(suffix, b'ppdiffusers:seed="22"')
        assert said in data and said.replace(b"22", b"11") not in data
        assert b"version" in data and b"ldm-super-resolution-4x-tiny" in data and b"revision" in data


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "avif"])
def test_no_metadata_strips_all(tmp_path, suffix):
    if format_of(f"x.{suffix}") is None:
        pytest.skip("this Pillow writes no AVIF")
    source = write(tmp_path / f"in.{suffix}", [Frame(pixels_of(3, 8, (8, 6), few=True), metadata_of("all"))])
    assert upscale(Loader(), source, "--no-metadata") == 0
    target = tmp_path / f"in-4x.{suffix}"
    assert Document(target).only().metadata == Metadata()
    for word in (b"ppdiffusers", b"somebody", b"Camera", b"comment", b"firmware"):
        assert word not in target.read_bytes()


def test_without_metadata_the_colours_are_still_right(tmp_path):
    """Red and green swapped by the profile: pixels are converted before it is dropped."""
    profile = bytearray(SRGB)
    tags = {bytes(profile[i : i + 4]): i for i in range(132, 132 + 12 * profile[131], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    pixels = np.full((4, 4, 3), (200, 40, 60), np.uint8)
    source = write(tmp_path / "in.png", [Frame(pixels, Metadata(icc=bytes(profile)))])
    assert upscale(Loader(), source, "--no-metadata") == 0
    result = Document(tmp_path / "in-4x.png").only()
    assert result.metadata.icc is None
    assert np.abs(result.pixels[0, 0].astype(int) - (40, 200, 60)).max() <= 2
    assert upscale(Loader(), source, "-o", tmp_path / "kept.png") == 0
    kept = Document(tmp_path / "kept.png").only()
    assert kept.metadata.icc == bytes(profile) and tuple(kept.pixels[0, 0]) == (200, 40, 60)


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    Image.new("CMYK", (6, 4), (0, 200, 200, 20)).save(tmp_path / "in.jpg", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    assert upscale(Loader(), tmp_path / "in.jpg") == 0
    result = Document(tmp_path / "in-4x.jpg").only()
    assert result.pixels.shape == (16, 24, 3) and result.metadata.icc is None
    assert result.pixels[0, 0, 0] > 150 > result.pixels[0, 0, 1]


def test_jpeg_is_written_well_and_as_asked(tmp_path):
    rng = np.random.default_rng(0)
    source = write(tmp_path / "in.png", [Frame(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), Metadata())])
    for quality in (95, 30):
        target = tmp_path / f"{quality}.jpg"
        assert upscale(Loader(), source, "-o", target, "--jpeg-quality", quality) == 0
        with Image.open(target) as image:
            assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # 4:4:4
            reference = io.BytesIO()
            Image.new("RGB", (8, 8)).save(reference, "JPEG", quality=quality, subsampling=0)
            assert image.quantization == Image.open(reference).quantization


def test_webp_is_lossless_where_the_input_is_or_it_is_asked(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "lossy.webp", quality=60)
    Image.fromarray(noise).save(tmp_path / "lossless.webp", lossless=True)
    for name, options, marker in (
        ("lossy", [], b"VP8 "),
        ("lossless", [], b"VP8L"),
        ("lossy", ["--lossless"], b"VP8L"),
    ):
        assert upscale(Loader(), tmp_path / f"{name}.webp", "--overwrite", *options) == 0
        assert marker in (tmp_path / f"{name}-4x.webp").read_bytes()[:64]


def test_what_is_lost_is_said(tmp_path, capsys):
    source = write(tmp_path / "in.png", [Frame(pixels_of(3, 16, (4, 4)), metadata_of("all"))])
    assert upscale(Loader(), source, "--ext", "bmp") == 0
    error = capsys.readouterr().err
    for what in ("16 bits", "EXIF", "ICC profile", "XMP", "text"):
        assert what in error
    assert "DPI" not in error


@pytest.mark.parametrize("suffix, message", [("jpg", "transparent"), ("bmp", "transparent")])
def test_transparency_is_never_dropped(tmp_path, capsys, suffix, message):
    source = write(tmp_path / "in.png", [Frame(pixels_of(4, 8, (4, 4)), Metadata())])
    assert upscale(Loader(), source, "--ext", suffix) == 1
    assert message in capsys.readouterr().err and not (tmp_path / f"in-4x.{suffix}").exists()
    opaque = np.dstack([pixels_of(3, 8, (4, 4)), np.full((4, 4), 255, np.uint8)])
    assert upscale(Loader(), write(tmp_path / "in.png", [Frame(opaque, Metadata())]), "--ext", suffix) == 0


def test_frames_are_never_dropped(tmp_path, capsys):
    loader = Loader()
    assert upscale(loader, write(tmp_path / "in.gif", moving(False), loop=0), "--ext", "jpg") == 1
    assert "3 frames" in capsys.readouterr().err and loader.count == 0
