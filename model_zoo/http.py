"""Conversations with servers that may be slow, confused or hostile.

The standard library's client, since all of this is about what lies between it and its callers: every wait ends by the
clock, bytes are handed over as they come, addresses that are none are an answer and not an exception, and no redirect
leads from https to http.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import http.client
import io
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin

from model_zoo.digests import number
from model_zoo.errors import DownloadError, address_parts, public, scrub

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5


@dataclasses.dataclass(frozen=True)
class Policy:
    """How patient a download is; seconds, and bytes for `block`."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # for the next bytes, and for all headers together
    attempts: int = 5  # in a row that brought nothing new, at each mirror
    backoff: float = 0.5  # before the second attempt, doubled before each further one
    block: int = 1 << 20
    longest_wait: float = 120.0  # that a server may ask for
    slowest: float = 1000.0  # bytes a second; an attempt that brings fewer brought nothing
    lock_notice: float = 3.0  # before it is said that another process has the file
    lock_silence: float = 600.0  # without a sign of life from that process


POLICY = Policy()


class Unreachable(Exception):
    """No answer, or none that can be understood; another time there may be one."""


class _Socket(io.RawIOBase):
    """What comes through a socket, as it comes, until a moment."""

    def __init__(self, client: Client, sock: Any):
        self._client, self._socket = client, sock
        self._held = sock.makefile("rb", buffering=0)  # keeps the socket open until this is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._client.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        self._socket.settimeout(min(left, self._client.policy.read_timeout))
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        self._held.close()
        super().close()


class Answer:
    """An answer whose body is still to come."""

    def __init__(self, url: str, response: http.client.HTTPResponse):
        self.url = url
        self.status = response.status
        self.headers = response.headers
        self.said = scrub(f"HTTP {response.status} {(response.reason or '')[:100]}".rstrip())
        self.encoding = self.header("Content-Encoding").strip().lower().replace("identity", "")
        self._response = response

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def read(self, size: int) -> bytes:
        """What is there of the body, at most `size` bytes; nothing at its end.

        Raises:
            Unreachable: the connection broke.
        """
        try:
            return self._response.read1(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(reason(error)) from None


class Client:
    """For one thread: keeps connections open from one request to the next.

    Args:
        policy: its timeouts.
        deadline: of everything, by `time.monotonic`.
    """

    def __init__(self, policy: Policy, deadline: float = float("inf")):
        self.policy, self.latest, self.deadline = policy, deadline, deadline
        self._idle: dict[Any, http.client.HTTPConnection] = {}

    def close(self) -> None:
        for connection in self._idle.values():
            connection.close()
        self._idle.clear()

    @contextlib.contextmanager
    def ask(self, url: str, headers: Mapping[str, str], method: str = "GET") -> Iterator[Answer]:
        """The answer to a request, redirects followed; closed at the end of the block.

        Raises:
            Unreachable: there is none.
            DownloadError: an address or redirect that no later attempt can follow.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            connection, key, response = self._send(url, headers, method)
            if response.status not in _REDIRECTS or not response.headers.get("Location"):
                try:
                    yield Answer(url, response)
                finally:
                    self._keep(connection, key, response)
                return
            target = response.headers["Location"]
            response.close()
            connection.close()
            url = _redirected(url, target)
        raise DownloadError(f"{public(url)} is redirected in circles")

    def _send(self, url: str, headers: Mapping[str, str], method: str) -> Any:
        parts = address_parts(url)
        if parts is None:
            raise DownloadError(f"{public(url)} is no address")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        key = (parts.scheme, parts.hostname, port)
        given = {"User-Agent": "model_zoo", "Accept-Encoding": "identity", **headers}
        # A compressed answer has neither the length nor the byte positions of the file.
        if parts.username is not None:
            given["Authorization"] = _basic(parts)
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
        self.deadline = min(self.latest, time.monotonic() + self.policy.connect_timeout + self.policy.read_timeout)
        while True:
            connection = self._idle.pop(key, None)
            reused = connection is not None
            try:
                if connection is None:
                    connection, through = self._connect(parts, port)
                    connection.through = through  # type: ignore[attr-defined]
                assert connection is not None
                extra, prefix = connection.through  # type: ignore[attr-defined]
                connection.request(method, prefix + path, headers={**given, **extra})
                response = connection.getresponse()
                break
            except (UnicodeError, http.client.InvalidURL):
                raise DownloadError(f"{public(url)} is no address") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                if connection is not None:
                    connection.close()
                if not reused:  # else the server had had enough of that connection
                    raise Unreachable(reason(error)) from None
        self.deadline = self.latest
        return connection, key, response

    def _connect(self, parts: SplitResult, port: int) -> tuple[http.client.HTTPConnection, tuple[dict[str, str], str]]:
        """A connection, straight or through a proxy; with it the headers and the address that the proxy wants."""
        host, secure = parts.hostname or "", parts.scheme == "https"
        proxies = urllib.request.getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        left = max(0.01, min(self.policy.connect_timeout, self.latest - time.monotonic()))
        options: dict[str, Any] = {"timeout": left, **({"context": _tls()} if secure else {})}
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        if not proxy or urllib.request.proxy_bypass(host):
            connection, extra, prefix = kind(host, port, **options), {}, ""
        else:
            via = address_parts(proxy if "://" in proxy else f"http://{proxy}")
            if via is None or via.scheme != "http":
                raise DownloadError(
                    "the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is no address such as"
                    " http://user:password@host:8080 (in a password, / is %2F and @ is %40)"
                )
            extra = {"Proxy-Authorization": _basic(via)} if via.username is not None else {}
            connection, prefix = kind(via.hostname or "", via.port or 80, **options), ""
            if secure:
                connection.set_tunnel(host, port, extra)
                extra = {}
            else:
                prefix = f"http://{parts.netloc.rpartition('@')[2]}"
        connection.response_class = functools.partial(_Response, self)  # type: ignore[assignment]
        return connection, (extra, prefix)

    def _keep(self, connection: http.client.HTTPConnection, key: Any, response: http.client.HTTPResponse) -> None:
        if response.isclosed() and not response.will_close and connection.sock is not None:
            self._idle[key] = connection
        else:
            response.close()
            connection.close()


class _Response(http.client.HTTPResponse):
    """Reads by the clock, and takes early hints for what they are."""

    def __init__(self, client: Client, sock: Any, *arguments: Any, **options: Any):
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Socket(client, sock), 1 << 16)

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, said = super()._read_status()  # type: ignore[misc]
            if not 102 <= status <= 199:
                return version, status, said
            http.client.parse_headers(self.fp)

    def begin(self) -> None:
        if self.headers is not None:  # type: ignore[has-type]
            return
        super().begin()
        lengths = {
            length.strip() for field in self.headers.get_all("Content-Length", []) for length in field.split(",")
        }
        if len(lengths) > 1:
            raise http.client.HTTPException("it says two lengths")
        if len(lengths) == 1 and not self.chunked and self.length is None and lengths != {""}:
            self.length = number(lengths.pop())  # the same one twice


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle:
        where = "capath" if os.path.isdir(bundle) else "cafile"
        return ssl.create_default_context(**{where: bundle})  # type: ignore[arg-type]
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError, OSError):  # the system may have no certificates of its own
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def address(endpoint: str, model: str, path: str) -> str:
    """Where a file of a model lies."""
    return f"{endpoint}/{model}/{quote(path)}"


def reason(error: BaseException) -> str:
    """The first cause in words, such as 'Connection refused'."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    slow = isinstance(error, (TimeoutError, socket.timeout)) and "timed out" in text  # one and the same since 3.10
    return "the answer timed out" if slow else scrub(str(text))[:200]


def retry_after(answer: Answer) -> float:
    """Seconds that the server asks to wait; 0 where it does not say, or not so that it can be understood."""
    import email.utils

    value = answer.header("Retry-After").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0


def _redirected(url: str, target: str) -> str:
    try:
        new = urljoin(url, target.encode("latin-1").decode("utf-8"))
    except (ValueError, UnicodeError):
        new = "?"
    if address_parts(new) is None:
        raise DownloadError(f"{public(url)} is redirected to {public(new)[:200] or '?'}, which is no address: refused")
    if url.startswith("https:") and not new.startswith("https:"):
        raise DownloadError(
            f"{public(url)} redirects to {public(new)}, which is not https: refused, since anyone on the way could"
            " replace the file"
        )
    return new


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
