"""Inpainting: against the paper's algorithm in torch, and what it promises about every pixel."""

import copy
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from test_every_scheduler import SCHEDULERS
from test_masks import seam

import ppdiffusers
from ppdiffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    Generator,
    ImageError,
    LDMInpaintPipeline,
    LDMSuperResolutionPipeline,
    UNet2DModel,
    VQModel,
)
from ppdiffusers.cli.main import main
from ppdiffusers.images import to_pictures
from ppdiffusers.layers.attention import Attention
from ppdiffusers.masks import MaskedPicture, join

GOLDEN = Path(__file__).parent / "golden_tasks"
REFERENCE = np.load(GOLDEN / "results.npz")
PICTURE, MASK = REFERENCE["picture"], REFERENCE["mask"]


@pytest.fixture(scope="module")
def pipeline():
    return LDMInpaintPipeline.from_pretrained(GOLDEN / "inpaint")


@pytest.fixture
def seen(pipeline, monkeypatch):
    """What the unet is given."""
    samples, forward = [], pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda sample, t: (samples.append(sample.numpy()), forward(sample, t))[1]
    )
    return samples


def picture(size=(16, 12), mode="RGB", seed=0):
    """Smooth colours and a fading alpha, `size` = (width, height)."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    channels = [rows * 5 + 20 * seed, columns * 7, 255 - rows - columns, 25 * columns]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8)).convert(mode)


def mask(size=(16, 12), left=4, right=9):
    hole = np.zeros(size[::-1], bool)
    hole[3:8, left:right] = True
    return hole


def test_a_folder_gives_the_papers_picture(pipeline, seen):
    assert type(DiffusionPipeline.from_pretrained(GOLDEN / "inpaint")) is LDMInpaintPipeline
    options = dict(image=PICTURE, mask_image=MASK, latents=REFERENCE["noise"], num_inference_steps=10)
    latents = pipeline(output_type="latent", **options).images.numpy()
    np.testing.assert_allclose(seen[0][:, 3:], REFERENCE["inpaint/condition"], atol=1e-5)
    assert np.abs(latents - REFERENCE["inpaint/v_prediction"]).max() < 1e-4
    result = pipeline(blend="paste", **options).images[0]
    assert (np.abs(np.asarray(result).astype(int) - REFERENCE["inpaint/result"]) <= 1).mean() >= 0.999


def test_the_published_models_prediction_type(pipeline):
    """Noise, of which an untrained network's latents run far off: the difference is relative to them."""
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    other = LDMInpaintPipeline(pipeline.vqvae, pipeline.unet, scheduler)
    options = dict(latents=REFERENCE["noise"], num_inference_steps=10, output_type="latent")
    latents = other(PICTURE, MASK, **options).images.numpy()
    reference = REFERENCE["inpaint/epsilon"]
    assert np.abs(latents - reference).max() < 1e-5 * np.abs(reference).max()


def test_what_the_unet_sees(pipeline, seen, monkeypatch):
    """Latents, which alone are scaled, those of the picture with a black hole, and the mask, -1 or 1."""
    encoded = []

    def encode(pixels):
        encoded.append(pixels.numpy())
        blocks = encoded[0].reshape(1, 3, 4, 4, 4, 4)
        return (paddle.to_tensor(blocks.mean(axis=(3, 5))),)

    monkeypatch.setattr(pipeline.vqvae, "encode", encode)
    monkeypatch.setattr(pipeline.scheduler, "scale_model_input", lambda sample, t: sample * 0.5)
    hole = mask((16, 16), 4, 9)
    pipeline(picture((16, 16)), hole, num_inference_steps=1, generator=9)
    black = np.asarray(picture((16, 16))) / 127.5 - 1
    black[hole] = -1
    np.testing.assert_allclose(encoded[0][0].transpose(1, 2, 0), black, atol=1e-6)
    expected = np.zeros((7, 4, 4))
    expected[:3] = 0.5 * Generator(9).randn([1, 3, 4, 4])[0]
    for i in range(4):
        for j in range(4):
            expected[3:6, i, j] = black[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(axis=(0, 1))
            expected[6, i, j] = 1 if hole[4 * i, 4 * j] else -1  # of every block the first pixel
    np.testing.assert_allclose(seen[0][0], expected, atol=1e-6)


@pytest.mark.parametrize("blend", ["seamless", "paste"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("size", [(16, 16), (13, 9)])
def test_pixels_outside_the_mask_are_the_given_ones(pipeline, size, mode, blend):
    image, hole = picture(size, mode), mask(size, 4, 9)
    options = dict(num_inference_steps=1, generator=0, blend=blend)
    result = pipeline(image, hole, **options).images[0]
    expected = image.convert({"P": "RGB", "1": "L"}.get(mode, mode))
    assert result.mode == expected.mode and result.size == size
    before, after = np.asarray(expected), np.asarray(result)
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).mean() > 0.3

    values = np.random.RandomState(1).uniform(0, 1, (*size[::-1], 3)).astype(np.float32)
    array = pipeline(values, hole, output_type="np", **options).images[0]
    np.testing.assert_array_equal(array[~hole], values[~hole])
    tensor = paddle.to_tensor(values.transpose(2, 0, 1)[None] * 2 - 1)
    result = pipeline(tensor, hole, output_type="pd", **options).images
    assert result.shape == [1, 3, *size[::-1]]
    given = (tensor.numpy()[0] / 2 + np.float32(0.5)).transpose(1, 2, 0)
    np.testing.assert_array_equal(result.numpy()[0].transpose(1, 2, 0)[~hole], given[~hole])


def test_what_is_painted_does_not_depend_on_what_the_mask_hides(pipeline):
    hole = mask()
    other = np.where(hole[..., None], 255 - np.asarray(picture()), np.asarray(picture()))
    results = [pipeline(x, hole, num_inference_steps=2, generator=0, output_type="np")[0] for x in (picture(), other)]
    np.testing.assert_array_equal(*results)


def test_a_decoder_with_a_colour_cast_leaves_no_seam(pipeline, monkeypatch):
    """The step across the mask's edge, for a picture that is smooth there."""
    rows, columns = np.mgrid[:32, :32]
    given = (np.stack([rows, columns, 31 - rows], -1) / 62 + 0.2).astype(np.float32)
    cast = paddle.to_tensor((given.transpose(2, 0, 1)[None] + np.float32([0.05, -0.04, 0.03])[:, None, None]) * 2 - 1)
    monkeypatch.setattr(pipeline.vqvae, "decode", lambda latents: (cast,))
    hole = np.zeros((32, 32), bool)
    hole[8:20, 10:27] = True
    steps = {}
    for blend in ("paste", "seamless"):
        result = pipeline(given, hole, num_inference_steps=1, generator=0, output_type="np", blend=blend).images[0]
        steps[blend] = np.abs(result[8, 10:27] - result[7, 10:27]).mean()
    natural = np.abs(given[8] - given[7]).mean()
    assert steps["paste"] > 3 * natural and steps["seamless"] < 1.01 * natural


@pytest.mark.parametrize("name", ["villa", "crab"])
def test_a_trained_autoencoder_joins_better_seamlessly(name):
    """What the embedded model's autoencoder makes of a picture, put into it: less of a seam, no further off."""
    vqvae = LDMSuperResolutionPipeline.from_pretrained("ppdiffusers/ldm-super-resolution-4x-tiny").vqvae
    (item,) = to_pictures(Image.open(Path(__file__).parents[2] / "demo" / f"{name}.png").crop((0, 0, 128, 128)))
    with paddle.no_grad():
        pixels = paddle.to_tensor(np.ascontiguousarray(item.rgb.transpose(2, 0, 1)[None]))
        decoded = vqvae(pixels).sample.numpy()[0].transpose(1, 2, 0).clip(-1, 1) / 2 + np.float32(0.5)
    hole = np.zeros((128, 128), bool)
    hole[30:90, 40:100] = True
    errors, steps = [], []
    for blend in ("paste", "seamless"):
        result = join(MaskedPicture(item, hole), decoded, blend)
        errors.append(((result - item.unit)[hole] ** 2).mean())
        steps.append(seam(result, hole))
    natural = seam(item.unit, hole)
    assert errors[1] < 1.1 * errors[0] and steps[1] - natural < 0.6 * (steps[0] - natural)


def test_an_empty_mask_gives_the_picture_and_runs_nothing(pipeline, seen):
    image, nothing = picture(), np.zeros((12, 16), bool)
    result = pipeline(image, nothing).images[0]
    np.testing.assert_array_equal(np.asarray(result), np.asarray(image))
    (only,) = pipeline.stream(image, nothing)
    assert (only.step, only.total) == (0, 0) and only.output.images[0].size == (16, 12)
    assert not seen
    batch = pipeline([picture(seed=i) for i in range(3)], [nothing, mask(), nothing], num_inference_steps=2,
                     generator=[1, 2, 3]).images  # fmt: skip
    assert [len(sample) for sample in seen] == [1, 1]
    np.testing.assert_array_equal(np.asarray(batch[2]), np.asarray(picture(seed=2)))
    alone = pipeline(picture(seed=1), mask(), num_inference_steps=2, generator=2).images[0]
    np.testing.assert_array_equal(np.asarray(batch[1]), np.asarray(alone))


def test_a_white_mask_paints_everything(pipeline):
    options = dict(num_inference_steps=2, generator=0)
    white = np.ones((12, 16), bool)
    latents = pipeline(picture(), white, output_type="latent", **options).images
    result = pipeline(picture(), white, output_type="np", **options).images
    np.testing.assert_array_equal(result, pipeline.decode_latents(latents)[:, :12, :16])


@pytest.mark.parametrize("eta", [0, 1])
def test_a_list_of_generators_makes_batch_and_single_calls_agree(pipeline, eta):
    images, holes = [picture(seed=i) for i in range(4)], [mask(left=2 + i) for i in range(4)]
    options = dict(num_inference_steps=3, eta=eta)
    batch = pipeline(images, holes, generator=[1, 2, 3, 4], **options).images
    for i in range(4):
        alone = pipeline(images[i], holes[i], generator=i + 1, **options).images[0]
        assert np.abs(np.asarray(batch[i]).astype(int) - np.asarray(alone)).max() <= 1
    assert np.abs(np.asarray(batch[0]).astype(int) - np.asarray(batch[1])).max() > 1


def test_one_mask_for_all_and_pictures_of_different_sizes(pipeline):
    options = dict(num_inference_steps=2, generator=[1, 2])
    shared = pipeline([picture(seed=0), picture(seed=1)], mask(), **options).images
    paired = pipeline([picture(seed=0), picture(seed=1)], [mask(), mask()], **options).images
    np.testing.assert_array_equal(np.stack(shared), np.stack(paired))
    variations = pipeline(picture(), [mask(), mask()], output_type="np", **options).images
    assert np.abs(variations[0] - variations[1]).max() > 0.01

    mixed = pipeline([picture(), picture((9, 9), "RGBA")], [mask(), mask((9, 9))], **options).images
    assert [image.size for image in mixed] == [(16, 12), (9, 9)]
    alone = pipeline(picture((9, 9), "RGBA"), mask((9, 9)), num_inference_steps=2, generator=2).images[0]
    np.testing.assert_array_equal(np.asarray(mixed[1]), np.asarray(alone))


def test_the_seed_fixes_the_picture_at_every_eta(pipeline):
    def call(seed, eta):
        options = dict(num_inference_steps=3, eta=eta, generator=Generator(seed), output_type="np")
        return pipeline(picture(), mask(), **options).images

    for eta in (0, 1):
        np.testing.assert_array_equal(call(5, eta), call(5, eta))
        assert np.abs(call(5, eta) - call(6, eta)).max() > 0.01


def test_callback_and_stream(pipeline):
    options = dict(num_inference_steps=3, generator=0)

    def callback(pipe, step, timestep, tensors):
        return {"latents": paddle.zeros_like(tensors["latents"])} if step == 2 else None

    changed = pipeline(picture(), mask(), callback_on_step_end=callback, output_type="latent", **options).images
    assert not changed.numpy().any()
    steps = list(pipeline.stream(picture(), mask(), output_type="np", **options))
    assert [(s.step, s.total, s.output is None) for s in steps] == [(1, 3, True), (2, 3, True), (3, 3, False)]
    plain = pipeline(picture(), mask(), output_type="np", return_dict=False, **options)
    np.testing.assert_array_equal(steps[-1].output.images, plain[0])


def test_saving_and_loading_changes_nothing(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LDMInpaintPipeline"
    again = DiffusionPipeline.from_pretrained(tmp_path)
    options = dict(num_inference_steps=2, generator=1, output_type="np")
    results = [p(picture(), mask(), **options).images for p in (pipeline, again)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name, config", SCHEDULERS, ids=str)
def test_every_scheduler(pipeline, seen, name, config):
    scheduler = getattr(ppdiffusers, name).from_config(pipeline.scheduler.config, **config)
    other = LDMInpaintPipeline(pipeline.vqvae, pipeline.unet, scheduler)
    latents = other(picture(), mask(), num_inference_steps=4, generator=3, output_type="latent").images.numpy()
    assert latents.shape == (1, 3, 4, 4) and np.isfinite(latents).all() and np.abs(latents).max() < 50
    scheduler.set_timesteps(len(seen))
    noise = Generator(3).randn([1, 3, 4, 4]) * scheduler.init_noise_sigma
    np.testing.assert_allclose(seen[0][:, :3], scheduler.scale_model_input(noise, scheduler.timesteps[0]), rtol=1e-5)
    for sample in seen:  # the condition is never scaled
        np.testing.assert_array_equal(sample[:, 3:], seen[0][:, 3:])
    assert set(np.unique(seen[0][:, 6])) == {-1, 1}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(image=None), "NoneType"),
        (dict(image=[]), "empty"),
        (dict(image="photo.png"), "str"),
        (dict(image=np.full((12, 16, 3), np.nan)), "NaN"),
        (dict(mask_image=[]), "mask_image: .*empty"),
        (dict(mask_image=mask().astype(int)), "mask_image: .*int64"),
        (dict(mask_image=mask((16, 16))), "16x12 pixels and the mask 16x16"),
        (dict(image=[picture()] * 3, mask_image=[mask()] * 2), "3 pictures and 2 masks"),
        (dict(num_inference_steps=0), "num_inference_steps"),
        (dict(num_inference_steps=0, mask_image=np.zeros((12, 16), bool)), "num_inference_steps"),
        (dict(eta=1.5), "1.5"),
        (dict(output_type="jpg"), "jpg"),
        (dict(blend="poisson"), "poisson"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.zeros((1, 3, 8, 8), np.float32)), r"\[1, 3, 8, 8\]"),
        (dict(latents=np.full((1, 3, 4, 4), np.nan, np.float32)), "NaN"),
        (dict(image=[picture(), picture((9, 9))], mask_image=[mask(), mask((9, 9))], output_type="latent"), "one size"),
        (dict(strength=0.5), "strength"),
    ],
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    arguments = {"image": picture(), "mask_image": mask(), "num_inference_steps": 1, **arguments}
    with pytest.raises((ImageError, ValueError, TypeError), match=message):
        pipeline(**arguments)


def test_components_must_fit(pipeline):
    narrow = UNet2DModel.from_config({**pipeline.unet.config, "in_channels": 6})
    with pytest.raises(ValueError, match="takes 6 channels .* 3 of latents . 3 of masked picture . 1 of mask"):
        LDMInpaintPipeline(pipeline.vqvae, narrow, pipeline.scheduler)
    with pytest.raises(TypeError, match="UNet2DModel as unet, not a VQModel"):
        LDMInpaintPipeline(pipeline.vqvae, VQModel(), pipeline.scheduler)


def test_the_published_architecture():
    """387 million parameters (arXiv 2112.10752, section 4.5), eight heads at every level."""
    with paddle.LazyGuard():
        unet = UNet2DModel(
            in_channels=7, block_out_channels=(256, 512, 768, 1024), attention_head_dim=(32, 64, 96, 128),
            down_block_types=("ResnetDownsampleBlock2D",) + ("AttnDownBlock2D",) * 3, downsample_type="resnet",
            up_block_types=("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",), upsample_type="resnet",
        )  # fmt: skip
    assert round(unet.num_parameters() / 1e6) == 387
    attentions = [layer for layer in unet.sublayers() if isinstance(layer, Attention)]
    assert [layer.heads for layer in attentions] == [8] * 16


def test_components_are_shared_with_other_pipelines(pipeline):
    other = LDMInpaintPipeline(**{**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler)})
    assert other.unet is pipeline.unet


@pytest.fixture
def files(tmp_path):
    picture().save(tmp_path / "in.png")
    Image.fromarray(mask()).save(tmp_path / "mask.png")
    return tmp_path


def inpaint(*arguments):
    return main(["inpaint", "--model", str(GOLDEN / "inpaint"), "--steps", "2", *map(str, arguments)])


def test_the_command(files, capsys):
    assert inpaint(files / "in.png", files / "mask.png", "-o", files / "out.png", "--count", 2) == 0
    first, second = capsys.readouterr().out.strip().splitlines()
    seed = int(first.split()[-1])
    assert int(second.split()[-1]) == seed + 1
    assert inpaint(files / "in.png", files / "mask.png", "-o", files / "again.png", "--seed", seed + 1) == 0
    with Image.open(files / "out-2.png") as numbered, Image.open(files / "again.png") as again:
        np.testing.assert_array_equal(np.asarray(numbered), np.asarray(again))
        assert again.text["ppdiffusers:seed"] == str(seed + 1) and again.text["ppdiffusers:blend"] == "seamless"
        np.testing.assert_array_equal(np.asarray(again)[~mask()], np.asarray(picture())[~mask()])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["in.png", "missing.png", "-o", "out.png"], "missing.png does not exist"),
        (["in.png", "small.png", "-o", "out.png"], "16x12 pixels and the mask 8x8"),
        (["in.png", "black.png", "-o", "out.png"], "black everywhere"),
        (["in.png", "mask.png", "-o", "mask.png"], "overwrite the input mask.png"),
        (["clear.png", "mask.png", "-o", "out.jpg"], "transparent"),
        (["in.png", "mask.png", "-o", "out.txt"], "out.txt"),
        (["in.png", "mask.png", "-o", "out.png", "--eta", "7"], "7"),
    ],
)
def test_bad_commands_are_one_line_and_write_nothing(files, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    Image.new("L", (16, 12)).save("black.png")
    Image.new("L", (8, 8), 255).save("small.png")
    picture(mode="RGBA").save("clear.png")
    before = sorted(files.iterdir())
    assert inpaint(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ppdiffusers: error: ") and message in line
    assert sorted(files.iterdir()) == before
