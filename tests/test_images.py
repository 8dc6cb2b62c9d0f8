"""Reading pictures: modes, orientation, transparency."""

import numpy as np
import pytest
from PIL import Image

from ppdiffusers import ImageError, open_image
from ppdiffusers.images import bleed, pad_to_multiple, sheet, to_pictures, to_pil


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_every_mode_is_taken(mode):
    base = Image.effect_noise((5, 4), 50).convert("RGBA" if mode in ("RGBa", "PA") else "RGB")
    base.putpixel((0, 0), (9, 99, 199))
    image = Image.new("LA", (5, 4), (90, 128)).convert("La") if mode == "La" else base.convert(mode)
    (picture,) = to_pictures(image)
    assert picture.rgb.shape == (4, 5, 3) and picture.rgb.dtype == np.float32
    assert picture.rgb.min() >= -1 and picture.rgb.max() <= 1
    assert picture.grey == (mode in ("1", "L", "LA", "La"))
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA", "RGBa", "La", "PA"))


def test_values():
    (picture,) = to_pictures(np.array([[[0, 51, 255]]], np.uint8))
    np.testing.assert_allclose(picture.rgb[0, 0], [-1, -0.6, 1], atol=1e-6)
    (picture,) = to_pictures(np.array([[0, 65535]], np.uint16))
    np.testing.assert_allclose(picture.rgb[0, :, 0], [-1, 1])


def test_palette_and_colour_key_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=1)
    (picture,) = to_pictures(open_image(tmp_path / "p.png"))
    np.testing.assert_array_equal(picture.alpha, [[1, 0]])
    Image.new("RGB", (2, 1), (9, 9, 9)).save(tmp_path / "key.png", transparency=(9, 9, 9))
    (picture,) = to_pictures(open_image(tmp_path / "key.png"))
    assert (picture.alpha == 0).all()


def test_sixteen_bit_file(tmp_path):
    values = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    (picture,) = to_pictures(open_image(tmp_path / "deep.png"))
    np.testing.assert_allclose((picture.rgb[..., 0] + 1) / 2 * 65535, values, atol=0.01)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 8)


def test_bleed_keeps_opaque_pixels_and_fills_the_rest():
    colours = np.zeros((9, 7, 3), np.float32)
    alpha = np.zeros((9, 7), np.float32)
    colours[4, 3], alpha[4, 3] = (0.2, 0.5, 0.9), 1
    filled = bleed(colours, alpha)
    np.testing.assert_allclose(filled, np.broadcast_to([0.2, 0.5, 0.9], filled.shape), atol=1e-5)
    random = np.random.default_rng(0)
    colours = random.random((9, 7, 3), dtype=np.float32)
    np.testing.assert_array_equal(bleed(colours, np.ones((9, 7), np.float32)), colours)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (9, 17)])
def test_padding_mirrors_and_keeps_the_picture(size):
    values = np.random.default_rng(0).random((1, *size, 3), dtype=np.float32)
    padded = pad_to_multiple(values, 8)
    assert padded.shape[1] % 8 == padded.shape[2] % 8 == 0
    np.testing.assert_array_equal(padded[:, : size[0], : size[1]], values)
    assert padded.min() == values.min() and padded.max() == values.max()


def test_unreadable(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="folder"):
        open_image(tmp_path)
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="30x20"):
        open_image(tmp_path / "large.png", max_pixels=599)
    assert open_image(tmp_path / "large.png", max_pixels=600).size == (30, 20)
    for image in (Image.new("F", (2, 2)), Image.new("I", (2, 2), 70_000)):
        with pytest.raises(ImageError):
            to_pictures(image)


def test_sheet_and_pil():
    values = np.zeros((2, 2, 3), np.float32)
    assert to_pil(values).mode == "RGB" and to_pil(values, grey=True).mode == "L"
    page = sheet([("a", to_pil(values)), ("b", to_pil(values))])
    assert page.size[0] == 2 * 2 + 3 * 8
