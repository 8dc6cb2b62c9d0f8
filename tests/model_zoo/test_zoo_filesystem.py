"""The cache on file systems that are full, closed, shared, or full of traps: one clear error, nothing else touched."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess

import pytest
from zoo_files import NAME, WEIGHTS, assert_nothing_wrong, assert_right, files_in, left_parts, python

import model_zoo
from model_zoo import disk, part

DOWNLOAD = f"print(model_zoo.download({NAME!r}))"
IMPORT = f"print(model_zoo.import_model(sys.argv[2], {NAME!r}))"
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")


@pytest.fixture
def somebody():
    """What to start a process with that the file system can refuse something: the administrator is refused nothing."""
    if os.name != "posix":
        pytest.skip("POSIX")
    if os.geteuid() != 0:
        return []
    # In a user namespace of its own, the administrator is the owner of its files and no more.
    command = ["unshare", "--user"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs another user than the administrator, or unshare")
    return command


@pytest.mark.parametrize("place", ["tester", "tester/small/unet/model_state.pdparams/x"])
def test_something_is_in_the_way(place, zoo, tmp_path):
    """A file where a folder must be, and a folder where a file must be."""
    obstacle = tmp_path / "home" / place
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    with pytest.raises(model_zoo.CacheError, match="MODEL_ZOO_HOME") as caught:
        model_zoo.download(NAME)
    assert "\n" not in str(caught.value)
    assert obstacle.read_text() == "in the way"


@posix
def test_disk_full_half_way(zoo, folder, contents):
    """Played by the limit of a file's length: the disk says no in the middle of a write."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        with pytest.raises(model_zoo.CacheError, match=r"model_state\.pdparams: File too large; free") as caught:
            model_zoo.download(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert_nothing_wrong(folder, contents)
    (left,) = left_parts(folder)
    assert left.read_bytes() == contents[WEIGHTS][:8000]
    zoo.forget()
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.requests[-1].headers["Range"] == "bytes=8000-"


def test_no_space_is_known_before_a_byte_is_fetched(zoo, folder, monkeypatch):
    usage = shutil.disk_usage(folder.anchor)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=32_000_000))
    with pytest.raises(model_zoo.CacheError, match=r"has 32 MB free, and 0 MB are still to come .*MODEL_ZOO_HOME"):
        model_zoo.download(NAME)
    assert zoo.requests == [] and not folder.exists()


def test_no_space_for_a_file_of_unknown_size(zoo, folder, monkeypatch):
    usage = shutil.disk_usage(folder.anchor)
    free = iter([10**9])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=next(free, 10_000)))
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")  # or a part of another file may be left, to go on with
    with pytest.raises(model_zoo.CacheError, match="free"):
        model_zoo.download(NAME)
    assert not left_parts(folder)


def test_what_is_there_need_not_fit_again(zoo, folder, contents, monkeypatch):
    zoo.fail(path=WEIGHTS, cut_after=19_000, times=1)
    zoo.fail(path=WEIGHTS, status=404)
    with pytest.raises(model_zoo.DownloadError):
        model_zoo.download(NAME)
    zoo.forget()
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(disk.check_space, "__defaults__", (0,))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=5000))
    assert (part.bytes_left(folder / WEIGHTS), part.bytes_left(folder / "nothing")) == (19_000, 0)
    model_zoo.download(NAME)
    assert_right(folder, contents)


READ_ONLY = {
    "complete": ([], DOWNLOAD, None),
    "without a marker": ([".complete"], DOWNLOAD, None),
    "incomplete": ([WEIGHTS], DOWNLOAD, "CacheError: cannot write .*Permission denied; free or repair that place"),
    "imported into": ([".complete"], IMPORT, "CacheError: cannot import into .*Permission denied.*MODEL_ZOO_HOME"),
    "removed": ([], f"model_zoo.remove({NAME!r})", "CacheError: cannot remove .*; nothing was removed"),
    "pruned": ([], "model_zoo.prune(keep_size=0)", "CacheError: cannot remove .*; nothing was removed"),
}


@pytest.mark.parametrize("case", READ_ONLY)
def test_read_only_shared_cache(case, shared, folder, tmp_path, somebody):
    model_zoo.download(NAME)
    lost, code, message = READ_ONLY[case]
    for path in lost:
        (folder / path).unlink()
    before = files_in(folder)
    shared.forget()
    for parent, _, files in os.walk(tmp_path / "home"):
        os.chmod(parent, 0o555)
        for name in files:
            os.chmod(os.path.join(parent, name), 0o444)
    try:
        out, err = python(code, "", shared.folder / NAME, before=somebody).communicate()
    finally:
        for parent, _, _ in os.walk(tmp_path / "home"):
            os.chmod(parent, 0o755)
    if message is None:
        assert (out, err) == (f"{folder}\n", "")
    else:
        assert out == "" and re.search(message, err)
    assert files_in(folder) == before and shared.bytes_sent == 0


@posix
def test_two_users_share_a_cache(shared, folder, contents, tmp_path):
    """One who opens the cache to their group, and one who keeps to themselves what is theirs: the cache is not."""
    code = f"import os; os.umask(int(sys.argv[1], 8)); {DOWNLOAD}"
    shared.fail(path=WEIGHTS, cut_after=9000, times=1)
    shared.fail(path=WEIGHTS, status=404, times=1)
    out, err = python(code, "002").communicate()
    assert out == "" and "does not exist" in err
    (left,) = left_parts(folder)
    assert stat.S_IMODE(left.stat().st_mode) == 0o664
    shared.forget()
    assert python(code, "027").communicate()[0] == f"{folder}\n"
    assert_right(folder, contents)
    assert shared.bytes_sent <= sum(map(len, contents.values())) - 9000
    assert_open(tmp_path / "home", 0o775)


def assert_open(home, mode):
    """Whoever may read and write in the cache's folder may do so everywhere in it."""
    found = {path: path.stat().st_mode for path in home.rglob("*")}
    assert {path.name for path in found} >= {"unet", "model_state.pdparams", ".complete"}
    for path, given in found.items():
        wanted = mode if path.is_dir() else mode & 0o666
        assert given & wanted == wanted, path


@posix
@pytest.mark.parametrize(("mode", "umask"), [(0o2775, "022"), (0o2770, "077"), (0o777, "077")])
@pytest.mark.parametrize("bring", [DOWNLOAD, IMPORT], ids=["download", "import"])
def test_what_lies_in_a_shared_cache_is_shared(bring, mode, umask, shared, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(mode)
    code = f"import os; os.umask(int(sys.argv[1], 8)); {bring}"
    assert python(code, umask, shared.folder / NAME).communicate()[0]
    assert_open(tmp_path / "home", mode & 0o777)


@posix
@pytest.mark.parametrize(
    ("folder_mode", "foreign", "mode"),
    [
        (0o755, False, 0o600),
        (0o1777, False, 0o600),  # sticky: everybody for themselves
        (0o775, False, 0o664),
        (0o2770, False, 0o660),
        (0o777, False, 0o666),
        (0o775, True, 0o644),  # the group that may write is another one than the file's
        (0o770, True, 0o600),
    ],
)
def test_who_may_use_what_is_made(folder_mode, foreign, mode, tmp_path):
    if foreign and os.geteuid() != 0:
        pytest.skip("only the administrator gives a file to any group")
    (tmp_path / "place").mkdir()
    file = tmp_path / "place" / "file"
    file.touch(0o600)
    if foreign:
        os.chown(file, -1, os.getegid() + 1)
    (tmp_path / "place").chmod(folder_mode)
    disk.share(file)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_other_files_are_not_opened_to_anybody(link, tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "place").chmod(0o777)
    secret = tmp_path / "secret"
    secret.touch(0o600)
    link(secret, tmp_path / "place" / "file")
    disk.share(tmp_path / "place" / "file")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o027, 0o640), (0o077, 0o600)])
@pytest.mark.parametrize("way", ["download", "import"])
def test_files_are_as_readable_as_the_umask_says(way, umask, mode, zoo, folder, contents):
    """Whatever modes they were carried with."""
    for path in contents:
        (zoo.folder / NAME / path).chmod(0o400)
    before = os.umask(umask)
    try:
        model_zoo.download(NAME) if way == "download" else model_zoo.import_model(zoo.folder / NAME, NAME)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((folder / path).stat().st_mode) for path in [*contents, ".complete"]} == {mode}


@posix
@pytest.mark.parametrize("link", ["tester", "tester/small", "tester/small/unet", ".locks"])
@pytest.mark.parametrize("way", ["download", "import"])
def test_links_that_lead_out_of_the_cache(way, link, zoo, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("of somebody else")
    place = tmp_path / "home" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    with pytest.raises(model_zoo.CacheError, match=r"leads out of the cache to .*outside.*remove that link"):
        model_zoo.download(NAME) if way == "download" else model_zoo.import_model(zoo.folder / NAME, NAME)
    assert files_in(outside) == {"config.json"}
    assert (outside / "config.json").read_text() == "of somebody else"
    assert zoo.requests == []


@posix
@pytest.mark.parametrize("link", [WEIGHTS, ".complete", "unet/.model_state.pdparams.record.json"])
def test_links_in_the_place_of_files(link, zoo, folder, contents, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("of somebody else")
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside)
    model_zoo.download(NAME) if link != WEIGHTS else None
    if link == WEIGHTS:  # what is there is taken for a download, but a lost one is replaced, not written through
        outside.unlink()
        model_zoo.download(NAME)
        assert not outside.exists()
    else:
        assert outside.read_text() == "of somebody else"
    assert_right(folder, contents)
    assert not (folder / link).is_symlink()


@posix
def test_the_cache_itself_may_be_a_link(zoo, contents, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / "link"))
    model_zoo.download(NAME)
    assert_right(tmp_path / "elsewhere" / "tester" / "small", contents)


@pytest.mark.parametrize("home", ["x" * 5000, "y/" * 2500, "a\0b"], ids=["name", "path", "NUL"])
def test_homes_that_cannot_be(home, zoo, tmp_path):
    with pytest.raises((model_zoo.CacheError, model_zoo.SettingsError), match="MODEL_ZOO_HOME") as caught:
        model_zoo.download(NAME, cache_dir=f"{tmp_path}/{home}")
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    assert zoo.requests == []
    assert not files_in(tmp_path / "home")


def test_a_folder_that_differs_only_in_case(zoo, tmp_path, monkeypatch):
    """Played: a file system that does not know upper from lower case has one folder for both names."""
    (tmp_path / "home" / "tester").mkdir(parents=True)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda place: [name.replace("tester", "Tester") for name in listdir(place)])
    with pytest.raises(model_zoo.CacheError, match="does not tell it from tester"):
        model_zoo.download(NAME)
    assert zoo.requests == []


def test_names_that_would_clash_with_parts(zoo, folder, manifest, catalogue_of, contents):
    """A part of `a` is no part of `a.0123abcd`, and a file may be called like a part."""
    extra = {"a.bin": b"1" * 500, "a.bin.0123abcd": b"2" * 600, "a.bin.0123abcd.part": b"3" * 700}
    for path, content in extra.items():
        (zoo.folder / NAME / path).write_bytes(content)
        manifest["files"].append({"path": path})
    catalogue_of(manifest)
    zoo.fail(path="a.bin", cut_after=400, times=1)
    zoo.fail(path="a.bin", status=404, times=1)
    with pytest.raises(model_zoo.DownloadError):
        model_zoo.download(NAME)
    model_zoo.download(NAME)
    assert_right(folder, {**contents, **extra})
