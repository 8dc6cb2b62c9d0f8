"""The pipelines with each scheduler, swapped in by its config."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ppdiffusers
from ppdiffusers import (
    ClassEmbedder,
    Generator,
    LDMBertModel,
    LDMClassConditionalPipeline,
    LDMLayoutToImagePipeline,
    LDMPipeline,
    LDMSuperResolutionPipeline,
    LDMTextToImagePipeline,
    UNet2DConditionModel,
    VQModel,
)

GOLDEN = Path(__file__).parent / "golden"
TEXT = Path(__file__).parent / "golden_text"
CONDITIONAL = Path(__file__).parent / "golden_conditional"
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
    scheduler.set_timesteps(len(seen))
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


def letters(texts, padding, max_length, truncation):
    """A tokenizer: the numbers of a text's letters, and padding."""
    return {"input_ids": [[5 + ord(letter) % 15 for letter in text] + [0] * (max_length - len(text)) for text in texts]}


def conditional(kind, name, encoder, scheduler):
    parts = {"vqvae": VQModel, name: encoder, "unet": UNet2DConditionModel}
    models = {part: cls.from_pretrained(CONDITIONAL, subfolder=part) for part, cls in parts.items()}
    return kind(**models, scheduler=scheduler)


@pytest.fixture(scope="module")
def from_noise(base):
    """Of each pipeline that starts from noise: itself, two inputs for it, the argument that takes them, and others."""
    text = LDMTextToImagePipeline.from_pretrained(TEXT / "text", tokenizer=letters)
    layouts = [[(3, 0, 0, 0.5, 1)], [(7, 0.2, 0, 1, 1), (1, 0, 0, 1, 0.5)]]
    classes = conditional(LDMClassConditionalPipeline, "class_embedder", ClassEmbedder, base.scheduler)
    places = conditional(LDMLayoutToImagePipeline, "layout_encoder", LDMBertModel, base.scheduler)
    return {
        "unconditional": (LDMPipeline.from_pretrained(TEXT / "unconditional"), [1, 1], "batch_size", {}),
        "text": (text, ["a boat", "a lake"], "prompt", {"guidance_scale": 6}),
        "classes": (classes, [1, 3], "class_labels", {"guidance_scale": 3}),
        "layouts": (places, layouts, "boxes", {"guidance_scale": 3}),
    }


@pytest.mark.parametrize("kind", ["unconditional", "text", "classes", "layouts"])
@pytest.mark.parametrize("name, config", SCHEDULERS, ids=str)
def test_each_seed_makes_its_finite_picture_alone_and_in_a_batch(from_noise, kind, name, config):
    pipeline, inputs, argument, options = from_noise[kind]
    scheduler = getattr(ppdiffusers, name).from_config(pipeline.scheduler.config, **config)
    pipeline = type(pipeline)(**{**pipeline.components, "scheduler": scheduler})

    def call(given, generator):
        result = pipeline(
            **{argument: given}, generator=generator, num_inference_steps=3, output_type="latent", **options
        )
        return result.images.numpy()

    both = call(2 if kind == "unconditional" else inputs, [5, 6])
    channels = pipeline.unet.config.in_channels
    assert both.shape == (2, channels, 8, 8) and np.isfinite(both).all()
    scale = np.abs(both).max()
    np.testing.assert_allclose(call(inputs[1], 6)[0], both[1], atol=1e-4 * scale)
    assert np.abs(call(inputs[1], 7)[0] - both[1]).max() > 1e-2 * scale
