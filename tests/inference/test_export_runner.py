"""Programs that run an exported folder without ppdiffusers."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import exported_folders as folders
import numpy as np
import paddle
import pytest
from exported_folders import PICTURE, agree, change
from PIL import Image

from ppdiffusers import DDIMScheduler, EulerDiscreteScheduler, Generator

pytestmark = pytest.mark.skipif(not hasattr(paddle, "pir_utils"), reason="programs are written by paddle 3")

RUNNER = Path(__file__).parents[2] / "ppdiffusers/deploy/run_super_resolution.py"


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_super_resolution", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(runner, folder):
    return runner.SuperResolution(folder, "fp32")


def test_the_runner_alone_makes_the_same_picture(eager, folder, tmp_path):
    image = Image.fromarray(np.rint(PICTURE * 255).astype(np.uint8))
    image.save(tmp_path / "in.png")
    shutil.copy(RUNNER, tmp_path / "runner.py")
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(['ppdiffusers', 'model_zoo', 'tqdm', 'requests']));"
        "sys.argv = ['runner.py', *sys.argv[1:]]; runpy.run_path('runner.py', run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, str(folder), "in.png", "out.png", "--steps", "3", "--seed", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "out.png: 12x9 -> 48x36, seed 5"
    wanted = eager(image, num_inference_steps=3, generator=5, output_type="np").images[0]
    assert agree(np.asarray(Image.open(tmp_path / "out.png")) / 255, wanted)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_runner_at_every_eta_and_from_given_noise(eager, run, eta):
    call = {"num_inference_steps": 3, "eta": eta, "generator": 7, "output_type": "np"}
    assert agree(run(PICTURE, 3, 7, eta), eager(PICTURE, **call).images[0])
    noise = np.random.default_rng(1).standard_normal([1, 3, 10, 12]).astype(np.float32)
    assert agree(run(PICTURE, 3, 7, eta, noise), eager(PICTURE, latents=noise, **call).images[0])


def test_the_runner_reads_and_writes_grey_pictures(eager, folder, runner, tmp_path, monkeypatch):
    Image.fromarray(np.rint(PICTURE * 255).astype(np.uint8)).convert("L").save(tmp_path / "in.png")
    files = [str(tmp_path / name) for name in ("in.png", "out.png")]
    monkeypatch.setattr(sys, "argv", ["runner", str(folder), *files, "--steps", "2", "--seed", "3", "--verify"])
    assert runner.main() == 0
    got, wanted = Image.open(files[1]), eager(Image.open(files[0]), num_inference_steps=2, generator=3).images[0]
    assert got.mode == wanted.mode == "L" and agree(np.asarray(got) / 255, np.asarray(wanted) / 255)


SCHEDULERS = [
    {"timestep_spacing": "linspace", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"timestep_spacing": "trailing", "prediction_type": "sample", "beta_schedule": "sigmoid"},
    {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample_range": 0.5},
    {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False},
    {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.01},
    {"trained_betas": np.linspace(0.01, 0.02, 50).tolist(), "num_train_timesteps": 50},
]


@pytest.mark.parametrize("config", SCHEDULERS, ids=lambda config: "-".join(config))
def test_the_runners_ddim_is_that_of_the_package(runner, config, tmp_path):
    ours = DDIMScheduler(**config)
    ours.save_pretrained(tmp_path)
    theirs = runner.DDIM(json.loads((tmp_path / "scheduler_config.json").read_text()), 7)
    ours.set_timesteps(7)
    assert [step[0] for step in theirs.steps] == ours.timesteps.tolist()
    draw = np.random.default_rng(0)
    sample, stream, normals = draw.standard_normal([1, 3, 4, 5]).astype(np.float32), Generator(4), runner.Normals(4)
    wanted, got = paddle.to_tensor(sample), sample
    for timestep, alpha, following in theirs.steps:
        output = draw.standard_normal(sample.shape).astype(np.float32)
        wanted = ours.step(paddle.to_tensor(output), timestep, wanted, eta=0.7, generator=stream).prev_sample
        got = theirs.step(output, got, alpha, following, 0.7, normals)
        assert np.allclose(got, wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 3, 5, 7), (2, 16)])
def test_the_runners_noise_is_that_of_the_package(runner, shape):
    ours, theirs = Generator(2**40 + 3), runner.Normals(2**40 + 3)
    for _ in range(2):
        assert np.array_equal(ours.randn(shape), theirs(shape))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (folders.newer_format, "has the format 2"),
        (folders.other_paddle, "install paddlepaddle==3.2"),
        (folders.missing_file, "is missing or has another size"),
        (folders.no_json, "is no JSON"),
        (lambda folder: change(folder, pipeline="LDMPipeline"), "holds a LDMPipeline"),
        (lambda folder: change(folder, components={}), "lacks 'unet' in a manifest"),
        (lambda folder: change(folder, components=5), "holds a damaged file"),
        (lambda folder: change(folder, paddle=3), "holds a damaged file"),
        (lambda folder: (folder / "deployment.json").write_text("[]"), "holds a JSON list"),
        (lambda folder: folders.rewrite(folder, "unet/network.npz", b"PK cut"), "holds a damaged file"),
        (lambda folder: folders.rewrite(folder, "unet/diffusion_paddle_model.safetensors", b"cut"), "a damaged file"),
        (lambda folder: folders.flip(folder / "vqvae" / "to_pixels.pdiparams"), "its sha256 differs"),
        (lambda folder: shutil.rmtree(folder), "does not exist; give the folder"),
    ],
)
def test_what_the_runner_refuses(runner, copy, damage, message):
    damage(copy)
    with pytest.raises(runner.RunError, match=message):
        runner.SuperResolution(copy, "fp32", verify=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out"], "out is no file name of a picture format"),
        (["no/such/out.png"], "is no folder"),
        (["out.png", "--threads", "0"], "0 threads are not possible"),
        (["out.png", "--steps", "0"], "0 steps are not possible"),
        (["out.png", "--noise", "nan.npy"], "NaN or infinite"),
    ],
)
def test_wrong_arguments_of_the_runner(runner, folder, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("in.png")
    np.save("nan.npy", np.full([1, 3, 4, 4], np.nan, np.float32))
    monkeypatch.setattr(sys, "argv", ["runner", str(folder), "in.png", *arguments])
    assert runner.main() == 2
    assert message in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.png", "nan.npy"]


def test_the_runner_refuses_another_scheduler_and_transparency(runner, eager, tmp_path, monkeypatch, capsys):
    EulerDiscreteScheduler.from_config(eager.scheduler.config).save_pretrained(tmp_path)
    with pytest.raises(runner.RunError, match="is a EulerDiscreteScheduler, and DDIM runs here"):
        runner.DDIM(json.loads((tmp_path / "scheduler_config.json").read_text()), 4)
    Image.new("RGBA", (4, 4)).save(tmp_path / "in.png")
    monkeypatch.setattr(sys, "argv", ["runner", str(tmp_path), str(tmp_path / "in.png"), str(tmp_path / "out.png")])
    assert runner.main() == 2
    assert "convert it to RGB first" in capsys.readouterr().err


@pytest.mark.slow  # compiles for ten seconds
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_programs_run_in_cpp(copy, tmp_path):
    program = tmp_path / "check_part"
    script = RUNNER.with_name("build_check_part.sh")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHON": sys.executable}
    subprocess.run(["bash", str(script), str(program)], check=True, env=environment)
    for part in ("unet/network", "vqvae/to_latents", "vqvae/to_pixels"):
        assert subprocess.run([str(program), str(copy / part)]).returncode == 0
    folders.flip(copy / "unet" / "network.pdiparams")
    assert subprocess.run([str(program), str(copy / "unet" / "network")]).returncode == 1
    assert subprocess.run([str(program), str(copy / "unet" / "none")]).returncode == 2
