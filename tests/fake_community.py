"""A real HTTP server on 127.0.0.1 with the community's layout, and with every fault that a download can meet.

`python tests/fake_community.py FOLDER` serves a folder and prints the endpoint.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

PREFIX = "/models/community/"
_BLOCK = 1 << 22


@dataclasses.dataclass
class Fault:
    """What the server does wrong in answer to a GET; the fields may be combined."""

    path: str | None = None  # end of the addresses that are hit; None hits all
    times: int | None = None  # how many requests are hit; None hits all
    status: int | None = None  # answer with this code, and an empty body where there is no other
    redirect: str | None = None  # answer 302 to this address
    cut_after: int | None = None  # promise the whole body, send this many bytes of it, close
    length_lie: int = 0  # added to the Content-Length; the body stays as it is
    no_length: bool = False  # leave Content-Length out, and close at the end
    ignore_range: bool = False  # answer 200 and the whole file
    ignore_if_range: bool = False  # answer 206 though the file is not the one that the client began
    range_shift: int = 0  # answer a Range request from this many bytes further on
    content_range: str | None = None  # say this of the bytes, whatever they are
    no_validator: bool = False  # neither ETag nor Last-Modified
    etag: str | None = None  # instead of the true one
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)  # more of them
    body: bytes | None = None  # instead of the file
    corrupt: bool = False  # flip every bit of the first byte that is sent
    corrupt_at: int | None = None  # flip every bit of this byte of the file
    extra: int = 0  # send so many bytes more than was promised
    stall: float = 0.0  # seconds to wait before the body, or before the byte `stall_at` of it
    stall_at: int = 0
    drip: float = 0.0  # seconds to wait between pieces of the body
    drip_bytes: int = 1000  # length of such a piece
    then: Callable[[], None] | None = None  # done when the answer has been sent
    encoding: str | None = None  # claim this Content-Encoding; a true one if it is gzip


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    path: str  # `<owner>/<name>/<file>`, and what may follow it after a question mark
    headers: dict[str, str]
    method: str = "GET"


class CommunityServer:
    """Serves `<folder>/<owner>/<name>/<file>` at `<url>/<owner>/<name>/<file>`, streamed, with Range and If-Range.

        with CommunityServer(folder) as server:
            model_zoo.download(name, endpoint=server.url)

    Attributes:
        url: the endpoint.
        requests: every GET so far.
        heads: every HEAD so far.
        statuses: the code of every answer so far.
        bytes_sent: body bytes sent so far.
        faults: the first that fits a GET is committed; add them with `fail`.
        answers_head: whether it knows that method.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()
        self.requests: list[Request] = []
        self.heads: list[Request] = []
        self.statuses: list[int] = []
        self.bytes_sent = 0
        self.faults: list[Fault] = []
        self.answers_head = True
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> CommunityServer:
        handler = type("Handler", (_Handler,), {"community": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{PREFIX.rstrip('/')}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, **fields: object) -> None:
        """Commit a `Fault` of these fields from now on."""
        self.faults.append(Fault(**fields))  # type: ignore[arg-type]

    def forget(self) -> None:
        """Begin anew: no faults, nothing counted."""
        self.faults.clear()
        self.requests.clear()
        self.heads.clear()
        self.statuses.clear()
        self.bytes_sent = 0

    def paths(self) -> list[str]:
        """The files of all GETs in order."""
        return [request.path for request in self.requests]

    def etag(self, name: str) -> str:
        """The true ETag of `<owner>/<name>/<file>`."""
        stat = (self.folder / name).stat()
        return f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'

    def _next_fault(self, path: str) -> Fault:
        with self._lock:
            for fault in self.faults:
                if fault.times != 0 and (fault.path is None or path.endswith(fault.path)):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return Fault()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of the game


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    community: CommunityServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send_response(self, code: int, message: str | None = None) -> None:
        self.community.statuses.append(int(code))
        super().send_response(code, message)

    def do_HEAD(self) -> None:
        self.do_GET() if self.community.answers_head else self._empty(405)

    def do_GET(self) -> None:
        community = self.community
        path, _, query = unquote(self.path).partition("?")
        name = path[len(PREFIX) :] if path.startswith(PREFIX) else path
        request = Request(f"{name}?{query}" if query else name, dict(self.headers), self.command)
        (community.heads if self.command == "HEAD" else community.requests).append(request)
        fault = Fault() if self.command == "HEAD" else community._next_fault(request.path)
        file = (community.folder / name).resolve()
        if fault.redirect is not None:
            self._empty(302, {**fault.headers, "Location": fault.redirect})
        elif fault.status is not None and fault.body is None:
            self._empty(fault.status, fault.headers)
        elif fault.body is not None:
            self._send_body(fault.body, fault)
        elif not path.startswith(PREFIX) or community.folder not in file.parents or not file.is_file():
            self._empty(404)
        elif self.headers.get("If-None-Match") == community.etag(name):
            self._empty(304)
        elif fault.encoding == "gzip":
            self._send_body(gzip.compress(file.read_bytes()), fault)
        else:
            with open(file, "rb") as stream:
                self._send(stream, name, file, fault)
            if fault.then is not None:
                fault.then()

    def _empty(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send_body(self, body: bytes, fault: Fault) -> None:
        self.send_response(fault.status or 200)
        encoding = {"Content-Encoding": fault.encoding} if fault.encoding else {}
        for key, value in {"Content-Length": str(len(body)), **encoding, **fault.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self._write(body)

    def _send(self, stream: BinaryIO, name: str, file: Path, fault: Fault) -> None:
        stat = file.stat()
        etag = fault.etag or self.community.etag(name)
        changed = self.date_time_string(int(stat.st_mtime))
        start, end = 0, stat.st_size  # the body is file[start:end]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        current = fault.ignore_if_range or self.headers.get("If-Range") in (None, etag, changed)
        partial = wanted is not None and current and not fault.ignore_range
        if partial:
            start = int(wanted.group(1)) + fault.range_shift
            end = min(end, int(wanted.group(2)) + 1) if wanted.group(2) else end
            if start >= stat.st_size:
                self._empty(416, {"Content-Range": f"bytes */{stat.st_size}"})
                return
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", fault.content_range or f"bytes {start}-{end - 1}/{stat.st_size}")
        if not fault.no_validator:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", changed)
        if fault.encoding:
            self.send_header("Content-Encoding", fault.encoding)
        if not fault.no_length:
            self.send_header("Content-Length", str(end - start + fault.length_lie))
        for key, value in fault.headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        last = end if fault.cut_after is None else min(start + fault.cut_after, end)
        self._send_slice(stream, start, last, fault)
        self._write(bytes(fault.extra))
        self.wfile.flush()
        self.close_connection = fault.cut_after is not None or fault.no_length or fault.length_lie != 0

    def _send_slice(self, stream: BinaryIO, start: int, end: int, fault: Fault) -> None:
        broken = start if fault.corrupt else fault.corrupt_at
        while start < end or fault.stall:
            if fault.stall and start >= min(fault.stall_at, end):
                self.community._closing.wait(fault.stall)
                fault = dataclasses.replace(fault, stall=0.0)
                continue
            size = min(end - start, fault.drip_bytes if fault.drip else _BLOCK)
            if fault.stall:
                size = min(size, fault.stall_at - start)
            if broken is not None and start < broken < start + size:
                size = broken - start
            if start == broken:
                size = 1
                stream.seek(start)
                self._write(bytes([stream.read(1)[0] ^ 0xFF]))
            else:
                self.wfile.flush()
                self._count(self.connection.sendfile(stream, start, size))
            start += size
            if fault.drip and self.community._closing.wait(fault.drip):
                return

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self._count(len(data))

    def _count(self, amount: int) -> None:
        with self.community._lock:
            self.community.bytes_sent += amount


def catalogue_as_served(folder: Path, target: Path) -> Path:
    """A catalogue of the package's models that `folder` holds small ones of, with the sizes of those."""
    import model_zoo

    for model in model_zoo.list_models():
        if model.file is not None and (folder / model.name).is_dir():
            values = json.loads(model.file.read_text())
            values["files"] = [
                {"path": file.path, "size": (folder / model.name / file.path).stat().st_size} for file in model.files
            ]
            (target / model.name).parent.mkdir(parents=True, exist_ok=True)
            (target / f"{model.name}.json").write_text(json.dumps(values))
    return target


if __name__ == "__main__":
    with CommunityServer(Path(sys.argv[1])) as running:
        print(running.url, flush=True)
        sys.stdin.read()  # until whoever started it closes that
