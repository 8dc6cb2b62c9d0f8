"""The class-conditional pipeline against the papers' sampling in torch, and `ppdiffusers sample --class`."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppdiffusers import (
    ClassEmbedder,
    DDIMScheduler,
    DiffusionPipeline,
    Generator,
    LDMClassConditionalPipeline,
    LDMPipeline,
    UNet2DConditionModel,
    VQModel,
)
from ppdiffusers.cli.main import main

GOLDEN = Path(__file__).parent / "golden_conditional"
REFERENCE = np.load(GOLDEN / "reference.npz")
UNCONDITIONAL = Path(__file__).parent / "golden_text" / "unconditional"
QUICK = dict(num_inference_steps=2, generator=0)


def published_scheduler():
    return DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline():
    parts = {"vqvae": VQModel, "class_embedder": ClassEmbedder, "unet": UNet2DConditionModel}
    models = {name: kind.from_pretrained(GOLDEN, subfolder=name) for name, kind in parts.items()}
    return LDMClassConditionalPipeline(**models, scheduler=published_scheduler())


@pytest.fixture
def without_a_null_class(pipeline):
    embedder = ClassEmbedder(4, 16)
    embedder.embedding.weight.set_value(pipeline.class_embedder.embedding.weight[:4])
    embedder.eval()
    return LDMClassConditionalPipeline(**{**pipeline.components, "class_embedder": embedder})


@pytest.fixture
def conditions(pipeline, monkeypatch):
    """Numbers of the classes that the unet was given, call by call."""
    seen, forward = [], pipeline.class_embedder.forward
    monkeypatch.setattr(
        pipeline.class_embedder, "forward", lambda labels: (seen.append(labels.tolist()), forward(labels))[1]
    )
    return seen


def arrays(images):
    return np.stack([np.asarray(image).astype(int) for image in images])


def test_the_latents_and_pictures_of_the_reference(pipeline):
    options = dict(class_labels=[1, 3], guidance_scale=3, num_inference_steps=10, generator=Generator(42))
    reference = REFERENCE["classes/latents"]
    latents = pipeline(output_type="latent", **options).images.numpy()
    assert np.abs(latents - reference).max() < 1e-4 * np.abs(reference).max()
    images = pipeline(**{**options, "generator": 42}).images
    assert (np.abs(arrays(images) - REFERENCE["classes/pictures"]) <= 1).mean() >= 0.999


def test_the_default_guidance_is_the_papers_where_there_is_a_null_class(pipeline, without_a_null_class, conditions):
    def latents(pipe, **options):
        return pipe(2, output_type="latent", **QUICK, **options).images.numpy()

    np.testing.assert_array_equal(latents(pipeline), latents(pipeline, guidance_scale=1.5, unconditional_class=4))
    assert conditions == [[4, 2]] * 2 and pipeline.default_guidance_scale == 1.5
    plain = latents(pipeline, guidance_scale=1)
    assert conditions[2:] == [[2]] and np.abs(latents(pipeline) - plain).max() > 0.1
    np.testing.assert_array_equal(latents(without_a_null_class), plain)


def test_guidance_needs_a_class_to_lead_away_from(pipeline, without_a_null_class):
    with pytest.raises(ValueError, match="guidance_scale 3 .*unconditional_class"):
        without_a_null_class(1, guidance_scale=3, **QUICK)
    results = [
        pipe([1, 0], guidance_scale=3, unconditional_class=2, output_type="np", **QUICK).images
        for pipe in (pipeline, without_a_null_class)
    ]
    np.testing.assert_array_equal(*results)
    with pytest.warns(UserWarning, match="unconditional_class"):
        pipeline(1, guidance_scale=1, unconditional_class=2, **QUICK)


@pytest.mark.parametrize("labels", [2, [2], (2,), np.int64(2), np.array([2]), paddle.to_tensor([2])])
def test_forms_of_a_class(pipeline, conditions, labels):
    assert len(pipeline(labels, guidance_scale=1, **QUICK).images) == 1 and conditions == [[2]]


@pytest.mark.parametrize("eta", [0, 1])
def test_four_seeds_at_once_are_four_calls(pipeline, eta):
    options = dict(num_inference_steps=3, guidance_scale=3, eta=eta)
    batch = pipeline([3, 0, 2, 0], generator=[1, 2, 3, 4], **options).images
    for seed, (label, image) in enumerate(zip([3, 0, 2, 0], batch), 1):
        alone = pipeline(label, generator=seed, **options).images
        assert np.abs(arrays([image]) - arrays(alone)).max() <= 1
    assert np.abs(arrays(batch[1:2]) - arrays(batch[3:])).max() > 1


def test_images_of_one_class_are_neighbours(pipeline):
    options = dict(num_inference_steps=2, output_type="np")
    batch = pipeline([3, 0], num_images_per_class=2, generator=[1, 2, 3, 4], **options).images
    np.testing.assert_allclose(batch[2], pipeline(0, generator=3, **options).images[0], atol=1 / 255)


@pytest.mark.parametrize("eta", [0, 1])
def test_the_seed_fixes_the_picture_at_every_eta(pipeline, eta):
    def call(seed):
        return pipeline(1, num_inference_steps=3, eta=eta, generator=seed, output_type="np").images

    np.testing.assert_array_equal(call(5), call(5))
    assert np.abs(call(5) - call(6)).max() > 0.01


@pytest.mark.parametrize("size, latents", [((4, 4), [2, 2]), ((36, 20), [10, 6]), ((64, 32), [16, 8])])
def test_every_multiple_of_the_scale_factor_is_a_size(pipeline, size, latents):
    height, width = size
    assert pipeline(0, height, width, **QUICK).images[0].size == (width, height)
    assert pipeline(0, height, width, output_type="latent", **QUICK).images.shape == [1, 3, *latents]


def test_outputs_callback_and_stream(pipeline):
    options = dict(num_inference_steps=3, generator=0)
    array = pipeline(1, output_type="np", **options).images
    tensor = pipeline(1, output_type="pd", return_dict=False, **options)[0]
    np.testing.assert_array_equal(tensor.numpy(), array.transpose(0, 3, 1, 2))
    steps = list(pipeline.stream(1, output_type="np", **options))
    assert [(s.step, s.total, s.output is None) for s in steps] == [(1, 3, True), (2, 3, True), (3, 3, False)]
    np.testing.assert_array_equal(steps[-1].output.images, array)
    noise = Generator(0).randn([1, 3, 8, 8])
    np.testing.assert_array_equal(pipeline(1, num_inference_steps=3, latents=noise, output_type="np").images, array)

    def callback(pipe, step, timestep, tensors):
        return {"latents": paddle.zeros_like(tensors["latents"])} if step == 2 else None

    changed = pipeline(1, callback_on_step_end=callback, output_type="np", **options).images
    np.testing.assert_array_equal(changed, pipeline.decode_latents(paddle.zeros([1, 3, 8, 8])))


def test_saved_and_loaded(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is LDMClassConditionalPipeline
    assert again.class_embedder.config.unconditional_class == 4
    results = [p([1, 2], output_type="np", **QUICK).images for p in (pipeline, again)]
    np.testing.assert_array_equal(*results)
    with pytest.raises(ValueError, match="LDMClassConditionalPipeline, not a LDMPipeline"):
        LDMPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(class_labels=[]), "empty list"),
        (dict(class_labels=5), r"0 \.\.\. 4, and no 5"),
        (dict(class_labels=[0, -1]), "no -1"),
        (dict(class_labels=True), "True"),
        (dict(class_labels=[0, False]), "False"),
        (dict(class_labels=1.0), "1.0"),
        (dict(class_labels="1"), "'1'"),
        (dict(class_labels=None), "None"),
        (dict(class_labels=[[1]]), r"\[1\]"),
        (dict(unconditional_class=7), "unconditional_class.*no 7"),
        (dict(unconditional_class=True), "True"),
        (dict(guidance_scale="3"), "guidance_scale"),
        (dict(guidance_scale=float("inf")), "inf"),
        (dict(height=30), "30.*28 or 32"),
        (dict(num_images_per_class=0), "num_images_per_class"),
        (dict(num_inference_steps=-1), "-1"),
        (dict(num_inference_steps=1001), "1001"),
        (dict(eta=2), "2"),
        (dict(output_type="jpeg"), "jpeg"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.full((1, 3, 8, 8), np.nan, np.float32)), "NaN"),
        (dict(class_label=1), "class_label"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pipeline(**{"class_labels": 0, "num_inference_steps": 1, **arguments})


def test_components_must_fit(pipeline):
    with pytest.raises(ValueError, match="16.*class_embedder.*8"):
        LDMClassConditionalPipeline(**{**pipeline.components, "class_embedder": ClassEmbedder(5, 8, 4)})
    with pytest.raises(TypeError, match="ClassEmbedder as class_embedder"):
        LDMClassConditionalPipeline(**{**pipeline.components, "class_embedder": pipeline.vqvae})


@pytest.mark.parametrize("arguments", [(0, 8), (5, 1.5), (5, 8, 5), (5, 8, -1)])
def test_a_class_embedder_that_cannot_be(arguments):
    with pytest.raises(ValueError, match=str(arguments[-1]) if arguments[0] else "0"):
        ClassEmbedder(*arguments)


def sample(model, *arguments):
    return main(["sample", "--model", str(model), "--steps", "2", *map(str, arguments)])


def test_the_command(pipeline, tmp_path, capsys):
    pipeline.save_pretrained(tmp_path / "model")
    assert sample(tmp_path / "model", "-o", tmp_path / "a.png", "--class", "3,1", "--count", 2, "--seed", 5) == 0
    assert capsys.readouterr().out.splitlines()[3] == f"{tmp_path / 'a-4.png'}: 32x32, seed 8"
    assert sample(tmp_path / "model", "-o", tmp_path / "b.png", "--class", 1, "--seed", 7, "--guidance", 1.5) == 0
    with Image.open(tmp_path / "a-3.png") as numbered, Image.open(tmp_path / "b.png") as alone:
        np.testing.assert_array_equal(np.asarray(numbered), np.asarray(alone))
        assert numbered.text == alone.text
        text = {key.partition(":")[2]: value for key, value in alone.text.items()}
    assert text["class"] == "1" and text["guidance"] == "1.5" and text["seed"] == "7" and text["steps"] == "2"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "0 ... 4 with --class"),
        (["--class", "1,9"], "no 9"),
        (["--class", 1, "--guidance", "nan"], "nan"),
        (["--class", 1, "--count", 0], "--count: '0'"),
    ],
)
def test_errors_of_the_command_are_one_line(pipeline, tmp_path, capsys, arguments, message):
    pipeline.save_pretrained(tmp_path / "model")
    assert sample(tmp_path / "model", "-o", tmp_path / "a.png", *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ppdiffusers: error: ") and message in lines[0]
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("arguments", [["--class", 1], ["--guidance", 2]])
def test_a_model_without_classes_refuses_them(tmp_path, capsys, arguments):
    assert sample(UNCONDITIONAL, "-o", tmp_path / "a.png", *arguments) == 2
    assert f"leave {arguments[0]} out" in capsys.readouterr().err


def test_a_list_of_classes_that_is_none(tmp_path, capsys):
    assert sample(UNCONDITIONAL, "-o", tmp_path / "a.png", "--class", "cat") == 2
    assert "'cat' is no list of class numbers" in capsys.readouterr().err


def test_a_model_that_needs_more_than_noise(tmp_path, capsys):
    assert sample(GOLDEN.parent / "golden" / "safetensors", "-o", tmp_path / "a.png") == 2
    assert "LDMSuperResolutionPipeline" in capsys.readouterr().err
