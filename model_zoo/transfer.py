"""The attempts at one file at one mirror: ask for what is missing, write it down, verify it."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from model_zoo.addresses import public, scrub
from model_zoo.errors import DownloadError
from model_zoo.formats import scan as checks
from model_zoo.manifest import File
from model_zoo.part import Part
from model_zoo.source import Source
from model_zoo.web import Stopped, address, reason, retry_after, status

if TYPE_CHECKING:
    import requests

    from model_zoo.hub import Hub


class _Retry(Exception):
    """What went wrong may go right next time, at the earliest after so many seconds."""

    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after


class Transfer:
    """One file at one mirror, for `Hub.fetch`."""

    def __init__(
        self,
        hub: Hub,
        endpoint: str,
        model: str,
        file: File,
        trusted: str | None,
        on_length: Callable[[int], None],
    ):
        self.hub = hub
        self.endpoint = public(endpoint)
        self.url = address(endpoint, model, file.path)
        self.file = file
        self.sha256 = file.sha256 or trusted
        self.on_length = on_length
        self.misplaced = 0
        self.mixed = False
        self.doubted: str | None = None

    def run(self, part: Part) -> str:
        """Attempt until all bytes are there; the count of attempts starts again whenever one brings new bytes."""
        policy = self.hub.policy
        best, failures = part.size, 0
        while True:
            try:
                self._attempt(part)
                return self._verified(part)
            except _Retry as error:
                retry = error
            failures = 1 if part.size > best else failures + 1
            # Not merely more than last time: a server that ignores Range brings the same bytes again and again.
            best = max(best, part.size)
            if failures >= policy.attempts:
                raise self._failure(f"could not be downloaded: {retry}")
            if retry.after > policy.longest_wait:
                raise self._failure(f"could not be downloaded: {retry}, and asks to come back in {retry.after:.0f} s")
            self._pause(retry, policy.backoff * 2 ** (failures - 1) * random.uniform(0.75, 1.25))

    def _failure(self, what: str) -> DownloadError:
        return DownloadError(f"{public(self.url)} {what}")

    def _pause(self, retry: _Retry, backoff: float) -> None:
        if retry.after > max(backoff, 2.0):
            self.hub.say(f"{public(self.url)}: {retry}; it asks to wait {retry.after:.0f} s")
        if self.hub.stop.wait(max(backoff, retry.after)):
            raise Stopped

    def _attempt(self, part: Part) -> None:
        if part.source is not None and part.size == part.source.length:
            self._begin(part, part.source)  # a part that lacks nothing but its last rename
            return
        headers = self._range(part)
        with self._answer(headers) as response:
            if response.status_code == 416 and self._is_all(response, part):
                return
            self._check_status(response, part)
            if response.status_code == 206:
                self._continue(response, part)
            else:
                self._start(response, part)
            self._drain(response, part)

    def _range(self, part: Part) -> dict[str, str]:
        """What asks for the missing bytes; without any, or if they could be of another version, for all."""
        if not part.size or part.source is None:
            return {}
        if self._hash_decides(part):
            return {"Range": f"bytes={part.size}-"}
        if part.source.validator is None:
            part.restart()
            return {}
        return {"Range": f"bytes={part.size}-", "If-Range": part.source.validator}

    def _hash_decides(self, part: Part) -> bool:
        """Whether bytes may follow that could be of another version, since a known hash will find that out: those of
        another mirror, or of a server that does not name its versions."""
        source = part.source
        mirrored = source is not None and (source.endpoint != self.endpoint or source.validator is None)
        return mirrored and self.sha256 is not None

    def _answer(self, headers: dict[str, str]) -> requests.Response:
        import requests

        try:
            timeout = (self.hub.policy.connect_timeout, self.hub.policy.read_timeout)
            return self.hub.session.get(self.url, headers=headers, stream=True, timeout=timeout)
        except requests.TooManyRedirects:
            raise self._failure("is redirected in circles") from None
        except requests.RequestException as error:
            if isinstance(error, ValueError):  # an address or a redirect that no later attempt can follow
                raise self._failure(f"cannot be asked for: {reason(error)}") from None
            raise _Retry(reason(error)) from None

    def _check_status(self, response: requests.Response, part: Part) -> None:
        said = status(response)
        if response.status_code == 416 or (response.status_code == 206 and not part.size):
            part.restart()
            raise _Retry(said)
        if response.status_code in (408, 425, 429) or response.status_code >= 500:
            raise _Retry(said, retry_after(response))
        if response.status_code in (404, 410):
            raise self._failure(f"does not exist ({said})")
        if response.status_code not in (200, 206):
            raise self._failure(f"was refused ({said})")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise self._failure(f"was sent as {scrub(encoding)} although the plain file was asked for")

    def _is_all(self, response: requests.Response, part: Part) -> bool:
        """Whether the server has no more bytes than are here: a length that was promised too long kept us asking."""
        if part.source is None or response.headers.get("Content-Range") != f"bytes */{part.size}":
            return False
        if self.file.size not in (None, part.size):
            return False
        self._begin(part, dataclasses.replace(part.source, length=part.size))
        return True

    def _start(self, response: requests.Response, part: Part) -> None:
        """Begin with the whole file, which a server may send even if only its end was asked for."""
        part.restart()
        source = Source.of(response.headers, self.endpoint)
        if source.length is None:
            if self.file.size is None:
                raise self._failure("comes without a length, so that a cut could not be told from its end")
            source = dataclasses.replace(source, length=self.file.size)
        page = "text/html" in response.headers.get("Content-Type", "")
        if self.file.size is not None and source.length != self.file.size:
            what = "a web page came, perhaps a login page of the network" if page else "it is another version"
            raise self._failure(f"has {source.length} bytes, not {self.file.size} as catalogued: {what}")
        self._begin(part, source)

    def _continue(self, response: requests.Response, part: Part) -> None:
        """Go on where the part ends, if that is what came."""
        assert part.source is not None
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != part.size:
            self.misplaced += 1
            if self.misplaced > 1:  # once may be a mishap, twice is a server that cannot do it
                part.restart()
            raise _Retry("the server went on at another place of the file")
        source = Source.of(response.headers, self.endpoint, int(found[2]))
        mixed = self._hash_decides(part)
        if source.length != part.source.length or not (mixed or source.validator == part.source.validator):
            part.restart()
            raise _Retry("the server went on with another version of the file")
        self.mixed = self.mixed or mixed
        # What digests the header of a piece holds may be those of the piece.
        self._begin(part, dataclasses.replace(source, digests={}) if mixed else part.source)

    def _begin(self, part: Part, source: Source) -> None:
        assert source.length is not None
        self.on_length(source.length)
        part.keep = source.validator is not None or self.sha256 is not None
        names = {"sha256"}
        if self.sha256 is None:
            names.update(source.digests, ["md5"] if source.etag_md5 else [])
        part.begin(source, names)

    def _drain(self, response: requests.Response, part: Part) -> None:
        """Write what comes, as it comes."""
        import requests
        import urllib3

        assert part.source is not None and part.source.length is not None
        length = part.source.length
        # `read1` gives what is there; before urllib3 2.1, a cut costs what of a block had come.
        read: Callable[..., bytes] = getattr(response.raw, "read1", response.raw.read)
        while True:
            if self.hub.stop.is_set():
                raise Stopped
            try:
                block = read(self.hub.policy.block, decode_content=False)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise _Retry(f"{reason(error)} after {part.size} of {length} bytes") from None
            if not block:
                break
            if part.size == 0 and checks.is_page(self.file.path, block):
                raise self._failure("is a web page, perhaps a login page of the network")
            if part.size + len(block) > length:
                part.restart()
                raise _Retry(f"more than the promised {length} bytes came")
            part.write(block)
        if part.size < length:
            raise _Retry(f"the connection closed after {part.size} of {length} bytes")

    def _verified(self, part: Part) -> str:
        """The sha256 of all bytes, which are what they should be.

        Where no sha256 is known, whatever the server said of them and the container's own structure must do.
        """
        found = part.digests()
        wrong = self._mismatch(part, found)
        if wrong is not None:
            part.restart()
            if self.mixed:
                self.mixed = False
                raise _Retry("it is another version than the one that was begun with")
            raise self._failure(wrong)
        if self.sha256 is None:
            self._compare_etag(part, found)
        return found["sha256"]

    def _mismatch(self, part: Part, found: Mapping[str, str]) -> str | None:
        assert part.source is not None
        if self.sha256 is None:
            for name, value in part.source.digests.items():
                if found[name] != value:
                    return f"has the {name} {found[name]}, not {value} as its server says: it was damaged on the way"
            return part.complaint()
        if found["sha256"] == self.sha256:
            return None
        if self.file.sha256 is not None:
            then, advice = "as catalogued", ""
        else:
            then, advice = "as when it was first downloaded", "; `model-zoo remove` the model to have all of it anew"
        return (
            f"has the sha256 {found['sha256']}, not {self.sha256} {then}: it was damaged on the way or changed{advice}"
        )

    def _compare_etag(self, part: Part, found: Mapping[str, str]) -> None:
        """An ETag that looks like an MD5 and is none of these bytes has them fetched again, and if they are the same
        bytes then, it is none of any bytes at this mirror."""
        assert part.source is not None
        claimed = part.source.etag_md5
        if claimed is None or claimed == found["md5"] or self.endpoint in self.hub.odd_etags:
            return
        if self.doubted == found["sha256"]:
            self.hub.odd_etags.add(self.endpoint)
            return
        self.doubted = found["sha256"]
        part.restart()
        raise _Retry(f"it has the MD5 {found['md5']}, and its ETag is {claimed}")
