"""Prepared pictures, perceptual distance and the measures, each against a slow formula or a known case."""

import json
import sys
import types

import numpy as np
import paddle
import pytest
from training_cases import make, unet

from ppdiffusers.config import ConfigError
from ppdiffusers.training.codebook import kmeans
from ppdiffusers.training.loop import evaluate, open_stage, train
from ppdiffusers.training.losses import LPIPS, frechet_distance, open_lpips, psnr, ssim
from ppdiffusers.training.prepared import Crops, area_downscale, composite, heldout_graphics, low_resolution
from ppdiffusers.training.splits import is_heldout, split_key


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The layout of scripts/prepare_training_data.py with small random contents."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    index = {}
    shapes = {"graphics-3d": (20, 256, 256, 4), "photographs": (10, 360, 720, 3)}
    shapes.update({name: (10, 128, 128, 4) for name in ("twemoji", "fluent-flat", "noto")})
    for source, (count, height, width, channels) in shapes.items():
        coarse = random.integers(0, 256, (count, height // 8, width // 8, channels), dtype=np.uint8)
        pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
        if channels == 4:
            pixels[..., :3] = pixels[..., :3].astype(int) * pixels[..., 3:] // 255
        np.save(folder / f"{source}.npy", pixels)
        index[source] = [
            {"name": str(i), "key": str(i), "split": "train" if i % 5 else "heldout"} for i in range(count)
        ]
    (folder / "index.json").write_text(json.dumps(index))
    weights = {}
    for i, shape in enumerate([(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]):
        weights[f"conv{i}.weight"] = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights[f"conv{i}.bias"] = np.zeros(shape[0], np.float32)
        weights[f"head{i}"] = random.random(shape[0]).astype(np.float32) / shape[0]
    np.savez(folder / "lpips-alex.npz", **weights)
    return folder


def test_variants_of_one_thing_share_a_split():
    chef = ["1f469-200d-1f373", "1f468-1f3fd-200d-1f373", "1f9d1-1f3ff-200d-1f373"]
    assert {split_key(name) for name in chef} == {"1f9d1"}
    assert split_key("1f4a1") == "1f4a1" and split_key("0023-fe0f-20e3") == "23"
    share = np.mean([is_heldout(f"{i:x}") for i in range(5000)])
    assert 0.08 < share < 0.12


def test_crops_are_a_function_of_the_draws(data):
    crops = Crops(data)
    a, b, c = (crops.draw(np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (64, 64, 3) and a.dtype == np.float32 and a.min() >= -1.001 and a.max() <= 1.001
    assert np.abs(a - c).max() > 0


def test_heldout_pictures_are_never_trained_on(data):
    crops = Crops(data, mix={"graphics-3d": 1.0})
    (_, rows), names = crops._sources[0], heldout_graphics(data)[0]
    assert set(names) == {"0", "5", "10", "15"} and not set(rows) & {0, 5, 10, 15}


def test_degradation_and_compositing():
    pixels = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    np.testing.assert_array_equal(area_downscale(pixels, 4), [[[7.5]]])
    with pytest.raises(ValueError, match="4x4"):
        area_downscale(pixels, 3)
    levels = (low_resolution(np.full((4, 4, 3), 0.123, np.float32)) + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    half_red = np.array([[[128, 0, 0, 128]]], np.uint8)
    np.testing.assert_allclose((composite(half_red, np.full(3, 255.0)) + 1) * 127.5, [[[255, 127, 127]]], atol=0.5)


def test_psnr():
    a = np.zeros((2, 8, 8, 3), np.float32)
    b = a.copy()
    b[1] += 2 / 255 * 4  # four levels everywhere
    values = psnr(a, b)
    assert values[0] > 100 and values[1] == pytest.approx(20 * np.log10(255 / 4), abs=0.2)


def test_lpips_is_a_distance_with_gradients(data):
    lpips = LPIPS(data / "lpips-alex.npz")
    random = np.random.default_rng(0)
    a = paddle.to_tensor(random.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32), stop_gradient=False)
    near, far = a.detach() * 0.98, paddle.zeros_like(a)
    assert float(lpips(a, a).max()) == 0
    assert (lpips(a, near).numpy() < lpips(a, far).numpy()).all()
    np.testing.assert_allclose(lpips(a, far).numpy(), lpips(far, a).numpy(), rtol=1e-4)
    lpips(a, far).sum().backward()
    assert bool(paddle.isfinite(a.grad).all()) and float(a.grad.abs().max()) > 0
    with pytest.raises(ValueError, match="squeeze"):
        LPIPS(data / "lpips-alex.npz", "squeeze")


def test_kmeans_finds_the_clusters():
    random = np.random.default_rng(0)
    truth = random.uniform(-5, 5, (6, 3))
    points = (truth[random.integers(6, size=3000)] + 0.01 * random.standard_normal((3000, 3))).astype(np.float32)
    centres = kmeans(paddle.to_tensor(points), 12).numpy()
    distances = np.linalg.norm(points[:, None] - centres, axis=-1).min(axis=1)
    assert distances.mean() < 0.02
    with pytest.raises(ValueError, match="3000"):
        kmeans(paddle.to_tensor(points), 3001)


def test_ssim_against_the_formula():
    random = np.random.default_rng(0)
    a = np.round(random.uniform(0, 255, (1, 14, 13, 3)))
    b = np.clip(np.round(a + random.normal(0, 30, a.shape)), 0, 255)
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x * x + y * y) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for i in range(4):
        for j in range(3):
            for c in range(3):
                p, q = a[0, i : i + 11, j : j + 11, c], b[0, i : i + 11, j : j + 11, c]
                m, n = (window * p).sum(), (window * q).sum()
                var_p, var_q = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
                shared = (window * (p - m) * (q - n)).sum()
                c1, c2 = 6.5025, 58.5225
                luminance = (2 * m * n + c1) / (m * m + n * n + c1)
                values.append(luminance * (2 * shared + c2) / (var_p + var_q + c2))
    given = [each.astype(np.float32) / 127.5 - 1 for each in (a, b)]
    assert ssim(*given)[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert ssim(given[0], given[0])[0] == pytest.approx(1)


def test_the_frechet_distance_of_normal_sets():
    """|m - n|^2 + the trace of (A + B - 2 (A B)^(1/2)); of commuting covariances, the gaps of deviations squared."""
    random = np.random.default_rng(0)
    base = random.standard_normal((4000, 3))
    base = (base - base.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(base, rowvar=False))).T
    turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
    a, b = (base * [1, 2, 3]) @ turn, (base * [4, 2, 1] + [1, 0, 0]) @ turn
    assert frechet_distance(a, b) == pytest.approx(9 + 0 + 4 + 1, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    few = frechet_distance(random.standard_normal((5, 64)), random.standard_normal((5, 64)))
    assert np.isfinite(few) and few > 0


def test_lpips_weights_are_named_by_their_file(data, tmp_path):
    assert open_lpips(data / "lpips-alex.npz").features(paddle.zeros([2, 3, 64, 64])).shape == [2, 256]
    with pytest.raises(ConfigError, match="fetch_training_data"):
        open_lpips(tmp_path / "lpips-vgg.npz")


def test_the_perceptual_loss_of_a_first_stage(data, pictures):
    options = {"reconstruction": {"perceptual": 0.5}, "data": {"size": 64, "smallest": 8}}
    with pytest.raises(ConfigError, match="lpips=data/prepared"):
        open_stage(make("kl", pictures, **options))
    stage = open_stage(make("kl", pictures, lpips=str(data / "lpips-alex.npz"), **options))
    random = np.random.default_rng(0)
    batch = {"pixels": paddle.to_tensor(random.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32))}
    batch["noise"] = paddle.zeros([1, 3, 32, 32])
    loss, figures = stage.objectives["autoencoder"](batch)
    distance = float(open_lpips(data / "lpips-alex.npz")(batch["made"], batch["pixels"]).mean())
    assert float(figures["perceptual"]) == pytest.approx(distance, rel=1e-4) and distance > 0
    rest = float(figures["pixel"]) + 1e-6 * float(figures["kl"]) / (3 * 64 * 64)
    assert float(loss) == pytest.approx(rest + 0.5 * distance, rel=1e-5)


def test_pictures_from_noise_are_measured_by_a_named_distance_and_shown(data, pictures, tmp_path, monkeypatch):
    written = []
    fake = types.ModuleType("visualdl")
    fake.LogWriter = lambda folder: types.SimpleNamespace(
        add_scalar=lambda name, value, step: written.append((name, step)),
        add_image=lambda name, image, step: written.append((name, image.shape)),
        close=lambda: written.append("closed"),
    )
    monkeypatch.setitem(sys.modules, "visualdl", fake)
    options = {"lpips": str(data / "lpips-alex.npz"), "data": {"size": 64, "smallest": 8}, "steps": 1}
    config = make("unconditional", pictures, visualdl=True, models={"unet": {**unet(), "sample_size": 32}}, **options)
    train(config, tmp_path / "run")
    figures, _ = evaluate(config, tmp_path / "run")
    assert set(figures) == {"loss", "frechet_alexnet"} and figures["frechet_alexnet"] > 0
    assert {("loss", 1), ("learning_rate", 1), ("samples", (256, 128, 3)), "closed"} <= set(written)
