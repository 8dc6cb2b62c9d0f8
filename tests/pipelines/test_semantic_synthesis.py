"""Semantic synthesis: against the paper's algorithm in torch, and every kind of label map."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from test_every_scheduler import SCHEDULERS

import ppdiffusers
from ppdiffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    Generator,
    ImageError,
    LDMSemanticSynthesisPipeline,
    SpatialRescaler,
    UNet2DModel,
)
from ppdiffusers.cli.main import main

GOLDEN = Path(__file__).parent / "golden_tasks"
REFERENCE = np.load(GOLDEN / "results.npz")
LABELS = REFERENCE["labels"]
CLASSES = 6


@pytest.fixture(scope="module")
def pipeline():
    return LDMSemanticSynthesisPipeline.from_pretrained(GOLDEN / "semantic")


@pytest.fixture
def seen(pipeline, monkeypatch):
    """What the unet is given."""
    samples, forward = [], pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda sample, t: (samples.append(sample.numpy()), forward(sample, t))[1]
    )
    return samples


def labels(size=(16, 12), seed=0):
    """`[H, W]`, `size` = (width, height)."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    return ((rows // 5 + columns // 3 + seed) % CLASSES).astype(np.uint8)


def test_a_folder_gives_the_papers_picture(pipeline, seen):
    assert type(DiffusionPipeline.from_pretrained(GOLDEN / "semantic")) is LDMSemanticSynthesisPipeline
    options = dict(segmentation=LABELS, latents=REFERENCE["noise"], num_inference_steps=10)
    latents = pipeline(output_type="latent", **options).images.numpy()
    np.testing.assert_allclose(seen[0][:, 3:], REFERENCE["semantic/condition"], atol=1e-6)
    assert np.abs(latents - REFERENCE["semantic/v_prediction"]).max() < 1e-4
    result = pipeline(**options).images[0]
    assert (np.abs(np.asarray(result).astype(int) - REFERENCE["semantic/result"]) <= 1).mean() >= 0.999


def test_the_published_models_prediction_type(pipeline):
    """Noise, of which an untrained network's latents run far off: the difference is relative to them."""
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    other = LDMSemanticSynthesisPipeline(pipeline.vqvae, pipeline.rescaler, pipeline.unet, scheduler)
    options = dict(latents=REFERENCE["noise"], num_inference_steps=10, output_type="latent")
    latents = other(LABELS, **options).images.numpy()
    reference = REFERENCE["semantic/epsilon"]
    assert np.abs(latents - reference).max() < 1e-5 * np.abs(reference).max()


def test_what_the_unet_sees(pipeline, seen, monkeypatch):
    """Latents, which alone are scaled, and of every block of pixels the mean of its classes' vectors."""
    monkeypatch.setattr(pipeline.scheduler, "scale_model_input", lambda sample, t: sample * 0.5)
    given = labels((16, 16))
    pipeline(given, num_inference_steps=1, generator=9)
    vectors = pipeline.rescaler.channel_mapper.weight.numpy()[:, :, 0, 0]
    expected = np.zeros((6, 4, 4))
    expected[:3] = 0.5 * Generator(9).randn([1, 3, 4, 4])[0]
    for row in range(16):
        for column in range(16):
            expected[3:, row // 4, column // 4] += vectors[:, given[row, column]] / 16
    np.testing.assert_allclose(seen[0][0], expected, atol=1e-6)


def one_hot(values):
    return np.eye(CLASSES)[values].transpose(2, 0, 1)[None]


def as_palette(values):
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([255, 0, 0] * 256)  # the colours say nothing
    return image


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: [x],
        lambda x: x[None],
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.uint16),
        Image.fromarray,
        lambda x: Image.fromarray(x.astype(np.int32)),
        as_palette,
        lambda x: paddle.to_tensor(x.astype(np.int64)),
        one_hot,
        lambda x: one_hot(x).astype(bool),
        lambda x: paddle.to_tensor(one_hot(x)),
    ],
)
def test_every_kind_of_map_gives_the_same_picture(pipeline, convert):
    options = dict(num_inference_steps=1, generator=0, output_type="latent")
    expected = pipeline(labels(), **options).images.numpy()
    np.testing.assert_array_equal(pipeline(convert(labels()), **options).images.numpy(), expected)


def test_a_file(pipeline, tmp_path):
    as_palette(labels()).save(tmp_path / "map.png")
    options = dict(num_inference_steps=1, generator=0, output_type="np")
    results = [pipeline(x, **options)[0] for x in (labels(), tmp_path / "map.png", str(tmp_path / "map.png"))]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (13, 9), (8, 33)])
def test_the_picture_is_as_large_as_the_map(pipeline, size):
    image = pipeline(labels(size), num_inference_steps=1, generator=0).images[0]
    assert image.size == size and image.mode == "RGB"


def test_the_map_changes_the_picture_where_it_changes(pipeline):
    other = labels((32, 32))
    other[:8, :8] = 5 - other[:8, :8]
    noise = np.random.RandomState(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    options = dict(num_inference_steps=3, latents=noise, output_type="latent")
    first, second = (pipeline(x, **options).images.numpy() for x in (labels((32, 32)), other))
    change = np.abs(first - second).mean(axis=(0, 1))
    assert change[:2, :2].mean() > 2 * change[3:, 3:].mean()


@pytest.mark.parametrize("eta", [0, 1])
def test_a_list_of_generators_makes_batch_and_single_calls_agree(pipeline, eta):
    maps = np.stack([labels(seed=i) for i in range(4)])
    options = dict(num_inference_steps=3, eta=eta)
    batch = pipeline(maps, generator=[1, 2, 3, 4], **options).images
    for i in range(4):
        alone = pipeline(maps[i], generator=i + 1, **options).images[0]
        assert np.abs(np.asarray(batch[i]).astype(int) - np.asarray(alone)).max() <= 1
    assert np.abs(np.asarray(batch[0]).astype(int) - np.asarray(batch[1])).max() > 1


def test_maps_of_different_sizes(pipeline):
    images = pipeline([labels(), labels((9, 5))], num_inference_steps=2, generator=[1, 2]).images
    assert [image.size for image in images] == [(16, 12), (9, 5)]
    alone = pipeline(labels((9, 5)), num_inference_steps=2, generator=2).images[0]
    np.testing.assert_array_equal(np.asarray(images[1]), np.asarray(alone))


@pytest.mark.parametrize("eta", [0, 1])
def test_the_seed_fixes_the_picture_at_every_eta(pipeline, eta):
    def call(seed):
        options = dict(num_inference_steps=3, eta=eta, generator=Generator(seed), output_type="np")
        return pipeline(labels(), **options).images

    np.testing.assert_array_equal(call(5), call(5))
    assert np.abs(call(5) - call(6)).max() > 0.01


def test_outputs_callback_and_stream(pipeline):
    options = dict(num_inference_steps=3, generator=0)
    array = pipeline(labels(), output_type="np", **options)[0]
    tensor = pipeline(labels(), output_type="pd", return_dict=False, **options)[0]
    assert array.shape == (1, 12, 16, 3)
    np.testing.assert_array_equal(tensor.numpy(), array.transpose(0, 3, 1, 2))

    def callback(pipe, step, timestep, tensors):
        return {"latents": paddle.zeros_like(tensors["latents"])} if step == 2 else None

    changed = pipeline(labels(), callback_on_step_end=callback, output_type="latent", **options).images
    assert not changed.numpy().any()
    steps = list(pipeline.stream(labels(), output_type="np", **options))
    assert [(s.step, s.total, s.output is None) for s in steps] == [(1, 3, True), (2, 3, True), (3, 3, False)]
    np.testing.assert_array_equal(steps[-1].output.images, array)


def test_saving_and_loading_changes_nothing(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LDMSemanticSynthesisPipeline"
    assert index["rescaler"] == ["ppdiffusers", "SpatialRescaler"]
    again = DiffusionPipeline.from_pretrained(tmp_path)
    options = dict(num_inference_steps=2, generator=1, output_type="np")
    np.testing.assert_array_equal(*[p(labels(), **options).images for p in (pipeline, again)])


@pytest.mark.parametrize("name, config", SCHEDULERS, ids=str)
def test_every_scheduler(pipeline, seen, name, config):
    scheduler = getattr(ppdiffusers, name).from_config(pipeline.scheduler.config, **config)
    other = LDMSemanticSynthesisPipeline(**{**pipeline.components, "scheduler": scheduler})
    latents = other(labels(), num_inference_steps=4, generator=3, output_type="latent").images.numpy()
    assert latents.shape == (1, 3, 4, 4) and np.isfinite(latents).all() and np.abs(latents).max() < 50
    scheduler.set_timesteps(len(seen))
    noise = Generator(3).randn([1, 3, 4, 4]) * scheduler.init_noise_sigma
    np.testing.assert_allclose(seen[0][:, :3], scheduler.scale_model_input(noise, scheduler.timesteps[0]), rtol=1e-5)
    for sample in seen:  # the condition is never scaled
        np.testing.assert_array_equal(sample[:, 3:], seen[0][:, 3:])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(segmentation=None), "NoneType"),
        (dict(segmentation=[]), "empty"),
        (dict(segmentation=np.full((4, 4), 255, np.uint8)), "label 255 is not one of the model's 6 classes, 0 to 5"),
        (dict(segmentation=np.array([[0, -1]])), "label -1"),
        (dict(segmentation=np.array([[0, 6]])), "label 6"),
        (dict(segmentation=labels().astype(np.float32)), "float32"),
        (dict(segmentation=np.zeros((0, 4), int)), r"\[0, 4\]"),
        (dict(segmentation=np.zeros(4, int)), r"\[4\]"),
        (dict(segmentation=np.zeros((1, 5, 4, 4))), "6 classes"),
        (dict(segmentation=np.ones((1, CLASSES, 4, 4))), "one-hot"),
        (dict(segmentation=np.full((1, CLASSES, 4, 4), np.nan)), "one-hot"),
        (dict(segmentation=Image.new("RGB", (4, 4))), "mode RGB"),
        (dict(segmentation="nowhere.png"), "nowhere.png does not exist"),
        (dict(num_inference_steps=-1), "-1"),
        (dict(eta=2), "2"),
        (dict(output_type="jpeg"), "jpeg"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.zeros((1, 3, 8, 8), np.float32)), r"\[1, 3, 8, 8\]"),
        (dict(latents=np.full((1, 3, 4, 4), np.inf, np.float32)), "infinite"),
        (dict(segmentation=[labels(), labels((9, 5))], output_type="latent"), "one size"),
        (dict(guidance_scale=2), "guidance_scale"),
    ],
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    with pytest.raises((ImageError, ValueError, TypeError), match=message):
        pipeline(**{"segmentation": labels(), "num_inference_steps": 1, **arguments})


def test_components_must_fit(pipeline):
    parts = pipeline.components
    wide = UNet2DModel.from_config({**pipeline.unet.config, "in_channels": 7})
    with pytest.raises(ValueError, match="takes 7 channels .* 3 of latents . 3 of map"):
        LDMSemanticSynthesisPipeline(**{**parts, "unet": wide})
    with pytest.raises(ValueError, match="n_stages 3"):
        LDMSemanticSynthesisPipeline(**{**parts, "rescaler": SpatialRescaler(3, CLASSES, 3)})
    with pytest.raises(TypeError, match="SpatialRescaler as rescaler"):
        LDMSemanticSynthesisPipeline(**{**parts, "rescaler": wide})


def test_the_published_architecture():
    """215 million parameters (arXiv 2112.10752, table 15)."""
    with paddle.LazyGuard():
        unet = UNet2DModel(
            in_channels=6, block_out_channels=(128, 512, 1024), attention_head_dim=(16, 64, 128),
            down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
        )  # fmt: skip
    assert round(unet.num_parameters() / 1e6) == 215


def test_the_rescaler_alone():
    rescaler = SpatialRescaler(n_stages=2, in_channels=5, out_channels=3)
    assert rescaler(paddle.zeros([2, 5, 8, 12])).shape == [2, 3, 2, 3]
    assert {name: list(value.shape) for name, value in rescaler.state_dict().items()} == {
        "channel_mapper.weight": [3, 5, 1, 1]
    }
    planes = paddle.rand([1, 5, 2, 2])
    unscaled = SpatialRescaler(n_stages=0, in_channels=5, out_channels=3)
    np.testing.assert_allclose(unscaled(planes).mean([2, 3]), unscaled(planes.mean([2, 3], True))[..., 0, 0], atol=1e-6)
    with pytest.raises(ValueError, match="6 x 8; .* multiples of 4"):
        rescaler(paddle.zeros([1, 5, 6, 8]))
    for bad in (dict(n_stages=-1), dict(in_channels=0), dict(out_channels=1.5)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SpatialRescaler(**bad)


def test_the_command(tmp_path, capsys):
    def synthesize(*arguments):
        return main(["synthesize", "--model", str(GOLDEN / "semantic"), "--steps", "2", *map(str, arguments)])

    Image.fromarray(labels()).save(tmp_path / "map.png")
    assert synthesize(tmp_path / "map.png", "-o", tmp_path / "out.png") == 0
    seed = capsys.readouterr().out.split()[-1]
    assert synthesize(tmp_path / "map.png", "-o", tmp_path / "again.png", "--seed", seed) == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (16, 12) and image.text["ppdiffusers:seed"] == seed
    capsys.readouterr()

    Image.new("L", (4, 4), 200).save(tmp_path / "bad.png")
    for arguments, message in (
        ([tmp_path / "bad.png", "-o", tmp_path / "no.png"], "label 200"),
        ([tmp_path / "nowhere.png", "-o", tmp_path / "no.png"], "does not exist"),
        ([tmp_path / "map.png", "-o", tmp_path / "map.png"], "overwrite"),
    ):
        assert synthesize(*arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("ppdiffusers: error: ") and message in line
    assert not (tmp_path / "no.png").exists()
