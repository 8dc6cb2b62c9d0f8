"""Nothing that came is lost: not by errors, kills and crashes, and not where several processes want one file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time

import filelock
import pytest
from zoo_drill.processes import NO_LOCKS
from zoo_files import NAME, WEIGHTS, assert_nothing_wrong, assert_right, left_parts, python, weights

import model_zoo
from model_zoo import cache, disk, http, part, transfer

DOWNLOAD = f"print(model_zoo.download({NAME!r}))"


@pytest.fixture
def large(shared, contents, manifest, catalogue_of):
    """The same with weights that take their time."""
    manifest["files"][3] = {"path": WEIGHTS, "approximate_size": 299_000}
    catalogue_of(manifest)
    contents[WEIGHTS] = weights(random.Random(3), 300_000)
    (shared.folder / NAME / WEIGHTS).write_bytes(contents[WEIGHTS])
    shared.fail(path=WEIGHTS, drip=0.005, drip_bytes=3000)
    return shared


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.002)


def bytes_on_disk(folder):
    """Of the weights, while they come: a part may go, or get another name, between the listing and the look at it."""
    total = 0
    for path in (folder / "unet").glob(".model_state.pdparams.*.part"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def ranges_of(server):
    return [(request.path, request.headers.get("Range")) for request in server.requests]


def leave_a_part(zoo, folder, size=8000):
    zoo.fail(path=WEIGHTS, cut_after=size, times=1)
    zoo.fail(path=WEIGHTS, status=500)
    with pytest.raises(model_zoo.DownloadError):
        model_zoo.download(NAME)
    zoo.forget()
    (left,) = left_parts(folder)
    assert left.stat().st_size == size
    return left


def test_interrupted_then_continued(zoo, folder, contents, monkeypatch):
    write = part.Part.write

    def interrupted(self, block):
        if self.size >= 8000:
            raise KeyboardInterrupt
        write(self, block[: 8000 - self.size])

    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    monkeypatch.setattr(part.Part, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model_zoo.download(NAME)
    assert_nothing_wrong(folder, contents)
    (left,) = left_parts(folder)
    assert left.stat().st_size == 8000

    monkeypatch.setattr(part.Part, "write", write)
    zoo.forget()
    model_zoo.download(NAME)
    assert_right(folder, contents)
    (only,) = zoo.requests
    assert only.headers["Range"] == "bytes=8000-"


def test_ctrl_c_ends_a_download_that_waits(large, folder, contents):
    large.forget()
    large.fail(path=WEIGHTS, stall=60.0, stall_at=1 << 17)
    process = python(DOWNLOAD, start_new_session=True)
    until(lambda: bytes_on_disk(folder) == 1 << 17)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0 and time.monotonic() - begun < 40  # not the whole stall
    assert_nothing_wrong(folder, contents)
    large.forget()
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert [ranges for name, ranges in ranges_of(large) if name.endswith(WEIGHTS)] == ["bytes=131072-"]


@pytest.mark.parametrize("size", [8000, 20_000])
@pytest.mark.parametrize("changed", [False, True], ids=["same", "changed"])
def test_an_older_part(size, changed, zoo, folder, contents):
    """It is continued, or finished if it lacks nothing; of a file that has changed since, nothing is kept."""
    leave_a_part(zoo, folder).write_bytes(contents[WEIGHTS][:size])
    if changed:
        contents[WEIGHTS] = weights(random.Random(9), 20_000)
        (zoo.folder / NAME / WEIGHTS).write_bytes(contents[WEIGHTS])
        os.utime(zoo.folder / NAME / WEIGHTS, (1, 1))
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.bytes_sent == (20_000 if changed else 20_000 - size)


def test_the_bar_counts_what_was_there_before_and_not_as_speed(zoo, folder, contents, monkeypatch):
    left = leave_a_part(zoo, folder)
    counted = []
    call = transfer._Progress.gained
    monkeypatch.setattr(
        transfer._Progress,
        "gained",
        lambda self, count, before: (counted.append((before, count)), call(self, count, before)),
    )
    zoo.fail(path=WEIGHTS, ignore_range=True)
    left.write_bytes(contents[WEIGHTS][:8000])
    model_zoo.download(NAME)
    totals = {before: sum(count for what, count in counted if what == before) for before in (False, True)}
    assert (True, 8000) in counted and totals == {False: 20_000, True: 0}


def test_useless_parts_go(zoo, folder, contents):
    (folder / "unet").mkdir(parents=True)
    for name, note in (("00000001", None), ("00000002", "[]"), ("00000003", '{"source": {"etag": 5}}')):
        (folder / "unet" / f".model_state.pdparams.{name}.part").write_bytes(b"of who knows what")
        if note is not None:
            (folder / "unet" / f".model_state.pdparams.{name}.part.json").write_text(note)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.bytes_sent == sum(map(len, contents.values()))


@pytest.mark.parametrize("kind", ["symbolic link", "hard link"])
def test_a_part_that_is_a_link_is_not_written_to(kind, zoo, folder, contents, tmp_path):
    left = leave_a_part(zoo, folder)
    outside = tmp_path / "outside"
    outside.write_bytes(left.read_bytes())
    left.unlink()
    os.symlink(outside, left) if kind == "symbolic link" else os.link(outside, left)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert outside.read_bytes() == contents[WEIGHTS][:8000]


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("boot", ["the same", "a later", "an unknown"])
def test_what_a_crash_of_the_machine_may_have_taken_is_fetched_again(
    boot, hashed, zoo, folder, contents, monkeypatch, manifest, catalogue_of
):
    """Only what was known to be on the disk counts, but where the hash will tell."""
    monkeypatch.setattr(part, "_boot", lambda: "one")
    left = leave_a_part(zoo, folder)
    note = left.with_name(left.name + ".json")
    values = json.loads(note.read_text())
    assert values["synced"] == 8000 and values["boot"] == "one"
    note.write_text(json.dumps({**values, "synced": 5000}))
    if hashed:
        manifest["files"][3]["sha256"] = hashlib.sha256(contents[WEIGHTS]).hexdigest()
        catalogue_of(manifest)
    if boot != "the same":
        if not hashed:
            left.write_bytes(contents[WEIGHTS][:5000] + bytes(3000))  # as file systems leave it
        monkeypatch.setattr(part, "_boot", lambda: "two" if boot == "a later" else None)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.bytes_sent == 20_000 - (8000 if hashed or boot == "the same" else 5000)


def test_the_disk_has_a_file_before_its_name(zoo, folder, monkeypatch):
    """fsync of the file, the rename that publishes it, fsync of the folder; and last the marker."""
    steps = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        steps.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        real_sync(descriptor)

    def replace(source, target):
        steps.append(("replace", os.path.basename(source), os.path.basename(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    model_zoo.download(NAME)
    published = next(step for step in steps if step[0] == "replace" and step[2] == "model_state.pdparams")
    before, after = steps[: steps.index(published)], steps[steps.index(published) + 1 :]
    assert ("sync", published[1]) in before
    assert after[0] == ("sync", "unet")
    assert after[-2][0] == "replace" and after[-2][2] == cache.MARKER and after[-1] == ("sync", "small")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_again_and_again(large, folder, contents):
    """Every restart asks for the byte after the last one that had been written."""
    generator = random.Random(11)
    for _ in range(3):
        process = python(DOWNLOAD)
        goal = bytes_on_disk(folder) + generator.randrange(20_000, 80_000)
        until(lambda goal=goal: bytes_on_disk(folder) >= goal)
        process.kill()
        process.communicate()
        assert_nothing_wrong(folder, contents)
        (left,) = left_parts(folder)
        safe = left.stat().st_size
        large.requests.clear()
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert [ranges for name, ranges in ranges_of(large) if name.endswith(WEIGHTS)] == [f"bytes={safe}-"]


@pytest.mark.parametrize("locks", ["real", "granted to all"])
def test_several_processes_at_once(locks, large, folder, contents):
    processes = [python((NO_LOCKS if locks != "real" else "") + DOWNLOAD) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [(out, err) for out, err in answers] == [(f"{folder}\n", "")] * 4
    assert_right(folder, contents)
    assert large.bytes_sent >= sum(map(len, contents.values()))
    if locks == "real":
        assert large.bytes_sent == sum(map(len, contents.values()))


def test_who_waits_says_so_and_goes_on_when_the_owner_dies(large, folder, contents):
    large.forget()
    large.fail(path=WEIGHTS, drip=0.1, drip_bytes=3000)
    owner = python(DOWNLOAD)
    until(lambda: bytes_on_disk(folder) > 0)
    patience = "http.POLICY = http.dataclasses.replace(http.POLICY, lock_notice=0.1)\n"
    waiting = python(patience + DOWNLOAD)
    said = waiting.stderr.readline()
    assert f"waiting for another process that downloads {WEIGHTS} of {NAME}" in said
    large.faults.clear()
    owner.kill()
    owner.communicate()
    safe = bytes_on_disk(folder)
    assert waiting.communicate(timeout=60) == (f"{folder}\n", "")
    assert_right(folder, contents)
    starts = [ranges for name, ranges in ranges_of(large) if name.endswith(WEIGHTS)]
    assert starts == [None, f"bytes={safe}-"]


def test_a_lock_whose_owner_is_silent_is_passed_over(zoo, folder, contents, monkeypatch):
    """Locks of a file server may outlive the machine that took them. What lies there is copied, not written to."""
    left = leave_a_part(zoo, folder)
    before = left.read_bytes()
    with open(left, "rb") as stream:  # the file lives on, whatever becomes of its name
        path = cache.locks_of(folder, folder.parents[1]) / f"{WEIGHTS}.lock"
        with filelock.FileLock(path):
            monkeypatch.setattr(http, "POLICY", http.Policy(2.0, 2.0, lock_silence=0.6))
            model_zoo.download(NAME)
        assert stream.read() == before
    assert_right(folder, contents)
    assert zoo.bytes_sent == 12_000


@pytest.mark.parametrize("locks", ["real", "granted to all"])
def test_whether_a_lock_keeps_others_out_is_tried(locks, tmp_path, monkeypatch):
    if locks != "real":
        monkeypatch.setattr(filelock, "FileLock", filelock.FileLock)  # to be put back
        exec(NO_LOCKS, {})
    with disk.hold(tmp_path / "a.lock", lambda: 0, lambda: None, 1.0, 1.0) as alone:
        assert alone == (locks == "real")


def test_where_no_lock_can_be_made(zoo, folder, contents):
    leave_a_part(zoo, folder)
    locks = cache.locks_of(folder, folder.parents[1])
    for path in sorted(locks.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    locks.rmdir()
    locks.write_text("in the way")
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.bytes_sent == 12_000


def test_a_part_that_another_process_took_and_published(zoo, folder, contents, monkeypatch):
    """Without locks, the second to finish finds the file there already."""
    digests = part.Part.digests

    def overtaken(self):
        found = digests(self)
        if self.destination.name == "model_state.pdparams":
            monkeypatch.setattr(part.Part, "digests", digests)
            record = cache.Record(WEIGHTS, self.size, found["sha256"], self.source)
            cache.write_record(folder, record)
            os.replace(self._path, self.destination)
        return found

    monkeypatch.setattr(part.Part, "digests", overtaken)
    model_zoo.download(NAME)
    assert_right(folder, contents)
