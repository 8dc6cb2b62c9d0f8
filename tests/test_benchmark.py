"""scripts/benchmark.py: nothing that it measured is lost, sides are compared, programs run."""

import json
import os
import sys
from pathlib import Path

import pytest
import real_architecture

from ppdiffusers import LDMSuperResolutionPipeline

ROOT = Path(__file__).parents[1]
UNET = {
    **real_architecture.UNET,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
VQVAE = {
    **real_architecture.VQVAE,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "num_vq_embeddings": 16,
}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark

    return benchmark


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """As of `write_folders`, small."""
    scratch = tmp_path_factory.mktemp("model")
    community = real_architecture.write(scratch, UNET, VQVAE)
    LDMSuperResolutionPipeline.from_pretrained(community).save_pretrained(scratch / "safetensors")
    return {"": scratch, "community": community, "safetensors": scratch / "safetensors"}


@pytest.fixture
def measured(benchmark, tmp_path):
    """The table that rows give, what has been printed left to the caller."""

    def measured(rows, folders, *options, bfloat16=True):
        args, _ = benchmark.parse(["--json", str(tmp_path / "table.json"), "--size", "8", "--steps", "2", *options])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        table = benchmark.run(rows, folders, args, bfloat16, environment)
        assert json.loads((tmp_path / "table.json").read_text()) == table
        return table

    return measured


def row(benchmark, others=(), **options):
    """A row whose first side takes 2 s and 30 MB."""
    sides = {"ours": benchmark.Side("result, memory = [3.0, 1.0, 2.0], 30.0; more['how'] = folder", "")}
    sides.update({name: benchmark.Side(program, "") for name, program in dict(others).items()})
    return benchmark.Row(sides, rounds=2, **options)


def test_a_row_compares_medians_and_largest_memory(benchmark, measured, tmp_path, capsys):
    others = {"slow": "result, memory = [8.0, 9.0, 7.0], 10.0", "fast": "result = [1.0]"}
    (found,) = measured({"speed": row(benchmark, others)}, {"": tmp_path})
    ours = {"s": 2.0, "min_s": 1.0, "runs": 6, "mb": 30.0, "how": str(tmp_path)}
    assert found["sides"] == {
        "ours": ours,
        "slow": {"s": 8.0, "min_s": 7.0, "runs": 6, "mb": 10.0},
        "fast": {"s": 1.0, "min_s": 1.0, "runs": 2},
    }
    assert found["ratio"] == {"slow": 0.25, "fast": 2.0, benchmark.BEST: 2.0}
    assert found["memory_ratio"] == {"slow": 3.0}
    assert "slow=0.250  fast=2.000" in capsys.readouterr().out


def test_failures_and_missing_bfloat16_lose_nothing(benchmark, measured, tmp_path, capsys, monkeypatch):
    seen = []

    def program(text):
        return {"other": text}

    rows = {
        "first": row(benchmark, program("raise ValueError('no such kernel')")),
        "half": row(benchmark, program("open('ran', 'w')"), bfloat16=True),
        "last": row(benchmark, program("result = [4.0]")),
    }
    write_text = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda self, text: seen.append(len(json.loads(text))) or write_text(self, text)
    )
    table = measured(rows, {"": tmp_path}, bfloat16=False)
    assert seen == [1, 2, 3]  # written after every row
    first, half, last = table
    assert first["sides"]["ours"]["s"] == 2 and "ratio" not in first
    assert first["sides"]["other"]["error"].endswith("ValueError: no such kernel")
    assert half == {"what": "half", "skipped": "this CPU has no bfloat16 arithmetic"}
    assert last["ratio"] == {"other": 0.5}
    assert benchmark.failures(table) == ["first: other"]
    printed = capsys.readouterr().out
    assert "half: skipped, this CPU has no bfloat16" in printed and "FAILED: ValueError: no such kernel" in printed


def test_busy_processes_are_there_for_one_row_and_gone_after_it(benchmark, measured, tmp_path):
    count = """
def is_busy(number):
    try:
        command = pathlib.Path(f"/proc/{number}/cmdline").read_text()
        parent = int(re.search(r"PPid:\\s+(\\d+)", open(f"/proc/{number}/status").read())[1])
    except OSError:  # it has ended
        return False
    return "while os.get" + "ppid()" in command and parent == os.getppid()
result = [1.0 + sum(is_busy(number) for number in os.listdir("/proc") if number.isdigit())]
"""
    rows = {"speed": benchmark.Row({"ours": benchmark.Side(count, "")}, rounds=1)}
    quiet, loaded = measured(rows, {"": tmp_path}, "--busy", "2")
    assert quiet["sides"]["ours"]["s"] == 1.0 and loaded["sides"]["ours"]["s"] == 3.0
    assert loaded["what"] == "speed, beside 2 busy processes" and loaded["slowdown"] == {"ours": 3.0}
    assert measured(rows, {"": tmp_path})[0]["sides"]["ours"]["s"] == 1.0


def test_the_peers_that_are_asked_for_take_part(benchmark):
    def sides(*options):
        args, chosen = benchmark.parse(["--only", "unet step fp32", "read", *options])
        return {name: list(benchmark.taking_part(row, args)) for name, row in chosen.items()}

    read = ["ours", "paddle.load"]
    assert sides() == {"unet step fp32": ["ours"], "read": read}
    assert sides("--peer-python", "p") == {"unet step fp32": ["ours", "torch"], "read": read}
    every = sides("--peer-python", "p", "--peers", "torch", "compile", "openvino")
    assert every == {"unet step fp32": ["ours", "torch", "compile", "openvino"], "read": read}


def test_rows_are_chosen_by_how_they_begin(benchmark, capsys):
    def chosen(*options):
        return list(benchmark.parse(options)[1])

    assert chosen("--only", "load", "decode") == ["load pdparams", "load safetensors", "decode fp32", "decode bf16"]
    auto = chosen("--only", "auto", "--pictures", "16x16", "512x512", "--picture-steps", "5")
    assert auto == ["auto 16x16, 5 steps", "auto 512x512, 5 steps"]
    rows = benchmark.parse(["--only", "auto"])[1]
    assert list(rows["auto 120x80, 20 steps"].sides) == ["auto", "eager", "onednn"]
    assert list(rows["auto 512x512, 5 steps"].sides) == ["auto", "onednn"] and rows["auto 512x512, 5 steps"].note
    for options, message in ((("--only", "speed"), "no row begins so"), (("--pictures", "16"), "'16' is no size")):
        with pytest.raises(SystemExit):
            benchmark.parse(options)
        assert message in capsys.readouterr().err


def test_programs_run_and_tell_what_they_ran_in(benchmark, measured, folders):
    """Of a small model. Programs of the peers need their interpreter: they are compiled."""
    names = "unet step fp32", "load safetensors", "auto 8x8, 1 steps"
    _, every = benchmark.parse(["--pictures", "8x8", "--picture-steps", "1"])
    unet, load, auto = measured({name: every[name] for name in names}, folders, "--rounds", "1")
    assert not benchmark.failures([unet, load, auto])
    assert unet["sides"]["ours"]["runs"] == 3 and unet["sides"]["ours"]["first_s"] > 0
    assert unet["sides"]["ours"]["how"].startswith("network: ")
    assert 0 <= load["sides"]["ours"]["of_weights"] < 1.5
    assert auto["ratio"].keys() == {"eager", "onednn", benchmark.BEST}
    for name, row in every.items():
        for side in row.sides.values():
            compile(benchmark.COMMON + side.program, f"<{name}>", "exec")


def test_the_picture_of_ratios(benchmark, tmp_path):
    table = [{"what": "half"}, {"what": "speed", "ratio": {"slow": 0.25, "fast": 3.0, benchmark.BEST: 3.0}}]
    benchmark.plot(table, tmp_path / "plot.png")
    from PIL import Image

    with Image.open(tmp_path / "plot.png") as image:
        colours = [colour for _, colour in image.getcolors(10**6)]
    assert (0x2F, 0x7D, 0x4F) in colours and (0xB5, 0x53, 0x2C) in colours


def test_interpreters_that_are_not_there(benchmark, measured, tmp_path):
    peer = benchmark.Row({"ours": row(benchmark).sides["ours"], "torch": benchmark.Side("", "", peer=True)})
    (found,) = measured({"speed": peer}, {"": tmp_path}, "--peer-python", "no-python", "--rounds", "1")
    assert "no-python does not run" in found["sides"]["torch"]["error"] and found["sides"]["ours"]["s"] == 2
    assert sys.executable not in found["sides"]["torch"]["error"]
