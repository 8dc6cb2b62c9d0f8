"""The unconditional pipeline against diffusers' pictures, and `ppdiffusers sample`."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import ppdiffusers
from ppdiffusers import DiffusionPipeline, Generator, LDMPipeline, UNet2DModel, VQModel
from ppdiffusers.cli.main import main

GOLDEN = Path(__file__).parent / "golden_text"
REFERENCE = np.load(GOLDEN / "unconditional.npz")


@pytest.fixture(scope="module")
def pipeline():
    return LDMPipeline.from_pretrained(GOLDEN / "unconditional")


def test_a_folder_saved_by_diffusers_gives_diffusers_pictures():
    pipeline = DiffusionPipeline.from_pretrained(GOLDEN / "unconditional")
    assert type(pipeline) is LDMPipeline
    options = dict(batch_size=2, num_inference_steps=20, generator=Generator(42))
    latents = pipeline(output_type="latent", **options).images.numpy()
    assert np.abs(latents - REFERENCE["latents"]).max() < 1e-4
    images = pipeline(**{**options, "generator": 42}).images
    difference = np.abs(np.stack([np.asarray(image).astype(int) for image in images]) - REFERENCE["pictures"])
    assert (difference <= 1).mean() >= 0.999


def test_the_scaling_factor_of_a_vq_model_is_not_applied(pipeline):
    """diffusers divides by the default that it writes into every VQModel's config; published pictures break."""
    vqvae = VQModel.from_config(pipeline.vqvae.config, scaling_factor=0.18215)
    vqvae.set_state_dict(pipeline.vqvae.state_dict())
    vqvae.eval()
    other = LDMPipeline(vqvae, pipeline.unet, pipeline.scheduler)
    results = [p(num_inference_steps=2, generator=1, output_type="np").images for p in (pipeline, other)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("eta", [0, 1])
def test_a_list_of_generators_makes_batch_and_single_calls_agree(pipeline, eta):
    options = dict(num_inference_steps=3, eta=eta)
    batch = pipeline(4, generator=[1, 2, 3, 4], **options).images
    for seed, image in enumerate(batch, 1):
        alone = pipeline(generator=seed, **options).images[0]
        assert np.abs(np.asarray(image).astype(int) - np.asarray(alone)).max() <= 1
    assert np.abs(np.asarray(batch[0]).astype(int) - np.asarray(batch[1])).max() > 1


@pytest.mark.parametrize(
    "name", ["LMSDiscreteScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_other_schedulers(pipeline, name):
    scheduler = getattr(ppdiffusers, name).from_config(pipeline.scheduler.config)
    other = LDMPipeline(pipeline.vqvae, pipeline.unet, scheduler)
    latents = other(num_inference_steps=5, generator=1, output_type="latent").images.numpy()
    assert np.isfinite(latents).all() and np.abs(latents).max() < 50


def test_outputs_callback_and_stream(pipeline):
    options = dict(num_inference_steps=3, generator=0)
    assert pipeline(**options).images[0].size == (32, 32)
    array = pipeline(output_type="np", **options)[0]
    tensor = pipeline(output_type="pd", return_dict=False, **options)[0]
    np.testing.assert_array_equal(tensor.numpy(), array.transpose(0, 3, 1, 2))
    steps = list(pipeline.stream(output_type="np", **options))
    assert [(s.step, s.total, s.output is None) for s in steps] == [(1, 3, True), (2, 3, True), (3, 3, False)]
    np.testing.assert_array_equal(steps[-1].output.images, array)
    given = pipeline(num_inference_steps=3, output_type="np", latents=Generator(0).randn([1, 3, 8, 8])).images
    np.testing.assert_array_equal(given, array)

    def callback(pipe, step, timestep, tensors):
        return {"latents": paddle.zeros_like(tensors["latents"])} if step == 2 else None

    changed = pipeline(callback_on_step_end=callback, output_type="np", **options).images
    np.testing.assert_array_equal(changed, pipeline.decode_latents(paddle.zeros([1, 3, 8, 8])))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(batch_size=0), "batch_size"),
        (dict(batch_size=1.0), "1.0"),
        (dict(num_inference_steps=-1), "-1"),
        (dict(eta=2), "2"),
        (dict(output_type="jpeg"), "jpeg"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.full((1, 3, 8, 8), np.inf, np.float32)), "infinite"),
        (dict(prompt="a face"), "prompt"),
    ],
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pipeline(**{"num_inference_steps": 1, **arguments})


def test_components_must_fit(pipeline):
    config = dict(pipeline.unet.config)
    sizeless = UNet2DModel.from_config({**config, "sample_size": None})
    with pytest.raises(ValueError, match="sample_size"):
        LDMPipeline(pipeline.vqvae, sizeless, pipeline.scheduler)(num_inference_steps=1)
    wide = UNet2DModel.from_config({**config, "in_channels": 6})
    with pytest.raises(ValueError, match="takes 6 channels"):
        LDMPipeline(pipeline.vqvae, wide, pipeline.scheduler)


def test_the_command(tmp_path, capsys):
    def sample(*arguments):
        return main(["sample", "--model", str(GOLDEN / "unconditional"), "--steps", "2", *map(str, arguments)])

    assert sample("-o", tmp_path / "a.png", "--count", 2, "--eta", 1) == 0
    first, second = capsys.readouterr().out.strip().splitlines()
    seed = int(first.split()[-1])
    assert int(second.split()[-1]) == seed + 1
    assert sample("-o", tmp_path / "alone.png", "--seed", seed + 1, "--eta", 1) == 0
    with Image.open(tmp_path / "alone.png") as alone, Image.open(tmp_path / "a-2.png") as numbered:
        np.testing.assert_array_equal(np.asarray(alone), np.asarray(numbered))
        assert alone.text == numbered.text and alone.text["ppdiffusers:seed"] == str(seed + 1)
    assert sample("-o", tmp_path / "a.txt") == 2
    assert "end it in .png" in capsys.readouterr().err
