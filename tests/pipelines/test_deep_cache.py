"""Reuse of deep features between denoising steps: where it computes the same, how far off it is, what it keeps."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppdiffusers import (
    ClassEmbedder,
    DDIMScheduler,
    LDMClassConditionalPipeline,
    LDMSuperResolutionPipeline,
    LDMTextToImagePipeline,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from ppdiffusers.inference import DeepCache, compile_model
from ppdiffusers.inference import deep_cache as deep_cache_module
from ppdiffusers.inference.deep_cache import shallow_part, whole_part
from ppdiffusers.inference.engines import relative_error

HERE = Path(__file__).parent
EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"
NARROW = {"block_out_channels": (8, 16, 24), "layers_per_block": 1, "norm_num_groups": 4}

# Attention, both kinds of resampling, a level without cross-attention, and one without a middle block.
UNETS = {
    "unconditional": lambda: UNet2DModel(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=8,
        mid_block_type=None,
        **NARROW,
    ),
    "conditional": lambda: UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=6,
        **NARROW,
    ),
}
BRANCHES = range(6)
needs_programs = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")


def build(name):
    paddle.seed(0)
    unet = UNETS[name]()
    unet.eval()
    return unet


def predict(unet, seed, timestep=7):
    draw = np.random.default_rng(seed)
    sample = paddle.to_tensor(draw.standard_normal([2, unet.config.in_channels, 8, 12], np.float32))
    condition = [paddle.ones([2, 3, 6]) * 0.3] if isinstance(unet, UNet2DConditionModel) else []
    with paddle.no_grad():
        return unet(sample, timestep, *condition)[0].numpy()


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("name", UNETS)
def test_the_same_input_gives_the_same_with_and_without_what_was_kept(name, branch):
    unet = build(name)
    wanted, cached = predict(unet, 1), DeepCache(unet, 2, branch)
    assert isinstance(cached, type(unet)) and cached.config == unet.config
    before = {key: id(value) for key, value in vars(unet).items()}
    np.testing.assert_array_equal(predict(cached, 1), wanted)
    # What programs are made for is what the layers hand on.
    shape, _ = shallow_part(unet, branch).inputs["deep"]
    assert cached._run_so_far.deep.shape[1:] == [shape[1], 8 // -shape[2], 12 // -shape[3]]
    np.testing.assert_array_equal(predict(cached, 1), wanted)
    assert {key: id(value) for key, value in vars(unet).items()} == before


@pytest.mark.parametrize("name", UNETS)
def test_outer_layers_see_the_new_input_and_deep_ones_the_old(name):
    unet, losses = build(name), []
    for branch in BRANCHES:
        cached = DeepCache(unet, 2, branch)
        predict(cached, 1)
        shallow = predict(cached, 2)
        losses.append(np.abs(shallow - predict(unet, 2)).mean())
        assert np.abs(shallow - predict(unet, 1)).max() > 1e-3
        np.testing.assert_array_equal(predict(cached, 3), predict(unet, 3))  # the third step is whole again
    assert min(losses) > 0 and losses[-1] < losses[0]


@needs_programs
@pytest.mark.parametrize("engine", ["onednn", "inference"])
@pytest.mark.parametrize("name, branch", [("unconditional", 4), ("conditional", 0)])
def test_compiled_networks_do_the_same(name, branch, engine):
    eager = build(name)
    unet = compile_model(eager, engine, "fp32")
    for _ in range(2):  # two runs, which share the programs
        cached, twin = DeepCache(unet, 3, branch), DeepCache(eager, 3, branch)
        for seed in (1, 2, 3, 4):
            assert relative_error(predict(twin, seed), predict(cached, seed))[0] < 1e-5
    parts = unet.describe()
    assert parts.pop("network") == "layers (not called yet)" and len(parts) == 2
    assert not any(way.startswith("layers") for way in parts.values())
    eager.conv_out.bias.set_value(eager.conv_out.bias + 1)  # a change in the middle of a run has its effect
    assert relative_error(predict(twin, 5), predict(cached, 5))[0] < 1e-5
    assert relative_error(predict(eager, 5), predict(unet, 5))[0] < 1e-5


def letters(texts, padding, max_length, truncation):
    """A tokenizer: the numbers of a text's letters, and padding."""
    return {"input_ids": [[5 + ord(letter) % 15 for letter in text] + [0] * (max_length - len(text)) for text in texts]}


def super_resolution():
    return LDMSuperResolutionPipeline.from_pretrained(HERE / "golden" / "safetensors", engine="eager")


def text():
    folder = HERE / "golden_text" / "text"
    return LDMTextToImagePipeline.from_pretrained(folder, tokenizer=letters, engine="eager")


def classes():
    parts = {"vqvae": VQModel, "class_embedder": ClassEmbedder, "unet": UNet2DConditionModel}
    models = {name: kind.from_pretrained(HERE / "golden_conditional", subfolder=name) for name, kind in parts.items()}
    return LDMClassConditionalPipeline(**models, scheduler=DDIMScheduler(clip_sample=False))


PICTURE = np.random.default_rng(0).random([8, 12, 3], np.float32)
CALLS = {
    "super-resolution": (super_resolution, {"image": PICTURE}, {"image": [PICTURE] * 2}),
    "text": (text, {"prompt": "a boat", "guidance_scale": 6}, {"prompt": ["a boat"] * 2, "guidance_scale": 6}),
    "classes": (classes, {"class_labels": 3, "guidance_scale": 3}, {"class_labels": [3, 3], "guidance_scale": 3}),
}


@pytest.fixture(scope="module")
def pipelines():
    return {name: build() for name, (build, *_) in CALLS.items()}


@pytest.fixture(params=CALLS)
def call(request, pipelines):
    """A pipeline without a cache, the arguments of a call, and those of a batch of two."""
    _, alone, two = CALLS[request.param]
    pipelines[request.param].disable_deep_cache()
    return pipelines[request.param], alone, two


def latents(pipeline, arguments, generator=5, steps=7):
    run = pipeline(**arguments, generator=generator, num_inference_steps=steps, output_type="latent")
    return run.images.numpy()


def test_an_interval_of_one_and_none_are_the_same(call):
    pipeline, arguments, _ = call
    wanted = latents(pipeline, arguments)
    pipeline.enable_deep_cache(cache_interval=1)
    np.testing.assert_array_equal(latents(pipeline, arguments), wanted)
    pipeline.enable_deep_cache(cache_interval=2)
    assert np.abs(latents(pipeline, arguments) - wanted).max() > 1e-6
    pipeline.disable_deep_cache()
    np.testing.assert_array_equal(latents(pipeline, arguments), wanted)


@pytest.mark.parametrize("interval, whole", [(2, "x.x.x.x"), (3, "x..x..x"), (9, "x......")])
def test_the_whole_network_runs_at_every_so_many_steps(call, interval, whole, monkeypatch):
    pipeline, arguments, _ = call
    seen = ""

    def spy(make, mark):
        def record(unet, branch):
            nonlocal seen
            seen += mark
            assert branch == 1 and unet is pipeline.unet
            return make(unet, branch)

        return record

    monkeypatch.setattr(deep_cache_module, "whole_part", spy(whole_part, "x"))
    monkeypatch.setattr(deep_cache_module, "shallow_part", spy(shallow_part, "."))
    pipeline.enable_deep_cache(interval, 1)
    latents(pipeline, arguments)
    assert seen == whole
    latents(pipeline, arguments)  # a new call begins with the whole network
    assert seen == 2 * whole


def test_a_scheduler_that_runs_the_network_several_times_a_step(call, monkeypatch):
    pipeline, arguments, _ = call
    monkeypatch.setattr(pipeline, "scheduler", PNDMScheduler.from_config(pipeline.scheduler.config))
    wanted = latents(pipeline, arguments, steps=4)
    calls = len(pipeline.scheduler.timesteps)
    assert calls > 4
    pipeline.enable_deep_cache(calls + 1, 2)  # its only whole run is the first
    assert not np.array_equal(latents(pipeline, arguments, steps=4), wanted)
    pipeline.enable_deep_cache(1, 2)
    np.testing.assert_array_equal(latents(pipeline, arguments, steps=4), wanted)


def test_a_picture_is_the_same_alone_and_in_a_batch(call):
    pipeline, alone, two = call
    pipeline.enable_deep_cache(3)
    both = latents(pipeline, two, [4, 5])
    np.testing.assert_allclose(latents(pipeline, alone)[0], both[1], atol=1e-4 * np.abs(both).max())


def test_calls_that_share_a_network_keep_their_features_apart(call):
    first, arguments, _ = call
    second = type(first)(**{**first.components, "scheduler": DDIMScheduler.from_config(first.scheduler.config)})
    first.enable_deep_cache(3, 0)
    second.enable_deep_cache(2, 1)
    wanted = latents(first, arguments, 5), latents(second, arguments, 6)

    def stream(pipeline, seed):
        return pipeline.stream(**arguments, generator=seed, num_inference_steps=7, output_type="latent")

    abandoned = stream(first, 8)
    next(abandoned), next(abandoned)
    runs = [stream(first, 5), stream(second, 6)]
    last = [list(steps) for steps in zip(*zip(*runs))]  # in turns, step by step
    abandoned.close()
    first.disable_deep_cache()  # of later runs
    for steps, result in zip(last, wanted):
        np.testing.assert_array_equal(steps[-1].output.images.numpy(), result)
    assert not any(isinstance(value, (DeepCache, paddle.Tensor)) for value in vars(first.unet).values())


def test_the_embedded_model_loses_little():
    pipeline = LDMSuperResolutionPipeline.from_pretrained(EMBEDDED, engine="eager")
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    disc = (ramp[:, None] - 0.5) ** 2 + (ramp - 0.5) ** 2 < 0.1
    picture = np.stack([np.where(disc, 0.9, ramp[:, None] * np.ones(16)), np.where(disc, 0.2, ramp), disc * 0.5], -1)

    def psnr(interval, branch=0):
        pipeline.enable_deep_cache(interval, branch)
        images = pipeline(picture, num_inference_steps=6, generator=3, output_type="np").images
        return -10 * np.log10(np.mean((images - plain) ** 2))

    plain = pipeline(picture, num_inference_steps=6, generator=3, output_type="np").images
    quarter, half, deeper = psnr(4), psnr(2), psnr(2, 2)
    assert quarter > 25 and half > 30 and deeper > half


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"cache_interval": 0}, "cache_interval must be a positive int, not 0"),
        ({"cache_interval": 2.5}, "cache_interval must be a positive int, not 2.5"),
        ({"cache_interval": True}, "cache_interval must be a positive int, not True"),
        ({"cache_branch_id": -1}, r"cache_branch_id -1 is no skip connection .* it has 0 \(fastest\) ... \d"),
        ({"cache_branch_id": 99}, "cache_branch_id 99 is no skip connection"),
        ({"cache_branch_id": "0"}, "cache_branch_id '0' is no skip connection"),
    ],
)
def test_wrong_settings(pipelines, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipelines["text"].enable_deep_cache(**arguments)


@pytest.mark.parametrize("interval", [0, -1, 1.5])
def test_a_wrong_interval_of_a_cache(interval):
    unet = build("unconditional")
    with pytest.raises(ValueError, match="is not possible; give a positive int"):
        DeepCache(unet, interval, 0)
    with pytest.raises(ValueError, match="cache_branch_id 6 is no skip connection"):
        DeepCache(compile_model(unet), 2, 6)


def test_another_network_is_checked_when_it_runs():
    pipeline = super_resolution()
    pipeline.enable_deep_cache(2, 3)
    smaller = UNet2DModel(
        in_channels=6, down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], block_out_channels=[32]
    )
    pipeline.unet = smaller
    with pytest.raises(ValueError, match="cache_branch_id 3 is no skip connection"):
        latents(pipeline, CALLS["super-resolution"][1])


class Own(UNet2DModel):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("kind", ["hook", "subclass"])
def test_what_deep_cache_cannot_be_put_around_runs_whole_and_that_is_told_once(kind):
    unet = build("unconditional")
    if kind == "subclass":
        own = Own.from_config(unet.config)
        own.set_state_dict(unet.state_dict())
        unet = own
    else:
        unet.register_forward_pre_hook(lambda layer, inputs: inputs)
    unet.eval()
    cached = DeepCache(unet, 3, 0)
    with pytest.warns(UserWarning) as told:
        for seed in (1, 2, 3):
            np.testing.assert_array_equal(predict(cached, seed), predict(unet, seed))
    assert len(told) == 1 and "DeepCache has no effect" in str(told[0].message) and told[0].filename == __file__


@pytest.mark.filterwarnings("ignore:paddle computes in neither", "error:DeepCache")
def test_half_precision_keeps_deep_features_too():
    unet = build("unconditional")
    unet.to(dtype="float16")
    full = build("unconditional")
    full.set_state_dict({name: value.astype("float32") for name, value in unet.state_dict().items()})
    cached, wanted = DeepCache(unet, 3, 1), DeepCache(full, 3, 1)
    for seed in (1, 2, 3, 4):
        np.testing.assert_array_equal(predict(cached, seed), predict(wanted, seed))
