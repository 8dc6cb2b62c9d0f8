"""A real HTTP server on 127.0.0.1 with the community's layout, and with every fault that a download can meet."""

from __future__ import annotations

import dataclasses
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

PREFIX = "/models/community/"


@dataclasses.dataclass
class Fault:
    """What the server does wrong; the fields may be combined."""

    path: str | None = None  # end of the addresses that are hit; None hits all
    times: int | None = None  # how many requests are hit; None hits all
    status: int | None = None  # answer with this code and an empty body
    redirect: str | None = None  # answer 302 to this address
    cut_after: int | None = None  # promise the whole body, send this many bytes of it, close
    length_lie: int = 0  # added to the Content-Length; the body stays as it is
    no_length: bool = False  # leave Content-Length out, and close at the end
    ignore_range: bool = False  # answer 200 and the whole file
    ignore_if_range: bool = False  # answer 206 though the file is not the one that the client began
    range_shift: int = 0  # answer a Range request from this many bytes further on
    no_validator: bool = False  # neither ETag nor Last-Modified
    etag: str | None = None  # instead of the true one
    corrupt: bool = False  # flip every bit of the first byte that is sent
    stall: float = 0.0  # seconds to wait before the body
    encoding: str | None = None  # claim this Content-Encoding


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    path: str  # `<owner>/<name>/<file>`
    headers: dict[str, str]


class CommunityServer:
    """Serves `<folder>/<owner>/<name>/<file>` at `<url>/<owner>/<name>/<file>`, streamed, with Range and If-Range.

        with CommunityServer(folder) as server:
            model_zoo.download(name, endpoint=server.url)

    Attributes:
        url: the endpoint.
        requests: every request so far.
        bytes_sent: body bytes sent so far.
        faults: the first that fits a request is committed; add them with `fail`.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()
        self.requests: list[Request] = []
        self.bytes_sent = 0
        self.faults: list[Fault] = []
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

    def paths(self) -> list[str]:
        """The requested files in order."""
        return [request.path for request in self.requests]

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

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of the game


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    community: CommunityServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        community = self.community
        path = unquote(urlsplit(self.path).path)
        name = path[len(PREFIX) :] if path.startswith(PREFIX) else path
        community.requests.append(Request(name, dict(self.headers)))
        fault = community._next_fault(name)
        file = (community.folder / name).resolve()
        if fault.redirect is not None:
            self._empty(302, {"Location": fault.redirect})
        elif fault.status is not None:
            self._empty(fault.status)
        elif not path.startswith(PREFIX) or community.folder not in file.parents or not file.is_file():
            self._empty(404)
        else:
            with open(file, "rb") as stream:
                self._send(stream, file, fault)

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, stream: BinaryIO, file: Path, fault: Fault) -> None:
        stat = file.stat()
        etag = fault.etag or f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'
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
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{stat.st_size}")
        if not fault.no_validator:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", changed)
        if fault.encoding:
            self.send_header("Content-Encoding", fault.encoding)
        if not fault.no_length:
            self.send_header("Content-Length", str(end - start + fault.length_lie))
        self.end_headers()
        if fault.stall:
            self.community._closing.wait(fault.stall)
        stream.seek(start)
        sent = end - start if fault.cut_after is None else min(fault.cut_after, end - start)
        if fault.corrupt and sent:
            self.wfile.write(bytes([stream.read(1)[0] ^ 0xFF]))
            self._count(1)
            sent -= 1
        shutil.copyfileobj(_Slice(stream, sent, self._count), self.wfile, 1 << 20)
        self.wfile.flush()
        self.close_connection = fault.cut_after is not None or fault.no_length or fault.length_lie != 0

    def _count(self, amount: int) -> None:
        with self.community._lock:
            self.community.bytes_sent += amount


class _Slice:
    """The next `length` bytes of a stream, as something that `shutil.copyfileobj` reads."""

    def __init__(self, stream: BinaryIO, length: int, count):
        self._stream = stream
        self._left = length
        self._count = count

    def read(self, amount: int) -> bytes:
        block = self._stream.read(min(amount, self._left))
        self._left -= len(block)
        self._count(len(block))
        return block
