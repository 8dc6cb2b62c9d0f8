"""Large pictures by windows: what they give is what the whole would have given."""

import numpy as np
import paddle
import pytest

from ppdiffusers import DiffusionPipeline, Generator, LDMSuperResolutionPipeline
from ppdiffusers.layers import statistics
from ppdiffusers.pipelines import latent
from ppdiffusers.pipelines.tiling import Blend, Windows, patches, spans, windows_of


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("most, overlap", [(64, 16), (64, 8), (72, 16), (320, 16), (16, 16)])
def test_spans(most, overlap, multiple):
    for length in [multiple * n for n in (*range(1, 60), 187, 1001)]:
        found = spans(length, most, overlap, multiple)
        total = np.zeros(length)
        for span in found:
            assert span.stop - span.start == found[0].stop <= most and span.start % multiple == 0
            total[span.start : span.stop] += span.weights
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert all(a.stop - b.start == a.after == b.before >= min(overlap, most // 3)
                   for a, b in zip(found, found[1:]))  # fmt: skip
        assert len(found) == 1 or length > most


def test_windows_are_no_larger_than_asked():
    assert windows_of(64, 64, 64 * 64) is None
    for height, width in ((66, 64), (1000, 1502), (2, 50_000), (50_000, 2), (40, 4000)):
        windows = windows_of(height, width, 4096, 16, 2)
        assert np.prod(windows.shape) <= 4096
        assert windows.rows[-1].stop == height and windows.columns[-1].stop == width


@pytest.mark.parametrize("factor", [1, 4])
def test_what_is_blended_is_the_whole(factor):
    whole = paddle.randn([2, 3, 100, 76])
    windows = Windows(spans(100, 40, 8), spans(76, 40, 8))
    wanted = whole.numpy().repeat(factor, axis=2).repeat(factor, axis=3)

    def compute(window, number):
        return paddle.to_tensor(window.of(whole).numpy().repeat(factor, axis=2).repeat(factor, axis=3))

    blend = Blend(windows)
    np.testing.assert_allclose(blend.whole(compute).numpy(), wanted, atol=1e-5)
    bands = [band.numpy() for band in blend.bands(compute)]
    assert len(bands) == len(windows.rows) > 2
    np.testing.assert_allclose(np.concatenate(bands, axis=2), wanted, atol=1e-5)


def test_patches_are_all_over_the_map():
    values = paddle.arange(100 * 60).reshape([1, 1, 100, 60])
    found = patches(values, 16, 12).numpy()
    assert found.shape[1:] == (1, 16, 16) and 8 <= len(found) <= 16
    assert found.min() == 0 and found.max() == 100 * 60 - 1
    assert patches(values[:, :, :8], 16, 4).shape[1] == 1


def photograph(size, seed=0):
    """A flat sky, a slope and a texture."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    sky = np.stack([0.5 + 0.1 * y, 0.6 + 0.1 * y, 0.9 - 0.1 * y], axis=-1)
    ground = np.stack([0.4 + 0.3 * np.sin(40 * x * y), 0.3 + 0.2 * np.cos(60 * x), 0.2 + 0.2 * y], axis=-1)
    ground += draw.normal(0, 0.05, ground.shape)
    return np.clip(np.where((y > 0.5 + 0.1 * np.sin(6 * x))[..., None], ground, sky), 0, 1).astype(np.float32)


def psnr(a, b):
    return -10 * np.log10(np.square(np.asarray(a, float) - b).mean())


@pytest.fixture(scope="module")
def embedded():
    pipeline = LDMSuperResolutionPipeline.from_pretrained("ppdiffusers/ldm-super-resolution-4x-tiny", precision="fp32")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def enlarged(pipeline, tile, **options):
    if tile:
        pipeline.enable_tiling(tile)
    else:
        pipeline.disable_tiling()
    options = {"num_inference_steps": 4, "generator": Generator(1), "output_type": "np", "consistency": 0, **options}
    return pipeline(photograph(128), **options).images


def test_windows_agree_with_the_whole(embedded, monkeypatch):
    whole = enlarged(embedded, None)
    tiled = enlarged(embedded, 256)
    assert embedded._windows("unet", [1, 3, 128, 128]) and embedded._windows("vqvae", [1, 3, 128, 128])
    assert psnr(tiled, whole) > 40  # 50 and more with larger windows: these are the smallest
    np.testing.assert_array_equal(enlarged(embedded, 256), tiled)

    # No seam: along the borders of windows neighbouring pixels differ as they do elsewhere.
    borders = {4 * place for span in spans(128, 64, 8) for place in (span.start, span.stop) if 0 < place < 128}
    near = np.isin(np.arange(511), [place + d for place in borders for d in (-2, -1, 0)])
    steps = [np.abs(np.diff(picture[0], axis=1)).mean((0, 2)) for picture in (tiled, whole)]
    shares = [each[near].mean() / each[~near].mean() for each in steps]
    assert abs(shares[0] / shares[1] - 1) < 0.02

    # What windows know of the whole is what makes it so.
    monkeypatch.setattr(statistics, "active", lambda: None)
    assert psnr(enlarged(embedded, 256), whole) < psnr(tiled, whole) - 3


def test_noise_is_that_of_the_whole(embedded):
    """In every step too, at eta 1."""
    assert psnr(enlarged(embedded, 256, eta=1.0), enlarged(embedded, None, eta=1.0)) > 38


def test_deep_features_are_kept_by_window(embedded):
    embedded.enable_deep_cache(2)
    try:
        assert psnr(enlarged(embedded, 256), enlarged(embedded, None)) > 36
    finally:
        embedded.disable_deep_cache()


def test_small_pictures_are_computed_at_once_unless_asked(embedded):
    embedded.enable_tiling()
    assert embedded._windows("unet", [1, 3, 256, 256]) is None
    assert embedded._windows("unet", [1, 3, 1000, 1500]) is not None
    with pytest.raises(ValueError, match="tile 255 is too small"):
        embedded.enable_tiling(255)


def test_windows_shrink_with_the_memory_that_is_left(embedded, monkeypatch):
    embedded.enable_tiling()
    sizes = []
    for left in (1 << 40, 1 << 28, 1 << 26, 0):
        monkeypatch.setattr(latent, "available", lambda left=left: left)
        windows = embedded._windows("unet", [1, 3, 512, 512])
        sizes.append(512 * 512 if windows is None else np.prod(windows.shape))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[1] > sizes[2] >= sizes[3] >= 64 * 32


@pytest.mark.parametrize("component, part", [("unet", "_network"), ("vqvae", "_to_pixels")])
def test_where_memory_is_short_windows_get_smaller(embedded, monkeypatch, component, part):
    whole = enlarged(embedded, None)
    embedded.enable_tiling(8192)
    of_size = []

    def model(self, name, method, shape, times=1):
        found = DiffusionPipeline._model(self, name, method, shape, times)
        if name == component and np.prod(shape[2:]) > 80 * 80:
            of_size.append(tuple(shape[2:]))
            return Short(found)
        return found

    class Short:
        def __init__(self, model):
            self.model, self.dtype = model, model.dtype

        def __getattr__(self, name):
            return getattr(self.model, name)

        def __call__(self, *args):
            raise MemoryError

        decode = _to_pixels = __call__

    monkeypatch.setattr(type(embedded), "_model", model)
    options = {"num_inference_steps": 4, "generator": Generator(1), "output_type": "np", "consistency": 0}
    assert psnr(embedded(photograph(128), **options).images, whole) > 40
    assert of_size[0] == (128, 128)

    embedded.disable_tiling()
    with pytest.raises(MemoryError, match="512x512 pixels"):
        embedded(photograph(128), **options)


def test_rows_are_the_picture(embedded):
    embedded.enable_tiling(256)
    options = {"num_inference_steps": 2, "generator": 3}
    rgba = np.concatenate([photograph(96), np.linspace(0, 1, 96 * 96).reshape(96, 96, 1)], axis=-1).astype(np.float32)
    for picture in (photograph(96), rgba):
        whole = embedded(picture, output_type="np", **options).images
        (bands,) = embedded(picture, output_type="rows", **options).images
        bands = list(bands)
        assert len(bands) > 1
        np.testing.assert_array_equal(np.concatenate(bands), whole[0])
    with pytest.raises(ValueError, match="takes one picture"):
        embedded([picture] * 2, output_type="rows", **options)


def test_colours_of_the_input(embedded):
    """The embedded model recommends it; diffusers' result is had by 0."""
    embedded.enable_tiling()
    low = photograph(40)
    options = {"num_inference_steps": 3, "generator": 0, "output_type": "np"}
    difference = [
        np.abs(embedded(low, **options, **more).images[0].reshape(40, 4, 40, 4, 3).mean((1, 3)) - low).mean() * 255
        for more in ({}, {"consistency": 0})
    ]
    assert difference[0] < 0.5 < difference[1]
    for colour in ((200, 200, 200), (30, 120, 250)):
        flat = np.broadcast_to(np.uint8(colour), (12, 9, 3))
        assert np.abs(embedded(flat, **options).images[0] * 255 - colour).max() < 0.5
    with pytest.raises(ValueError, match="consistency -1"):
        embedded(low, consistency=-1)


def test_the_recommendation_is_saved_with_the_pipeline(embedded, tmp_path):
    embedded.save_pretrained(tmp_path / "copy")
    assert LDMSuperResolutionPipeline.from_pretrained(tmp_path / "copy")._consistency == 3
