from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import socket
import sys
import threading
import time

import pytest
from zoo_files import NAME, WEIGHTS, assert_right

import model_zoo
from model_zoo import http, transfer


@pytest.fixture
def no_sockets(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_download(zoo, folder, contents):
    assert model_zoo.download(NAME) == folder
    assert_right(folder, contents)
    marker = json.loads((folder / ".complete").read_text())
    assert marker["model"] == NAME
    sources = [entry.pop("source") for entry in marker["files"]]
    assert marker["files"] == [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in contents.items()
    ]
    assert [source["etag"] for source in sources] == [zoo.etag(f"{NAME}/{path}") for path in contents]
    assert sorted(zoo.paths()) == sorted(f"{NAME}/{path}" for path in contents)
    assert all(request.headers["Accept-Encoding"] == "identity" for request in zoo.requests)


def test_arguments_win_over_the_environment(zoo, tmp_path, contents, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", "http://127.0.0.1:9")
    found = model_zoo.download("elder/small", cache_dir=tmp_path / "there", endpoint=zoo.url + "/")
    assert found == tmp_path / "there" / "tester" / "small"
    assert_right(found, contents)
    assert not (tmp_path / "home").exists()


def test_the_guard_against_sockets_works(zoo, no_sockets):
    with pytest.raises(AssertionError, match="a socket was opened"):
        model_zoo.download(NAME)


def test_complete_model_opens_no_socket(zoo, folder, request):
    model_zoo.download(NAME)
    asked = len(zoo.requests)
    request.getfixturevalue("no_sockets")
    assert model_zoo.download(NAME) == folder
    assert model_zoo.download(NAME, local_files_only=True) == folder
    assert model_zoo.resolve("elder/small") == folder
    assert len(zoo.requests) == asked


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_offline_names_what_is_missing(switch, zoo, folder, no_sockets, monkeypatch):
    if switch == "environment":
        monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    with pytest.raises(model_zoo.NotCachedError, match=r"model_index\.json, empty\.txt, unet/config\.json and 1 more"):
        model_zoo.download(NAME, local_files_only=switch == "argument")
    assert not folder.exists()


@pytest.mark.parametrize("harm", ["removed", "cut short"])
def test_only_a_harmed_file_is_fetched_again(harm, zoo, folder, contents):
    model_zoo.download(NAME)
    zoo.requests.clear()
    (folder / WEIGHTS).unlink() if harm == "removed" else os.truncate(folder / WEIGHTS, 19_999)
    with pytest.raises(model_zoo.NotCachedError, match="model_state"):
        model_zoo.download(NAME, local_files_only=True)
    model_zoo.download(NAME)
    assert zoo.paths() == [f"{NAME}/{WEIGHTS}"]
    assert_right(folder, contents)


def hashes_in(folder):
    return {entry["path"]: entry["sha256"] for entry in json.loads((folder / ".complete").read_text())["files"]}


@pytest.mark.parametrize("marker", [None, "", "[]", '{"files": [{"path": "../x"}]}'], ids=repr)
def test_lost_or_damaged_marker_is_written_again(marker, zoo, folder, contents, request):
    model_zoo.download(NAME)
    before = hashes_in(folder)
    (folder / ".complete").unlink() if marker is None else (folder / ".complete").write_text(marker)
    request.getfixturevalue("no_sockets")
    model_zoo.download(NAME)
    assert hashes_in(folder) == before


def test_without_marker_a_known_hash_is_checked(zoo, folder, contents):
    model_zoo.download(NAME)
    (folder / ".complete").unlink()
    (folder / "unet/config.json").write_bytes(bytes(703))
    zoo.requests.clear()
    model_zoo.download(NAME)
    assert zoo.paths() == [f"{NAME}/unet/config.json"]
    assert_right(folder, contents)


def test_a_new_hash_in_the_catalogue_fetches_that_file(zoo, folder, contents, manifest, catalogue_of):
    model_zoo.download(NAME)
    newer = pickle.dumps("newer".ljust(20_400))
    (zoo.folder / NAME / WEIGHTS).write_bytes(newer)
    manifest["files"][3]["sha256"] = hashlib.sha256(newer).hexdigest()
    catalogue_of(manifest)
    model_zoo.download(NAME)
    assert_right(folder, {**contents, WEIGHTS: newer})


def test_connection_refused(zoo):
    with socket.socket() as unanswered:  # bound and not listening: nobody else gets the port
        unanswered.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unanswered.getsockname()[1]}/zoo"
        try:
            raise FileNotFoundError("what the caller was busy with")
        except FileNotFoundError:
            with pytest.raises(model_zoo.DownloadError) as caught:
                model_zoo.download(NAME, endpoint=f"http://user:secret@{place}")
    message = str(caught.value)
    assert "refused" in message and "busy" not in message
    assert f"--endpoint (now http://{place})" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://x/y", "paddlenlp.example", "http://", "http://[", "/srv/zoo", "http://a/b http://", "http://a?b", ","],
)
def test_endpoint_that_is_no_address(endpoint, zoo):
    with pytest.raises(model_zoo.SettingsError, match="MODEL_ZOO_ENDPOINT"):
        model_zoo.download(NAME, endpoint=endpoint)


def test_several_downloads_of_one_model_at_once(zoo, folder, contents):
    zoo.fail(path=WEIGHTS, cut_after=7000, times=3)
    failures = []

    def work():
        try:
            model_zoo.download(NAME)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert_right(folder, contents)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_progress_bar(terminal, progress, shown, zoo, monkeypatch):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    zoo.fail(path=WEIGHTS, cut_after=7000, times=1)
    zoo.fail(path=WEIGHTS, ignore_range=True, times=1)
    model_zoo.download(NAME, progress=progress)
    text = stream.getvalue()
    assert bool(text) == shown
    if shown:  # 20,959 bytes in all, though the catalogue reckoned with 21,259 and 7000 were fetched twice
        last = text.rstrip("\n").split("\r")[-1]
        assert "tester/small: 100%" in last and "20.5k/20.5k" in last and "B/s" in last


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_files_at_once_than_was_set(jobs, zoo, folder, contents, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_JOBS", str(jobs))
    running, most = [], []
    fetch = transfer.Download._from_mirrors

    def counted(self, *arguments):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        try:
            return fetch(self, *arguments)
        finally:
            running.pop()

    monkeypatch.setattr(transfer.Download, "_from_mirrors", counted)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert max(most) == jobs


def test_default_policy_is_patient(monkeypatch):
    monkeypatch.undo()
    assert http.POLICY.read_timeout >= 10 and http.POLICY.attempts >= 3
