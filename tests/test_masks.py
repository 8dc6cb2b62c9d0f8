"""Masks of every kind, and how what is painted joins the rest."""

import numpy as np
import paddle
import pytest
from PIL import Image

from ppdiffusers import ImageError
from ppdiffusers.images import to_pictures
from ppdiffusers.masks import MaskedPicture, fill_smoothly, join, mask_pictures, to_masks

HOLE = np.zeros((6, 8), bool)
HOLE[2:5, 3:7] = True


def grey(mask, dtype=np.uint8, white=255):
    return (mask * white).astype(dtype)


def on_transparency(mask):
    """White strokes, and white under transparency."""
    return np.stack([np.full(mask.shape, 255), grey(mask)], -1).astype(np.uint8)


@pytest.mark.parametrize(
    "mask",
    [
        HOLE,
        HOLE[..., None],
        HOLE[None, ..., None],
        [HOLE],
        grey(HOLE),
        grey(HOLE, np.uint16, 65535),
        HOLE.astype(np.float32),
        HOLE.astype(np.float64),
        0.49 + 0.02 * HOLE,  # a threshold, not a weight
        np.repeat(grey(HOLE)[..., None], 3, -1),
        on_transparency(HOLE),
        Image.fromarray(grey(HOLE)),
        Image.fromarray(HOLE),
        Image.fromarray(grey(HOLE)).convert("RGB"),
        Image.fromarray(grey(HOLE)).convert("P"),
        Image.fromarray(on_transparency(HOLE), "LA"),
        Image.fromarray(grey(HOLE, np.uint16, 65535)),
        paddle.to_tensor(HOLE.astype(np.float32))[None],
        paddle.to_tensor(HOLE[None, None]),
        (paddle.to_tensor(HOLE.astype(np.float32))[None, None],),
    ],
)
def test_every_kind_of_mask(mask):
    (result,) = to_masks(mask)
    assert result.dtype == bool
    np.testing.assert_array_equal(result, HOLE)


@pytest.mark.parametrize(
    "mask, message",
    [
        ([], "empty"),
        (None, "NoneType"),
        ("mask.png", "str"),
        (HOLE.astype(np.int64), "int64"),
        (HOLE.astype(np.uint8), "1 of 255"),
        (grey(HOLE, np.float32), "255"),
        (np.where(HOLE, np.nan, 0), "NaN"),
        (np.zeros((4, 4, 9), bool), r"\[4, 4, 9\]"),
        (paddle.zeros([1, 3, 4, 4]), r"\[1, 3, 4, 4\]"),
        (paddle.zeros([4]), r"\[4\]"),
    ],
)
def test_what_is_no_mask_is_one_clear_error(mask, message):
    with pytest.raises(ImageError, match=f"mask_image: .*{message}"):
        to_masks(mask)


def test_numbers_and_sizes_must_agree():
    pictures = [np.full((6, 8, 3), i, np.uint8) for i in range(3)]
    assert len(mask_pictures(pictures, HOLE)) == len(mask_pictures(pictures[0], [HOLE] * 3)) == 3
    masked = mask_pictures(pictures, [HOLE, ~HOLE, HOLE])
    assert masked[1].mask[0, 0] and not masked[2].mask[0, 0] and masked[2].picture.unit[0, 0, 0] > 0
    with pytest.raises(ImageError, match="3 pictures and 2 masks"):
        mask_pictures(pictures, [HOLE] * 2)
    with pytest.raises(ImageError, match="8x6 pixels and the mask 6x8"):
        mask_pictures(pictures[0], HOLE.T)


def disc(size, radius, centre=None):
    rows, columns = np.mgrid[:size, :size] - (size // 2 if centre is None else centre)
    return rows**2 + columns**2 < radius**2


@pytest.mark.parametrize("size, radius, centre", [(64, 20, None), (63, 19, 20), (48, 40, 0), (5, 2, None)])
def test_the_membrane_over_a_hole_is_the_harmonic_function(size, radius, centre):
    """Also where the hole runs out of the picture: there the function must be flat across the border."""
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    truth = np.cos(np.pi * rows) * np.cosh(np.pi * columns) if centre == 0 else rows**2 - columns**2 + rows
    truth = np.stack([truth, np.ones_like(truth)], -1).astype(np.float32)
    hole = disc(size, radius, centre)
    if centre == 0:
        hole &= columns > 0.2  # a function that grows must be known where it leaves the picture
        hole[:, -1] = False
    filled = fill_smoothly(np.where(hole[..., None], 99, truth).astype(np.float32), ~hole)
    np.testing.assert_array_equal(filled[~hole], truth[~hole])
    assert np.abs(filled - truth).max() < 0.01 * np.ptp(truth[..., 0])


def seam(picture, mask):
    """The mean step across the mask's edge, in units of the mean step between neighbours within 4 pixels of it."""
    near = [mask, ~mask]
    for _ in range(4):
        for i, side in enumerate(near):
            grown = side.copy()
            grown[1:] |= side[:-1]
            grown[:-1] |= side[1:]
            grown[:, 1:] |= side[:, :-1]
            grown[:, :-1] |= side[:, 1:]
            near[i] = grown
    band, across, along = near[0] & near[1], [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean(-1)
        pairs = [np.take(x, range(i, x.shape[axis] - 1 + i), axis) for x in (mask, band) for i in (0, 1)]
        edge = pairs[0] != pairs[1]
        across.append(steps[edge])
        along.append(steps[~edge & pairs[2] & pairs[3]])
    return np.concatenate(across).mean() / np.concatenate(along).mean()


def waves(size=64):
    rows, columns = np.mgrid[:size, :size]
    planes = [128 + 60 * np.sin(rows / 12), 128 + 60 * np.cos(columns / 16 + rows / 20), 100 + rows - columns / 2]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("bias", [(0.03, -0.03, 0.02), (0.15, 0.1, 0.12)])
@pytest.mark.parametrize("hole", [disc(64, 18), disc(64, 25, 10), disc(64, 6, 20) | disc(64, 9, 44)])
def test_a_decoders_colour_cast_leaves_no_seam(bias, hole):
    (picture,) = to_pictures(waves())
    random = np.random.RandomState(0)
    decoded = picture.unit + np.float32(bias) + 0.01 * random.standard_normal((64, 64, 3)).astype(np.float32)
    masked = MaskedPicture(picture, hole)
    pasted, joined = (join(masked, decoded.clip(0, 1), blend) for blend in ("paste", "seamless"))
    assert seam(picture.unit, hole) < 1.1 and seam(joined, hole) < 1.25 and seam(pasted, hole) > 2.5
    errors = [np.sqrt(np.mean((result - picture.unit)[hole] ** 2)) for result in (pasted, joined)]
    assert errors[1] < 0.6 * errors[0]
    for result in (pasted, joined):
        np.testing.assert_array_equal(result[~hole], picture.unit[~hole])


def test_an_edge_that_the_model_moved_is_not_smeared_into_the_hole():
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 200
    (picture,) = to_pictures(edge)
    painted = np.roll(picture.unit, 3, axis=1)
    painted[:, :3] = 0
    hole = disc(64, 15)
    joined = join(MaskedPicture(picture, hole), painted)
    assert np.abs(joined - painted)[hole].max() < 0.11 and np.abs(joined - painted)[hole].mean() < 0.03


def test_alpha_is_kept_and_continued_under_the_mask():
    pixels = np.concatenate([waves(32), np.full((32, 32, 1), 255, np.uint8)], -1)
    pixels[:, 24:, 3] = 0
    pixels[10:14, 4:8, 3] = 0  # an erased spot that is to be filled
    (picture,) = to_pictures(pixels)
    hole = np.zeros((32, 32), bool)
    hole[9:15, 3:9] = hole[20:28, 20:28] = True
    result = join(MaskedPicture(picture, hole), np.full((32, 32, 3), 0.5, np.float32))
    levels = np.round(255 * result).astype(np.uint8)
    np.testing.assert_array_equal(levels[~hole], pixels[~hole])  # colours under transparency too
    assert (levels[9:15, 3:9, 3] == 255).all()
    fade = result[24, 20:28, 3]
    assert (np.diff(fade) < 0).all() and fade[0] > 0.5 > fade[-1]

    everything = join(MaskedPicture(picture, np.ones((32, 32), bool)), np.full((32, 32, 3), 0.5, np.float32))
    assert (everything == [0.5, 0.5, 0.5, 1]).all()
