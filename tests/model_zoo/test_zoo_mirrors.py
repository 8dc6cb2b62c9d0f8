"""Where files come from: several mirrors, proxies, servers that want to be left alone, and what they say of a file."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import json
import logging
import os
import random
import shutil
import threading
import time
import zlib
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fake_community import CommunityServer
from zoo_files import NAME, WEIGHTS, assert_nothing_wrong, assert_right, weights

import model_zoo
from model_zoo import http, transfer

DEAD = "http://127.0.0.1:9/zoo"


@pytest.fixture
def mirror(zoo, tmp_path, contents):
    """A second server with the same files under other ETags; both are in MODEL_ZOO_ENDPOINT."""
    shutil.copytree(tmp_path / "served", tmp_path / "mirrored")
    for path in contents:
        os.utime(tmp_path / "mirrored" / NAME / path, (1, 1))
    with CommunityServer(tmp_path / "mirrored") as server:
        yield server


@pytest.fixture
def both(zoo, mirror, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", f"{zoo.url}, {mirror.url}")
    return zoo, mirror


@pytest.mark.parametrize("fault", [{"status": 404}, {"status": 503}, {"stall": 5.0}, {"corrupt": True}])
def test_the_next_mirror_has_it(fault, both, folder, contents):
    first, second = both
    first.fail(**fault)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert second.bytes_sent >= 20_000


def test_a_dead_mirror_is_asked_last_from_then_on(zoo, folder, contents, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", f"{DEAD} {zoo.url}")
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    tried = []
    attempt = transfer._Transfer._attempt
    monkeypatch.setattr(
        transfer._Transfer, "_attempt", lambda self, part: (tried.append(self.url), attempt(self, part))
    )
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert len([url for url in tried if url.startswith(DEAD)]) == http.POLICY.attempts


def test_all_mirrors_are_named_when_none_has_it(both, folder, contents):
    first, second = both
    first.fail(path=WEIGHTS, status=404)
    second.fail(path=WEIGHTS, status=403)
    with pytest.raises(model_zoo.DownloadError) as caught:
        model_zoo.download(NAME)
    message = str(caught.value)
    assert f"{first.url}/{NAME}/{WEIGHTS} does not exist" in message
    assert f"{second.url}/{NAME}/{WEIGHTS} was refused" in message
    assert "\n" not in message and message.count("MODEL_ZOO_ENDPOINT") == 1
    assert_nothing_wrong(folder, contents)


def with_hash(manifest, catalogue_of, content):
    manifest["files"][3]["sha256"] = hashlib.sha256(content).hexdigest()
    catalogue_of(manifest)


@pytest.mark.parametrize("known", ["the same ETag", "the hash", "nothing"])
def test_one_mirror_goes_on_where_the_other_ended(known, both, folder, contents, manifest, catalogue_of):
    """Without a common ETag only where a known hash would tell two versions apart."""
    first, second = both
    first.fail(path=WEIGHTS, cut_after=8000, times=1)
    first.fail(path=WEIGHTS, status=404)
    if known == "the same ETag":
        os.utime(second.folder / NAME / WEIGHTS, ns=(0, (first.folder / NAME / WEIGHTS).stat().st_mtime_ns))
    elif known == "the hash":
        with_hash(manifest, catalogue_of, contents[WEIGHTS])
    model_zoo.download(NAME)
    assert_right(folder, contents)
    (request,) = (request for request in second.requests if request.path.endswith(WEIGHTS))
    assert request.headers.get("Range") == "bytes=8000-"
    assert second.bytes_sent == 20_000 if known == "nothing" else 12_000


def test_two_versions_at_two_mirrors_are_never_joined(both, folder, contents, manifest, catalogue_of):
    first, second = both
    (first.folder / NAME / WEIGHTS).write_bytes(weights(random.Random(5), 20_000))
    with_hash(manifest, catalogue_of, contents[WEIGHTS])
    first.fail(path=WEIGHTS, cut_after=8000, times=1)
    first.fail(path=WEIGHTS, status=404)
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_a_model_with_places_of_its_own(zoo, mirror, folder, contents, manifest, catalogue_of, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", DEAD)
    catalogue_of({**manifest, "base_url": zoo.url, "mirrors": [mirror.url]})
    zoo.fail(path=WEIGHTS, status=404)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    shutil.rmtree(folder)
    mirror.fail(path=WEIGHTS, status=404)
    with pytest.raises(model_zoo.DownloadError, match="try again later") as caught:
        model_zoo.download(NAME)
    assert "MODEL_ZOO_ENDPOINT" not in str(caught.value)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_and_told(form, zoo, folder, contents, monkeypatch, caplog):
    waits = []
    begin = transfer.Download.__init__

    class Impatient(threading.Event):
        def wait(self, seconds=None):
            waits.append(seconds)
            return self.is_set()

    def impatient(self, *rest):
        begin(self, *rest)
        self.stop = Impatient()

    monkeypatch.setattr(transfer.Download, "__init__", impatient)
    value = "17" if form == "seconds" else email.utils.formatdate(time.time() + 18, usegmt=True)
    zoo.fail(path=WEIGHTS, status=429, headers={"Retry-After": value}, times=1)
    with caplog.at_level(logging.WARNING, "model_zoo"):
        model_zoo.download(NAME)
    assert_right(folder, contents)
    assert any(15 < seconds < 18.1 for seconds in waits)
    assert any("HTTP 429" in message and "asks to wait 1" in message for message in caplog.messages)


@pytest.mark.parametrize("value", ["3600", "99999999999", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_server_that_asks_for_too_much_patience(value, zoo, folder, contents):
    zoo.fail(path=WEIGHTS, status=503, headers={"Retry-After": value})
    begun = time.monotonic()
    with pytest.raises(model_zoo.DownloadError, match=r"HTTP 503.*asks to come back in \d+ s"):
        model_zoo.download(NAME)
    assert time.monotonic() - begun < 5
    assert_nothing_wrong(folder, contents)


@pytest.mark.parametrize("value", ["soon", "-5", ""])
def test_a_retry_after_that_cannot_be_understood(value, zoo, folder, contents):
    zoo.fail(path=WEIGHTS, status=503, headers={"Retry-After": value}, times=1)
    model_zoo.download(NAME)
    assert_right(folder, contents)


class _Proxy(BaseHTTPRequestHandler):
    seen: list[str] = []

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.seen.append(self.path)
        host, _, path = self.path.partition("://")[2].partition("/")
        with contextlib.closing(HTTPConnection(host)) as connection:
            connection.request(self.command, f"/{path}", headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET


def test_through_a_proxy(zoo, folder, contents, monkeypatch):
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
    thread.start()
    _Proxy.seen.clear()
    try:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        model_zoo.download(NAME)
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
    assert_right(folder, contents)
    assert {f"{zoo.url}/{NAME}/{path}" for path in contents} <= set(_Proxy.seen)


def test_passwords_are_sent_and_never_shown(zoo, folder, contents, monkeypatch, caplog):
    secret = zoo.url.replace("http://", "http://user:s3cret@")
    zoo.fail(path=WEIGHTS, redirect="http://other:s3cret@127.0.0.1:9/x?token=s3cret&a='s3cret'")
    with caplog.at_level(logging.INFO), pytest.raises(model_zoo.DownloadError) as caught:
        model_zoo.download(NAME, endpoint=secret)
    assert "refused" in str(caught.value)
    zoo.forget()
    zoo.fail(path=WEIGHTS, redirect="ftp://other:s3cret@x.example/y?token=s3cret")
    with caplog.at_level(logging.INFO), pytest.raises(model_zoo.DownloadError) as again:
        model_zoo.download(NAME, endpoint=secret)
    zoo.faults.clear()
    model_zoo.download(NAME, endpoint=secret)
    assert_right(folder, contents)
    wanted = "Basic " + base64.b64encode(b"user:s3cret").decode()
    assert {request.headers["Authorization"] for request in zoo.requests} == {wanted}
    kept = (folder / ".complete").read_text()
    for text in (str(caught.value), str(again.value), kept, *caplog.messages):
        assert "s3cret" not in text
    assert f'"endpoint": "{zoo.url}"' in kept


@pytest.mark.parametrize("proxy", ["http://me:s3/cret@127.0.0.1:9", "me:s3cret@127.0.0.1:99999", "ftp://me:s3cret@x"])
def test_a_proxy_that_is_no_address(proxy, zoo, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(model_zoo.DownloadError, match=r"the proxy of HTTP_PROXY.* is no address such as") as caught:
        model_zoo.download(NAME)
    assert not any(part in str(caught.value) for part in ("s3", "cret"))
    assert zoo.requests == []


def test_nothing_that_a_server_says_moves_the_terminal():
    class Response:
        status, headers = 404, {}
        reason = "\x1b[31mGone\x07\u202e http://me:s3cret@a.example/x?token=s3cret"

    assert http.Answer("", Response()).said == "HTTP 404  [31mGone   http://a.example/x"


DIGESTS = {
    "Content-MD5": lambda content: base64.b64encode(hashlib.md5(content).digest()).decode(),
    "x-bce-content-crc32": lambda content: str(zlib.crc32(content)),
    "x-goog-hash": lambda content: "crc32c=AAAAAA==,md5=" + base64.b64encode(hashlib.md5(content).digest()).decode(),
    "x-amz-checksum-crc32": lambda content: base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode(),
    "x-amz-checksum-sha256": lambda content: base64.b64encode(hashlib.sha256(content).digest()).decode(),
    "Repr-Digest": lambda content: f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:",
}


@pytest.mark.parametrize("header", DIGESTS)
def test_what_the_server_says_of_a_file_is_checked(header, zoo, folder, contents):
    """A byte that changes in the middle of the numbers, so that nothing but a digest can tell."""
    value = DIGESTS[header](contents[WEIGHTS])
    zoo.fail(path=WEIGHTS, corrupt_at=9000, times=1, headers={header: value})
    with pytest.raises(model_zoo.DownloadError, match=r"model_state\.pdparams has the \w+ \w+, not \w+ as its server"):
        model_zoo.download(NAME)
    assert_nothing_wrong(folder, contents)
    assert not list(folder.rglob(".model_state.*.part"))
    zoo.fail(path=WEIGHTS, headers={header: value})
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_an_etag_that_is_an_md5_finds_a_damaged_byte(zoo, folder, contents):
    etag = f'"{hashlib.md5(contents[WEIGHTS]).hexdigest()}"'
    zoo.fail(path=WEIGHTS, etag=etag, corrupt_at=9000, times=1)
    zoo.fail(path=WEIGHTS, etag=etag)
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.paths().count(f"{NAME}/{WEIGHTS}") == 2
    zoo.forget()
    (folder / WEIGHTS).unlink()
    (folder / ".complete").unlink()
    for position in range(9000, 9010):  # other bytes each time
        zoo.fail(path=WEIGHTS, etag=etag, corrupt_at=position, times=1)
    with pytest.raises(model_zoo.DownloadError, match=r"it has the MD5 \w{32}, and its ETag is"):
        model_zoo.download(NAME)
    assert not (folder / WEIGHTS).exists() and not list(folder.rglob(".model_state.*.part"))


def test_an_etag_that_only_looks_like_an_md5(zoo, folder, contents, monkeypatch):
    """Web frameworks that hash the date and the length: two files are fetched twice at most, to find that out."""
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    etag = zoo.etag
    monkeypatch.setattr(zoo, "etag", lambda name: f'"{hashlib.md5(etag(name).encode()).hexdigest()}"')
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert len(zoo.requests) == len(contents) + 1


NO_DIGESTS = [
    {"Content-MD5": "no base64"},
    {"Content-MD5": "AAAA"},
    {"x-bce-content-crc32": "99999999999"},
    {"x-amz-checksum-crc32": "AAAAAA==-3"},
    {"x-goog-hash": "crc32c=AAAAAA=="},
    {"Digest": "unixsum=30637, adler32=03da0195"},
    {"ETag": f'"{"0" * 32}-7"'},
    {"ETag": f'W/"{"0" * 32}"'},
]


@pytest.mark.parametrize("headers", NO_DIGESTS, ids=str)
def test_what_is_no_digest_is_passed_over(headers, zoo, folder, contents):
    fields = {"etag": headers.pop("ETag")} if "ETag" in headers else {}
    zoo.fail(path=WEIGHTS, headers=headers, times=1, **fields)
    model_zoo.download(NAME)
    assert_right(folder, contents)


PAGE = b"\n<!DOCTYPE html><html><body>Welcome to the hotel. Please log in.</body></html>"


@pytest.mark.parametrize("path", ["model_index.json", "empty.txt", WEIGHTS])
@pytest.mark.parametrize("sign", ["its type and its content", "its type"])
def test_a_login_page_is_no_file(sign, path, zoo, folder, contents):
    page = PAGE if "content" in sign else b"Please log in."
    zoo.fail(path=path, body=page, headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(model_zoo.DownloadError, match="web page.*login page of the network"):
        model_zoo.download(NAME)
    assert_nothing_wrong(folder, contents)
    zoo.forget()
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_more_bytes_than_promised_are_not_taken(zoo, folder, contents):
    zoo.fail(extra=5000)
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_a_file_that_is_another_one_now(zoo, folder, contents):
    """Trust on first use: what was once downloaded is what has this name here."""
    model_zoo.download(NAME)
    (folder / WEIGHTS).unlink()
    (zoo.folder / NAME / WEIGHTS).write_bytes(weights(random.Random(5), 20_000))
    with pytest.raises(model_zoo.DownloadError, match=r"as when it was first downloaded.*`model-zoo download --force"):
        model_zoo.download(NAME)
    assert not (folder / WEIGHTS).exists()
    (zoo.folder / NAME / WEIGHTS).write_bytes(contents[WEIGHTS])
    model_zoo.download(NAME)
    assert_right(folder, contents)


def replace_all(zoo, contents):
    """The publisher uploads another version of the model."""
    contents["model_index.json"] = json.dumps({"_class_name": "X", "text": "x" * 224}).encode()
    contents[WEIGHTS] = weights(random.Random(5), 20_000)
    for path in ("model_index.json", WEIGHTS):
        (zoo.folder / NAME / path).write_bytes(contents[path])
        os.utime(zoo.folder / NAME / path, (2, 2))


def test_two_versions_of_a_model_are_never_mixed(zoo, folder, contents):
    """The version changes between two commands: what was there of the older one goes."""
    zoo.fail(path=WEIGHTS, status=404)
    with pytest.raises(model_zoo.DownloadError):
        model_zoo.download(NAME)
    zoo.forget()
    replace_all(zoo, contents)
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_a_version_that_changes_during_the_download(zoo, folder, contents, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_JOBS", "1")
    run = transfer._Transfer.run

    def run_late(self, part):
        if self.url.endswith(WEIGHTS) and "x" * 224 not in contents["model_index.json"].decode():
            replace_all(zoo, contents)
        return run(self, part)

    monkeypatch.setattr(transfer._Transfer, "run", run_late)
    model_zoo.download(NAME)
    assert_right(folder, contents)


def test_a_complete_model_takes_no_new_files_of_another_version(zoo, folder, contents, manifest, catalogue_of):
    model_zoo.download(NAME)
    older = dict(contents)
    replace_all(zoo, contents)
    (zoo.folder / NAME / "new.json").write_text("{}")
    manifest["files"].append({"path": "new.json"})
    catalogue_of(manifest)
    with pytest.raises(model_zoo.DownloadError, match=r"changed at its source since it was downloaded.*--force"):
        model_zoo.download(NAME)
    assert not (folder / "new.json").exists()
    assert (folder / WEIGHTS).read_bytes() == older[WEIGHTS]


def test_servers_that_do_not_answer_head(zoo, folder, contents):
    zoo.answers_head = False
    model_zoo.download(NAME)
    assert_right(folder, contents)
    assert zoo.heads == []
