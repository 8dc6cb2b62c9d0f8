"""The loop: averages, checkpoints, interruptions, processes, whatever the task."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from training_cases import given, make

from ppdiffusers import AutoencoderKL, DiffusionPipeline, VQModel
from ppdiffusers.config import ConfigError
from ppdiffusers.training import saving
from ppdiffusers.training.configuration import learning_rate_at, plain
from ppdiffusers.training.loop import Stopped, Training, evaluate, train

ROOT = Path(__file__).parents[2]
TASKS = ["super-resolution", "text-to-image", "class-conditional", "inpainting", "semantic-synthesis"]
ALL = [*TASKS, "layout-to-image", "unconditional"]
ADVERSARIAL = {"discriminator": 0.5, "discriminator_start": 2, "discriminator_layers": 1, "restart_codes": 2}


def weights(out):
    """All that the last checkpoint holds."""
    return saving.read(saving.Checkpoints(Path(out), 1).last())[0]


def log(out):
    """The rows without what a clock says."""
    rows = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "pictures_per_second"} for row in rows]


def assert_same(a, b, atol=0.0):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=0, atol=atol, err_msg=name)
    if atol == 0:
        assert log(a) == log(b)


@pytest.mark.parametrize("task", ["vq", "kl", *ALL])
def test_every_task_runs_and_its_model_is_a_pipeline(pictures, tmp_path, task):
    config = make(task, pictures, steps=2, reconstruction=ADVERSARIAL if task == "vq" else None)
    config.lpips = None
    model = train(config, tmp_path / "run", given(task))
    (row,) = (row for row in log(tmp_path / "run") if "validation_loss" in row)
    assert np.isfinite(list(row.values())).all()
    if task in ("vq", "kl"):
        loaded = (VQModel if task == "vq" else AutoencoderKL).from_pretrained(model)
        state = loaded.state_dict()
        prefix = "vqvae"
    else:
        pipeline = DiffusionPipeline.from_pretrained(model, **(given(task) or {}))
        state, prefix = pipeline.unet.state_dict(), "unet"
    arrays = weights(tmp_path / "run")
    for name, value in state.items():
        np.testing.assert_array_equal(value.numpy(), arrays[f"average/{prefix}.{name}"])
    figures, rows = evaluate(make(task, pictures, steps=2), tmp_path / "run", given(task))
    assert figures["loss"] == pytest.approx(row["validation_loss"], rel=1e-5)
    again, _ = evaluate(make(task, pictures, steps=2), model, given(task))
    assert again["loss"] == pytest.approx(figures["loss"], rel=1e-5)
    assert len(rows) == 4 and rows[0][0].shape == rows[0][1].shape == (16, 16, 3)


def test_the_scale_of_latents_is_measured(pictures, tmp_path):
    config = make("kl", pictures, steps=1)
    model = AutoencoderKL.from_pretrained(train(config, tmp_path / "run"))
    training = Training(config, tmp_path / "other", {"vqvae": model})
    batches = [training.batches.batch(i) for i in range(20)]
    with paddle.no_grad():
        posteriors = [model.encode(paddle.to_tensor(b["pixels"])).latent_dist for b in batches]
        drawn = [p.mean.numpy() + p.std.numpy() * b["noise"] for p, b in zip(posteriors, batches)]
    assert model.config.scaling_factor * np.std(drawn) == pytest.approx(1, rel=0.05)


def test_averages_follow_the_weights(pictures, tmp_path):
    """After each step n: average += (weight - average) * (1 - min(decay, (1 + n) / (10 + n)))."""
    training = Training(make("unconditional", pictures, steps=3, ema_decay=0.15), tmp_path)
    name = "unet.conv_in.weight"
    values = [training.averages[name].numpy()]
    average = training._average

    def spy():
        average()
        values.append(training.stage.trained.state_dict()[name].numpy())

    training._average = spy
    training.run()
    expected = values[0]
    for step, value in enumerate(values[1:], 1):
        expected = expected + (value - expected) * (1 - min(0.15, (1 + step) / (10 + step)))
    np.testing.assert_allclose(training.averages[name].numpy(), expected, atol=1e-7)
    assert np.abs(expected - values[-1]).max() > 1e-6
    np.testing.assert_array_equal(weights(tmp_path)[f"average/{name}"], training.averages[name].numpy())


@pytest.mark.parametrize("task", ["vq", "text-to-image"])
def test_a_run_that_was_cut_ends_where_an_uncut_one_does(pictures, tmp_path, task):
    """To the bit, with another number of processes that read, and in the log; losses, codes and dropout included."""
    changes = {"reconstruction": {**ADVERSARIAL, "continuous": 0.2}} if task == "vq" else {}
    encoder = {"bert": {**make("text-to-image", pictures).models["bert"], "dropout": 0.3}}
    models = encoder if task == "text-to-image" else None
    config = make(task, pictures, steps=6, validate_every=3, save_every=3, models=models, **changes)
    train(config, tmp_path / "whole", given(task))
    cut = make(task, pictures, steps=6, validate_every=3, save_every=3, models=models, data={"workers": 2}, **changes)

    class Cut(Training):
        def _take_step(self, parts):
            if self.step == 5:
                raise KeyboardInterrupt
            super()._take_step(parts)

    with pytest.raises(KeyboardInterrupt):
        Cut(cut, tmp_path / "cut", given(task)).run()
    with pytest.raises(ConfigError, match="--resume"):
        train(cut, tmp_path / "cut", given(task))
    with pytest.raises(ConfigError, match="other values of learning_rate, data.flip"):
        changed = make(task, pictures, steps=6, models=models, data={"flip": False}, learning_rate=0.5, **changes)
        train(changed, tmp_path / "cut", given(task), resume=True)
    train(config, tmp_path / "cut", given(task), resume=True)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_parts_of_a_step_add_up(pictures, tmp_path):
    train(make("inpainting", pictures, steps=2), tmp_path / "whole")
    train(make("inpainting", pictures, steps=2, micro_batch=1), tmp_path / "parts")
    assert_same(tmp_path / "whole", tmp_path / "parts", atol=2e-4)  # Adam divides tiny gradients by themselves
    with pytest.raises(ConfigError, match="batch_size 4 .* micro_batch 3"):
        train(make("inpainting", pictures, micro_batch=3), tmp_path / "no")


def test_recomputing_changes_nothing_but_the_memory(pictures, tmp_path):
    train(make("class-conditional", pictures, steps=2), tmp_path / "kept")
    train(make("class-conditional", pictures, steps=2, recompute=True), tmp_path / "recomputed")
    assert_same(tmp_path / "kept", tmp_path / "recomputed", atol=1e-6)


def test_kept_latents_are_those_of_the_pictures(pictures, tmp_path):
    first = train(make("kl", pictures, steps=1), tmp_path / "kl")
    options = {"first_stage": str(first), "data": {"crop": "centre", "cache_latents": True}}
    training = Training(make("class-conditional", pictures, steps=2, **options), tmp_path / "run")
    source, stage = training.batches.source, training.stage
    for seed in range(4):
        kept = source.read(3, np.random.default_rng(seed))
        pixels = source.source.read(3, np.random.default_rng(0)).pixels  # centred; mirrored or not
        views = paddle.to_tensor(np.stack([pixels, pixels[:, ::-1]]).transpose(0, 3, 1, 2).copy())
        gaps = np.abs(kept.moments - stage.moments({"pixels": views}).numpy()).max(axis=(1, 2, 3))
        assert min(gaps) < 1e-5 < max(gaps)
    training.run()
    item = training.batches.item(0, 0)
    assert "pixels" not in item and item["moments"].shape == (6, 8, 8)


def test_checkpoints_that_stay_and_the_best(pictures, tmp_path):
    config = make("unconditional", pictures, steps=10, save_every=1, validate_every=1, keep=2)
    training = Training(config, tmp_path)
    losses = iter([9, 5, 3, 8, 8, 8, 8, 8, 8, 8])
    training.validation.loss = lambda: next(losses)
    training.validation.figures = lambda: ({}, [[np.zeros((4, 4, 3))]])
    training.run()
    names = [path.name for path in training.checkpoints.all()]
    assert names == ["step-0000003", "step-0000009", "step-0000010"]
    assert (tmp_path / "samples" / "step-0000010.png").is_file()


def test_a_full_disk_loses_nothing(pictures, tmp_path, monkeypatch, capsys):
    """A checkpoint that cannot be written costs itself; the one before stays, and at the end it is an error."""
    write = saving.save_safetensors

    def full(path, arrays, metadata):
        Path(path).write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    class Filling(Training):
        def _take_step(self, parts):
            if self.step == 2:
                monkeypatch.setattr(saving, "save_safetensors", full)
            super()._take_step(parts)

    config = make("unconditional", pictures, steps=6)
    with pytest.raises(OSError, match="step 6 cannot be saved: .*No space.*--resume"):
        Filling(config, tmp_path / "run").run()
    assert "step 4 cannot be saved, and training goes on" in capsys.readouterr().err
    assert [path.name for path in saving.Checkpoints(tmp_path / "run", 3).all()] == ["step-0000002"]
    assert not [path for path in (tmp_path / "run/checkpoints").iterdir() if path.name[0] == "."]
    monkeypatch.setattr(saving, "save_safetensors", write)
    train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "whole")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_sigterm_saves_and_ends(pictures, tmp_path):
    class Told(Training):
        def _take_step(self, parts):
            super()._take_step(parts)
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    config = make("unconditional", pictures, steps=6, save_every=100)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="step 3"):
        Told(config, tmp_path / "run").run()
    assert signal.getsignal(signal.SIGTERM) is before
    train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "whole")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_loss_that_is_no_number_ends_the_run(pictures, tmp_path):
    with pytest.raises(FloatingPointError, match="loss is not finite at step 2; lower learning_rate"):
        train(make("unconditional", pictures, learning_rate=1e30, clip_norm=None), tmp_path)


def test_skipped_pictures_are_listed(pictures, tmp_path):
    import shutil

    root = Path(shutil.copytree(pictures, tmp_path / "p"))
    (root / "red" / "1.png").write_bytes(b"no picture")
    train(make("unconditional", root), tmp_path / "run")
    assert (tmp_path / "run" / "skipped.txt").read_text() == "red/1.png\n"


def test_learning_rate():
    rates = [learning_rate_at(step, 1.0, 10, 100, "cosine") for step in range(100)]
    assert rates[0] == 0.1 and rates[10] == 1 and rates[99] < 0.03 and rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_at(99, 1.0, 10, 100, "constant") == 1


def test_dead_codes_are_restarted(pictures, tmp_path):
    config = make("vq", pictures, steps=7, reconstruction={"restart_codes": 3}, log_every=7)
    training = Training(config, tmp_path)
    codebook = training.stage.model.quantize.embedding.weight
    far = np.full(codebook.shape, 50, np.float32)
    far[0] = 0  # the one code that latents take
    codebook.set_value(far)
    training.run()
    assert (np.abs(codebook.numpy()) < 20).all()
    idle = training.stage.objectives["autoencoder"].idle.numpy()
    assert idle.max() <= 4 and (idle == 0).sum() > 1


@pytest.mark.parametrize("style", ["train", "evaluate"])
def test_several_processes(pictures, tmp_path, style):
    """Two make the same first step as one, and measure the same."""
    config = make("vq", pictures, steps=2, micro_batch=1, reconstruction={"continuous": 0.9, "anchor": 0.1})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(plain(config)))
    train(config, tmp_path / "one")
    launch = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        tmp_path / "logs",
    ]
    if style == "train":
        command = [*launch, ROOT / "scripts/train.py", file, "-o", tmp_path / "two"]
    else:
        command = [*launch, ROOT / "scripts/evaluate.py", file, tmp_path / "one"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if style == "train":
        assert_same(tmp_path / "one", tmp_path / "two", atol=2e-5)
        assert log(tmp_path / "two")[0]["loss"] == pytest.approx(log(tmp_path / "one")[0]["loss"], abs=1e-6)
    else:
        measured = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
        (row,) = (row for row in log(tmp_path / "one") if "validation_psnr" in row)
        assert measured["psnr"] == pytest.approx(row["validation_psnr"], abs=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on(pictures, tmp_path):
    """SIGKILL between any two instructions."""
    config = make("super-resolution", pictures, steps=60, save_every=5, log_every=5, data={"workers": 2})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(plain(config)))
    train(config, tmp_path / "whole")
    command = [sys.executable, str(ROOT / "scripts/train.py"), str(file), "-o", str(tmp_path / "cut"), "--resume"]
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = saving.Checkpoints(tmp_path / "cut", 1).last()
        while process.poll() is None and saving.Checkpoints(tmp_path / "cut", 1).last() == before:
            time.sleep(0.05)
        time.sleep(0.1)
        process.kill()
        process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert_same(tmp_path / "whole", tmp_path / "cut")
