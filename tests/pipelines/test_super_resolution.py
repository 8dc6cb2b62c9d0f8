"""The super-resolution pipeline against diffusers' pictures, and beyond where diffusers is wrong."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppdiffusers import DDIMScheduler, DiffusionPipeline, Generator, ImageError, LDMSuperResolutionPipeline
from ppdiffusers.pipelines import DenoisingProgress, ImagePipelineOutput

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = np.load(GOLDEN / "pictures.npz")


@pytest.fixture(scope="module")
def pipeline():
    return LDMSuperResolutionPipeline.from_pretrained(GOLDEN / "safetensors")


@pytest.fixture(scope="module")
def low_resolution():
    return Image.open(GOLDEN / "low_resolution.png")


def picture(size, mode="RGB", seed=0):
    """Smooth colours with an edge, `size` = (width, height)."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 5 + seed, columns * 7, 255 - rows - columns, 255 * (rows > columns)]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8)).convert(mode)


def digest(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("saved", ["safetensors", "bin"])
def test_a_folder_saved_by_diffusers_gives_diffusers_picture(saved, low_resolution):
    before = digest(GOLDEN / saved)
    pipeline = DiffusionPipeline.from_pretrained(GOLDEN / saved)
    assert type(pipeline) is LDMSuperResolutionPipeline
    assert digest(GOLDEN / saved) == before

    latents = pipeline(low_resolution, num_inference_steps=20, generator=Generator(42), output_type="latent").images
    assert np.abs(latents.numpy() - REFERENCE["latents"]).max() < 1e-4
    result = pipeline(low_resolution, num_inference_steps=20, generator=Generator(42)).images[0]
    difference = np.abs(np.asarray(result).astype(int) - REFERENCE["picture"])
    assert (difference <= 1).mean() >= 0.99

    # Whatever is further off comes from latents that lie between two codes.
    ours = pipeline.vqvae.quantize.nearest(latents).numpy()
    reference = pipeline.vqvae.quantize.nearest(paddle.to_tensor(REFERENCE["latents"])).numpy()
    if np.array_equal(ours, reference):
        assert difference.max() <= 1


def test_the_published_models_prediction_type(low_resolution):
    """Noise prediction, as CompVis trained; an untrained network's latents run far off, so relative to them."""
    pipeline = LDMSuperResolutionPipeline.from_pretrained(GOLDEN / "safetensors")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    latents = pipeline(low_resolution, num_inference_steps=20, generator=42, output_type="latent").images.numpy()
    reference = REFERENCE["epsilon_latents"]
    assert np.abs(latents - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("safe_serialization", [True, False])
def test_saving_and_loading_changes_nothing(pipeline, low_resolution, tmp_path, safe_serialization):
    pipeline.save_pretrained(tmp_path, safe_serialization=safe_serialization)
    suffix = "safetensors" if safe_serialization else "pdparams"
    assert len(list(tmp_path.rglob(f"*.{suffix}"))) == 2 and len(list(tmp_path.rglob("*.s*"))) == 2 * safe_serialization
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LDMSuperResolutionPipeline" and index["unet"] == ["ppdiffusers", "UNet2DModel"]
    again = DiffusionPipeline.from_pretrained(tmp_path)
    results = [p(low_resolution, num_inference_steps=2, generator=1, output_type="np")[0] for p in (pipeline, again)]
    np.testing.assert_array_equal(*results)


def test_half_precision_on_disk_is_float32_in_memory(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, paddle_dtype="float16")
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert again.unet.dtype == paddle.float32
    for name, value in again.unet.state_dict().items():
        expected = pipeline.unet.state_dict()[name].numpy().astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(value.numpy(), expected)
    assert DiffusionPipeline.from_pretrained(tmp_path, paddle_dtype="bfloat16").unet.dtype == paddle.bfloat16


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (16, 16), (17, 9), (31, 64)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_any_size_and_mode_becomes_exactly_four_times_as_large(pipeline, size, mode):
    image = picture(size, mode)
    result = pipeline(image, num_inference_steps=1, generator=0).images[0]
    assert result.size == (4 * size[0], 4 * size[1])
    assert result.mode == {"P": "RGB"}.get(mode, mode)


def test_the_users_pixels_are_not_resampled(pipeline, monkeypatch):
    seen = []
    forward = pipeline.unet.forward
    monkeypatch.setattr(pipeline.unet, "forward", lambda sample, t: (seen.append(sample), forward(sample, t))[1])
    image = picture((9, 7))
    pipeline(image, num_inference_steps=1, generator=0)
    condition = seen[0].numpy()[0, 3:, :7, :9]
    np.testing.assert_allclose((condition.transpose(1, 2, 0) + 1) * 127.5, np.asarray(image), atol=1e-3)


def test_sixteen_bit_grey_keeps_its_precision(pipeline):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    kinds = Image.fromarray(values), values, (values >> 8).astype(np.uint8)
    # Latents, because the codebook hides small differences.
    options = dict(num_inference_steps=1, generator=0, output_type="latent")
    pil, array, coarse = (pipeline(kind, **options).images.numpy() for kind in kinds)
    np.testing.assert_array_equal(pil, array)
    assert np.abs(pil - coarse).max() > 0


def test_transparency_is_upscaled_and_hidden_colours_do_not_show(pipeline):
    rgba = np.asarray(picture((16, 16), "RGBA")).copy()
    result = np.asarray(pipeline(Image.fromarray(rgba), num_inference_steps=2, generator=0).images[0])
    assert result.shape == (64, 64, 4) and result[..., 3].std() > 0
    rgba[rgba[..., 3] == 0, :3] = 255 - rgba[rgba[..., 3] == 0, :3]
    other = np.asarray(pipeline(Image.fromarray(rgba), num_inference_steps=2, generator=0).images[0])
    np.testing.assert_array_equal(result, other)


def test_opaque_alpha_costs_no_second_pass(pipeline):
    image = picture((8, 8))
    plain = np.asarray(pipeline(image, num_inference_steps=2, generator=0).images[0])
    opaque = np.asarray(pipeline(image.convert("RGBA"), num_inference_steps=2, generator=0).images[0])
    np.testing.assert_array_equal(opaque[..., :3], plain)
    assert (opaque[..., 3] == 255).all()


@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize("make", [Generator, int, lambda seed: [Generator(seed)]])
def test_the_seed_fixes_the_picture_at_every_eta(pipeline, low_resolution, eta, make):
    def call(seed):
        return pipeline(low_resolution, num_inference_steps=3, eta=eta, generator=make(seed), output_type="np").images

    np.testing.assert_array_equal(call(5), call(5))
    assert np.abs(call(5) - call(6)).max() > 0.01


@pytest.mark.parametrize("eta", [0, 1])
def test_paddle_seed_governs_without_a_generator(pipeline, low_resolution, eta):
    results = []
    for seed in (3, 3, 4):
        paddle.seed(seed)
        results.append(pipeline(low_resolution, num_inference_steps=2, eta=eta, output_type="np").images)
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 0.01


@pytest.mark.parametrize("eta", [0, 1])
def test_a_list_of_generators_makes_batch_and_single_calls_agree(pipeline, eta):
    images = [picture((12, 8), seed=i) for i in range(3)]
    options = dict(num_inference_steps=3, eta=eta)
    batch = pipeline(images, generator=[Generator(i) for i in range(3)], **options).images
    for i, image in enumerate(images):
        single = pipeline(image, generator=Generator(i), **options).images[0]
        assert np.abs(np.asarray(batch[i]).astype(int) - np.asarray(single)).max() <= 1


def test_pictures_of_different_sizes(pipeline):
    images = [picture((12, 8)), np.asarray(picture((5, 6))), picture((8, 8), "RGBA")]
    batch = pipeline(images, num_inference_steps=2, generator=[1, 2, 3]).images
    assert [image.size for image in batch] == [(48, 32), (20, 24), (32, 32)]
    single = pipeline(images[1], num_inference_steps=2, generator=2).images[0]
    np.testing.assert_array_equal(np.asarray(batch[1]), np.asarray(single))


def test_batch_size_makes_variations(pipeline, low_resolution):
    images = pipeline(low_resolution, batch_size=3, num_inference_steps=2, generator=0, output_type="np").images
    assert images.shape == (3, 128, 128, 3) and np.abs(images[0] - images[1]).max() > 0.01


def test_every_kind_of_input_gives_the_same_picture(pipeline):
    image = picture((8, 8))
    array = np.asarray(image)
    tensor = paddle.to_tensor(array.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
    kinds = [image, [image], array, array[None], array.astype(np.float32) / 255, tensor, tensor[0], [tensor]]
    results = [pipeline(kind, num_inference_steps=1, generator=0, output_type="np").images for kind in kinds]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=2e-5)


def test_outputs(pipeline, low_resolution):
    options = dict(num_inference_steps=1, generator=0)
    output = pipeline(low_resolution, **options)
    assert isinstance(output, ImagePipelineOutput)
    assert output[0] is output.images is output["images"] and isinstance(output[0][0], Image.Image)
    assert isinstance(pipeline(low_resolution, return_dict=False, **options), tuple)
    array = pipeline(low_resolution, output_type="np", **options).images
    tensor = pipeline(low_resolution, output_type="pd", **options).images
    assert array.shape == (1, 128, 128, 3) and tensor.shape == [1, 3, 128, 128]
    np.testing.assert_array_equal(tensor.numpy(), array.transpose(0, 3, 1, 2))


def test_latents_replace_the_noise(pipeline, low_resolution):
    noise = Generator(9).randn([1, 3, 32, 32])
    given = pipeline(low_resolution, num_inference_steps=2, latents=paddle.to_tensor(noise), output_type="np").images
    drawn = pipeline(low_resolution, num_inference_steps=2, generator=9, output_type="np").images
    np.testing.assert_array_equal(given, drawn)


def test_callback_and_stream(pipeline, low_resolution):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, timestep, tensors["latents"].shape))
        return {"latents": paddle.zeros_like(tensors["latents"])} if step == 2 else None

    changed = pipeline(
        low_resolution, num_inference_steps=3, generator=0, callback_on_step_end=callback, output_type="np"
    )
    assert [step for step, _, _ in seen] == [0, 1, 2] and seen[0][1] > seen[1][1] > seen[2][1]
    zeros = pipeline.decode_latents(paddle.zeros([1, 3, 32, 32]))
    np.testing.assert_array_equal(changed.images, zeros)

    steps = list(pipeline.stream(low_resolution, num_inference_steps=3, generator=0, output_type="np"))
    assert [(s.step, s.total, s.output is None) for s in steps] == [(1, 3, True), (2, 3, True), (3, 3, False)]
    assert isinstance(steps[0], DenoisingProgress)
    plain = pipeline(low_resolution, num_inference_steps=3, generator=0, output_type="np").images
    np.testing.assert_array_equal(steps[-1].output.images, plain)


def test_only_the_latents_are_scaled_for_the_model(low_resolution):
    """Under Euler and LMS diffusers scales the picture too."""
    pipeline = LDMSuperResolutionPipeline.from_pretrained(GOLDEN / "safetensors")
    seen = []
    forward = pipeline.unet.forward
    pipeline.unet.forward = lambda sample, t: (seen.append(sample.numpy()), forward(sample, t))[1]
    pipeline.scheduler.scale_model_input = lambda sample, t: sample * 0.5
    pipeline(low_resolution, num_inference_steps=1, generator=9)
    np.testing.assert_allclose(seen[0][:, :3], 0.5 * Generator(9).randn([1, 3, 32, 32]), rtol=1e-6)
    expected = np.asarray(low_resolution).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(seen[0][0, 3:], expected, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(image=None), "no picture"),
        (dict(image=[]), "empty"),
        (dict(image="photo.png"), "str"),
        (dict(image=np.zeros((4, 4, 7), np.uint8)), r"\[4, 4, 7\]"),
        (dict(image=np.full((4, 4, 3), 200.0)), "200"),
        (dict(image=np.full((4, 4, 3), np.nan)), "NaN"),
        (dict(image=np.zeros((4, 4, 3), np.int64)), "int64"),
        (dict(image=np.zeros((1, 1, 3), np.uint8)), "1x1"),
        (dict(batch_size=0), "batch_size"),
        (dict(image=[np.zeros((4, 4, 3), np.uint8)] * 2, batch_size=3), "batch_size 3"),
        (dict(num_inference_steps=0), "num_inference_steps"),
        (dict(num_inference_steps=1001), "1001"),
        (dict(num_inference_steps=2.5), "2.5"),
        (dict(eta=1.5), "1.5"),
        (dict(output_type="jpg"), "jpg"),
        (dict(generator=[1, 2]), "2"),
        (dict(latents=np.zeros((1, 3, 8, 8), np.float32)), r"\[1, 3, 8, 8\]"),
        (dict(latents=np.full((1, 3, 4, 4), np.nan, np.float32)), "NaN"),
    ],
)
def test_bad_arguments_are_one_clear_error(pipeline, arguments, message):
    arguments = {"image": np.zeros((4, 4, 3), np.uint8), "num_inference_steps": 1, **arguments}
    with pytest.raises((ImageError, ValueError, TypeError), match=message):
        pipeline(**arguments)


def test_an_unknown_argument_is_an_error(pipeline, low_resolution):
    with pytest.raises(TypeError, match="negative_prompt"):
        pipeline(low_resolution, negative_prompt="blurry")


def test_foreign_index_entries_are_refused(tmp_path):
    shutil.copytree(GOLDEN / "safetensors", tmp_path / "p")
    index = tmp_path / "p" / "model_index.json"
    values = json.loads(index.read_text())
    for entry in (["os", "system"], ["ppdiffusers", "os"], ["subprocess", "UNet2DModel"], "UNet2DModel"):
        index.write_text(json.dumps({**values, "unet": entry}))
        with pytest.raises(ValueError, match="unet|UNet2DModel|system|os"):
            DiffusionPipeline.from_pretrained(tmp_path / "p")
    for library in ("ppdiffusers", "diffusers"):
        index.write_text(json.dumps({**values, "unet": [library, "UNet2DModel"]}))
        DiffusionPipeline.from_pretrained(tmp_path / "p")


def test_components_can_be_replaced_and_moved(pipeline):
    other = DiffusionPipeline.from_pretrained(GOLDEN / "safetensors", unet=pipeline.unet)
    assert other.unet is pipeline.unet and other.vqvae is not pipeline.vqvae
    with pytest.raises(ValueError, match="unett"):
        DiffusionPipeline.from_pretrained(GOLDEN / "safetensors", unett=pipeline.unet)
    with pytest.raises(TypeError, match="VQModel"):
        LDMSuperResolutionPipeline(pipeline.unet, pipeline.unet, pipeline.scheduler)
    assert pipeline.to("cpu") is pipeline
    if not paddle.is_compiled_with_cuda():
        with pytest.warns(UserWarning, match="CUDA"):
            assert pipeline.to("cuda") is pipeline
