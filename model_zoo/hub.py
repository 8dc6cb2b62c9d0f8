"""Fetch one file over HTTP: resume, verify, publish."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import quote, urljoin, urlsplit

from model_zoo.errors import CacheError, DownloadError
from model_zoo.part import Part
from model_zoo.registry import File

if TYPE_CHECKING:
    import requests


@dataclasses.dataclass(frozen=True)
class Policy:
    """How patient a download is; seconds, and bytes for `block`."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    attempts: int = 5  # in a row that brought nothing new
    backoff: float = 0.5  # before the second attempt, doubled before each further one
    block: int = 1 << 17


POLICY = Policy()


class _Retry(Exception):
    """What went wrong may go right next time."""


class Hub:
    """Connections to one endpoint, kept open between files. Use it in a `with` statement."""

    def __init__(self, endpoint: str):
        # Half of the package's start-up time if it were imported above.
        import requests

        self.endpoint = endpoint
        self.policy = POLICY
        self._requests = requests
        self._session = requests.Session()
        self._session.max_redirects = 5
        self._session.headers["User-Agent"] = "model_zoo"
        # A compressed answer has neither the length nor the byte positions of the file.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.hooks["response"].append(_refuse_downgrade)

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    def fetch(
        self,
        model: str,
        file: File,
        destination: Path,
        report: Callable[[int], None],
        on_length: Callable[[int], None],
    ) -> str:
        """Bring `<endpoint>/<model>/<file.path>` to `destination`; it appears there whole and verified, or not at all.

        Args:
            report: called with the number of bytes gained; negative when an attempt starts over.
            on_length: called once with the file's length in bytes, as soon as the server says it.

        Returns:
            The file's sha256.

        Raises:
            DownloadError: the file could not be had, or is not the one that the catalogue describes.
            CacheError: it could not be written.
        """
        transfer = _Transfer(self, f"{self.endpoint}/{model}/{quote(file.path)}", file, on_length)
        try:
            with Part(destination, report) as part:
                transfer.fill(part)
                if file.sha256 is not None and part.sha256 != file.sha256:
                    found = part.sha256
                    part.restart()
                    raise transfer.failure(
                        f"has the sha256 {found}, not {file.sha256} as catalogued: it was damaged on the way or changed"
                    )
                part.publish()
                return part.sha256
        except OSError as error:
            raise CacheError(
                f"cannot write {destination}: {error.strerror or error}; free or repair that place, or choose another"
                " folder with MODEL_ZOO_HOME"
            ) from error


class _Transfer:
    """The attempts at one file."""

    def __init__(self, hub: Hub, url: str, file: File, on_length: Callable[[int], None]):
        self.hub = hub
        self.url = url
        self.file = file
        self.on_length = on_length
        self.length: int | None = None

    def failure(self, what: str) -> DownloadError:
        return DownloadError(
            f"{_public(self.url)} {what}; try again later, or set MODEL_ZOO_ENDPOINT"
            f" (now {_public(self.hub.endpoint)}) to another mirror"
        )

    def fill(self, part: Part) -> None:
        """Attempt until all bytes are there; the count of attempts starts again whenever one brings new bytes."""
        policy = self.hub.policy
        best, failures = part.size, 0
        while True:
            try:
                self._attempt(part)
                return
            except _Retry as reason:
                failure = self.failure(f"could not be downloaded: {reason}")
            failures = 1 if part.size > best else failures + 1
            # Not merely more than last time: a server that ignores Range brings the same bytes again and again.
            best = max(best, part.size)
            if failures >= policy.attempts:
                raise failure
            time.sleep(policy.backoff * 2 ** (failures - 1))

    def _attempt(self, part: Part) -> None:
        requests, policy = self.hub._requests, self.hub.policy
        handled = sys.exc_info()[1]  # the caller may be in an except block of its own: not our reason
        headers = {}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
            if part.validator:
                headers["If-Range"] = part.validator
        try:
            timeout = (policy.connect_timeout, policy.read_timeout)
            with self.hub._session.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code == 416 and _total(response) == part.size:
                    self._expect(part.size)  # a part that lacks nothing but its last rename
                    return
                self._check_status(response, part)
                length = self._begin(response, part)
                for block in response.iter_content(policy.block):
                    part.write(block)
        except requests.TooManyRedirects:
            raise self.failure("is redirected in circles") from None
        except requests.RequestException as error:
            if isinstance(error, ValueError):  # an address or a redirect that no later attempt can follow
                raise self.failure(f"cannot be asked for: {error}") from None
            raise _Retry(_reason(error, handled)) from error
        if part.size > length:
            part.restart()
            raise _Retry(f"more than the promised {length} bytes came")
        if part.size < length:
            raise _Retry(f"the connection closed after {part.size} of {length} bytes")

    def _check_status(self, response: requests.Response, part: Part) -> None:
        status = f"HTTP {response.status_code} {response.reason or ''}".rstrip()
        if response.status_code == 416 or (response.status_code == 206 and not part.size):
            part.restart()
            raise _Retry(status)
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _Retry(status)
        if response.status_code in (404, 410):
            raise self.failure(f"does not exist ({status})")
        if response.status_code not in (200, 206):
            raise self.failure(f"was refused ({status})")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise self.failure(f"was sent as {encoding} although the plain file was asked for")

    def _begin(self, response: requests.Response, part: Part) -> int:
        """Make `part` ready for the body of an answer, and return the length of the whole file."""
        validator = _validator(response)
        if response.status_code == 206:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            length = _total(response)
            same_file = part.validator == validator and self.length in (None, length)
            if start is None or int(start.group(1)) != part.size or length is None or not same_file:
                part.restart()
                raise _Retry("the server went on with another place or version of the file")
        else:
            if part.size:
                part.restart()
            length = _number(response.headers.get("Content-Length"))
            if length is None:
                length = self.file.size
            if length is None:
                raise self.failure("comes without a length, so that a cut could not be told from its end")
            part.validator = validator
        self._expect(length)
        return length

    def _expect(self, length: int) -> None:
        if self.file.size is not None and length != self.file.size:
            raise self.failure(f"has {length} bytes, not {self.file.size} as catalogued: it is another version")
        if self.length is None:
            self.on_length(length)
        self.length = length


def _refuse_downgrade(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    """Hook of the session, called before a redirect is followed."""
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["location"])
    if urlsplit(response.url).scheme == "https" and urlsplit(target).scheme != "https":
        response.close()
        raise DownloadError(
            f"{_public(response.url)} redirects to {_public(target)}, which is not https: refused, since anyone on the"
            " way could replace the file; set MODEL_ZOO_ENDPOINT to another mirror"
        )


def _validator(response: requests.Response) -> str | None:
    """What tells one version of the file from another: a strong ETag, else the date of change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _total(response: requests.Response) -> int | None:
    """Length of the whole file from `Content-Range: bytes 5-9/10` or `bytes */10`."""
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2])


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _public(url: str) -> str:
    """An address as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _reason(error: BaseException, handled: BaseException | None) -> str:
    """The first cause: of six wrapped exceptions, the one that says 'Connection refused'."""
    while (cause := error.__cause__ or error.__context__) is not None and cause is not handled:
        error = cause
    return str(error) or type(error).__name__
