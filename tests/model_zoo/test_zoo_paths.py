from __future__ import annotations

import sys
from pathlib import Path

import pytest

import model_zoo
from model_zoo import settings, zoo


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(name, **options):
        raise AssertionError(f"{name} was taken for a name")

    monkeypatch.setattr(zoo, "download", refuse)


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "CompVis" / "mine").mkdir(parents=True)
    (tmp_path / "file.txt").write_text("no folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("text", ["./CompVis/mine", "CompVis/mine", "CompVis", ".", "../{}/CompVis", "~/CompVis", "~"])
def test_existing_folders(text, here):
    text = text.format(here.name)
    found = model_zoo.resolve(text)
    assert isinstance(found, Path) and found.is_dir()
    if "~" not in text:
        assert found == Path(text)
    assert model_zoo.resolve(here / "CompVis") == here / "CompVis"
    assert model_zoo.resolve(str(here)) == here


@pytest.mark.parametrize(
    "text",
    ["./CompVis/other", "../nowhere", "/nowhere/at/all", "~/nowhere", "C:/x", "c:model", "a\\b", "./a\0b"],
)
def test_paths_without_a_folder(text, here):
    with pytest.raises(model_zoo.MissingFolderError, match="does not exist; give the folder"):
        model_zoo.resolve(text)


def test_file_instead_of_folder(here):
    for path in ("./file.txt", here / "file.txt"):
        with pytest.raises(model_zoo.MissingFolderError, match="is a file, not a folder"):
            model_zoo.resolve(path)


def test_pathlike_is_never_a_name(here):
    with pytest.raises(model_zoo.MissingFolderError):
        model_zoo.resolve(Path("CompVis/ldm-celebahq-256"))


@pytest.mark.parametrize("text", ["CompVis/ldm-celebahq-256", "file.txt", "", "CompVis/min"])
def test_names(text, here):
    with pytest.raises(AssertionError, match="was taken for a name"):
        model_zoo.resolve(text)


def test_default_home(monkeypatch, tmp_path):
    monkeypatch.delenv("MODEL_ZOO_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert settings.home() == tmp_path / "xdg" / "model_zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert settings.home() == tmp_path / ".cache" / "model_zoo"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert settings.home() == tmp_path / "Library" / "Caches" / "model_zoo"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert settings.home() == tmp_path / "local" / "model_zoo"
    monkeypatch.setenv("MODEL_ZOO_HOME", "~/zoo")
    assert settings.home() == tmp_path / "zoo"
    monkeypatch.chdir(tmp_path)
    assert settings.home("here") == tmp_path / "here"


def test_endpoint(monkeypatch):
    assert settings.endpoint() == "https://paddlenlp.bj.bcebos.com/models/community"
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", "http://mirror.example/zoo/")
    assert settings.endpoint() == "http://mirror.example/zoo"
    assert settings.endpoint("https://other.example") == "https://other.example"


@pytest.mark.parametrize(("value", "off"), [("1", True), ("yes", True), ("0", False), ("False", False), ("", False)])
def test_offline(value, off, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", value)
    assert settings.offline() is off
