"""The commands of the README's section on training, each as it is written, on 20 small pictures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from training_cases import write_pictures

from ppdiffusers import LDMSuperResolutionPipeline
from ppdiffusers.cli.main import main
from ppdiffusers.training.components import FIRST_STAGE_CLASSES, component_kind
from ppdiffusers.training.configuration import read_configuration
from ppdiffusers.training.second_stage import pipeline_class

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Training") : README.index("## Measured")]
# What makes a run short; the README's own values come before these.
SHORT = [
    *(
        "--set",
        "steps=2",
        "batch_size=2",
        "data.size=16",
        "data.workers=1",
        "validation_pictures=2",
        "data.held_out=0.2",
    ),
    *("diffusion.sampling_steps=2",),
]


def commands():
    lines = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)[0].splitlines()
    lines += re.findall(r"`([^`]*python [^`]*scripts/[^`]*)`", SECTION)
    return [line.partition("  #")[0].strip() for line in lines if "fetch_training_data" not in line]


def test_the_readme_shows_three_ways_to_train_and_to_test():
    found = commands()
    assert (
        sum("scripts/train.py" in line for line in found) == sum("scripts/evaluate.py" in line for line in found) == 3
    )
    assert sum("CUDA_VISIBLE_DEVICES=-1" in line for line in found) == 2
    assert sum("paddle.distributed.launch" in line for line in found) == 2


def test_the_readme_s_commands_in_one_process(tmp_path, monkeypatch, capsys):
    """Those that begin with ppdiffusers, in their order, and what they leave."""
    write_pictures(tmp_path / "pictures", 20)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    lines = [line.split() for line in commands() if line.startswith("ppdiffusers ")]
    assert [line[1] for line in lines] == ["train", "train", "evaluate", "train"]
    for line in lines:
        changes = [*SHORT, "steps=3"] if "--resume" in line else SHORT
        assert main([*line[1:], *changes]) == 0
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines() if text.startswith("{")]
    assert len(printed) == 1 and {"loss", "psnr", "ssim"} == {*printed[0]} and np.isfinite([*printed[0].values()]).all()
    rows = [json.loads(text) for text in Path("runs/sr/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 3]
    pipeline = LDMSuperResolutionPipeline.from_pretrained("runs/sr/model")
    assert pipeline(np.zeros((8, 8, 3), np.uint8), num_inference_steps=1, generator=0).images[0].size == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["CUDA_VISIBLE_DEVICES=-1", "python scripts", "python -m paddle.distributed.launch"])
def test_the_readme_s_commands_in_processes(tmp_path, way):
    write_pictures(tmp_path / "pictures", 20)
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = [line for line in commands() if line.startswith(way)]
    assert len(lines) == 2
    bin_first = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        line = line.replace("launch ", "launch --nproc_per_node 2 ")
        done = subprocess.run(
            f"{line} {' '.join(SHORT)}", shell=True, cwd=tmp_path, env=bin_first, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.json")), ids=lambda file: file.stem)
def test_every_configuration_is_understood(file):
    config = read_configuration(file, ["data.path=pictures"])
    assert config.about and config.task
    if not config.is_first_stage:
        assert config.init or {"vqvae", "unet", "scheduler"} <= {*config.models}
    kind = FIRST_STAGE_CLASSES.get(config.task)
    types = {"vqvae": (kind,)} if kind else pipeline_class(config.task)._component_types
    with paddle.LazyGuard():  # no memory: some of them have a billion weights
        for name, values in config.models.items():
            if isinstance(values, dict):
                values = dict(values)
                component_kind(values.pop("_class_name", None), name, types[name]).from_config(values)


def test_what_cannot_be_trained_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "run")
    config = str(ROOT / "configs/small-vq.json")
    for arguments, message in (
        ([config, "-o", out, "--data", str(tmp_path / "empty")], "holds no pictures"),
        ([config, "-o", out, "--data", str(tmp_path / "none")], "is no folder"),
        ([config, "-o", out], "data.path=FOLDER"),
        ([config, "-o", out, "--data", ".", "--set", "step=3"], "did you mean steps?"),
        ([str(tmp_path / "c.json"), "-o", out], "does not exist"),
    ):
        assert main(["train", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not Path(out).exists()
