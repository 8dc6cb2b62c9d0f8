"""Pictures at addresses: a real server that lies, drips, redirects and cuts."""

import http.server
import io
import threading
import time

import pytest
from PIL import Image
from stub_pipeline import Loader, upscale

from ppdiffusers.pictures import ImageError, files


def png(size=(6, 4)):
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, "PNG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        path, data = self.path.partition("?")[0], png()
        self.server.asked.append(self.path)
        if path == "/missing.png":
            return self.answer(404, b"nothing here")
        if path == "/moved.png":
            return self.answer(302, b"", Location="/photo.png")
        if path == "/circle.png":
            return self.answer(302, b"", Location="/circle.png")
        if path == "/file.png":
            return self.answer(302, b"", Location="file:///etc/passwd")
        if path == "/page.png":
            return self.answer(200, b"<!DOCTYPE html><html>login</html>")
        if path == "/large.png":
            return self.answer(200, b"", length=1 << 40)
        if path == "/endless.png":
            return self.endless(b"x" * 65536, 0)
        if path == "/drips.png":
            return self.endless(b"x", 0.05)
        if path == "/cut.png":
            return self.answer(200, data[:40], length=len(data))
        self.answer(200, data)

    def answer(self, status, data, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def endless(self, block, pause):
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.stopping:
                self.wfile.write(block)
                time.sleep(pause)
        except OSError:
            pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.stopping, server.daemon_threads = [], False, True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.stopping = True
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "path, options, result",
    [
        ("/photo.png", [], "photo-4x.png"),
        ("/moved.png?token=secret", ["-o", "out/"], "out/moved.png"),
        ("/a/..%2F..%2Fescape.png", [], "escape-4x.png"),
        ("/%2e%2e", [], "picture-4x.png"),
        ("/", ["--ext", "webp"], "picture-4x.webp"),
    ],
)
def test_a_picture(server, tmp_path, capsys, path, options, result):
    assert upscale(Loader(), server.url.replace("//", "//user:password@") + path, *options) == 0
    with Image.open(tmp_path / result) as image:
        assert image.size == (24, 16)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / result]
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err and "password" not in said.out + said.err


@pytest.mark.parametrize(
    "path, message",
    [
        ("/missing.png", "HTTP 404"),
        ("/circle.png", "redirects"),
        ("/file.png", "not https"),
        ("/page.png", "web page"),
        ("/large.png", "the limit"),
        ("/endless.png", "the limit"),
        ("/cut.png", "cut short"),
    ],
)
def test_what_is_refused(server, tmp_path, capsys, monkeypatch, path, message):
    monkeypatch.setattr(files, "fetch", lambda url, file: real_fetch(url, file, limit=1 << 20))
    assert upscale(Loader(), f"{server.url}{path}?token=secret") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and "secret" not in line and not list(tmp_path.iterdir())


real_fetch = files.fetch


def test_a_server_that_drips_is_given_up(server, monkeypatch):
    monkeypatch.setattr(files, "DEADLINE", 0.5)
    with pytest.raises(ImageError, match="did not come within"):
        files.fetch(f"{server.url}/drips.png", io.BytesIO())


def test_nobody_listens(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert upscale(Loader(), "http://127.0.0.1:9/a.png") == 1
    assert "cannot be fetched" in capsys.readouterr().err


def test_offline(server, capsys, monkeypatch):
    monkeypatch.setenv("MODEL_ZOO_OFFLINE", "1")
    assert upscale(Loader(), f"{server.url}/photo.png") == 1
    assert "MODEL_ZOO_OFFLINE" in capsys.readouterr().err and not server.asked
