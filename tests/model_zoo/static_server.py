"""A plain web server of a folder on 127.0.0.1: what everybody has; the standard library's, with ETags."""

from __future__ import annotations

import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class StaticServer:
    """Serves `folder` at `url`; notes every request, and answers `answers[path]` where that is set.

    Attributes:
        url: address of the folder, without a slash at its end.
        requests: (path, headers) of every request so far.
        statuses: the status of every answer so far.
        answers: path to (status, headers, body).
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.statuses: list[int] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}

    def __enter__(self) -> StaticServer:
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, directory=str(outer.folder), **kwargs)

            def log_message(self, *args):
                pass

            def send_response(self, code, message=None):
                outer.statuses.append(int(code))
                super().send_response(code, message)

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                status, headers, body = outer.answers.get(self.path, (None, {}, b""))
                file = outer.folder / self.path.lstrip("/")
                if status is None and file.is_file() and file.suffix == ".json":
                    body = file.read_bytes()
                    etag = f'"{hashlib.md5(body).hexdigest()}"'
                    status, headers = (304 if self.headers.get("If-None-Match") == etag else 200), {"ETag": etag}
                if status is None:
                    super().do_GET()
                    return
                body = b"" if status == 304 else body
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
