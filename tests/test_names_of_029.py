"""What stands under the module names of ppdiffusers 0.29: averages, learning rates, pictures to tensors and back."""

from __future__ import annotations

import importlib
import logging
import math
import subprocess
import sys

import numpy as np
import paddle
import pytest
from fake_community import CommunityServer
from PIL import Image

import ppdiffusers
from ppdiffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    Generator,
    PNDMPipeline,
    UNet2DModel,
    arguments,
    utils,
)
from ppdiffusers.config import ConfigError
from ppdiffusers.image_processor import VaeImageProcessor
from ppdiffusers.optimization import SchedulerType, get_scheduler
from ppdiffusers.pipelines.latent_diffusion import LDMBertConfig, LDMBertModel
from ppdiffusers.training_utils import EMAModel, cast_training_params, compute_snr, freeze_params, unfreeze_params

UNET = dict(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1)  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    paddle.seed(0)
    model = UNet2DModel(**UNET)
    model.eval()
    return model


# Module paths.

MODULES = {
    "configuration_utils": ["ConfigMixin", "FrozenDict", "register_to_config"],
    "image_processor": ["PipelineImageInput", "VaeImageProcessor"],
    "optimization": ["SchedulerType", "get_cosine_schedule_with_warmup", "get_scheduler"],
    "pipelines.ddim": ["DDIMPipeline"],
    "pipelines.ddpm": ["DDPMPipeline"],
    "pipelines.latent_diffusion": ["LDMBertConfig", "LDMBertModel", "LDMSuperResolutionPipeline"],
    "pipelines.latent_diffusion.pipeline_latent_diffusion": ["LDMTextToImagePipeline"],
    "pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution": ["LDMSuperResolutionPipeline"],
    "pipelines.latent_diffusion_uncond": ["LDMPipeline"],
    "pipelines.pipeline_utils": ["DiffusionPipeline", "ImagePipelineOutput"],
    "pipelines.pndm": ["PNDMPipeline"],
    "schedulers.scheduling_ddim": ["DDIMScheduler", "DDIMSchedulerOutput"],
    "schedulers.scheduling_ddim_inverse": ["DDIMInverseScheduler"],
    "schedulers.scheduling_ddpm": ["DDPMScheduler"],
    "schedulers.scheduling_deis_multistep": ["DEISMultistepScheduler"],
    "schedulers.scheduling_dpmsolver_multistep": ["DPMSolverMultistepScheduler"],
    "schedulers.scheduling_dpmsolver_singlestep": ["DPMSolverSinglestepScheduler"],
    "schedulers.scheduling_euler_ancestral_discrete": ["EulerAncestralDiscreteScheduler"],
    "schedulers.scheduling_euler_discrete": ["EulerDiscreteScheduler"],
    "schedulers.scheduling_heun_discrete": ["HeunDiscreteScheduler"],
    "schedulers.scheduling_lcm": ["LCMScheduler", "LCMSchedulerOutput"],
    "schedulers.scheduling_lms_discrete": ["LMSDiscreteScheduler"],
    "schedulers.scheduling_pndm": ["PNDMScheduler"],
    "schedulers.scheduling_unipc_multistep": ["UniPCMultistepScheduler"],
    "schedulers.scheduling_utils": ["KarrasDiffusionSchedulers", "SchedulerMixin", "SchedulerOutput"],
    "training_utils": ["EMAModel", "compute_snr", "set_seed"],
    "transformers": ["AutoTokenizer", "BertTokenizer", "LDMBertModel"],
    "utils": ["BaseOutput", "load_image", "make_image_grid", "randn_tensor"],
    "utils.logging": ["get_logger"],
    "utils.paddle_utils": ["randn_tensor"],
    "utils.testing_utils": ["enable_full_determinism", "floats_tensor", "load_numpy"],
}


def test_every_module_path_in_a_process_of_its_own():
    """One process, each path imported as a script does it, from nothing: aliases need no earlier import."""
    lines = ["import sys"]
    for module, names in MODULES.items():
        lines += [
            "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('ppdiffusers.') "
            "and name.split('.')[1] not in ('inference', 'layers', 'models')]",
            f"from ppdiffusers.{module} import {', '.join(names)}",
            f"import ppdiffusers.{module}",
        ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_path_gives_the_classes_themselves(module):
    found = importlib.import_module(f"ppdiffusers.{module}")
    for name in MODULES[module]:
        assert getattr(found, name) is getattr(ppdiffusers, name, getattr(found, name))


# Arguments.


def test_loading_options_that_mean_nothing_are_taken_and_others_are_errors(caplog):
    caplog.set_level(logging.DEBUG, "ppdiffusers")
    arguments._told.clear()
    options = {"low_cpu_mem_usage": True, "use_safetensors": True, "revision": "main", "device_map": None, "mine": 3}
    assert arguments.take_loading_options(options) is True and options == {"mine": 3}
    arguments.take_loading_options({"low_cpu_mem_usage": True})
    assert [record.levelname for record in caplog.records] == ["DEBUG"]  # once
    for name, value in {"device_map": "auto", "variant": "fp16", "force_download": True, "revision": "v2"}.items():
        with pytest.raises(ConfigError, match=f"{name}={value!r} is not supported; "):
            arguments.take_loading_options({name: value})


def test_only_the_asked_for_kind_of_weights_is_opened(unet, tmp_path):
    unet.save_pretrained(tmp_path, safe_serialization=False)
    UNet2DModel.from_pretrained(tmp_path, use_safetensors=False)
    with pytest.raises(
        ppdiffusers.CheckpointError, match="holds no weights; it needs one of diffusion_paddle_model.safe"
    ):
        UNet2DModel.from_pretrained(tmp_path, use_safetensors=True)


def test_callbacks_of_older_releases(unet):
    pipeline, seen = DDPMPipeline(unet, DDIMScheduler()), []
    pipeline(num_inference_steps=5, callback=lambda i, t, x: seen.append((i, t, x.shape)), callback_steps=2)
    assert seen == [(i, t, [1, 3, 8, 8]) for i, t in ((0, 800), (2, 400), (4, 0))]
    for wrong, message in (
        ({"callback": print, "callback_steps": 0}, "callback_steps must be a positive int"),
        ({"callback": print, "callback_on_step_end": print}, "were both given"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "the callback gets 'latents' only"),
        ({"timesteps": [5, 3], "num_inference_steps": 3}, "num_inference_steps and timesteps were both given"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(**wrong)


def test_a_call_with_timesteps_of_its_own(unet):
    told = []
    pipeline = DDIMPipeline(unet, DDIMScheduler())
    options = {"callback": lambda i, t, x: told.append(t), "output_type": "numpy", "generator": 3}
    same = pipeline(timesteps=[800, 600, 400, 200, 0], **options).images
    assert told == [800, 600, 400, 200, 0]
    assert np.array_equal(same, pipeline(num_inference_steps=5, **options).images)
    assert isinstance(pipeline(num_inference_steps=1, output_type="pt").images, paddle.Tensor)


def test_small_questions_to_a_pipeline(unet, caplog):
    pipeline = DDPMPipeline(unet, DDIMScheduler())
    other = DDIMPipeline.from_pipe(pipeline)
    assert other.unet is unet and type(other) is DDIMPipeline
    scheduler = PNDMPipeline(unet, DDIMScheduler()).scheduler
    pipeline.register_modules(scheduler=scheduler)
    assert pipeline.scheduler is scheduler
    for wrong, message in (({"vae": unet}, "has no vae; it has unet"), ({"unet": 3}, "needs a UNet2DModel as unet")):
        with pytest.raises(TypeError, match=message):
            pipeline.register_modules(**wrong)
    caplog.set_level(logging.INFO, "ppdiffusers")
    arguments._told.clear()
    pipeline.enable_attention_slicing("max"), pipeline.enable_attention_slicing()
    assert len(caplog.records) == 1 and "enable_attention_slicing() changes nothing here" in caplog.text
    with pytest.raises(AttributeError, match="DDPMPipeline has no 'enable_magic'"):
        pipeline.enable_magic()


def test_a_result_is_a_dict_too(unet):
    output = DDPMPipeline(unet, DDIMScheduler())(num_inference_steps=1)
    assert isinstance(output, dict) and list(output.keys()) == ["images"] and dict(output) == {"images": output.images}
    output.images = []
    assert output["images"] == [] == output[0]


# Averages of weights.


def weights(*values):
    return [paddle.create_parameter([2], "float32") for _ in values]


def fill(parameters, values):
    for parameter, value in zip(parameters, values):
        parameter.set_value(paddle.full([2], value))


@pytest.mark.parametrize(
    ("options", "decays"),
    [
        ({"decay": 0.3}, [0, 2 / 11, 3 / 12, 0.3, 0.3]),
        ({"decay": 1.0, "update_after_step": 2}, [0, 0, 0, 2 / 11, 3 / 12]),
        ({"min_decay": 0.25}, [0, 0.25, 0.25, 4 / 13, 5 / 14]),
        (
            {"use_ema_warmup": True, "inv_gamma": 2.0, "power": 0.5},
            [0] + [1 - (1 + n / 2) ** -0.5 for n in (1, 2, 3, 4)],
        ),
    ],
)
def test_an_average_follows_its_formula(options, decays):
    parameters = weights(1, 2)
    fill(parameters, (1.0, -1.0))
    parameters[1].stop_gradient = True
    average = EMAModel(parameters, **options)
    expected = 1.0
    for step, decay in enumerate(decays):
        fill(parameters, (float(step), step + 0.5))
        average.step(parameters)
        assert average.cur_decay_value == pytest.approx(decay)
        expected = decay * expected + (1 - decay) * step
        assert average.shadow_params[0].numpy() == pytest.approx([expected] * 2, rel=1e-6)
        assert average.shadow_params[1].numpy().tolist() == [step + 0.5] * 2  # not trained, so copied
    assert parameters[0].numpy().tolist() == [4.0, 4.0]  # the model's own are as they were


def test_an_average_is_stored_restored_and_resumed():
    parameters = weights(1)
    fill(parameters, (1.0,))
    average = EMAModel(parameters, decay=0.5)
    for value in (2.0, 3.0):
        fill(parameters, (value,))
        average.step(parameters)
    averaged = float(average.shadow_params[0][0])
    average.store(parameters)
    average.copy_to(parameters)
    assert parameters[0].numpy().tolist() == [averaged] * 2
    average.restore(parameters)
    assert parameters[0].numpy().tolist() == [3.0, 3.0]
    with pytest.raises(RuntimeError, match="call store first"):
        average.restore(parameters)
    other = EMAModel(weights(1))
    other.load_state_dict({**average.state_dict(), "shadow_params": [v.numpy() for v in average.shadow_params]})
    for each in (average, other):
        each.step(parameters)
    assert float(average.shadow_params[0][0]) == float(other.shadow_params[0][0]) != averaged
    for wrong, message in (({"decay": 2}, "decay 2"), ({"shadow_params": [paddle.ones([3])]}, "other shapes")):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(wrong)
    with pytest.raises(ValueError, match="2 weights for an average of 1"):
        other.step(weights(1, 2))


def test_an_average_is_saved_as_a_model(unet, tmp_path):
    average = EMAModel(unet, model_cls=UNet2DModel, model_config=unet.config)
    average.step(unet)
    average.save_pretrained(tmp_path)
    assert UNet2DModel.from_pretrained(tmp_path).config.sample_size == 8  # it is a model
    again = EMAModel.from_pretrained(tmp_path, UNet2DModel)
    assert again.optimization_step == 1 and again.decay == average.decay
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(again.shadow_params, average.shadow_params))
    config = {**dict(unet.config), "optimization_step": 7, "decay": 0.99}  # where diffusers writes its state
    (tmp_path / "ema.json").unlink()
    ppdiffusers.config.write_json(tmp_path / "config.json", config)
    assert EMAModel.from_pretrained(tmp_path, UNet2DModel).optimization_step == 7
    with pytest.raises(ValueError, match="model_cls"):
        EMAModel(unet).save_pretrained(tmp_path)


def test_small_helpers_of_training(unet):
    scheduler = DDIMScheduler()
    timesteps = paddle.to_tensor([0, 10, 999])
    alphas = scheduler._alphas_cumprod[[0, 10, 999]]
    assert compute_snr(scheduler, timesteps).numpy() == pytest.approx(alphas / (1 - alphas), rel=1e-6)
    model = UNet2DModel(**UNET)
    freeze_params(model.parameters())
    assert all(value.stop_gradient for value in model.parameters())
    unfreeze_params(model)
    before = model.conv_in.weight.numpy()
    cast_training_params(model, "float64")
    assert model.conv_in.weight.dtype == paddle.float64 and np.array_equal(model.conv_in.weight.numpy(), before)
    utils.enable_full_determinism(3)
    drawn = paddle.randn([3]).numpy(), np.random.rand()
    utils.enable_full_determinism(3)
    assert np.array_equal(paddle.randn([3]).numpy(), drawn[0]) and np.random.rand() == drawn[1]


# Learning rates.


@pytest.mark.parametrize(
    ("name", "options", "at"),
    [
        ("constant", {}, {0: 2, 9: 2}),
        ("constant_with_warmup", {}, {0: 0, 1: 0.5, 4: 2, 9: 2}),
        ("linear", {}, {0: 0, 2: 1, 4: 2, 12: 1, 20: 0, 25: 0}),
        ("cosine", {}, {2: 1, 4: 2, 12: 1, 8: 1 + math.sqrt(0.5), 20: 0}),
        ("cosine_with_restarts", {"num_cycles": 2}, {4: 2, 8: 1, 11: 1 - math.cos(math.pi / 8), 12: 2, 16: 1, 20: 0}),
        ("polynomial", {"power": 2}, {2: 1, 4: 2, 12: 0.5, 20: 1e-7, 30: 1e-7}),
    ],
)
def test_learning_rates_by_name(name, options, at):
    schedule = get_scheduler(name, learning_rate=2.0, num_warmup_steps=4, num_training_steps=20, **options)
    for step in range(max(at) + 1):
        if step in at:
            assert schedule() == pytest.approx(at[step], abs=1e-6), step
        schedule.step()
    assert get_scheduler(SchedulerType(name), 2.0, 4, 20)() == schedule.lr_lambda(0) * 2.0


def test_a_learning_rate_governs_an_optimizer():
    parameter = weights(1)[0]
    optimizer = paddle.optimizer.AdamW(learning_rate=0.5, parameters=[parameter])
    schedule = get_scheduler("linear", optimizer=optimizer, num_warmup_steps=2, num_training_steps=4)
    schedule.step()
    assert optimizer.get_lr() == 0.25
    with pytest.raises(ValueError, match="'linaer' is not one of 'linear'"):
        get_scheduler("linaer")
    with pytest.raises(ValueError, match="'cosine' needs num_training_steps"):
        get_scheduler("cosine", num_warmup_steps=3)
    with pytest.raises(ValueError, match="lr_end 1e-07"):
        get_scheduler("polynomial", 1e-8, 1, 2)


# Pictures.


def test_pictures_to_tensors_and_back():
    pixels = np.random.RandomState(0).randint(0, 256, (19, 26, 3), np.uint8)
    picture, processor = Image.fromarray(pixels), VaeImageProcessor()
    tensor = processor.preprocess(picture)
    resized = np.asarray(picture.resize((24, 16), Image.Resampling.LANCZOS), np.float32)
    assert np.allclose(tensor.numpy()[0], (resized / 127.5 - 1).transpose(2, 0, 1), atol=1e-6)
    assert np.array_equal(np.asarray(processor.postprocess(tensor)[0]), resized.astype(np.uint8))
    array = processor.postprocess(tensor, "np")
    assert array.shape == (1, 16, 24, 3) and np.allclose(array[0], resized / 255, atol=1e-6)
    assert np.allclose(processor.preprocess(array).numpy(), tensor.numpy(), atol=1e-6)
    assert np.allclose(processor.postprocess(tensor, "pt").numpy(), (tensor.numpy() + 1) / 2, atol=1e-6)
    assert processor.postprocess(tensor, "latent") is tensor
    mixed = processor.postprocess(paddle.concat([tensor, tensor]), "np", [True, False])
    assert np.allclose(mixed[1], tensor.numpy()[0].transpose(1, 2, 0))
    assert processor.preprocess([picture, picture], 8, 16).shape == [2, 3, 8, 16]
    latents = paddle.randn([1, 4, 3, 3])
    assert processor.preprocess(latents) is latents or np.array_equal(processor.preprocess(latents), latents)
    negative = paddle.full([1, 3, 8, 8], -0.5)
    assert np.array_equal(processor.preprocess(negative).numpy(), negative.numpy())  # in [-1, 1] already
    checker = np.indices((4, 4)).sum(0)[None] % 2
    small = VaeImageProcessor(vae_scale_factor=2).resize(checker[..., None].astype(np.float32), 2, 2)
    assert small.shape == (1, 2, 2, 1) and np.array_equal(small[0, :, :, 0], checker[0, ::2, ::2])  # the nearest pixel


def test_masks_and_grey_pictures():
    mask = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True, vae_scale_factor=2)
    picture = Image.fromarray(np.array([[0, 127, 128, 255]] * 2, np.uint8)).convert("RGB")
    assert mask.preprocess(picture).numpy()[0, 0, 0].tolist() == [0, 0, 1, 1]
    rgb = VaeImageProcessor(do_convert_rgb=True, vae_scale_factor=2).preprocess(Image.new("L", (4, 2), 255))
    assert rgb.shape == [1, 3, 2, 4] and float(rgb.min()) == 1
    grey = mask.postprocess(paddle.ones([1, 1, 2, 2]))[0]
    assert grey.mode == "L" and grey.getpixel((0, 0)) == 255
    for wrong in ("a.png", [], [picture, np.zeros((2, 2, 3))]):
        with pytest.raises(ValueError, match="a list of one kind"):
            mask.preprocess(wrong)
    with pytest.raises(ValueError, match="exclude each other"):
        VaeImageProcessor(do_convert_rgb=True, do_convert_grayscale=True)
    with pytest.raises(ValueError, match="resample 'best'"):
        VaeImageProcessor(resample="best")
    with pytest.raises(ValueError, match="output_type 'jpeg'"):
        mask.postprocess(rgb, "jpeg")


def test_pictures_are_loaded_from_files_and_addresses(tmp_path):
    picture = Image.new("RGBA", (3, 2), (255, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    turned = Image.Exif()
    turned[0x112] = 6
    Image.new("L", (3, 2)).save(tmp_path / "turned.jpg", exif=turned)
    with CommunityServer(tmp_path) as server:
        for source in (str(tmp_path / "a.png"), tmp_path / "a.png", f"{server.url}/a.png", picture):
            image = utils.load_image(source)
            assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (255, 0, 0))
        assert utils.load_image(tmp_path / "turned.jpg").size == (2, 3)
        assert utils.load_image(picture, lambda image: image.convert("L")).mode == "L"
        np.save(tmp_path / "b.npy", np.arange(3))
        assert utils.load_numpy(f"{server.url}/b.npy").tolist() == utils.load_numpy(str(tmp_path / "b.npy")).tolist()
        with pytest.raises(OSError, match="404"):
            utils.load_image(f"{server.url}/missing.png")
    with pytest.raises(ValueError, match="neither a file nor an http"):
        utils.load_image("missing.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match="holds no picture"):
        utils.load_image(str(tmp_path / "text.png"))


def test_grids_animations_and_arrays(tmp_path):
    colours = [(value, 0, 0) for value in (10, 20, 30, 40, 50, 60)]
    pictures = [Image.new("RGB", (2, 3), colour) for colour in colours]
    grid = utils.make_image_grid(pictures, rows=2, cols=3)
    assert grid.size == (6, 6) and [grid.getpixel(at) for at in ((0, 0), (5, 0), (2, 5))] == [
        colours[i] for i in (0, 2, 4)
    ]
    assert utils.image_grid(pictures, 1, 6, resize=4).size == (24, 4)
    with pytest.raises(ValueError, match="6 pictures do not fill 2 rows of 2"):
        utils.make_image_grid(pictures, 2, 2)
    with Image.open(utils.export_to_gif(pictures, str(tmp_path / "a.gif"))) as animation:
        assert animation.n_frames == 6
    tensor = paddle.to_tensor(np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 3, 2, 2))
    assert np.array_equal(np.asarray(utils.pd_to_pil(tensor)[0])[0, 0], [0, 93, 185])
    values = utils.floats_tensor([2, 3], scale=5.0)
    assert values.shape == [2, 3] and 0 <= float(values.min()) and float(values.max()) < 5


def test_logging_deprecations_and_questions():
    assert utils.logging.get_logger("ppdiffusers.x") is logging.getLogger("ppdiffusers.x")
    assert utils.is_paddle_available() and not utils.is_no_such_package_available()
    assert not utils.is_ppxformers_available()
    utils.check_min_version("0.29.0")
    with pytest.warns(FutureWarning, match="`old` is deprecated and will be removed in version 1.0. use new"):
        options = {"old": 3}
        assert utils.deprecate("old", "1.0", "use new", take_from=options) == 3 and options == {}
    with pytest.raises(AttributeError, match="no attribute 'load_video'"):
        _ = utils.load_video


# Models and pipelines.


def test_a_text_encoder_of_a_config():
    small = dict(vocab_size=30, d_model=16, encoder_layers=1, encoder_ffn_dim=8, encoder_attention_heads=1, head_dim=8)
    config = LDMBertConfig(**small, pad_token_id=0, init_std=0.02)
    assert config.vocab_size == config["vocab_size"] == 30
    assert LDMBertModel(config).config == LDMBertModel(**small).config
    with pytest.raises(ConfigError, match="'d_modle'.*did you mean 'd_model'"):
        LDMBertConfig(d_modle=3)


@pytest.mark.parametrize("kind", [DDPMPipeline, DDIMPipeline, PNDMPipeline])
def test_pixels_from_noise(kind, unet, tmp_path):
    pipeline = kind(unet=unet, scheduler=DDIMScheduler(beta_schedule="scaled_linear"))
    options = {"eta": 0.5, "use_clipped_model_output": True} if kind is DDIMPipeline else {}
    made = pipeline(batch_size=2, generator=Generator(3), num_inference_steps=4, output_type="np", **options)
    assert made.images.shape == (2, 8, 8, 3) and made[0] is made.images
    scheduler, generator = pipeline.scheduler.copy(), Generator(3)
    scheduler.set_timesteps(4)
    x = ppdiffusers.random.randn_tensor([2, 3, 8, 8], generator)
    with paddle.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x, generator=generator, **options).prev_sample
    assert np.allclose(made.images, np.clip(x.numpy().transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1), atol=1e-5)
    pipeline.save_pretrained(tmp_path)
    again = ppdiffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is kind and type(again.scheduler) is type(pipeline.scheduler)
    positions = (2, 4, Generator(3)) if kind is PNDMPipeline else (2, Generator(3))
    if kind is not PNDMPipeline:
        options["num_inference_steps"] = 4
    assert np.allclose(again(*positions, output_type="np", **options).images, made.images, atol=1e-5)
    assert again(num_inference_steps=2).images[0].size == (8, 8)
    with pytest.raises(ValueError, match="batch_size"):
        again(batch_size=0)
