"""Answers that no ordinary server gives: each is written to the socket as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from model_zoo import http
from zoo_drill.place import CONFIG, WEIGHTS, Place, Row

PAGE = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


class Talk(BaseHTTPRequestHandler):
    """One connection; `script` of the server holds what to do with the next requests for the weights."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        place, weights = self.server.place, self.path.endswith(WEIGHTS)
        if weights and self.server.script:
            step = (
                self.server.script.pop(0) if len(self.server.script) > 1 or self.server.once else self.server.script[0]
            )
            with contextlib.suppress(OSError):
                step(self)
            self.close_connection = True
            return
        content = place.contents[WEIGHTS if weights else CONFIG]
        if not weights and self.server.config is not None:
            content = self.server.config
        self.whole(content)

    do_HEAD = do_GET

    @property
    def content(self) -> bytes:
        return self.server.place.weights

    def etag(self, content: bytes) -> str:
        return f'"v{hashlib.sha1(content).hexdigest()[:9]}"'

    def whole(self, content: bytes) -> None:
        """As it should be, with Range and If-Range."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and self.headers.get("If-Range") in (None, self.etag(content)) else 0
        if start >= len(content) > 0:
            self.raw(
                416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0", "ETag": self.etag(content)}
            )
            return
        headers = {"Content-Length": str(len(content) - start), "ETag": self.etag(content)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.raw(206 if start else 200, headers, b"" if self.command == "HEAD" else content[start:])

    def raw(self, status: int | str, headers: Any, body: bytes = b"", version: str = "HTTP/1.1") -> None:
        pairs = headers.items() if isinstance(headers, dict) else headers
        lines = [f"{version} {status} X", *(f"{key}: {value}" for key, value in pairs), "", ""]
        self.wfile.write("\r\n".join(lines).encode("latin-1") + body)
        self.wfile.flush()

    def reset(self) -> None:
        """RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Step = Callable[[Talk], None]


@dataclasses.dataclass
class Answer:
    """What the server does, and what may become of it: `right`, `absent`, or either."""

    steps: list[Step]
    allowed: tuple[str, ...] = ("right", "absent")
    once: bool = True  # the last step is not repeated
    config: bytes | None = None  # instead of the other file
    sizes: bool = False  # the manifest says about how long the files are


def cut(talk: Talk, headers: Any = None, share: float = 0.5) -> None:
    """Half of the file, and the end of the connection."""
    content = talk.content
    given = {"Content-Length": str(len(content)), "ETag": talk.etag(content)}
    talk.raw(200, {**given, **(headers or {})}, content[: int(len(content) * share)])


def then(headers: Any, status: int = 206, other: bool = False, start: int = 0, length: bool = True) -> Step:
    """The rest, of another version perhaps, under these headers; `{n}`: all bytes, `{s}`: where the rest begins."""

    def step(talk: Talk) -> None:
        content = bytes(255 - byte for byte in talk.content) if other else talk.content
        found = re.fullmatch(r"bytes=(\d+)-", talk.headers.get("Range", ""))
        begin = max(0, (int(found[1]) if found else 0) + start)
        body = content[begin:] if status in (200, 206) else b""
        shown = {
            key: value.format(n=len(content), s=begin, e=len(content) - 1, tag=talk.etag(talk.content))
            for key, value in headers.items()
        }
        talk.raw(status, {**({"Content-Length": str(len(body))} if length else {}), **shown}, body)

    return step


def said(status: int | str, headers: Any, body: bytes | None = None, version: str = "HTTP/1.1") -> Step:
    """An answer of its own; no body: the file."""

    def step(talk: Talk) -> None:
        content = talk.content if body is None else body
        pairs = headers.items() if isinstance(headers, dict) else headers
        talk.raw(status, [(key, value.format(n=len(content))) for key, value in pairs], content, version)

    return step


def chunked(end: bytes = b"0\r\n\r\n", share: float = 1.0, size: str = "{:x}") -> Step:
    def step(talk: Talk) -> None:
        content = talk.content
        talk.raw(200, {"Transfer-Encoding": "chunked", "ETag": talk.etag(content)})
        stop = int(len(content) * share)
        for start in range(0, stop, 50_000):
            piece = content[start : min(start + 50_000, stop)]
            talk.wfile.write(size.format(len(piece)).encode() + b"\r\n" + piece + b"\r\n")
        talk.wfile.write(end + content[stop : stop + 3] if end.endswith(b"f\r\n") else end)

    return step


def drip(start: bytes, pause: float = 0.05) -> Step:
    """A byte now and then, until the client has had enough."""

    def step(talk: Talk) -> None:
        talk.wfile.write(start)
        for _ in range(int(30 / pause)):
            talk.wfile.write(b"x")
            talk.wfile.flush()
            time.sleep(pause)

    return step


def redirect(target: str) -> Step:
    return said(302, {"Location": target.replace("{", "{{").replace("}", "}}"), "Content-Length": "0"}, b"")


def broken(talk: Talk, before: bytes = b"") -> None:
    talk.wfile.write(before)
    talk.wfile.flush()
    talk.reset()


def half_then_reset(talk: Talk) -> None:
    cut(talk)
    talk.reset()


def same_page(talk: Talk) -> None:
    talk.raw(200, {"Content-Length": str(len(talk.content))}, PAGE.ljust(len(talk.content)))


def two_hosts(talk: Talk) -> None:
    port = talk.server.server_address[1]
    host = "localhost" if talk.headers["Host"].startswith("127") else "127.0.0.1"
    talk.raw(302, {"Location": f"http://{host}:{port}{talk.path}", "Content-Length": "0"})


def multipart(talk: Talk) -> None:
    body = b"--b\r\nContent-Range: bytes 0-5/9\r\n\r\n" + talk.content + b"\r\n--b--"
    talk.raw(206, {"Content-Type": "multipart/byteranges; boundary=b", "Content-Length": str(len(body))}, body)


OK = ("right",)
NO = ("absent",)
FAULTS: dict[str, Answer] = {
    "chunked": Answer([chunked()], OK),
    "chunked, cut within a chunk": Answer([chunked(b"ffff\r\n", 0.5)], OK),
    "chunked, cut between chunks": Answer([chunked(b"", 0.5)], OK),
    "chunked, a size that is none": Answer([chunked(b"zz\r\nabc\r\n", 0.5)], OK),
    "chunked, sizes of 30 digits": Answer([chunked(size="{:030x}")]),
    "206 with another total": Answer([cut, then({"Content-Range": "bytes {s}-{e}/99999999", "ETag": "{tag}"})], OK),
    "206 with another ETag": Answer([cut, then({"Content-Range": "bytes {s}-{e}/{n}", "ETag": '"x"'}, other=True)], OK),
    "206 with another date": Answer(
        [
            lambda talk: cut(talk, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}),
            then(
                {
                    "Content-Range": "bytes {s}-{e}/{n}",
                    "ETag": "{tag}",
                    "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT",
                },
                other=True,
            ),
        ],
        OK,
    ),
    "weak ETags, the same date, another version": Answer(
        [
            lambda talk: cut(talk, {"ETag": 'W/"a"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}),
            then(
                {
                    "Content-Range": "bytes {s}-{e}/{n}",
                    "ETag": 'W/"b"',
                    "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
                },
                other=True,
            ),
        ],
        OK,
    ),
    "weak ETags, the same one, another version": Answer(
        [
            lambda talk: cut(talk, {"ETag": 'W/"a"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}),
            then(
                {
                    "Content-Range": "bytes {s}-{e}/{n}",
                    "ETag": 'W/"a"',
                    "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
                },
                other=True,
            ),
        ],
        OK,
    ),
    "206 of more than was asked for": Answer(
        [cut, then({"Content-Range": "bytes {s}-{e}/{n}", "ETag": "{tag}"}, start=-1000)], OK
    ),
    "206 unasked": Answer([then({"Content-Range": "bytes 0-{e}/{n}", "ETag": "{tag}"})], OK),
    "206 without Content-Range": Answer([cut, then({"ETag": "{tag}"})], OK),
    "200 with Content-Range": Answer([cut, then({"Content-Range": "bytes {s}-{e}/{n}", "ETag": "{tag}"}, 200)], OK),
    "416 on resume, another size": Answer([cut, then({"Content-Range": "bytes */12"}, 416)], OK),
    "416 on resume, the size that is here, a new ETag": Answer(
        [
            lambda talk: cut(talk, {"Content-Length": str(len(talk.content) * 2)}, 0.9),
            lambda talk: talk.raw(
                416,
                {"Content-Range": f"bytes */{int(len(talk.content) * 0.9)}", "ETag": '"new"', "Content-Length": "0"},
            ),
        ],
        OK,
    ),
    "416 on resume, as if half were all": Answer(
        [
            cut,
            lambda talk: talk.raw(416, {"Content-Range": f"bytes */{len(talk.content) // 2}", "Content-Length": "0"}),
        ],
        OK,
        sizes=True,
    ),
    "304 unasked": Answer([said(304, {})], OK),
    "multipart ranges": Answer([cut, multipart], OK),
    "no length": Answer([said(200, {"Connection": "close"})]),
    "no length, cut": Answer([lambda talk: talk.raw(200, {"Connection": "close"}, talk.content[:5000])], NO),
    "HTTP/1.0": Answer([said(200, {"Content-Length": "{n}"}, version="HTTP/1.0")], OK),
    "HTTP/0.9": Answer([lambda talk: talk.wfile.write(talk.content[:5000])], OK),
    "a status line of nonsense": Answer([said("2x0", {})], OK),
    "a length of nonsense": Answer([said(200, {"Content-Length": "-5"})]),
    "a length of 30 digits": Answer([said(200, {"Content-Length": "1" * 30})]),
    "doubled equal lengths": Answer([said(200, [("Content-Length", "{n}"), ("Content-Length", "{n}")])], OK),
    "doubled different lengths": Answer([said(200, [("Content-Length", "{n}"), ("Content-Length", "7")])], OK),
    "empty Content-Encoding": Answer([said(200, {"Content-Length": "{n}", "Content-Encoding": ""})], OK),
    "103 before the answer": Answer([lambda talk: (talk.raw(103, {"Link": "</x>"}), talk.whole(talk.content))[0]], OK),
    "slow headers": Answer([drip(b"HTTP/1.1 200 OK\r\nX: ")], NO, once=False),
    "headers without end": Answer(
        [lambda talk: talk.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000)], NO, once=False
    ),
    "a header line of a megabyte": Answer(
        [lambda talk: talk.wfile.write(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000)], NO, once=False
    ),
    "a body that drips past the deadline": Answer(
        [drip(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")], NO, once=False
    ),
    "reset before the answer": Answer([broken], OK),
    "reset within the headers": Answer([lambda talk: broken(talk, b"HTTP/1.1 200 OK\r\nContent-Le")], OK),
    "reset within the body": Answer([half_then_reset], OK),
    "redirect without a place": Answer([said(302, {"Content-Length": "0"}, b"")], NO, once=False),
    "redirected round two hosts": Answer([two_hosts], NO, once=False),
    **{
        f"redirect to {target[:30]!r}": Answer([redirect(target)], NO, once=False)
        for target in (
            "http://[::1/x",
            "http://a..b/x",
            f"http://{'a' * 70}.example/x",
            "http://\xff\xfe/x",
            "http://x:99999/",
            "http://a b/x",
            "\xff\xfe",
        )
    },
    "a page of the right length": Answer([same_page], NO, once=False),
    "a page behind a comment": Answer(
        [said(200, {"Content-Length": "{n}"}, b"<!-- hotel -->\n" + PAGE)], NO, once=False
    ),
    "an error document of XML": Answer(
        [said(200, {"Content-Length": "{n}"}, b"<?xml version='1.0'?><Error/>")], NO, once=False
    ),
    "an empty body": Answer([said(200, {"Content-Length": "0"}, b"")], NO, once=False),
    "four bytes for the weights": Answer(
        [said(200, {"Content-Length": "4"}, b"\x80\x04N.")], NO, once=False, sizes=True
    ),
    "four bytes for the weights, chunked": Answer(
        [said(200, {"Transfer-Encoding": "chunked"}, b"4\r\n\x80\x04N.\r\n0\r\n\r\n")], NO, once=False, sizes=True
    ),
    "an error document as model_index.json": Answer([], NO, config=b'{"error": "no such model"}'),
}


@contextlib.contextmanager
def server(place: Place) -> Iterator[Any]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Talk)
    running.daemon_threads = True
    running.handle_error = lambda request, client: None  # type: ignore[method-assign]
    running.place, running.script, running.once, running.config = place, [], True, None  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()


def fault(place: Place, row: Row, answer: Answer, runs: int, first: int = 0) -> None:
    """Runs of even numbers have hashes in the manifest."""
    before, patience = os.environ["MODEL_ZOO_ENDPOINT"], http.POLICY
    http.POLICY = dataclasses.replace(patience, connect_timeout=0.4, read_timeout=0.4, attempts=3)
    try:
        with server(place) as running:
            os.environ["MODEL_ZOO_ENDPOINT"] = f"http://127.0.0.1:{running.server_address[1]}"
            for number in range(first, first + runs):
                rng = random.Random(f"{row.name} {number}")
                place.reset()
                place.publish(rng, hashes=number % 2 == 0)
                if answer.config is not None or answer.sizes:
                    files = [
                        {"path": path, "approximate_size": len(content)} for path, content in place.contents.items()
                    ]
                    place.register({"files": files if answer.sizes else [{"path": path} for path in place.contents]})
                running.script, running.once, running.config = list(answer.steps), answer.once, answer.config
                begun = time.monotonic()
                error = place.download()
                if answer.config is not None and (place.folder / CONFIG).exists():
                    error = RuntimeError("the error document became the file")
                outcome, remark = place.state(error)
                if answer.config is not None and error is not None and outcome == "right":
                    outcome = "absent"
                if outcome not in answer.allowed and outcome != "wrong":
                    outcome, remark = "wrong", f"it must be {answer.allowed}, not {outcome}: {remark}"
                if time.monotonic() - begun > 20:
                    outcome, remark = "wrong", f"it took {time.monotonic() - begun:.0f} s"
                running.script, running.config = [], None
                if outcome != "wrong":
                    healed, why = place.state(place.download())
                    if healed != "right":
                        outcome, remark = "wrong", f"not mended by another try: {why}"
                row.count(outcome, remark=f"{number}: {remark}")
    finally:
        os.environ["MODEL_ZOO_ENDPOINT"], http.POLICY = before, patience
