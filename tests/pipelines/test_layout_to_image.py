"""Tokens of layouts, the layout pipeline against the papers' sampling in torch, and `ppdiffusers layout`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppdiffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    Generator,
    LayoutBox,
    LDMBertModel,
    LDMLayoutToImagePipeline,
    UNet2DConditionModel,
    VQModel,
)
from ppdiffusers.cli.main import main
from ppdiffusers.layout import FULL_CROP, box_tokens, layout_tokens, point_token, read_layouts

GOLDEN = Path(__file__).parent / "golden_conditional"
REFERENCE = np.load(GOLDEN / "reference.npz")
QUICK = dict(num_inference_steps=2, generator=0)
BOX = (7, 0.1, 0.1, 0.9, 0.5)
# What scripts/make_reference_conditional_pipelines.py gives as tokens.
LAYOUTS = [[(7, 1 / 9, 1 / 9, 8 / 9, 5 / 9), (3, 0, 4 / 9, 1, 1)], [(2, 0, 0, 1, 1)]]


@pytest.fixture(scope="module")
def pipeline():
    parts = {"vqvae": VQModel, "layout_encoder": LDMBertModel, "unet": UNet2DConditionModel}
    models = {name: kind.from_pretrained(GOLDEN, subfolder=name) for name, kind in parts.items()}
    scheduler = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return LDMLayoutToImagePipeline(**models, scheduler=scheduler, num_object_classes=10)


@pytest.fixture
def tokens_read(pipeline, monkeypatch):
    seen, forward = [], pipeline.layout_encoder.forward
    monkeypatch.setattr(pipeline.layout_encoder, "forward", lambda ids: (seen.append(ids.tolist()), forward(ids))[1])
    return seen


def arrays(images):
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.mark.parametrize(
    "x, y, vocab_size, token",
    [
        (0, 0, 16, 0),
        (2 / 3, 1 / 3, 16, 6),
        (1, 1, 16, 15),
        (0, 0, 8192, 0),
        (1, 0, 8192, 89),
        (0, 1, 8192, 8010),
        (1, 1, 8192, 8099),
        (0.25, 0.5, 8192, 44 * 90 + 22),  # 44.5 rows down is rounded to the even one, 22.25 columns to 22
    ],
)
def test_the_token_of_a_point(x, y, vocab_size, token):
    assert point_token(x, y, vocab_size) == token


def test_a_token_is_the_nearest_point_of_the_grid():
    grid = [(column / 89, row / 89) for row in range(90) for column in range(90)]
    for x, y in np.random.RandomState(0).uniform(size=(40, 2)).tolist():
        distances = [(x - a) ** 2 + (y - b) ** 2 for a, b in grid]
        assert point_token(x, y, 8192) == int(np.argmin(distances))


def test_the_tokens_of_the_published_models_layout():
    boxes = [LayoutBox(14, (0.0, 0.5, 1.0, 1.0)), LayoutBox(203, (0.1, 0.2, 0.3, 0.4), group=True)]
    tokens = layout_tokens(boxes, FULL_CROP, 8192, 30, 600)
    assert tokens[:6] == [14, 44 * 90, 8099, 203 + 600, 18 * 90 + 9, 36 * 90 + 27]
    assert tokens[6:] == 84 * [8191] + [0, 8099] and len(tokens) == 92
    assert layout_tokens([], FULL_CROP, 8192, 30) == 90 * [8191] + [0, 8099]


@pytest.mark.parametrize(
    "names, token",
    [
        ([], 3),
        (["group"], 13),
        (["occluded"], 23),
        (["depiction"], 43),
        (["inside"], 83),
        (["group", "inside"], 93),
        (["group", "occluded", "depiction", "inside"], 153),
    ],
)
def test_modifiers(names, token):
    box = LayoutBox(3, FULL_CROP, **dict.fromkeys(names, True))
    assert layout_tokens([box], FULL_CROP, 8192, 1, 10)[0] == token


def test_a_crop_leaves_out_what_lies_outside_and_moves_nothing():
    (layout,) = read_layouts([(1, 0, 0, 0.5, 0.5), (2, 0.4, 0.4, 1, 1), (3, 0.5, 0, 1, 0.5)])
    crop = (0.5, 0.5, 1.0, 1.0)  # touches the first and the third in a point and a line
    tokens = layout_tokens(layout, crop, 8192, 2)
    assert tokens == [2, *box_tokens((0.4, 0.4, 1, 1), 8192), 8191, 8191, 8191, *box_tokens(crop, 8192)]
    with pytest.raises(ValueError, match="crop"):
        layout_tokens(layout[:1], crop, 8192, 2)


@pytest.mark.parametrize("boxes", [[BOX], (BOX,), [list(BOX)], [LayoutBox(7, BOX[1:])], [[BOX]], [(BOX,)]], ids=repr)
def test_forms_of_a_layout(boxes):
    assert read_layouts(boxes) == [[LayoutBox(7, (0.1, 0.1, 0.9, 0.5))]]


def test_five_boxes_are_no_box():
    assert [len(layout) for layout in read_layouts([[BOX] * 5, [BOX]])] == [5, 1]


def test_the_tokens_latents_and_pictures_of_the_reference(pipeline, tokens_read):
    options = dict(boxes=LAYOUTS, guidance_scale=3, num_inference_steps=10, generator=Generator(42))
    reference = REFERENCE["layouts/latents"]
    latents = pipeline(output_type="latent", **options).images.numpy()
    assert tokens_read == [[REFERENCE["nothing"].tolist()] * 2 + REFERENCE["tokens"].tolist()]
    assert np.abs(latents - reference).max() < 1e-4 * np.abs(reference).max()
    images = pipeline(**{**options, "generator": 42}).images
    assert (np.abs(arrays(images) - REFERENCE["layouts/pictures"]) <= 1).mean() >= 0.999


def test_no_guidance_by_default(pipeline, tokens_read):
    pipeline(LAYOUTS, **QUICK)
    assert tokens_read == [REFERENCE["tokens"].tolist()]


def test_places_classes_modifiers_and_crop_count(pipeline):
    def latents(*box, crop=FULL_CROP, **modifiers):
        boxes = [LayoutBox(box[0], box[1:], **modifiers)]
        return pipeline(boxes, crop=crop, output_type="latent", **QUICK).images.numpy()

    base = latents(3, 0, 0, 0.5, 0.5)
    others = [
        latents(4, 0, 0, 0.5, 0.5),
        latents(3, 0, 0, 1, 0.5),
        latents(3, 0, 0, 0.5, 0.5, group=True),
        latents(3, 0, 0, 0.5, 0.5, crop=(0, 0, 0.5, 1)),
    ]
    for other in others:
        assert np.abs(other - base).max() > 0.1


@pytest.mark.parametrize("eta", [0, 1])
def test_four_seeds_at_once_are_four_calls(pipeline, eta):
    options = dict(num_inference_steps=3, guidance_scale=3, eta=eta)
    layouts = [*LAYOUTS, LAYOUTS[0], [BOX]]
    batch = pipeline(layouts, generator=[1, 2, 3, 4], **options).images
    for seed, (layout, image) in enumerate(zip(layouts, batch), 1):
        alone = pipeline(layout, generator=seed, **options).images
        assert np.abs(arrays([image]) - arrays(alone)).max() <= 1
    assert np.abs(arrays(batch[:1]) - arrays(batch[2:3])).max() > 1


def test_images_of_one_layout_are_neighbours(pipeline):
    options = dict(num_inference_steps=2, output_type="np")
    batch = pipeline(LAYOUTS, num_images_per_layout=2, generator=[1, 2, 3, 4], **options).images
    np.testing.assert_allclose(batch[2], pipeline(LAYOUTS[1], generator=3, **options).images[0], atol=1 / 255)


@pytest.mark.parametrize("eta", [0, 1])
def test_the_seed_fixes_the_picture_at_every_eta(pipeline, eta):
    def call(seed):
        return pipeline([BOX], num_inference_steps=3, eta=eta, generator=seed, output_type="np").images

    np.testing.assert_array_equal(call(5), call(5))
    assert np.abs(call(5) - call(6)).max() > 0.01


def test_saved_and_loaded(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is LDMLayoutToImagePipeline and again.num_object_classes == 10
    results = [p(LAYOUTS, 24, 32, output_type="np", **QUICK).images for p in (pipeline, again)]
    np.testing.assert_array_equal(*results)
    assert DiffusionPipeline.from_pretrained(tmp_path, num_object_classes=5).num_object_classes == 5
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["num_object_classes"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert DiffusionPipeline.from_pretrained(tmp_path).num_object_classes is None
    with pytest.raises(ValueError, match="num_objects.*num_object_classes"):
        DiffusionPipeline.from_pretrained(tmp_path, num_objects=5)


def test_a_model_of_unknown_classes_takes_every_class_token_but_no_modifiers(pipeline):
    other = LDMLayoutToImagePipeline(**pipeline.components)
    other([(99, 0, 0, 1, 1)], **QUICK)
    with pytest.raises(ValueError, match=r"0 \.\.\. 99, and no 100"):
        other([(100, 0, 0, 1, 1)], **QUICK)
    with pytest.raises(ValueError, match="num_object_classes"):
        other([LayoutBox(1, FULL_CROP, inside=True)], **QUICK)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(boxes=[]), "empty list"),
        (dict(boxes=[[BOX], []]), "empty list"),
        (dict(boxes=None), "NoneType"),
        (dict(boxes="dog"), "str"),
        (dict(boxes=BOX), "one entry is 7"),
        (dict(boxes=[BOX, (3, 0, 0, 1)]), r"not \(3, 0, 0, 1\)"),
        (dict(boxes=[BOX] * 5), "5 objects.*4 at most"),
        (dict(boxes=[(10, 0, 0, 1, 1)]), r"0 \.\.\. 9, and no 10"),
        (dict(boxes=[(-1, 0, 0, 1, 1)]), "no -1"),
        (dict(boxes=[(1.0, 0, 0, 1, 1)]), "1.0"),
        (dict(boxes=[(True, 0, 0, 1, 1)]), "True"),
        (dict(boxes=[BOX, (3, 0, 0, 640, 480)]), "class 3.*640, 480.*divide pixels"),
        (dict(boxes=[(3, -0.1, 0, 1, 1)]), "-0.1"),
        (dict(boxes=[(3, 0, 0, float("nan"), 1)]), "nan"),
        (dict(boxes=[(3, 0.5, 0, 0.5, 1)]), "0.5.*empty"),
        (dict(boxes=[(3, 0, 0.7, 1, 0.2)]), "0.7.*empty"),
        (dict(crop=(0, 0, 1)), "crop"),
        (dict(crop=(0, 0, 2, 1)), "crop"),
        (dict(guidance_scale=None), "guidance_scale"),
        (dict(height=30), "30.*28 or 32"),
        (dict(num_images_per_layout=0), "num_images_per_layout"),
        (dict(num_inference_steps=-1), "-1"),
        (dict(num_inference_steps=1001), "1001"),
        (dict(eta=-1), "-1"),
        (dict(output_type="jpeg"), "jpeg"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.full((1, 3, 8, 8), np.nan, np.float32)), "NaN"),
        (dict(box=[BOX]), "box"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pipeline(**{"boxes": [BOX], "num_inference_steps": 1, **arguments})


@pytest.mark.parametrize("values", [("dog", FULL_CROP), (1, FULL_CROP, "group"), (1, 55)])
def test_a_box_that_cannot_be(values):
    with pytest.raises(TypeError, match=repr(values[-1] if values[0] == 1 else values[0])):
        LayoutBox(*values)


def test_a_modifier_that_the_vocabulary_has_no_room_for(pipeline):
    pipeline([LayoutBox(9, FULL_CROP, inside=True)], **QUICK)
    with pytest.raises(ValueError, match="token 109.*99"):
        pipeline([LayoutBox(9, FULL_CROP, occluded=True, inside=True)], **QUICK)


def test_components_must_fit(pipeline):
    config = pipeline.layout_encoder.config
    for changed, message in (({"d_model": 8}, "16.*8"), ({"max_position_embeddings": 15}, "15 tokens")):
        encoder = LDMBertModel.from_config(config, **changed)
        with pytest.raises(ValueError, match=message):
            LDMLayoutToImagePipeline(**{**pipeline.components, "layout_encoder": encoder})
    with pytest.raises(ValueError, match="num_object_classes.*0"):
        LDMLayoutToImagePipeline(**pipeline.components, num_object_classes=0)


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path


def layout(folder, entries, *arguments):
    (folder / "boxes.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return main(["layout", str(folder / "boxes.json"), "--model", str(folder / "model"), "--steps", "2",
                 "-o", str(folder / "out.png"), *map(str, arguments)])  # fmt: skip


def test_the_command(pipeline, folder, capsys):
    entries = [{"label": 3, "box": [0, 0.25, 0.5, 1]}, {"label": 1, "box": [0, 0, 1, 1], "group": True}]
    assert layout(folder, entries, "--seed", 5, "--height", 24) == 0
    assert "32x24, seed 5" in capsys.readouterr().out
    boxes = [(3, 0, 0.25, 0.5, 1), LayoutBox(1, FULL_CROP, group=True)]
    expected = pipeline(boxes, height=24, num_inference_steps=2, generator=5).images[0]
    with Image.open(folder / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
        text = {key.partition(":")[2]: value for key, value in image.text.items()}
    assert json.loads(text["boxes"]) == entries and text["seed"] == "5" and text["steps"] == "2"


@pytest.mark.parametrize(
    "entries, message",
    [
        ("{", "not JSON"),
        ([], "no list of boxes"),
        ({"label": 3, "box": [0, 0, 1, 1]}, "no list of boxes"),
        ([{"label": 3, "box": [0, 0, 1, 1]}, [3, 0, 0, 1, 1]], "box 2"),
        ([{"label": 3, "bbox": [0, 0, 1, 1]}], "bbox"),
        ([{"label": 3}], "box 1"),
        ([{"label": "dog", "box": [0, 0, 1, 1]}], "'dog'"),
        ([{"label": 3, "box": [0, 0, 200, 1]}], "200"),
        ([{"label": 11, "box": [0, 0, 1, 1]}], "no 11"),
    ],
)
def test_errors_of_the_command_are_one_line(folder, capsys, entries, message):
    assert layout(folder, entries) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ppdiffusers: error: ") and message in lines[0]
    assert not (folder / "out.png").exists()


def test_a_file_that_is_not_there(folder, capsys):
    assert main(["layout", str(folder / "no.json"), "-o", str(folder / "out.png")]) == 2
    assert "no.json" in capsys.readouterr().err
