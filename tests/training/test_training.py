"""Training: data, losses, and both scripts end to end on a handful of made-up pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from ppdiffusers.training.data import Crops, area_downscale, composite, heldout_graphics, low_resolution
from ppdiffusers.training.recipes import TINY_VQ_MODEL, AutoencoderRecipe, learning_rate_at
from ppdiffusers.training.run import Run

from ppdiffusers import LDMSuperResolutionPipeline, UNet2DModel, VQModel
from ppdiffusers.training.codebook import kmeans
from ppdiffusers.training.losses import LPIPS, psnr
from ppdiffusers.training.splits import is_heldout, split_key

ROOT = Path(__file__).parents[2]


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


def test_crops_are_a_function_of_seed_and_step(data):
    crops, again = Crops(data, seed=1), Crops(data, seed=1)
    again.batch(3, 4)
    a, b = crops.batch(7, 4), again.batch(7, 4)
    np.testing.assert_array_equal(a, b)
    assert a.shape == (4, 64, 64, 3) and a.dtype == np.float32 and a.min() >= -1.001 and a.max() <= 1.001
    assert np.abs(a - crops.batch(8, 4)).max() > 0 and np.abs(a - Crops(data, seed=2).batch(7, 4)).max() > 0


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


def test_learning_rate():
    rates = [learning_rate_at(step, 1.0, 10, 100) for step in range(100)]
    assert rates[0] == 0.1 and rates[10] == 1 and rates[99] < 0.03 and rates[10:] == sorted(rates[10:], reverse=True)


def train_a_little(folder, steps):
    model = UNet2DModel(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        add_attention=False,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    run = Run(folder, model, AutoencoderRecipe(steps=10, warmup_steps=1))
    while run.step < steps:
        x = paddle.to_tensor(np.random.default_rng(run.step).random((2, 3, 8, 8), dtype=np.float32))
        run.update(((model(x, 5).sample - x) ** 2).mean())
        run.log()
        run.save()
    return run


def test_a_run_that_was_cut_ends_where_an_uncut_one_does(tmp_path):
    paddle.seed(0)
    whole = train_a_little(tmp_path / "whole", 6)
    paddle.seed(0)
    train_a_little(tmp_path / "cut", 3)
    paddle.seed(99)  # another start: everything that matters comes from the checkpoint
    resumed = train_a_little(tmp_path / "cut", 6)
    for name, value in whole.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), resumed.model.state_dict()[name].numpy(), atol=1e-6, err_msg=name)
        np.testing.assert_allclose(whole.averages[name].numpy(), resumed.averages[name].numpy(), atol=1e-6)
    assert len((tmp_path / "cut" / "log.jsonl").read_text().splitlines()) == 6
    assert len(list((tmp_path / "cut").glob("checkpoint-*"))) == 1


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True)


def test_both_stages_train_from_the_command_line(data, tmp_path):
    small = {**TINY_VQ_MODEL, "block_out_channels": (8, 8, 8), "num_vq_embeddings": 32}
    VQModel(**small).save_pretrained(tmp_path / "init")
    options = ("--init", tmp_path / "init", "--steps", 3, "--log-every", 2)
    script("train_autoencoder.py", data, tmp_path / "ae", *options)
    rows = [json.loads(line) for line in (tmp_path / "ae" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 3] and all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[0]["codebook"] == 0 < rows[1]["codebook"]  # continuous first, then quantised
    vqvae = VQModel.from_pretrained(tmp_path / "ae" / "model")
    assert float(vqvae.quantize.embedding.weight.abs().max()) > 1 / 32  # set by k-means

    script("train_autoencoder.py", data, tmp_path / "de", "--decoder-of", tmp_path / "ae" / "model", "--steps", 1)
    tuned = VQModel.from_pretrained(tmp_path / "de" / "model")
    for name, value in tuned.state_dict().items():
        same = np.array_equal(value.numpy(), vqvae.state_dict()[name].numpy())
        assert same == name.startswith(("encoder.", "quant_conv.", "quantize.")), name

    script("train_super_resolution.py", data, tmp_path / "sr", "--vqvae", tmp_path / "ae" / "model", "--steps", 1)
    pipeline = LDMSuperResolutionPipeline.from_pretrained(tmp_path / "sr" / "pipeline")
    image = np.zeros((8, 8, 3), np.uint8)
    assert pipeline(image, num_inference_steps=1, generator=0).images[0].size == (32, 32)
