from __future__ import annotations

import pytest

from model_zoo import part
from model_zoo.cli import main


def run(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_list(capsys):
    code, out, err = run(capsys, "list")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if "openimages" in line)
    assert line.split("  ")[0] == "CompVis/ldm-super-resolution-4x-openimages"
    assert "super-resolution" in line and "about 644.6 MB" in line and "not downloaded" in line


def test_list_by_task(capsys):
    code, out, _ = run(capsys, "list", "--task", "text-to-image")
    assert code == 0
    assert "CompVis/ldm-text2im-large-256" in out and "celebahq" not in out


def test_show(capsys):
    code, out, _ = run(capsys, "show", "fusing/latent-diffusion-text2im-large")
    assert code == 0
    for text in ("LDMTextToImagePipeline", "Apache-2.0", "https://arxiv.org/abs/2112.10752", "about 5.5 GB"):
        assert text in out
    assert "  535 B  bert/config.json" in out and "about 226.1 KB  tokenizer/vocab.txt" in out


def test_download_path_and_state(capsys, zoo, tmp_path):
    folder = tmp_path / "home" / "tester" / "small"
    assert run(capsys, "path", "tester/small")[0] == 2
    assert zoo.requests == []
    assert run(capsys, "download", "tester/small") == (0, f"{folder}\n", "")
    assert run(capsys, "path", "elder/small") == (0, f"{folder}\n", "")
    assert "state:       downloaded" in run(capsys, "show", "tester/small")[1]
    other = tmp_path / "other"
    code, out, _ = run(capsys, "download", "tester/small", "--cache-dir", str(other))
    assert (code, out) == (0, f"{other / 'tester' / 'small'}\n")
    assert (other / "tester" / "small" / ".complete").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "CompVis/ldm-celebahq-25"],
        ["download", "nobody/nothing"],
        ["path", "CompVis/ldm-celebahq-256"],
        ["list", "--task", "cooking"],
        ["list", "--tsak", "x"],
        ["cook"],
        ["show"],
        [],
    ],
    ids=str,
)
def test_user_errors_are_one_line(arguments, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("model-zoo: error: ") and err.count("\n") == 1


def test_failed_download_is_one_line(capsys, zoo):
    zoo.fail(status=404)
    code, out, err = run(capsys, "download", "tester/small")
    assert (code, out) == (2, "")
    assert err.startswith(f"model-zoo: error: {zoo.url}/tester/small/model_index.json does not exist")
    assert err.count("\n") == 1


def test_interrupted(capsys, zoo, monkeypatch):
    def interrupted(self, block):
        raise KeyboardInterrupt

    monkeypatch.setattr(part.Part, "write", interrupted)
    code, out, err = run(capsys, "download", "tester/small")
    assert (code, out) == (130, "")
    assert err.count("\n") == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "download a model" in capsys.readouterr().out
