from __future__ import annotations

import io
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_community import CommunityServer
from zoo_files import NAME, assert_right

import model_zoo
from model_zoo import cache, cli, part, settings
from model_zoo.cli import main
from model_zoo.errors import age_text, parse_duration, parse_size, size_text, table

ROOT = Path(model_zoo.__file__).parents[1]
TINY = "ppdiffusers/ldm-super-resolution-4x-tiny"


def run(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_list(capsys):
    code, out, err = run(capsys, "list")
    assert code == 0 and re.fullmatch(r"model-zoo: \d+ more exist only as original .*list --all.*\n", err)
    assert "ldm-inpainting-big" not in out
    code, out, err = run(capsys, "list", "--all")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if "4x-openimages" in line)
    assert line.split("  ")[0] == "CompVis/ldm-super-resolution-4x-openimages"
    assert "super-resolution" in line and "about 644.6 MB" in line and "not downloaded" in line
    assert "to be converted" in next(line for line in out.splitlines() if "ldm-inpainting-big" in line)
    code, out, _ = run(capsys, "list", "--task", "text-to-image")
    assert code == 0 and "CompVis/ldm-text2im-large-256" in out and "celebahq" not in out


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
    code, out, err = run(capsys, "download", "tester/small")
    assert (code, out) == (0, f"{folder}\n")
    assert (
        err.startswith("model-zoo: unverified: first use, recorded: the catalogue knows no sha256 of 3 of the 4 files")
        and err.count("\n") == 1
    )
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
        ["download", NAME, "--jobs", "0"],
        ["download", "CompVis/ldm-celebahq-256", "--include", "nothing*"],
        ["download", "a/b", "c/d", "--local-dir", "x"],
        ["show", "CompVis/ldm-celebahq-256", "--revision", "v9"],
        ["pin", "CompVis/ldm-celebahq-256", "/nowhere"],
        ["list", "--cache-dir"],
        ["verify", "nobody/nothing"],
        ["verify", "CompVis/ldm-celebahq-256"],
        ["remove", "CompVis/ldm-celebahq-256"],
        ["remove", "../..", "--yes"],
        ["remove", TINY, "--yes"],
        ["prune", "--older-than", "soon"],
        ["prune", "--keep-size", "-1"],
        ["import", "/nowhere"],
        ["import", "/dev/null", "--name", NAME],
        ["pack", "/nowhere", "--name", "a/b", "--licence", "MIT", "--origin", "x"],
        ["pack", "."],
        ["scan", "/nowhere"],
    ],
    ids=str,
)
def test_user_errors_are_one_line(arguments, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("model-zoo: error: ") and err.count("\n") == 1


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
    out = capsys.readouterr().out
    assert "download models" in out
    assert main([]) == 0 and capsys.readouterr().out == out
    for name in re.findall(r"`(MODEL_ZOO_\w+)`", settings.__doc__):
        assert f"  {name} " in out


@pytest.mark.parametrize("command", cli.EXAMPLES)
def test_help_of_a_command_is_a_screen_that_ends_in_examples(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 110
    examples = lines[lines.index("examples:") + 1 :]
    assert examples
    for line in examples:
        program, *words = shlex.split(line)
        assert program == "model-zoo" and words[0] == command
        assert callable(cli._parser(words).parse_args(words).run)


def test_every_command_has_examples():
    assert set(cli.EXAMPLES) == set(cli._commands())


def test_list_columns(capsys, zoo, folder):
    model_zoo.download(NAME)
    (folder.parent / "unknown").mkdir()
    (folder.parent / "unknown" / "weights").write_bytes(bytes(2048))
    moment = time.time() - 3 * 86_400 - 60
    os.utime(folder / cache.MARKER, (moment, moment))
    code, out, _ = run(capsys, "list")
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split("  ")[0] == "NAME"
    assert [line.split() for line in lines] == [
        ["tester/small", "super-resolution", "about", "20.8", "KB", "downloaded", "3", "days", "ago"],
        ["tester/unknown", "-", "2.0", "KB", "not", "in", "the", "catalogue", "now"],
    ]
    assert [line.index("super-resolution") for line in lines[:1]] == [header.index("TASK")]
    small, unknown = json.loads(run(capsys, "list", "--downloaded", "--json")[1])
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert small == {
        "name": NAME,
        "task": "super-resolution",
        "state": "downloaded",
        "size": 256 + 0 + 703 + 20_300,
        "size_is_exact": False,
        "bytes_on_disk": on_disk,
        "last_used": int(moment),
    }
    assert (unknown["name"], unknown["task"], unknown["bytes_on_disk"]) == ("tester/unknown", None, 2048)
    assert "tester/unknown" not in run(capsys, "list", "--task", "super-resolution")[1]


def test_list_of_an_empty_cache(capsys, zoo, tmp_path):
    code, out, err = run(capsys, "list", "--downloaded")
    assert (code, out) == (0, "") and err == f"model-zoo: nothing is in the cache {tmp_path / 'home'}\n"
    assert json.loads(run(capsys, "list", "--downloaded", "--json")[1]) == []


def test_list_warns_of_a_registry_that_is_down(capsys, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_REGISTRY", "http://user.example.invalid/index.json")
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    code, out, err = run(capsys, "list")
    assert code == 0 and TINY in out
    assert err.startswith("model-zoo: warning: the registry http://user.example.invalid/index.json cannot be used")
    assert err.count("warning") == 1


def test_several_downloads(capsys, zoo, folder, contents):
    """One that fails hides none of the others."""
    code, out, err = run(capsys, "download", NAME, "nobody/nothing", "elder/small", "-q")
    assert (code, out) == (2, f"{folder}\n{folder}\n")
    assert err.count("\n") == 1 and "nobody/nothing" in err
    assert len(zoo.requests) == len(contents)


def test_options_of_download(capsys, zoo, folder, contents, tmp_path):
    code, out, _ = run(capsys, "download", NAME, "--dry-run")
    assert code == 0 and zoo.requests == [] and f"{NAME}: 4 files, about 20.8 KB, into {folder}" in out
    code, out, _ = run(capsys, "download", NAME, "--include", "*.json", "--exclude", "unet/*", "--json", "-q")
    assert json.loads(out) == [{"name": NAME, "folder": str(folder)}]
    assert zoo.paths() == [f"{NAME}/model_index.json"] and not (folder / ".complete").exists()
    fetch = json.loads(run(capsys, "download", NAME, "--dry-run", "--json")[1])[0]["fetch"]
    assert [file["path"] for file in fetch] == ["empty.txt", "unet/config.json", "unet/model_state.pdparams"]
    place = tmp_path / "mine"
    for _ in range(2):
        code, out, _ = run(capsys, "download", NAME, "--local-dir", str(place), "--jobs", "1")
        assert (code, out) == (0, f"{place}\n")
    assert all((place / path).read_bytes() == content for path, content in contents.items())
    asked = len(zoo.requests)
    run(capsys, "download", NAME)
    (folder / "model_index.json").write_bytes(b"x" * 256)
    run(capsys, "download", NAME)
    assert len(zoo.requests) == asked + 3
    assert run(capsys, "download", NAME, "--force", "--endpoint", zoo.url)[0] == 0
    assert len(zoo.requests) == asked + 7
    assert_right(folder, contents)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9/dead", None])
def test_endpoint_of_the_command(endpoint, capsys, zoo, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", zoo.url if endpoint else "http://127.0.0.1:9/dead")
    code, _, err = run(capsys, "download", NAME, *(["--endpoint", endpoint] if endpoint else []))
    assert code == 2 and "--endpoint" in err and zoo.requests == []


def test_json_everywhere(capsys, zoo, folder, tmp_path):
    model_zoo.download(NAME)
    (tmp_path / "f.pdparams").write_bytes(pickle.dumps({}, 4))
    scan, named = ["scan", str(tmp_path / "f.pdparams")], ("show", "path", "download", "verify")
    for arguments in (["list"], *([word, NAME] for word in named), ["env"], ["prune"], scan, ["remove", NAME, "--yes"]):
        code, out, _ = run(capsys, *arguments, "--json")
        assert code == 0 and json.loads(out) is not None


def test_env_and_version(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", "https://me:s3cret@a.example/zoo")
    code, out, _ = run(capsys, "env")
    assert code == 0 and str(tmp_path / "home") in out and "https://a.example/zoo" in out and "s3cret" not in out
    code, out, _ = run(capsys, "--version")
    assert code == 0 and out.startswith("model-zoo ")


def test_show_tells_how_to_pin(capsys, zoo, folder, manifest, catalogue_of):
    place = catalogue_of() / "tester" / "small.json"
    place.write_text(json.dumps({**manifest, "colour": "red"}))
    out = run(capsys, "show", NAME)[1]
    assert "no sha256 is known of 3 files; `model-zoo pin tester/small FOLDER` adds them" in out
    model_zoo.download(NAME)
    assert run(capsys, "pin", NAME, str(folder)) == (0, f"{place}\n", "")
    values = json.loads(place.read_text())
    assert values["colour"] == "red" and all(file["sha256"] and file["size"] is not None for file in values["files"])
    assert not any("approximate_size" in file for file in values["files"])
    assert all(found.ok for found in model_zoo.verify(NAME))
    assert "unverified" not in run(capsys, "show", NAME)[1]
    (folder / "unet/config.json").write_bytes(b"{}")
    code, _, err = run(capsys, "pin", NAME, str(folder))
    assert code == 2 and "it is another file" in err


def test_verify(capsys, zoo, folder):
    code, out, err = run(capsys, "verify")
    assert (code, out) == (0, "") and "nothing is in the cache" in err
    model_zoo.download(NAME)
    for arguments in ([NAME], [], [NAME, "--remote"]):
        code, out, err = run(capsys, "verify", *arguments)
        assert code == 0 and "nothing is wrong; of some files no sha256 is known" in err
        name, *lines = out.splitlines()
        assert name == "tester/small:" and [line.split()[0] for line in lines] == [
            "unknown",
            "unknown",
            "ok",
            "unknown",
        ]
    content = bytearray((folder / "unet/config.json").read_bytes())
    content[5] ^= 1
    (folder / "unet/config.json").write_bytes(content)
    code, out, err = run(capsys, "verify")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines() if "WRONG" in line] == [["WRONG", "unet/config.json"]]
    assert "`model-zoo verify --repair tester/small`" in err and err.count("\n") == 1
    zoo.forget()
    code, out, err = run(capsys, "verify", "--repair")
    assert code == 0 and "WRONG" not in out and zoo.paths() == [f"{NAME}/unet/config.json"]


def test_one_failure_hides_no_other_model(capsys, zoo, folder):
    model_zoo.download(NAME)
    code, out, err = run(capsys, "verify", "nobody/nothing", NAME)
    assert code == 2 and "tester/small:" in out and "nobody/nothing" in err


def test_verify_tells_a_new_version_from_a_dead_source(capsys, zoo, folder, contents):
    """Nobody is advised to remove good files because a server is down."""
    model_zoo.download(NAME)
    (zoo.folder / NAME / "model_index.json").unlink()
    code, out, err = run(capsys, "verify", "--remote")
    assert code == 0 and "its source is unknown" in out and "WRONG" not in out
    assert "remove" not in err and "could not be asked" in err
    (zoo.folder / NAME / "unet/config.json").write_bytes(b"{}")
    code, out, err = run(capsys, "verify", "--remote")
    assert code == 1 and "CHANGED" in out and "WRONG" not in out
    assert "has changed at its source; `model-zoo download --force tester/small`" in err and err.count("\n") == 1
    assert_right(folder, contents)


def test_remove(capsys, zoo, folder, monkeypatch):
    model_zoo.download(NAME)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, _, err = run(capsys, "remove", NAME)
    assert code == 2 and "say --yes" in err and folder.is_dir()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert run(capsys, "remove", NAME)[0] == 2 and folder.is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "Y")
    code, out, _ = run(capsys, "remove", NAME, "elder/small")
    assert code == 0 and out.startswith("removed tester/small, ") and out.count("\n") == 1
    assert not folder.exists()
    model_zoo.download(NAME)
    assert run(capsys, "remove", "elder/small", "--yes")[0] == 0 and not folder.exists()


def test_nothing_is_removed_where_one_name_is_wrong(capsys, zoo, folder):
    model_zoo.download(NAME)
    code, out, _ = run(capsys, "remove", NAME, "nobody/nothing", "--yes")
    assert (code, out) == (2, "") and folder.is_dir()


def test_prune(capsys, zoo, folder):
    model_zoo.download(NAME)
    os.utime(folder / cache.MARKER, (1, 1))
    code, out, _ = run(capsys, "prune", "--older-than", "30d", "--dry-run")
    assert code == 0 and out.startswith("would remove tester/small, ") and out.endswith(" to free\n")
    assert folder.is_dir()
    assert run(capsys, "prune")[1] == "0 B freed\n"
    assert run(capsys, "prune", "--keep-size", "1GB")[1] == "0 B freed\n"
    code, out, _ = run(capsys, "prune", "--older-than", "30d")
    assert code == 0 and out.startswith("removed tester/small, ") and "days ago" in out
    assert not folder.exists()


def test_import(capsys, zoo, folder, tmp_path):
    model_zoo.download(NAME)
    shutil.make_archive(tmp_path / "carried", "gztar", folder)
    model_zoo.remove(NAME)
    asked = len(zoo.requests)
    code, out, _ = run(capsys, "import", str(tmp_path / "carried.tar.gz"), "--name", "elder/small")
    assert (code, out) == (0, f"{folder}\n")
    assert run(capsys, "path", NAME) == (0, f"{folder}\n", "")
    assert len(zoo.requests) == asked
    assert run(capsys, "import", str(tmp_path / "carried.tar.gz"), "--name", NAME)[0] == 2


def test_pack(capsys, tmp_path, monkeypatch):
    source = model_zoo.download(TINY)
    facts = ["--name", "me/tiny", "--licence", "Apache-2.0", "--origin", "this test"]
    shutil.copytree(source, tmp_path / "saved", ignore=shutil.ignore_patterns("model.json"))
    (tmp_path / "saved" / ".hidden").write_text("x")
    code, out, err = run(capsys, "pack", str(tmp_path / "saved"), *facts)
    assert (code, err) == (0, "model-zoo: left out hidden files: .hidden\n")
    assert json.loads(out)["name"] == "me/tiny"
    code, out, err = run(capsys, "pack", str(tmp_path / "saved"), *facts, "-o", str(tmp_path / "zoo"))
    assert (code, out) == (0, f"{tmp_path / 'zoo' / 'index.json'}\n")
    with CommunityServer(tmp_path / "zoo") as server:
        monkeypatch.setenv("MODEL_ZOO_REGISTRY", f"{server.url}/index.json")
        assert "me/tiny" in run(capsys, "list")[1]
        shown = run(capsys, "show", "me/tiny")[1]
        assert f"registry:    {server.url}/index.json" in shown and f"served at:   {server.url}" in shown


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_scan(capsys, tmp_path):
    for content, code in ((b"\0" * 10, 0), (Evil(), 1)):
        (tmp_path / "file.pdparams").write_bytes(pickle.dumps({"w": content}, 4))
        found, out, err = run(capsys, "scan", str(tmp_path / "file.pdparams"))
        assert (found, err) == (code, "")
        assert ("system" in out) == bool(code)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_pipes(encoding, tmp_path, manifest):
    """A reader that has seen enough is no error, and neither is a terminal that knows few letters."""
    for number in range(100):  # more in all than a pipe holds
        values = {
            **manifest,
            "name": f"me/m{number}",
            "aliases": [],
            "task": "x" * 2000,
            "description": "Gr\u00fc\u00dfe",
        }
        (tmp_path / "zoo" / "me").mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / "me" / f"m{number}.json").write_text(json.dumps(values))
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "MODEL_ZOO_REGISTRY": str(tmp_path / "zoo")}
    command = f"{sys.executable} -m model_zoo.cli"
    for line in (f"{command} list | head -1", f"{command} show me/m7"):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "NAME" in done.stdout or "Gr" in done.stdout


def test_sizes_and_durations():
    texts = ("0", "4096", "20GB", "1.5 TB", "500mb", "2KiB", "7B")
    assert [parse_size(text) for text in texts] == [0, 4096, 20 << 30, 3 << 39, 500 << 20, 2048, 7]
    for text in ("", "GB", "-1", "1e9", "20 bananas", "1 000", "inf", "9" * 5000, "\u0664GB"):
        with pytest.raises(model_zoo.SettingsError, match="is no size; give one such as 20GB"):
            parse_size(text)
    assert [parse_duration(text) for text in ("30d", "12h", "45 m", "0.5w")] == [2_592_000, 43_200, 2700, 302_400]
    for text in ("", "30", "d", "-1d", "30 days", "1y", "nan d"):
        with pytest.raises(model_zoo.SettingsError, match="is no time span; give one such as 45m"):
            parse_duration(text)


def test_texts():
    texts = [size_text(size) for size in (0, 1023, 1024, 1536, 1 << 20, 5 << 30, 3 << 40, 5000 << 40)]
    assert texts == ["0 B", "1023 B", "1.0 KB", "1.5 KB", "1.0 MB", "5.0 GB", "3.0 TB", "5000.0 TB"]
    ages = [age_text(seconds) for seconds in (-5, 0, 59, 60, 7200, 86_399, 86_400, 900 * 86_400)]
    expected = ["now", "now", "now", "1 minute ago", "2 hours ago", "23 hours ago", "1 day ago", "900 days ago"]
    assert ages == expected
    assert table([("a", "b"), ("long", "")]) == "a     b\nlong"
