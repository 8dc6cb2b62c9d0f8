"""Exported folders that are damaged, asked for what they cannot do, or never finished."""

import pickle
import resource
from copy import deepcopy

import exported_folders as folders
import numpy as np
import paddle
import pytest
from exported_folders import CALL, PICTURE

from ppdiffusers import DiffusionPipeline
from ppdiffusers.inference.engines import OneDNNEngine
from ppdiffusers.inference.exported import ExportedModel, ExportError
from ppdiffusers.models import UNet2DModel
from ppdiffusers.onednn import OneDNNError

start = ExportedModel._start

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")


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


def parameters(folder, change):
    name = "unet/network.pdiparams"
    folders.rewrite(folder, name, change((folder / name).read_bytes()))


@pytest.mark.parametrize("engine", ["onednn", "inference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-4], "buffer is smaller than requested size"),
        (lambda data: data[: len(data) // 2], "does not hold its program's parameters"),
        (lambda data: data[8:], "does not hold its program's parameters"),
        (lambda data: b"", "does not hold its program's parameters"),
        (lambda data: data + bytes(4), "4 bytes are left over"),
    ],
    ids=["cut by a number", "cut in half", "without a beginning", "empty", "longer"],
)
def test_parameters_of_another_length_give_no_picture(copy, change, message, engine):
    name = "unet/network.pdiparams"
    folders.rewrite(copy, name, change((copy / name).read_bytes()))
    pipeline = DiffusionPipeline.from_pretrained(copy, engine=engine, precision="fp32")
    with pytest.raises(ExportError, match=f"does not run in .*{message}.*; load the pipeline that was exported"):
        pipeline(PICTURE, **CALL)


def test_a_refused_size_keeps_the_guard_and_the_engine(eager, folder, tmp_path, monkeypatch):
    started, run = [], OneDNNEngine.__call__
    monkeypatch.setattr(ExportedModel, "_start", lambda *arguments: started.append(1) or start(*arguments))

    def refuse(engine, arrays):
        if any(array.shape[-2:] == (12, 20) for array in arrays.values()):
            raise OneDNNError("no kernel")
        return run(engine, arrays)

    monkeypatch.setattr(OneDNNEngine, "__call__", refuse)
    pipeline = DiffusionPipeline.from_pretrained(folder, engine="onednn", precision="fp32")
    wanted = pipeline(PICTURE, **CALL).images
    assert len(started) == 2
    large = np.zeros([12, 20, 3], np.float32)
    for _ in range(2):
        with pytest.raises(ExportError, match="network.json does not run in oneDNN .* at this size: no kernel"):
            pipeline(large, **CALL)
        for refused in (lambda: pipeline.save_pretrained(tmp_path / "saved"), lambda: pipeline.unet.parameters()):
            with pytest.raises(ExportError, match="has programs and no layers"):
                refused()
        assert not (tmp_path / "saved").exists()
        assert np.array_equal(pipeline(PICTURE, **CALL).images, wanted)
    assert len(started) == 2
    either = DiffusionPipeline.from_pretrained(folder, precision="fp32")  # what one refuses, the next one takes
    assert folders.agree(either(large, **CALL).images, eager(large, **CALL).images)
    assert either.unet._parts["_network"].setup.engine == "inference"
    either(PICTURE, **CALL)
    assert either.unet._parts["_network"].setup.engine == "onednn"


def test_nothing_is_written_of_a_pipeline_that_has_layers_in_part(eager, folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(folder, vqvae=eager.vqvae)
    with pytest.raises(ExportError, match="has programs and no layers"):
        pipeline.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_what_an_exported_model_lacks_raises_and_what_it_has_does_not(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    unet = pipeline.unet
    assert pipeline.device.is_cpu_place() and pipeline.dtype == paddle.float32
    assert isinstance(unet, UNet2DModel) and unet.config.in_channels == 6 and not unet.training
    assert unet.eval() is not None and unet.to("cpu") is unet
    for name in ("parameters", "named_parameters", "state_dict", "train", "apply", "sublayers", "save_pretrained"):
        with pytest.raises(ExportError, match="UNet2DModel of .* has programs and no layers"):
            getattr(unet, name)
    for use in (pickle.dumps, deepcopy, lambda unet: unet.to("gpu"), lambda unet: unet.to(dtype="float16")):
        with pytest.raises(ExportError, match="has programs and no layers"):
            use(unet)
