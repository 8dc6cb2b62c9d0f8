from __future__ import annotations

import hashlib
import os
import random
import shutil

import pytest
from zoo_files import NAME, WEIGHTS, assert_right, weights

import model_zoo
from model_zoo import registry

UNKNOWN = "as when it was first downloaded; nobody's sha256 vouches for it"


def bad(**options):
    return [found.path for found in model_zoo.verify(NAME, **options) if found.bad]


def messages(**options):
    return {found.path: (found.ok, found.message) for found in model_zoo.verify(NAME, **options)}


@pytest.fixture
def complete(zoo):
    model_zoo.download(NAME)
    zoo.forget()
    return zoo


def test_all_is_right(complete, contents):
    found = messages()
    assert list(found) == list(contents)
    assert found["unet/config.json"] == (True, "right, as in the catalogue")
    assert found[WEIGHTS] == (False, UNKNOWN)
    assert complete.requests == [] and complete.heads == []


@pytest.mark.parametrize("path", ["unet/config.json", WEIGHTS])
def test_a_flipped_bit(path, complete, folder, contents):
    content = bytearray(contents[path])
    content[100] ^= 1
    (folder / path).write_bytes(content)
    found = messages()
    digest = hashlib.sha256(contents[path]).hexdigest()
    assert not found[path][0] and found[path][1].startswith("damaged: the sha256")
    assert found[path][1].endswith(digest)
    assert bad() == [path]


def test_cut_and_missing(complete, folder):
    os.truncate(folder / WEIGHTS, 5)
    (folder / "empty.txt").unlink()
    found = messages()
    assert found[WEIGHTS] == (False, "damaged: 5 bytes instead of 20000")
    assert found["empty.txt"] == (False, "missing")


def test_without_a_record(complete, folder):
    (folder / ".complete").unlink()
    found = messages()
    assert found["model_index.json"] == (False, "no sha256 of it is known, and none was recorded")
    assert found["unet/config.json"] == (True, "right, as in the catalogue")
    assert bad() == []


def test_nothing_is_here(zoo):
    with pytest.raises(model_zoo.NotCachedError, match="no file of tester/small is in"):
        model_zoo.verify(NAME)


def test_unchanged_at_the_source(complete, contents):
    found = messages(remote=True)
    assert all(message.endswith("; unchanged at its source") for _, message in found.values())
    assert bad(remote=True) == []
    complete.heads[len(contents) :] = []
    assert [request.path for request in complete.heads] == [f"{NAME}/{path}" for path in contents]
    assert complete.bytes_sent == 0


@pytest.mark.parametrize("change", ["date", "length"])
def test_changed_at_the_source(change, complete, contents):
    file = complete.folder / NAME / WEIGHTS
    if change == "length":
        file.write_bytes(contents[WEIGHTS] + b"!")
    else:
        file.write_bytes(bytes(20_000))
        os.utime(file, (5, 5))
    found = messages(remote=True)
    assert bad(remote=True) == [WEIGHTS]
    assert f"{UNKNOWN}; changed at its source: " in found[WEIGHTS][1]
    assert ("20001 bytes instead of 20000" in found[WEIGHTS][1]) == (change == "length")


def test_new_dates_of_old_bytes_are_no_change_where_the_server_says_a_digest(complete, contents, monkeypatch):
    (complete.folder / NAME / WEIGHTS).write_bytes(contents[WEIGHTS])
    os.utime(complete.folder / NAME / WEIGHTS, (5, 5))

    def md5(name):
        return f'"{hashlib.md5((complete.folder / name).read_bytes()).hexdigest()}"'

    monkeypatch.setattr(complete, "etag", md5)
    found = messages(remote=True)
    assert found[WEIGHTS] == (False, f"{UNKNOWN}; unchanged at its source")
    (complete.folder / NAME / WEIGHTS).write_bytes(bytes(20_000))
    os.utime(complete.folder / NAME / WEIGHTS, (6, 6))
    assert "changed at its source: the ETag" in messages(remote=True)[WEIGHTS][1]


def test_another_mirror_is_compared_by_what_can_be_compared(complete, monkeypatch):
    monkeypatch.setattr(complete, "url", complete.url.replace("127.0.0.1", "localhost"))
    found = messages(remote=True, endpoint=complete.url)
    assert found[WEIGHTS] == (False, f"{UNKNOWN}; of the same length at its source")


def test_a_source_that_has_it_no_more(complete):
    (complete.folder / NAME / WEIGHTS).unlink()
    (found,) = [found for found in model_zoo.verify(NAME, remote=True) if "404" in found.message]
    assert (found.path, found.verdict) == (WEIGHTS, "unknown")
    assert "its source is unknown" in found.message and "404" in found.message


def test_offline(complete, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    assert bad() == []
    with pytest.raises(model_zoo.SettingsError, match="MODEL_ZOO_OFFLINE"):
        model_zoo.verify(NAME, remote=True)


def test_a_builtin_model_that_was_cut(tmp_path, monkeypatch):
    """It is compared with its manifest, not with itself."""
    name = "ppdiffusers/ldm-super-resolution-4x-tiny"
    shutil.copytree(registry.BUILTIN, tmp_path / "builtin")
    monkeypatch.setattr(registry, "BUILTIN", tmp_path / "builtin")
    file = tmp_path / "builtin" / name / "unet/diffusion_paddle_model.safetensors"
    os.truncate(file, 1_000_000)
    assert [found.path for found in model_zoo.verify(name) if found.bad] == ["unet/diffusion_paddle_model.safetensors"]


@pytest.mark.parametrize("path", ["unet/config.json", WEIGHTS])
@pytest.mark.parametrize("way", ["repair", "download"])
def test_only_what_is_damaged_is_fetched_again(way, path, complete, folder, contents):
    """One byte of a file of the right size: `verify` finds it, and then a download, too, knows of it."""
    content = bytearray(contents[path])
    content[100] ^= 1
    (folder / path).write_bytes(content)
    if way == "repair":
        assert all(not found.bad for found in model_zoo.verify(NAME, repair=True))
    else:
        assert model_zoo.download(NAME) == folder and complete.requests == []  # nobody has looked yet
        assert bad() == [path]
        model_zoo.download(NAME)
    assert complete.paths() == [f"{NAME}/{path}"]
    assert_right(folder, contents)
    assert bad() == []


def test_a_repair_takes_no_other_version(complete, folder, contents):
    """Of a file of which only its first download is known."""
    (folder / WEIGHTS).write_bytes(bytes(20_000))
    (complete.folder / NAME / WEIGHTS).write_bytes(weights(random.Random(5), 20_000))
    with pytest.raises(model_zoo.DownloadError, match="as when it was first downloaded"):
        model_zoo.verify(NAME, repair=True)
    model_zoo.download(NAME, force=True)
    assert bad() == [] and (folder / WEIGHTS).read_bytes() == (complete.folder / NAME / WEIGHTS).read_bytes()


def test_approximate_sizes_bind(complete, folder):
    (folder / ".complete").unlink()
    for size, wrong in ((20_300, False), (19_894, False), (19_893, True), (20_706, False), (20_707, True)):
        (folder / WEIGHTS).write_bytes(bytes(size))
        assert (bad() == [WEIGHTS]) == wrong


def test_a_file_of_unknown_size_is_not_empty(zoo, folder, manifest, catalogue_of):
    """Of a kind that has no structure of its own, which could tell."""
    (zoo.folder / NAME / "notes.txt").write_bytes(b"")
    manifest["files"].append({"path": "notes.txt"})
    catalogue_of(manifest)
    with pytest.raises(model_zoo.DownloadError, match="is empty"):
        model_zoo.download(NAME)
    assert not (folder / "notes.txt").exists()
