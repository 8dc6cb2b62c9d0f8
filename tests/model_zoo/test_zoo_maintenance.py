from __future__ import annotations

import os
import subprocess
import sys
import time

import filelock
import pytest
from zoo_files import ALIAS, NAME, files_in

import model_zoo
from model_zoo import cache

DAY = 86_400.0


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def put(home, manifest, catalogue_of):
    """A function that puts a model of so many bytes into the cache, last used some days ago."""
    catalogue_of(manifest)

    def put(place, size=1000, days=0.0, marked=True):
        folder = home / place
        (folder / "unet").mkdir(parents=True)
        (folder / "unet" / "weights").write_bytes(bytes(size - len(cache.MARKER) if marked else size))
        if marked:
            (folder / cache.MARKER).write_text(cache.MARKER)
        moment = time.time() - days * DAY
        for path in [folder / "unet" / "weights", *([folder / cache.MARKER] if marked else [])]:
            os.utime(path, (moment, moment))
        return folder

    return put


def places(entries):
    return [entry.place for entry in entries]


def test_cached(put, home):
    assert cache.cached() == []
    put(NAME, 1000, days=3)
    put("Other/unknown", 500, days=1, marked=False)
    put("tester/small@0011aabb", 10)
    for hidden in (".locks/tester/small", ".registries/x/y", ".trash-1/x/y", ".staging-1/x"):
        (home / hidden).mkdir(parents=True)
    (home / "file").write_text("")
    entries = cache.cached()
    assert places(entries) == ["Other/unknown", NAME, "tester/small@0011aabb"]
    assert [entry.size for entry in entries] == [500, 1000, 10]
    assert [entry.finished for entry in entries] == [False, True, True]
    assert [round((time.time() - entry.last_used) / DAY, 2) for entry in entries] == [1, 3, 0]


def test_last_use(zoo, folder):
    model_zoo.download(NAME)
    os.utime(folder / cache.MARKER, (1000, 1000))
    assert cache.cached()[0].last_used == 1000
    model_zoo.resolve(ALIAS, local_files_only=True)
    assert time.time() - cache.cached()[0].last_used < 60


@pytest.mark.parametrize("name", [NAME, ALIAS])
def test_remove(name, put, home):
    put(NAME, 1000)
    put("tester/other")
    assert model_zoo.remove(name) == 1000
    assert places(model_zoo.cached()) == ["tester/other"]
    assert {path.split("/")[0] for path in files_in(home)} == {"tester"}
    with pytest.raises(model_zoo.CacheError, match="is not in the cache"):
        model_zoo.remove(name)


def test_remove_what_the_catalogue_does_not_know(put):
    put("Other/unknown", 500)
    put("tester/small@0011aabb", 10)
    assert model_zoo.remove("Other/unknown") == 500
    assert model_zoo.remove("tester/small@0011aabb") == 10
    assert model_zoo.cached() == []


@pytest.mark.parametrize("name", ["nobody/nothing", "../outside", "tester", ".", "", "/", "tester/../..", "x" * 5000])
def test_remove_nothing_else(name, put, home):
    put(NAME)
    (home.parent / "outside").mkdir()
    with pytest.raises(model_zoo.UnknownModelError):
        model_zoo.remove(name)
    assert (home.parent / "outside").is_dir() and (home / NAME / "unet" / "weights").is_file()


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_links_are_never_followed(put, home, tmp_path):
    outside = tmp_path / "outside"
    (outside / "small").mkdir(parents=True)
    (outside / "precious").write_text("stays")
    (outside / "small" / "precious").write_text("stays")
    folder = put("Other/unknown", days=100)
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "precious")
    (home / "tester").symlink_to(outside)
    (home / "Other" / "linked").symlink_to(outside)
    assert places(cache.cached()) == ["Other/unknown"]
    for name in (NAME, "Other/linked"):
        with pytest.raises(model_zoo.CacheError, match="is a link, which is never followed"):
            model_zoo.remove(name)
    assert places(model_zoo.prune(older_than=DAY).gone) == ["Other/unknown"] and not folder.exists()
    assert (outside / "precious").is_file() and (outside / "small" / "precious").is_file()


def test_a_removal_that_is_killed_leaves_no_half(put, home, monkeypatch):
    folder = put(NAME, days=5)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "remove_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        model_zoo.remove(NAME)
    assert not folder.exists() and model_zoo.cached() == []
    assert len(list(home.glob(".trash-*"))) == 1
    monkeypatch.undo()
    monkeypatch.setenv("MODEL_ZOO_HOME", str(home))
    assert model_zoo.prune(dry_run=True).leftovers == model_zoo.prune().leftovers == 1000
    assert not list(home.glob(".trash-*"))


def test_prune_by_age(put):
    put("a/old", days=31)
    put("a/older", days=300)
    put("a/new", days=29)
    assert places(model_zoo.prune(older_than=30 * DAY, dry_run=True).gone) == ["a/older", "a/old"]
    assert len(model_zoo.cached()) == 3
    assert places(model_zoo.prune(older_than=30 * DAY).gone) == ["a/older", "a/old"]
    assert places(model_zoo.cached()) == ["a/new"]


@pytest.mark.parametrize(
    ("keep", "gone"),
    [(6000, []), (5999, ["a/third"]), (3000, ["a/third"]), (2999, ["a/third", "a/second"]), (0, None)],
)
def test_prune_by_size(keep, gone, put):
    put("a/first", 1000, days=1)
    put("a/second", 2000, days=2)
    put("a/third", 3000, days=3)
    everything = ["a/third", "a/second", "a/first"]
    assert places(model_zoo.prune(keep_size=keep).gone) == (everything if gone is None else gone)
    assert sum(entry.size for entry in model_zoo.cached()) <= keep


def test_prune_without_a_limit_removes_no_model(put, home):
    put("a/old", days=1000)
    for name, days in ((".staging-dead", 2), (".staging-alive", 0), (".trash-x", 0)):
        (home / name / "x").mkdir(parents=True)
        os.utime(home / name, (time.time() - days * DAY,) * 2)
    assert model_zoo.prune() == ([], [], 0)
    assert sorted(path.name for path in home.iterdir()) == [".staging-alive", "a"]
    assert len(model_zoo.cached()) == 1


def test_busy_models_stay(put, home):
    put(NAME, days=100)
    put("a/old", days=100)
    lock = cache.locks_of(home / NAME, home) / "unet" / "weights.lock"
    lock.parent.mkdir(parents=True)
    code = (
        "import filelock, sys, time\n"
        f"lock = filelock.FileLock({str(lock)!r})\n"
        "lock.acquire()\n"
        "print('held', flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout.readline() == b"held\n"
            with pytest.raises(model_zoo.CacheError, match="is being downloaded"):
                model_zoo.remove(NAME)
            gone, busy, _ = model_zoo.prune(older_than=DAY)
        finally:
            owner.kill()
    assert (places(gone), places(busy)) == (["a/old"], [NAME])
    assert places(model_zoo.cached()) == [NAME]
    model_zoo.remove(NAME)  # the lock of the dead does not count
    assert model_zoo.cached() == []
    with filelock.FileLock(str(lock), timeout=0):
        pass


@pytest.mark.parametrize("home_is", ["absent", "a file"])
def test_no_cache(home_is, home, catalogue_of, manifest):
    catalogue_of(manifest)
    if home_is == "a file":
        home.write_text("in the way")
        with pytest.raises(model_zoo.CacheError, match="cannot read"):
            model_zoo.cached()
        return
    assert model_zoo.cached() == [] and model_zoo.prune() == ([], [], 0)
    with pytest.raises(model_zoo.CacheError, match="is not in the cache"):
        model_zoo.remove(NAME)
    assert not home.exists()


def test_another_cache(put, tmp_path):
    put(NAME)
    assert model_zoo.cached(tmp_path / "other") == []
    with pytest.raises(model_zoo.CacheError, match="is not in the cache"):
        model_zoo.remove(NAME, cache_dir=tmp_path / "other")
