"""Pictures that are computed while they are written."""

import io

import numpy as np
import pytest
from PIL import Image

from ppdiffusers.pictures import Frame, Metadata, format_of, write_document
from ppdiffusers.pictures.rows import Rows


def rows_of(pixels, cuts):
    edges = [0, *cuts, len(pixels)]
    return Rows((pixels[a:b] for a, b in zip(edges, edges[1:])), pixels.shape, pixels.dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("channels, dtype", [(1, np.uint8), (3, np.uint8), (3, np.uint16), (4, np.uint8)])
def test_written_as_the_whole(suffix, channels, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (37, 23, channels)).astype(dtype)
    if channels == 4 and suffix in (".jpg", ".bmp"):
        pixels[..., 3] = 255
    files = []
    for source in (pixels, rows_of(pixels, [1, 20, 21])):
        file = io.BytesIO()
        write_document(file, format_of(f"x{suffix}"), iter([Frame(source, Metadata(), 0)]))
        files.append(file.getvalue())
    assert files[0] == files[1]
    Image.open(io.BytesIO(files[1])).load()


def test_only_what_is_asked_for_is_computed():
    made = []

    def bands():
        for start in range(0, 100, 10):
            made.append(start)
            yield np.full((10, 2, 1), start, np.uint8)

    rows = Rows(bands(), (100, 2, 1), np.uint8)
    np.testing.assert_array_equal(rows[0:15][:, 0, 0], [0] * 10 + [10] * 5)
    assert made == [0, 10]
    np.testing.assert_array_equal(rows[15:20], np.full((5, 2, 1), 10))
    assert made == [0, 10]
    with pytest.raises(ValueError, match="row 20 comes next"):
        rows[30:40]


def test_all_at_once():
    pixels = np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
    rows = rows_of(pixels, [4])
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(rows), pixels)
    assert np.asarray(rows, np.float32).dtype == np.float32
