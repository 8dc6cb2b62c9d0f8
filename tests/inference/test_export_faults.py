"""Exported folders that are damaged, asked for what they cannot do, or never finished."""

import resource

import exported_folders as folders
import numpy as np
import paddle
import pytest
from exported_folders import CALL, PICTURE

from ppdiffusers import DiffusionPipeline
from ppdiffusers.inference import gpu
from ppdiffusers.inference.exported import ExportError
from ppdiffusers.models import UNet2DModel

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")


@pytest.fixture(autouse=True)
def _cache(home, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_HOME", home)


def drop(folder, name):
    example = folder / "unet" / "network.npz"
    with np.load(example) as arrays:
        left = {key: value for key, value in arrays.items() if key != name}
    np.savez(example, **left)
    folders.rewrite(folder, "unet/network.npz", example.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: folders.rewrite(folder, "unet/network.npz", b"hello"), "network.npz is damaged; copy"),
        (lambda folder: folders.rewrite(folder, "unet/network.npz", b"PK cut"), "network.npz is damaged; copy"),
        (lambda folder: folders.rewrite(folder, "unet/network.npz", b""), "network.npz is damaged; copy"),
        (lambda folder: drop(folder, "result"), "network.npz holds sample, temb, and its program takes"),
        (lambda folder: drop(folder, "temb"), "network.npz holds sample, result, and its program takes"),
        (lambda folder: folders.rewrite(folder, "unet/network.json", b"{}"), "network.json does not run in"),
        (lambda folder: folders.rewrite(folder, "unet/network.pdiparams", b"short"), "network.json does not run in"),
    ],
)
def test_damage_that_shows_at_the_first_call(copy, damage, message):
    damage(copy)
    pipeline = DiffusionPipeline.from_pretrained(copy, engine="inference", precision="fp32")
    with pytest.raises(ExportError, match=message):
        pipeline(PICTURE, **CALL)


def test_what_an_exported_pipeline_cannot_do_is_told_at_once(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder, engine="inference", precision="fp32")
    with pytest.raises(ValueError, match="cache_interval 2: an exported U-Net runs whole; load the pipeline"):
        pipeline.enable_deep_cache(2)
    pipeline.enable_deep_cache(1)
    with pytest.raises(ValueError, match="give device='gpu' too"):
        pipeline.compile(tensorrt=True)
    if not paddle.is_compiled_with_cuda():
        with pytest.raises(ValueError, match="built without CUDA"):
            pipeline.compile(device="gpu", precision="fp16")
    assert pipeline(PICTURE, **CALL).images.shape == (1, 36, 48, 3)  # as before


def test_nothing_is_left_of_an_export_that_fills_the_disk(eager, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="could not be written whole"):
            eager.export(tmp_path / "exported")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_link_to_nowhere_is_not_replaced(eager, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for force, message in ((False, "exists; name another folder"), (True, "is not replaced")):
        with pytest.raises(ExportError, match=message):
            eager.export(tmp_path / "link", force=force)


def test_tensorrt_is_given_shapes_of_deep_features():
    unet = UNet2DModel(
        block_out_channels=(32, 64), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
    )
    found = gpu.shapes(unet._deep_programs(3)["_shallow"], gpu.Sizes(batch=2, side=64, multiple=8))
    assert found["deep"] == ([1, 64, 4, 4], [1, 64, 16, 16], [2, 64, 32, 32])
    assert list(found) == ["deep", "sample", "temb"]
