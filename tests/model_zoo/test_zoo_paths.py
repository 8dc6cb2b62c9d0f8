from __future__ import annotations

import sys
from pathlib import Path

import pytest

import model_zoo
from model_zoo import downloads, errors, settings


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(name, **options):
        raise AssertionError(f"{name} was taken for a name")

    monkeypatch.setattr(downloads, "download", refuse)


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


def test_endpoints(monkeypatch):
    assert settings.endpoints() == (
        "https://paddlenlp.bj.bcebos.com/models/community",
        "https://bj.bcebos.com/paddlenlp/models/community",
    )
    monkeypatch.setenv(
        "MODEL_ZOO_ENDPOINT", " http://mirror.example/zoo/, https://b.example  http://mirror.example/zoo"
    )
    assert settings.endpoints() == ("http://mirror.example/zoo", "https://b.example")
    assert settings.endpoints("https://other.example") == ("https://other.example",)


@pytest.mark.parametrize("value", ["0", "-1", "33", "x", "1.5", "٣", "9" * 5000])
def test_jobs(value, monkeypatch):
    for good in ("", "1", " 4 ", "32"):
        monkeypatch.setenv("MODEL_ZOO_JOBS", good)
        assert settings.jobs() == int(good or 4)
    monkeypatch.setenv("MODEL_ZOO_JOBS", value)
    with pytest.raises(model_zoo.SettingsError, match="MODEL_ZOO_JOBS") as caught:
        settings.jobs()
    assert len(str(caught.value)) < 300


def test_passwords_in_settings_are_not_shown(monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", "ftp://me:s3cret@mirror.example/zoo?token=s3cret")
    with pytest.raises(model_zoo.SettingsError, match=r"ftp://mirror\.example/zoo") as caught:
        settings.endpoints()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:s3cret@a.example:80/zoo?token=s3cret#s3cret", "https://a.example:80/zoo"),
        ("http://me:s/3cret@a.example/zoo", "http://a.example/zoo"),
        ("http://me:s?3cret@a.example/zoo?token=s3cret", "http://a.example/zoo"),
        ("http://me:s3cret@a.example:99999/zoo", "http://a.example:99999/zoo"),
        ("http://me:s3cret@[bad/zoo", "http://[bad/zoo"),
        ("me:s3cret@a.example/zoo", "a.example/zoo"),
        ("http:me:s3cret@a.example/zoo", "a.example/zoo"),
        ("https://a.example/zoo@main/x", "https://a.example/zoo@main/x"),
        ("mirror", "mirror"),
    ],
)
def test_public_addresses(address, shown):
    assert errors.public(address) == shown


@pytest.mark.parametrize(("value", "off"), [("1", True), ("yes", True), ("0", False), ("False", False), ("", False)])
def test_offline(value, off, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", value)
    assert settings.offline() is off
