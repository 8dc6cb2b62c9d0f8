"""The losses of every task against formulas written out here, and against what the pipelines tell their U-Nets."""

import numpy as np
import paddle
import pytest
from training_cases import MODELS, given, make, vqvae

from ppdiffusers.layout import FULL_CROP, layout_tokens
from ppdiffusers.training.batches import Batches, collate, open_sources
from ppdiffusers.training.loop import needs_of, open_stage

TASKS = list(MODELS)


def open_task(task, pictures, **options):
    """The stage and a batch of two, as tensors."""
    config = make(task, pictures, **options)
    source, _ = open_sources(config, needs_of(config))
    stage = open_stage(config, given(task), len(source.classes))
    batches = Batches(source, stage.item, 2, seed=3)
    batch = {name: paddle.to_tensor(value) for name, value in batches.batch(0).items()}
    return stage, batch, [source.read(i, np.random.default_rng(0)) for i in (0, 7)]


def alphas_cumprod(timesteps):
    """Of the scaled linear schedule in `training_cases`."""
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    return np.prod(1 - betas[: int(timesteps) + 1])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["VQModel", "AutoencoderKL"])
def test_the_loss_is_that_of_the_papers(pictures, kind, prediction):
    """Latents, their scale, noise, timesteps, target and the order of channels, each from its formula."""
    first_stage = {**vqvae(kind), **({"scaling_factor": 0.37} if kind == "AutoencoderKL" else {})}
    task = "super-resolution" if kind == "VQModel" else "unconditional"
    stage, batch, _ = open_task(task, pictures, first_stage=first_stage, scheduler={"prediction_type": prediction})
    loss, _ = stage.objectives["denoising"](batch)
    errors = []
    for i in range(2):
        x, noise = batch["pixels"][i : i + 1], batch["noise"][i : i + 1]
        if kind == "VQModel":
            z = stage.first_stage.encode(x)[0]
        else:
            mean, logvar = stage.first_stage._to_moments(x).chunk(2, axis=1)
            z = 0.37 * (mean + paddle.exp(logvar / 2) * batch["posterior"][i : i + 1])
        t = int(batch["timestep"][i])
        signal, spread = alphas_cumprod(t) ** 0.5, (1 - alphas_cumprod(t)) ** 0.5
        small = x.reshape([1, 3, 8, 2, 8, 2]).mean(axis=[3, 5])
        small = paddle.round((small + 1) * 127.5) / 127.5 - 1
        told = signal * z + spread * noise
        told = paddle.concat([told, small], axis=1) if task == "super-resolution" else told
        wanted = {"epsilon": noise, "sample": z, "v_prediction": signal * noise - spread * z}[prediction]
        errors.append(float(((stage.unet(told, t).sample - wanted) ** 2).mean()))
    assert batch["timestep"][0] != batch["timestep"][1]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_are_those_of_one_prediction_of_the_picture(pictures, prediction):
    """An error of x_0 weighs min(SNR, gamma), however it was predicted: the errors of epsilon and v are that of x_0
    times SNR and SNR + 1 (arXiv 2303.09556)."""
    options = {"diffusion": {"min_snr": 5.0}, "scheduler": {"prediction_type": prediction}}
    stage, batch, _ = open_task("unconditional", pictures, **options)
    for t in (0, 100, 500, 999):
        snr = alphas_cumprod(t) / (1 - alphas_cumprod(t))
        per_picture = {"epsilon": snr, "sample": 1, "v_prediction": snr + 1}[prediction]
        assert float(stage.weights[t]) * per_picture == pytest.approx(min(snr, 5), rel=1e-4)
    plain, _, _ = open_task("unconditional", pictures, scheduler={"prediction_type": prediction})
    batch["timestep"] = paddle.to_tensor([100, 100])
    ratio = float(stage.objectives["denoising"](batch)[0]) / float(plain.objectives["denoising"](batch)[0])
    assert ratio == pytest.approx(float(stage.weights[100]), rel=1e-5)


def test_offset_noise_moves_whole_channels(pictures):
    stage, batch, _ = open_task("unconditional", pictures, diffusion={"offset_noise": 10.0})
    noise = batch["noise"].numpy()
    within, between = noise.std(axis=(2, 3)).mean(), noise.mean(axis=(2, 3)).std()
    assert 0.8 < within < 1.2 and between > 3


@pytest.mark.parametrize("task", TASKS)
def test_training_and_pipeline_tell_the_unet_the_same(pictures, task):
    stage, _, samples = open_task(task, pictures, data={"drop": 0.0, "flip": False})
    items = [stage.item(sample, np.random.default_rng(0)) for sample in samples]
    batch = {name: paddle.to_tensor(value) for name, value in collate(items).items()}
    with paddle.no_grad():
        beside, attended = stage.condition.told(batch, stage.encode)
    seen = {}

    def record(unet, inputs):
        seen.setdefault("sample", inputs[0])
        seen.setdefault("context", inputs[2] if len(inputs) > 2 else None)

    stage.unet.register_forward_pre_hook(record)
    pipeline = stage.pipeline()
    pipeline.compile("eager")
    options = stage.condition.arguments(samples)
    options.update({"guidance_scale": 1.0} if "guidance_scale" in options else {})
    result = pipeline(**options, num_inference_steps=1, generator=[0, 1], output_type="np").images
    assert len(result) == 2 and result[0].shape == (16, 16, 3)
    assert seen["sample"].shape == [2, 3 + (0 if beside is None else beside.shape[1]), 8, 8]
    if beside is not None:
        np.testing.assert_allclose(seen["sample"][:, 3:].numpy(), beside.numpy(), atol=1e-5)
    if attended is not None:
        np.testing.assert_allclose(seen["context"].numpy(), attended.numpy(), atol=1e-5)
        assert np.abs(attended[0].numpy() - attended[1].numpy()).max() > 0.01
    assert (beside is None and attended is None) == (task == "unconditional")


@pytest.mark.parametrize("task", ["text-to-image", "class-conditional", "layout-to-image"])
def test_conditions_are_dropped_as_often_as_said(pictures, task):
    stage, _, (sample, _) = open_task(task, pictures, data={"drop": 0.3})
    told = [tuple(stage.item(sample, np.random.default_rng(i))["told"].ravel()) for i in range(400)]
    empty = {
        "text-to-image": lambda: (2, 3, 0, 0),  # [CLS] [SEP] [PAD] [PAD]
        "class-conditional": lambda: (2,),
        "layout-to-image": lambda: tuple(layout_tokens([], FULL_CROP, 64, 2, 2)),
    }[task]()
    assert len(set(told)) == 2 and 0.22 < told.count(empty) / 400 < 0.38


def test_what_learns(pictures):
    """All that was built; a first stage, and a text encoder that was loaded, stay as they are."""
    stage, _, _ = open_task("semantic-synthesis", pictures)
    assert {*stage.trained.keys()} == {"unet", "rescaler"}
    stage, _, _ = open_task("text-to-image", pictures)
    assert {*stage.trained.keys()} == {"unet", "bert"} and stage.trained["bert"].training
    again = given("text-to-image") | {"bert": stage.components["bert"]}
    frozen = open_stage(make("text-to-image", pictures), again)
    assert {*frozen.trained.keys()} == {"unet"} and not frozen.components["bert"].training
    part, _, _ = open_task("unconditional", pictures, train=["unet.conv_out"])
    learning = [name for name, value in part.trained.state_dict().items() if not value.stop_gradient]
    assert learning == ["unet.conv_out.weight", "unet.conv_out.bias"]
    with pytest.raises(ValueError, match="unett"):
        open_task("unconditional", pictures, train=["unett"])


def first_stage(pictures, task, **options):
    stage, batch, _ = open_task(task, pictures, **options)
    stage.objectives["autoencoder"].train()
    return stage, batch


def test_the_kl_loss(pictures):
    stage, batch = first_stage(pictures, "kl", reconstruction={"kl": 0.5, "pixel": "l2"})
    loss, _ = stage.objectives["autoencoder"](batch)
    x = batch["pixels"]
    mean, logvar = stage.model._to_moments(x).chunk(2, axis=1)
    y = stage.model.decode(mean + paddle.exp(logvar / 2) * batch["noise"]).sample
    nats = 0.5 * (mean**2 + paddle.exp(logvar) - 1 - logvar).sum(axis=[1, 2, 3]).mean()
    assert float(loss) == pytest.approx(float(((x - y) ** 2).mean() + 0.5 * nats / (3 * 16 * 16)), rel=1e-5)


def test_the_vq_loss(pictures):
    weights = {"codebook": 2.0, "commitment": 0.5}
    stage, batch = first_stage(pictures, "vq", reconstruction=weights)
    loss, figures = stage.objectives["autoencoder"](batch)
    x, codes = batch["pixels"], stage.model.quantize.embedding.weight.numpy()
    z = stage.model.encode(x).latents.numpy().transpose(0, 2, 3, 1)  # [B, h, w, C]
    nearest = codes[((z[..., None, :] - codes) ** 2).sum(axis=-1).argmin(axis=-1)]
    y = stage.model.decode(paddle.to_tensor(nearest.transpose(0, 3, 1, 2)), force_not_quantize=True).sample
    gap = ((z - nearest) ** 2).mean()
    assert float(loss) == pytest.approx(float((x - y).abs().mean()) + 2.5 * gap, rel=1e-5)
    loss.backward()  # the straight-through estimator reaches the encoder
    assert float(stage.model.encoder.conv_in.weight.grad.abs().max()) > 0
    assert float(figures["codebook"]) == pytest.approx(gap, rel=1e-4)


def test_the_adversarial_loss_begins_when_said_and_is_balanced(pictures):
    weights = {"discriminator": 0.7, "discriminator_start": 3, "discriminator_layers": 1}
    stage, batch = first_stage(pictures, "kl", reconstruction={**weights, "kl": 0.0})
    assert stage.active(2) == ["autoencoder"] and stage.active(3) == ["autoencoder", "discriminator"]
    stage.step = 3
    loss, figures = stage.objectives["autoencoder"](batch)
    last = stage.model.decoder.conv_out.weight
    adversarial = -stage.judge(stage.decode(stage.model.encode(batch["pixels"]).latent_dist.mean)).mean()
    assert figures["adversarial"].shape == [] and np.isfinite(float(adversarial))
    ratio = (float(loss) - float(figures["pixel"])) / (0.7 * float(figures["adversarial"]))
    whole = paddle.grad(loss, last, retain_graph=True)[0]
    # loss = pixel + 0.7 lambda g with lambda |dg| = |d pixel|: the two gradients have lengths 1 and 0.7.
    stage.step = 0
    pixel_only = paddle.grad(stage.objectives["autoencoder"](batch)[0], last)[0]
    added = float(paddle.norm(whole - pixel_only)) / float(paddle.norm(pixel_only))
    assert ratio > 0 and added == pytest.approx(0.7, rel=0.02)
    loss.backward()
    judge = stage.objectives["discriminator"].discriminator
    assert all(parameter.grad is None for parameter in judge.parameters())  # it does not learn to be fooled
    real, fake = judge(batch["pixels"]), judge(batch["made"])
    hinge = (paddle.nn.functional.relu(1 - real).mean() + paddle.nn.functional.relu(1 + fake).mean()) / 2
    assert float(stage.objectives["discriminator"](batch)[0]) == pytest.approx(float(hinge), rel=1e-5)


def test_the_condition_channels_of_a_hole(pictures):
    """A hole is black for the encoder, and the mask is that of every block's first pixel (`LDMInpaintPipeline`)."""
    stage, batch, _ = open_task("inpainting", pictures)
    beside, _ = stage.condition.told(batch, stage.encode)
    mask = batch["mask"].numpy()
    assert {*np.unique(mask)} == {0, 1}
    np.testing.assert_array_equal(beside[:, 3:].numpy(), mask[:, :, ::2, ::2] * 2 - 1)
    black = paddle.to_tensor(np.where(mask == 1, -1, batch["pixels"].numpy()).astype(np.float32))
    np.testing.assert_allclose(beside[:, :3].numpy(), stage.first_stage.encode(black)[0].numpy(), atol=1e-5)
