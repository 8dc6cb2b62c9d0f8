"""The mirrors of a model, and how patiently they are asked."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Callable

from model_zoo.addresses import public
from model_zoo.errors import DownloadError
from model_zoo.manifest import File
from model_zoo.part import Part
from model_zoo.source import Source
from model_zoo.transfer import Transfer
from model_zoo.web import Policy, address, open_session, reason, status

if TYPE_CHECKING:
    import requests

POLICY = Policy()


class Hub:
    """The mirrors of one model, for several threads. Use it in a `with` statement.

    Args:
        endpoints: base addresses in the order in which they are tried.
        advice: what to do if none of them has a file.
        say: called with what a user should know while waiting.
        stop: ends every download at its next block.
    """

    def __init__(self, endpoints: Sequence[str], advice: str, say: Callable[[str], None], stop: threading.Event):
        self.policy = POLICY
        self.advice = advice
        self.say = say
        self.stop = stop
        self.odd_etags: set[str] = set()  # endpoints whose ETags look like MD5s and are none
        self._endpoints = list(endpoints)
        self._sessions: list[requests.Session] = []
        self._local = threading.local()
        self._lock = threading.Lock()

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions:
            session.close()

    @property
    def session(self) -> requests.Session:
        """That of this thread: sessions are not made for several."""
        if not hasattr(self._local, "session"):
            self._local.session = open_session()
            with self._lock:
                self._sessions.append(self._local.session)
        return self._local.session

    def fetch(self, model: str, file: File, trusted: str | None, part: Part, on_length: Callable[[int], None]) -> str:
        """Fill `part` with `<endpoint>/<model>/<file.path>` and verify it.

        Args:
            trusted: the file's sha256 as it was recorded when it was first downloaded, where the catalogue has none.
            on_length: called with the file's length in bytes, as soon as a server says it.

        Returns:
            The file's sha256.

        Raises:
            DownloadError: no mirror has the file, or what they have is not the one that the catalogue describes.
            CacheError, Taken: it could not be written.
        """
        failures: list[DownloadError] = []
        for endpoint in list(self._endpoints):
            try:
                return Transfer(self, endpoint, model, file, trusted, on_length).run(part)
            except DownloadError as failure:
                failures.append(failure)
                with self._lock:  # the other files need not find out by themselves
                    self._endpoints.remove(endpoint)
                    self._endpoints.append(endpoint)
        raise DownloadError(f"{'; '.join(map(str, failures))}; {self.advice}")

    def look(self, model: str, file: File, prefer: str = "") -> Source:
        """What the first mirror that answers says of a file now.

        Args:
            prefer: public address of the mirror to ask first.

        Raises:
            DownloadError: none of them answers; says why.
        """
        import requests

        failures = []
        handled = sys.exc_info()[1]
        for endpoint in sorted(self._endpoints, key=lambda endpoint: public(endpoint) != prefer):
            url = address(endpoint, model, file.path)
            timeout = (self.policy.connect_timeout, self.policy.read_timeout)
            try:
                with self.session.head(url, allow_redirects=True, timeout=timeout) as response:
                    if response.status_code == 200:
                        now = Source.of(response.headers, public(endpoint))
                        return dataclasses.replace(now, length=now.length or None)  # some say 0 of every file
                    failures.append(f"{public(url)} answers {status(response)}")
            except DownloadError as error:
                failures.append(str(error))
            except requests.RequestException as error:
                failures.append(f"{public(url)} cannot be asked: {reason(error, handled)}")
        raise DownloadError("; ".join(failures))
