"""The super-resolution pipeline with each scheduler, swapped in by its config."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ppdiffusers
from ppdiffusers import Generator, LDMSuperResolutionPipeline

GOLDEN = Path(__file__).parent / "golden"
SCHEDULERS = [
    ("DDIMScheduler", {}),
    ("DDPMScheduler", {}),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("LMSDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
]


@pytest.fixture(scope="module")
def base():
    return LDMSuperResolutionPipeline.from_pretrained(GOLDEN / "safetensors")


@pytest.fixture(params=SCHEDULERS, ids=str)
def pipeline(request, base):
    name, config = request.param
    scheduler = getattr(ppdiffusers, name).from_config(base.scheduler.config, **config)
    return LDMSuperResolutionPipeline(base.vqvae, base.unet, scheduler)


@pytest.fixture(scope="module")
def image():
    return Image.open(GOLDEN / "low_resolution.png").resize((8, 8))


def test_the_seed_fixes_a_finite_picture(pipeline, image):
    def call(seed):
        return pipeline(image, num_inference_steps=5, generator=Generator(seed), output_type="latent").images.numpy()

    first = call(5)
    assert np.isfinite(first).all() and np.abs(first).max() < 50
    np.testing.assert_array_equal(first, call(5))
    assert np.abs(first - call(6)).max() > 0.01


def test_only_the_latents_are_scaled(pipeline, image, monkeypatch):
    seen, forward = [], pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda sample, t: (seen.append(sample.numpy()), forward(sample, t))[1]
    )
    pipeline(image, num_inference_steps=3, generator=Generator(9))
    expected = np.asarray(image).transpose(2, 0, 1) / 127.5 - 1
    scheduler = pipeline.scheduler
    noise = Generator(9).randn([1, 3, 8, 8]) * scheduler.init_noise_sigma
    scaled = scheduler.scale_model_input(noise, scheduler.timesteps[0])
    np.testing.assert_allclose(seen[0][:, :3], scaled, rtol=1e-5)
    for sample in seen:
        np.testing.assert_allclose(sample[0, 3:], expected, atol=1e-5)


def test_the_scheduler_is_saved_and_loaded_with_the_pipeline(pipeline, image, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = ppdiffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is type(pipeline.scheduler) and again.scheduler.config == pipeline.scheduler.config


@pytest.mark.parametrize("steps", [40])
def test_solvers_of_the_same_equation_agree(base, image, steps):
    results = []
    for name, config in SCHEDULERS:
        if name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler") or "algorithm_type" in config:
            continue
        scheduler = getattr(ppdiffusers, name).from_config(base.scheduler.config, **config)
        pipeline = LDMSuperResolutionPipeline(base.vqvae, base.unet, scheduler)
        results.append(pipeline(image, num_inference_steps=steps, generator=3, output_type="latent").images.numpy())
    scale = np.abs(results[0]).max()
    for result in results[1:]:
        assert np.abs(result - results[0]).max() < 0.2 * scale
