"""Prompts, guidance and classes steer a model that was really trained (tests/toy_pictures.py says on what).

What a picture shows is measured: by the colour of its coloured pixels and by two moments of their outline.
"""

from pathlib import Path

import numpy as np
import paddle
import pytest
from toy_pictures import PROMPTS, VOCABULARY, Words, draw, write

import ppdiffusers
from ppdiffusers import (
    BertTokenizer,
    ClassEmbedder,
    DiffusionPipeline,
    LDMClassConditionalPipeline,
    LDMTextToImagePipeline,
)
from ppdiffusers.training.configuration import read_configuration
from ppdiffusers.training.loop import train

TOY = Path(__file__).parent / "toy"
CONFIGS = Path(__file__).parents[2] / "configs"
SEEDS = list(range(12))


def look(pictures):
    """What is coloured in pictures `[B, H, W, 3]` in [0, 1], an array `[B]` of each measure."""
    coloured = (pictures.max(axis=3) - pictures.min(axis=3) > 0.3).astype(float)
    area = coloured.sum(axis=(1, 2))
    weights = coloured / np.maximum(area, 1)[:, None, None]
    y, x = np.mgrid[: pictures.shape[1], : pictures.shape[2]]
    top, left = (weights * y).sum(axis=(1, 2)), (weights * x).sum(axis=(1, 2))
    z = (x - left[:, None, None]) + 1j * (y - top[:, None, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = 2 * np.pi * (weights * abs(z) ** 2).sum(axis=(1, 2)) / area  # a disc has the least, 1
        arms = (weights * z**4).sum(axis=(1, 2)).real / (weights * abs(z) ** 4).sum(axis=(1, 2))  # a disc has 0
    colour = (weights[..., None] * pictures).sum(axis=(1, 2))
    grey = (pictures * (1 - coloured)[..., None]).sum(axis=(1, 2, 3)) / 3 / (1 - coloured).sum(axis=(1, 2))
    return dict(area=area, top=top, left=left, spread=spread, arms=arms, colour=colour, background=grey)


def classify(pictures):
    """The prompt that each picture shows, or "nothing": no single shape, or a form between the two."""
    seen = look(pictures)
    colours = np.where(seen["colour"][:, 0] > seen["colour"][:, 2], "red", "blue")
    shapes = np.where(seen["arms"] > 0.3, "cross", "circle")  # a cross has 0.45 to 0.67
    names = np.char.add(np.char.add(colours, " "), shapes)
    return np.where((seen["area"] > 100) & (seen["area"] < 400) & (seen["spread"] < 1.5), names, "nothing")


def real(classes, seed=10**9):
    """Pictures that training never saw, `[B, H, W, 3]` in [0, 1]."""
    return draw(classes, np.random.default_rng(seed)).transpose(0, 2, 3, 1) / 2 + 0.5


def paint(pipeline, conditions, seeds, guidance_scale, num_inference_steps=10, **options):
    """Every condition with every seed, `[len(conditions), len(seeds), H, W, 3]`."""
    pictures = pipeline(
        [condition for condition in conditions for _ in seeds],
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        generator=list(seeds) * len(conditions),
        output_type="np",
        **options,
    ).images
    assert np.isfinite(pictures).all()
    return pictures.reshape(len(conditions), len(seeds), *pictures.shape[1:])


def shown(pictures):
    """`[conditions, seeds]` of `classify`."""
    return classify(pictures.reshape(-1, *pictures.shape[2:])).reshape(pictures.shape[:2])


def accuracy(pictures):
    """The share of pictures, the first index being that of `PROMPTS`, which show their prompt."""
    return (shown(pictures) == np.array(PROMPTS)[:, None]).mean()


@pytest.fixture(scope="module")
def pipeline():
    words = Words((TOY / "tokenizer" / "vocab.txt").read_text().split())
    return DiffusionPipeline.from_pretrained(TOY, tokenizer=words)


@pytest.fixture(scope="module")
def guided(pipeline):
    return paint(pipeline, PROMPTS, SEEDS, guidance_scale=4)


def test_the_folder_is_a_whole_pipeline():
    assert type(DiffusionPipeline.from_pretrained(TOY)) is LDMTextToImagePipeline
    assert sum(file.stat().st_size for file in TOY.rglob("*") if file.is_file()) < 620_000


def test_the_classifier_knows_unseen_pictures_and_refuses_others(pipeline):
    classes = np.arange(400) % 4
    pictures = real(classes)
    assert (classify(pictures) == np.array(PROMPTS)[classes]).all()
    with paddle.no_grad():
        decoded = pipeline.vqvae(paddle.to_tensor(pictures[:64].transpose(0, 3, 1, 2) * 2 - 1))[0].numpy()
    decoded = decoded.transpose(0, 2, 3, 1) / 2 + 0.5
    assert (classify(decoded) == np.array(PROMPTS)[classes[:64]]).all()  # the first stage loses nothing that counts
    assert 10 * np.log10(1 / ((decoded - pictures[:64]) ** 2).mean()) > 25  # dB
    grey, noise = np.full((1, 32, 32, 3), 0.5), np.random.default_rng(0).random((1, 32, 32, 3))
    two = real(np.array([0]))
    two[:, :, :8], two[:, :, 24:] = (0.9, 0.2, 0.2), (0.9, 0.2, 0.2)
    assert (classify(np.concatenate([grey, noise, two])) == "nothing").all()


def test_guidance_makes_the_prompt_count(pipeline, guided):
    """A fifth of the captions were wrong: unguided pictures follow them too, guided ones do not."""
    unguided = accuracy(paint(pipeline, PROMPTS, SEEDS, guidance_scale=1))
    assert accuracy(paint(pipeline, PROMPTS, SEEDS[:4], guidance_scale=0)) <= 0.25  # one picture for four prompts
    assert 0.4 < unguided < 0.85 and accuracy(guided) > max(0.9, unguided + 0.1)


def test_without_guidance_the_prompt_is_not_read(pipeline):
    pictures = paint(pipeline, PROMPTS, [3], guidance_scale=0, num_inference_steps=4)
    empty = paint(pipeline, [""], [3], guidance_scale=1, num_inference_steps=4)
    assert np.abs(pictures - empty).max() < 1e-3


def test_pictures_without_a_prompt_show_everything(pipeline):
    names = shown(paint(pipeline, [""], range(32), guidance_scale=1))
    assert all(0.08 < (names == prompt).mean() < 0.5 for prompt in PROMPTS)


def test_a_negative_prompt_becomes_rare(pipeline):
    seeds = range(100, 108)
    avoided = [prompt for prompt in PROMPTS for _ in seeds]
    names = shown(paint(pipeline, [""] * 4, seeds, guidance_scale=3, negative_prompt=avoided))
    assert (names == np.array(PROMPTS)[:, None]).mean() < 0.1  # one in four without it
    assert (names == "nothing").mean() < 0.1
    half = np.array([[name.split()[0] == prompt.split()[0] for name in row] for row, prompt in zip(names, PROMPTS)])
    assert half.mean() < 0.35  # its colour too


def test_a_negative_prompt_that_is_the_prompt_undoes_guidance(pipeline):
    options = dict(seeds=[0, 1], num_inference_steps=4)
    both = paint(pipeline, PROMPTS[:1], guidance_scale=6, negative_prompt=PROMPTS[0], **options)
    assert np.abs(both - paint(pipeline, PROMPTS[:1], guidance_scale=1, **options)).max() < 1e-3


def test_the_prompt_decides_what_is_shown_and_the_seed_where(guided):
    names, seen = shown(guided), look(guided.reshape(-1, *guided.shape[2:]))
    assert np.mean([set(column) == set(PROMPTS) for column in names.T]) >= 0.9  # one seed, four prompts
    for row, prompt in zip(names, PROMPTS):
        assert (row == prompt).mean() >= 0.8
    place = np.stack([seen["top"], seen["left"]], axis=1).reshape(4, len(SEEDS), 2)
    assert (place.std(axis=1) > 1).all()  # pixels, among the seeds of one prompt
    assert np.abs(place - place.mean(axis=0)).mean() < 0.75 * np.abs(place - place.mean(axis=1, keepdims=True)).mean()


def test_guided_pictures_are_like_real_ones(guided):
    pictures, classes = guided.reshape(-1, *guided.shape[2:]), np.repeat(np.arange(4), len(SEEDS))
    data, truth = look(real(np.arange(400) % 4)), np.arange(400) % 4
    seen = look(pictures)
    assert 0.85 < seen["area"].mean() / data["area"].mean() < 1.15
    for name in ("top", "left"):
        assert abs(seen[name].mean() - data[name].mean()) < 1.5
        assert 0.5 < seen[name].std() / data[name].std() < 1.3
    assert abs(seen["background"].mean() - data["background"].mean()) < 0.08
    assert 0.5 < seen["background"].std() / data["background"].std() < 1.5
    for i in range(4):
        assert np.abs(seen["colour"][classes == i].mean(axis=0) - data["colour"][truth == i].mean(axis=0)).max() < 0.12
    corner = pictures[:, :3, :3]  # no shape reaches it
    assert (corner.max(axis=3) - corner.min(axis=3)).mean() < 0.08

    def edges(images):
        return np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()

    assert 0.75 < edges(pictures) / edges(real(truth)) < 1.5  # guidance raises the contrast: 1.32 measured


@pytest.mark.parametrize(
    "name, config",
    [
        ("DPMSolverMultistepScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("PNDMScheduler", {"skip_prk_steps": True}),
        ("LMSDiscreteScheduler", {}),
        ("DDPMScheduler", {}),
    ],
)
def test_every_scheduler_shows_the_prompt(pipeline, name, config):
    scheduler = getattr(ppdiffusers, name).from_config(pipeline.scheduler.config, **config)
    other = LDMTextToImagePipeline(**{**pipeline.components, "scheduler": scheduler})
    assert accuracy(paint(other, PROMPTS, range(20, 24), guidance_scale=4)) >= 0.87  # 14 of 16


def test_classes_and_their_guidance_steer_the_same_unet(pipeline):
    embedder = ClassEmbedder.from_pretrained(TOY, subfolder="class_embedder")
    classes = LDMClassConditionalPipeline(pipeline.vqvae, embedder, pipeline.unet, pipeline.scheduler)
    shares = [accuracy(paint(classes, range(4), SEEDS[:4], scale)) for scale in (0, 1, 4)]
    assert shares[0] <= 0.25 < 0.4 < shares[1] and shares[2] > max(0.9, shares[1] + 0.1)
    names = shown(paint(classes, [4], range(100, 116), 3, unconditional_class=2))
    assert (names == PROMPTS[2]).mean() < 0.1


def test_the_configurations_that_train_it(tmp_path, monkeypatch):
    """Two steps of them make a folder that differs from the toy in nothing but weights."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs/toy-pictures", 40)
    small = ["steps=2", "batch_size=8", "validation_pictures=2", "data.workers=0"]
    for name in ("toy-autoencoder", "toy-text-to-image", "toy-class-conditional"):
        config = read_configuration(CONFIGS / f"{name}.json", small)
        given = {"tokenizer": Words(VOCABULARY)} if name == "toy-text-to-image" else None
        if given:  # without paddlenlp, which would read the vocabulary
            given["tokenizer"].save_pretrained = BertTokenizer(tmp_path / "runs/toy-pictures/tokenizer").save_pretrained
        train(config, f"runs/{name}", given)
    made, toy = Path("runs/toy-text-to-image/model"), DiffusionPipeline.from_pretrained(TOY)
    pipeline = DiffusionPipeline.from_pretrained(made, tokenizer=Words(VOCABULARY))
    for name in ("bert", "unet", "scheduler"):
        assert getattr(pipeline, name).config == getattr(toy, name).config
    assert {**pipeline.vqvae.config, "scaling_factor": 0} == {**toy.vqvae.config, "scaling_factor": 0}
    assert pipeline.vqvae.config.scaling_factor != toy.vqvae.config.scaling_factor > 0  # measured
    assert paint(pipeline, PROMPTS, [0], guidance_scale=4, num_inference_steps=2).shape == (4, 1, 32, 32, 3)
    classes = DiffusionPipeline.from_pretrained("runs/toy-class-conditional/model")
    table = ClassEmbedder.from_pretrained(TOY, subfolder="class_embedder")
    assert classes.class_embedder.config == table.config
    for name, value in pipeline.unet.state_dict().items():  # only the table has learned
        assert (value.numpy() == classes.unet.state_dict()[name].numpy()).all()
