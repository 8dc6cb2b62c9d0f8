"""`--quality` and `set_quality`: what is recommended is what runs, and is kept with the model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import model_zoo
from ppdiffusers import ConfigError, DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from ppdiffusers.cli.main import main
from ppdiffusers.quality import DEFAULT, QUALITIES

PIPELINES = Path(__file__).parent / "pipelines"
EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"
PLAIN = PIPELINES / "golden" / "safetensors"  # recommends nothing
PICTURE = np.random.default_rng(0).random([6, 4, 3], np.float32)


def load(model):
    return DiffusionPipeline.from_pretrained(model, engine="eager")


@pytest.fixture
def folder(tmp_path):
    """A copy of the plain model whose index can be written to."""
    shutil.copytree(PLAIN, tmp_path / "model")

    def recommend(entries):
        file = tmp_path / "model" / "model_index.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "_quality": entries}))
        return tmp_path / "model"

    return recommend


def recommended(**change):
    return {name: {"scheduler": "EulerDiscreteScheduler", "steps": 2 + i} | change for i, name in enumerate(QUALITIES)}


def settings(pipeline, quality):
    steps = pipeline.set_quality(quality)
    return steps, type(pipeline.scheduler), dict(pipeline.scheduler.config), pipeline._deep_cache


def test_a_model_without_a_recommendation_gets_the_usual():
    pipeline = load(PLAIN)
    steps = [pipeline.set_quality(quality) for quality in QUALITIES]
    assert steps == sorted(steps) and steps == [DEFAULT[quality].steps for quality in QUALITIES]
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert pipeline.scheduler.config.beta_end == load(PLAIN).scheduler.config.beta_end


@pytest.mark.parametrize("model", [PLAIN, EMBEDDED], ids=str)
@pytest.mark.parametrize("quality", QUALITIES)
def test_choosing_again_forgets_the_first_choice(model, quality):
    wanted, pipeline = settings(load(model), quality), load(model)
    for other in (*QUALITIES, quality):
        pipeline.set_quality(other)
    assert settings(pipeline, quality) == wanted
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, beta_end=0.5)  # the user's own
    pipeline.set_quality(quality)
    assert pipeline.scheduler.config.beta_end == 0.5


def test_a_recommendation_is_followed_and_saved(folder, tmp_path):
    entries = recommended(config={"use_karras_sigmas": True}, cache_interval=2, cache_branch_id=1)
    pipeline = load(folder(entries))
    steps, kind, config, cache = settings(pipeline, "balanced")
    assert (steps, kind.__name__, config["use_karras_sigmas"], cache) == (3, "EulerDiscreteScheduler", True, (2, 1))
    pipeline.save_pretrained(tmp_path / "again")
    assert settings(load(tmp_path / "again"), "balanced") == (steps, kind, config, cache)
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["_quality"] == entries


@pytest.mark.parametrize(
    "entries, message",
    [
        ("fast", "_quality of .*model_index.json is not understood"),
        ({"fast": {"scheduler": "DDIMScheduler", "steps": 5}}, "'balanced'"),
        (recommended(speed=3), "speed"),
        (recommended(steps="many"), "steps is 'many'"),
        (recommended(steps=0), "steps is 0"),
        (recommended(steps=True), "steps is True"),
        (recommended(config=["trailing"]), "config is"),
    ],
)
def test_a_damaged_recommendation_is_an_error(folder, entries, message):
    with pytest.raises(ConfigError, match=message):
        load(folder(entries))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scheduler": "os.system"}, "'os.system', which is no scheduler; use one of .*DDIMScheduler"),
        ({"config": {"speed": 3}}, "speed"),
        ({"config": {"num_train_timesteps": "x"}}, "no EulerDiscreteScheduler takes .*num_train_timesteps"),
        ({"config": {"beta_start": None}}, "no EulerDiscreteScheduler takes"),
        ({"cache_interval": 0}, "cache_interval"),
        ({"cache_branch_id": 77}, "cache_branch_id 77"),
    ],
)
def test_one_that_cannot_be_followed_changes_nothing(folder, change, message):
    pipeline = load(folder(recommended(**change)))
    before = pipeline.scheduler
    with pytest.raises(ValueError, match=message):
        pipeline.set_quality("fast")
    assert pipeline.scheduler is before and pipeline._deep_cache is None


def test_an_unknown_quality():
    with pytest.raises(ValueError, match="quality 'great' is not one of 'fast', 'balanced', 'best'"):
        load(PLAIN).set_quality("great")


@pytest.fixture
def upscale(tmp_path):
    source = tmp_path / "in.png"
    Image.fromarray(np.rint(PICTURE * 255).astype(np.uint8)).save(source)

    def run(*arguments):
        assert (
            main(["upscale", str(source), "-o", str(tmp_path / "out.png"), "--seed", "3", "--overwrite", *arguments])
            == 0
        )
        with Image.open(tmp_path / "out.png") as image:
            return np.asarray(image), {key.split(":")[1]: value for key, value in image.text.items()}

    return run


@pytest.mark.parametrize("quality", QUALITIES)
def test_upscale_does_what_set_quality_says(upscale, quality):
    pixels, text = upscale("--quality", quality)
    pipeline = load(EMBEDDED)
    steps = pipeline.set_quality(quality)
    assert (text["quality"], text["steps"]) == (quality, str(steps))
    picture = Image.fromarray(np.rint(PICTURE * 255).astype(np.uint8))
    np.testing.assert_array_equal(pixels, np.asarray(pipeline(picture, num_inference_steps=steps, generator=3)[0][0]))


def test_upscale_is_balanced_by_default_and_steps_override(upscale):
    (default, text), (balanced, _) = upscale(), upscale("--quality", "balanced")
    assert text["quality"] == "balanced"
    np.testing.assert_array_equal(default, balanced)
    assert upscale("--quality", "best", "--steps", "2")[1]["steps"] == "2"


def test_an_eta_keeps_the_scheduler_that_has_one(upscale, recwarn):
    plain = upscale("--model", str(PLAIN), "--quality", "fast", "--steps", "3")[0]
    noisy = upscale("--model", str(PLAIN), "--quality", "fast", "--steps", "3", "--eta", "1")[0]
    assert not [warning for warning in recwarn if "eta" in str(warning.message)]
    assert not np.array_equal(plain, noisy)


def test_an_eta_keeps_a_recommended_scheduler_that_has_one_too(upscale, folder):
    entries = recommended(scheduler="DDIMScheduler", config={"timestep_spacing": "trailing"})
    call = ("--model", str(folder(entries)), "--quality", "fast", "--eta", "1", "--consistency", "0")
    pipeline = load(folder(entries))
    steps = pipeline.set_quality("fast")
    picture = Image.fromarray(np.rint(PICTURE * 255).astype(np.uint8))
    wanted = pipeline(picture, num_inference_steps=steps, generator=3, eta=1.0)[0][0]
    np.testing.assert_array_equal(upscale(*call)[0], np.asarray(wanted))


def test_sample_keeps_the_models_own_way_unless_asked(tmp_path):
    model = str(PIPELINES / "golden_text" / "unconditional")

    def text(*arguments):
        assert main(["sample", "--model", model, "-o", str(tmp_path / "a.png"), "--overwrite", *arguments]) == 0
        with Image.open(tmp_path / "a.png") as image:
            return {key.split(":")[1]: value for key, value in image.text.items()}

    told = text("--steps", "2")
    assert {name: told[name] for name in ("model", "steps", "eta")} == {"model": model, "steps": "2", "eta": "0.0"}
    assert "quality" not in told
    asked = text("--quality", "fast")
    assert (asked["quality"], asked["steps"]) == ("fast", str(DEFAULT["fast"].steps))


def test_an_unknown_quality_on_the_command_line(upscale, capsys):
    with pytest.raises(AssertionError, match="2 == 0"):
        upscale("--quality", "great")
    assert "invalid choice: 'great'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [model.name for model in model_zoo.list_models() if model.folder is not None])
def test_embedded_models_recommend_ever_more_steps(name):
    pipeline = load(name)
    assert pipeline._qualities is not None
    steps = [pipeline.set_quality(quality) for quality in QUALITIES]
    assert steps == sorted(steps)
