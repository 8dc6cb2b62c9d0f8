"""Eight pictures, learned by heart by every task: what was trained is what is drawn."""

import numpy as np
import pytest
from training_cases import COLOURS, encoder, given, make, unet, vqvae, write_pictures

from ppdiffusers.training.loop import evaluate, train
from ppdiffusers.training.losses import psnr

pytestmark = pytest.mark.slow
RUN = {
    "batch_size": 8, "learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 20, "ema_decay": 0.99,
    "log_every": 200, "save_every": 100_000, "validation_pictures": 8, "validate_every": 100_000,
    "data": {"flip": False, "crop": "centre", "drop": 0.1}, "diffusion": {"sampling_steps": 20, "guidance_scale": 1.0},
}  # fmt: skip
WIDE = (32, 48)
STEPS = {"super-resolution": 1500, "inpainting": 1500}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("eight"), 8)


@pytest.fixture(scope="module")
def first_stages(eight, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("first"), {}
    for task, kind in (("vq", "VQModel"), ("kl", "AutoencoderKL")):
        config = make(
            task, eight, first_stage=vqvae(kind, (32, 48)), steps=800, **RUN,
            reconstruction={"pixel": "l2", "kl": 1e-6, "restart_codes": 100},
        )  # fmt: skip
        found[task] = train(config, folder / task), config
    return found


@pytest.mark.parametrize("task", ["vq", "kl"])
def test_autoencoders_give_the_pictures_back(first_stages, task):
    folder, config = first_stages[task]
    figures, rows = evaluate(config, folder)
    assert len(rows) == 8 and figures["psnr"] > 30


MODELS = {
    "super-resolution": {"unet": unet(6, channels=WIDE)},
    "unconditional": {"unet": unet(channels=WIDE)},
    "inpainting": {"unet": unet(7, channels=WIDE)},
    "text-to-image": {"unet": unet(3, 16, WIDE), "bert": encoder(7, 4)},
    "class-conditional": {"unet": unet(3, 16, WIDE)},
    "semantic-synthesis": {"unet": unet(5, channels=WIDE)},
    "layout-to-image": {"unet": unet(3, 16, WIDE), "layout_encoder": encoder(64, 8)},
}


@pytest.mark.parametrize("task", MODELS)
def test_second_stages_draw_what_they_were_told(eight, first_stages, tmp_path, task):
    """Super-resolution gives the pictures back; elsewhere the colours are those of the prompt, class, map or box."""
    stage = "vq" if task in ("super-resolution", "inpainting") else "kl"
    config = make(
        task, eight, first_stage=str(first_stages[stage][0]), models=MODELS[task], steps=STEPS.get(task, 600), **RUN
    )
    train(config, tmp_path / "run", given(task))
    figures, rows = evaluate(config, tmp_path / "run", given(task))
    real, made = (np.stack([row[i] for row in rows]) for i in range(2))
    assert len(rows) == 8
    if task == "super-resolution":
        assert figures["psnr"] > 30
        return
    if task == "inpainting":
        assert figures["psnr"] > 24 and psnr(made, real).min() > 18
        return
    # The box: pixels near its colour, and its place where that was told.
    boxes = {name: np.abs((made + 1) * 127.5 - COLOURS[name]).max(axis=-1) < 50 for name in COLOURS}
    shares = {name: box.mean(axis=(1, 2)) for name, box in boxes.items()}
    assert all(0.1 < max(shares[name][i] for name in COLOURS) < 0.4 for i in range(8))
    if task == "unconditional":
        shown = {max(COLOURS, key=lambda name: shares[name][i]) for i in range(8)}
        assert shown == {*COLOURS}
        return
    wanted = ["blue"] * 4 + ["red"] * 4
    right = [max(COLOURS, key=lambda name: shares[name][i]) == wanted[i] for i in range(8)]
    assert sum(right) >= 7
    if task in ("semantic-synthesis", "layout-to-image"):
        for i, name in enumerate(wanted):
            true = np.abs((real[i] + 1) * 127.5 - COLOURS[name]).max(axis=-1) < 12
            overlap = (boxes[name][i] & true).sum() / (boxes[name][i] | true).sum()
            assert overlap > 0.6
