"""Bring the files of a model: several at once, each by one process at a time, from mirrors that may fail."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Callable

from model_zoo import cache, disk, http
from model_zoo.digests import Source
from model_zoo.errors import CacheError, DownloadError, public, scrub, size_text
from model_zoo.formats.scan import is_page
from model_zoo.http import Answer, Unreachable
from model_zoo.manifest import File, Model
from model_zoo.part import Part, Taken, bytes_left, progress_of

_LOG = logging.getLogger("model_zoo")
# Seconds for threads to put down what they hold, after an error or Ctrl-C. One that waits for the network may take
# longer; the process may end before it does, since parts are safe at any time.
_FAREWELL = 2.0


class Stopped(Exception):
    """The user has had enough, or no mirror is left."""


class _Retry(Exception):
    """What went wrong may go right next time, at the earliest after so many seconds."""

    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after


def look(client: http.Client, endpoints: Iterable[str], model: Model, file: File, prefer: str = "") -> Source:
    """What the first mirror that answers says of a file now.

    Args:
        prefer: public address of the mirror to ask first.

    Raises:
        DownloadError: none of them answers; says why.
    """
    failures = []
    for endpoint in sorted(endpoints, key=lambda endpoint: public(endpoint) != prefer):
        url = http.address(endpoint, model.remote, file.path)
        try:
            with client.ask(url, {}, "HEAD") as answer:
                if answer.status == 200:
                    now = Source.of(answer, public(endpoint))
                    return dataclasses.replace(now, length=now.length or None)  # some say 0 of every file
                failures.append(f"{public(url)} answers {answer.said}")
        except (DownloadError, Unreachable) as error:
            failures.append(f"{public(url)} cannot be asked: {error}")
    raise DownloadError("; ".join(failures))


@dataclasses.dataclass(eq=False)
class Download:
    """The files of one model on their way, in several threads. Use it in a `with` statement.

    Args:
        model: whose files.
        home: the folder that nothing is written out of.
        folder: the model's own.
        mirrors: base addresses in the order in which they are tried, and what to do if none of them has a file.
        shown: whether there is a progress bar; None leaves that to the terminal.
        force: fetch files that are here, too.

    Files whose hashes the catalogue does not know are of one moment: if one of them changes at its source before all
    of them are here, it is fetched again.
    """

    model: Model
    home: Path
    folder: Path
    mirrors: tuple[list[str], str]
    shown: bool | None
    force: bool = False

    def __post_init__(self) -> None:
        self.policy = http.POLICY
        self.endpoints, self.advice = self.mirrors
        self.stop = threading.Event()
        self.odd_etags: set[str] = set()  # endpoints whose ETags look like MD5s and are none
        self.dead: set[str] = set()  # endpoints that no attempt got through to
        self._lock = threading.Lock()
        self._local = threading.local()
        self._clients: list[http.Client] = []

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exception: object) -> None:
        for client in self._clients:
            client.close()

    @property
    def client(self) -> http.Client:
        """That of this thread."""
        if not hasattr(self._local, "client"):
            self._local.client = http.Client(self.policy)
            self._clients.append(self._local.client)
        return self._local.client

    def bring(self, files: Sequence[File], jobs: int) -> None:
        """Bring `files` into the model's folder; each appears there whole and verified, or not at all.

        Raises:
            DownloadError: files could not be had, or were not those that the catalogue describes.
            CacheError: they could not be written.
        """
        cache.check_place(self.home, self.folder, self.model)
        left = {file: bytes_left(self.folder / file.path, file.sha256 is not None) for file in files}
        disk.check_space(self.folder, sum(max(0, (file.nominal_size or 0) - left[file]) for file in files))
        recorded = cache.records(self.folder, files)
        new = [file for file in files if file.sha256 is None and (self.force or file.path not in recorded)]
        self.progress = _Progress(self.model.name, files, self.shown)
        try:
            for _ in range(3):
                self._run([functools.partial(self._bring, file) for file in files], jobs)
                files = self._outdated(new, jobs) if new else []
                if not files:
                    break
                for file in files:
                    cache.forget(self.folder, file)
            else:
                raise DownloadError(
                    f"{files[0].path} of {self.model.name} keeps changing at its source; try again later"
                )
            if new:
                self.progress.say(
                    f"unverified: first use, recorded: the catalogue knows no sha256 of {len(new)} of the"
                    f" {len(self.model.files)} files of {self.model.name}; from now on `model-zoo verify` compares with"
                    " what came",
                    logging.INFO,
                )
        finally:
            self.progress.close()

    def _run(self, tasks: Iterable[Callable[[], None]], workers: int) -> None:
        """Run tasks in threads. One that fails does not keep the others from coming to their end."""
        waiting = collections.deque(tasks)
        failures: list[BaseException] = []

        def work() -> None:
            while not self.stop.is_set():
                try:
                    task = waiting.popleft()
                except IndexError:
                    return  # nothing is left to do
                try:
                    task()
                except Stopped:
                    return
                except BaseException as error:
                    failures.append(error)
                    if not isinstance(error, DownloadError) or self.dead.issuperset(self.endpoints):
                        self.stop.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(waiting)))]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not self.stop.is_set():
                for thread in threads:
                    thread.join(0.05)
        finally:
            if any(thread.is_alive() for thread in threads):
                self.stop.set()
                end = time.monotonic() + _FAREWELL
                for thread in threads:
                    if thread.ident is not None:
                        thread.join(max(0.0, end - time.monotonic()))
        for failure in failures:
            if not isinstance(failure, DownloadError):
                raise failure
        if failures:
            said = [str(failure) for failure in failures[:3]]
            more = f"; and {len(failures) - 3} more files" if len(failures) > 3 else ""
            raise DownloadError("; ".join(dict.fromkeys(said)) + f"{more}; {self.advice}")

    def _bring(self, file: File) -> None:
        """Bring one file, unless another process does so first."""
        destination = self.folder / file.path
        lock_file = cache.locks_of(self.folder, self.home) / f"{file.path}.lock"

        def sign() -> object:
            if self.stop.is_set():
                raise Stopped
            return progress_of(destination)

        said = f"waiting for another process that downloads {file.path} of {self.model.name} (it locks {lock_file})"
        notice = functools.partial(self.progress.say, said)
        for _ in range(3):
            with disk.hold(lock_file, sign, notice, self.policy.lock_notice, self.policy.lock_silence) as alone:
                if not self.force and not cache.missing_files(self.model, self.folder, [file]):
                    size = destination.stat().st_size
                    self.progress.length(file.path, size)
                    self.progress.gained(size, True)
                    return
                known = None if self.force else cache.records(self.folder, [file]).get(file.path)
                trusted = file.sha256 or (known.sha256 if known else None)
                with Part(destination, alone, trusted is not None, self.progress.gained) as part:
                    with contextlib.suppress(Taken):
                        sha256 = self._from_mirrors(file, trusted, part)
                        cache.write_record(self.folder, cache.Record(file.path, part.size, sha256, part.source))
                        part.publish()
                        return
        raise CacheError(f"{destination} keeps being replaced by other processes; try again when they are done")

    def _from_mirrors(self, file: File, trusted: str | None, part: Part) -> str:
        """Fill `part`; the file's sha256."""
        failures: list[DownloadError] = []
        for endpoint in list(self.endpoints):
            try:
                return _Transfer(self, endpoint, file, trusted).run(part)
            except DownloadError as failure:
                failures.append(failure)
                with self._lock:  # the other files need not find out by themselves
                    self.endpoints.remove(endpoint)
                    self.endpoints.append(endpoint)
        raise DownloadError("; ".join(map(str, failures)))

    def _outdated(self, new: Sequence[File], jobs: int) -> list[File]:
        """Files that must be fetched again lest the model be a mixture of two versions of it.

        Raises:
            DownloadError: the model was complete here before, and `new` files do not go with what it was.
        """
        recorded = cache.records(self.folder, self.model.files)
        changed: list[File] = []

        def ask(file: File, source: Source) -> None:
            with contextlib.suppress(DownloadError):  # nobody says that it has changed
                now = look(self.client, self.endpoints, self.model, file, source.endpoint)
                if source.change(now) is not None:
                    changed.append(file)

        unsure = [file for file in self.model.files if file.sha256 is None and file.path in recorded]
        sources = ((file, recorded[file.path].source) for file in unsure)
        self._run([functools.partial(ask, file, source) for file, source in sources if source], jobs)
        settled = {} if self.force else cache.marked(self.folder)
        kept = sorted(file.path for file in changed if file.path in settled)
        if kept:
            for file in new:
                cache.forget(self.folder, file)
            raise DownloadError(
                f"{', '.join(kept)} of {self.model.name} changed at its source since it was downloaded, so new files do"
                f" not go with it; `model-zoo download --force {self.model.name}` brings the new version of all"
            )
        return changed


class _Transfer:
    """The attempts at one file at one mirror: ask for what is missing, write it down, verify it."""

    def __init__(self, work: Download, endpoint: str, file: File, trusted: str | None):
        self.work, self.file, self.sha256 = work, file, trusted
        self.base, self.endpoint = endpoint, public(endpoint)
        self.url = http.address(endpoint, work.model.remote, file.path)
        self.misplaced = 0
        self.mixed = False
        self.doubted: str | None = None

    def run(self, part: Part) -> str:
        """Attempt until all bytes are there; the count of attempts starts again whenever one got on."""
        policy = self.work.policy
        best, failures = part.size, 0
        while True:
            begun = time.monotonic()
            try:
                self._attempt(part)
                return self._verified(part)
            except _Retry as error:
                retry = error
            except Unreachable as error:
                retry = _Retry(str(error))
            # Not merely more than last time: a server that ignores Range brings the same bytes again and again, and
            # one that drips never comes to an end.
            got_on = part.size > best + policy.slowest * max(0.0, time.monotonic() - begun - policy.read_timeout)
            failures = 1 if got_on else failures + 1
            best = max(best, part.size)
            if failures >= policy.attempts:
                self.work.dead.add(self.base)
                raise self._failure(f"could not be downloaded: {retry}")
            if retry.after > policy.longest_wait:
                raise self._failure(f"could not be downloaded: {retry}, and asks to come back in {retry.after:.0f} s")
            backoff = policy.backoff * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
            if retry.after > max(backoff, 2.0):
                self.work.progress.say(f"{public(self.url)}: {retry}; it asks to wait {retry.after:.0f} s")
            if self.work.stop.wait(max(backoff, retry.after)):
                raise Stopped

    def _failure(self, what: str) -> DownloadError:
        return DownloadError(f"{public(self.url)} {what}")

    def _attempt(self, part: Part) -> None:
        if part.source is not None and part.size == part.source.length:
            self._begin(part, part.source)  # a part that lacks nothing but its last rename
            return
        with self.work.client.ask(self.url, self._range(part)) as answer:
            if answer.status == 416 and self._is_all(answer, part):
                return
            self._check_status(answer, part)
            if answer.status == 206:
                self._continue(answer, part)
            else:
                self._start(answer, part)
            self._drain(answer, part)

    def _range(self, part: Part) -> dict[str, str]:
        """What asks for the missing bytes; without any, or if they could be of another version, for all."""
        if part.size and part.source is not None:
            if self._hash_decides(part):
                return {"Range": f"bytes={part.size}-"}
            if part.source.validator is not None:
                return {"Range": f"bytes={part.size}-", "If-Range": part.source.validator}
            part.restart()
        return {}

    def _hash_decides(self, part: Part) -> bool:
        """Whether bytes may follow that could be of another version, since a known hash will find that out: those of
        another mirror, or of a server that does not name its versions."""
        source = part.source
        mirrored = source is not None and (source.endpoint != self.endpoint or source.validator is None)
        return mirrored and self.sha256 is not None

    def _check_status(self, answer: Answer, part: Part) -> None:
        code = answer.status
        if code in (304, 416) or (code == 206 and not part.size):
            part.restart()
            raise _Retry(answer.said)
        if code in (408, 425, 429) or code >= 500:
            raise _Retry(answer.said, http.retry_after(answer))
        if code in (404, 410):
            raise self._failure(f"does not exist ({answer.said})")
        if code not in (200, 206):
            raise self._failure(f"was refused ({answer.said})")
        if answer.encoding:
            raise self._failure(f"was sent as {scrub(answer.encoding)[:100]} although the plain file was asked for")
        kind = answer.header("Content-Type").strip().lower()
        if kind.startswith("multipart/byteranges"):
            part.restart()
            raise _Retry("the server sent several ranges where one was asked for")
        if self.sha256 is None and kind.startswith("text/html") and not self.file.path.endswith((".html", ".htm")):
            raise self._failure("is a web page, perhaps a login page of the network")

    def _is_all(self, answer: Answer, part: Part) -> bool:
        """Whether the server has no more bytes than are here: a length that was promised too long kept us asking."""
        if part.source is None or answer.header("Content-Range") != f"bytes */{part.size}":
            return False
        now = Source.of(answer, self.endpoint, part.size)
        agreed = dataclasses.replace(part.source, length=part.size).agrees(now)
        if self.file.wrong_size(part.size) or not agreed:
            return False
        self._begin(part, dataclasses.replace(part.source, length=part.size))
        return True

    def _start(self, answer: Answer, part: Part) -> None:
        """Begin with the whole file, which a server may send even if only its end was asked for."""
        part.restart()
        if answer.header("Content-Range"):
            raise _Retry("the server sent a range and called it the whole file")
        source = Source.of(answer, self.endpoint)
        chunked = "chunked" in answer.header("Transfer-Encoding").lower()
        if source.length is None and not chunked and self.file.size is None and self.sha256 is None:
            raise self._failure("comes without a length, so that a cut could not be told from its end")
        wrong = self.file.wrong_size(source.length) if source.length is not None else None
        if wrong:
            raise self._failure(f"{wrong}: it is another version, or a page came in its place")
        self._begin(part, source if self.file.size is None else dataclasses.replace(source, length=self.file.size))

    def _continue(self, answer: Answer, part: Part) -> None:
        """Go on where the part ends, if that is what came."""
        assert part.source is not None
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", answer.header("Content-Range"), re.ASCII)
        if found is None or int(found[1]) != part.size:
            self.misplaced += 1
            if self.misplaced > 1:  # once may be a mishap, twice is a server that cannot do it
                part.restart()
            raise _Retry("the server went on at another place of the file")
        source = Source.of(answer, self.endpoint, int(found[3]))
        mixed = self._hash_decides(part)
        same = part.source.agrees(source) and part.source.validator in (source.etag, source.date)
        if part.source.length not in (None, source.length) or not (mixed or same):
            part.restart()
            raise _Retry("the server went on with another version of the file")
        self.mixed = self.mixed or mixed
        # What digests the header of a piece holds may be those of the piece.
        self._begin(part, dataclasses.replace(source, digests={}) if mixed else part.source)

    def _begin(self, part: Part, source: Source) -> None:
        if source.length is not None:
            self.work.progress.length(self.file.path, source.length)
        names = {"sha256"}
        if self.sha256 is None:
            names.update(source.digests, ["md5"] if source.etag_md5 else [])
        part.begin(source, names)

    def _drain(self, answer: Answer, part: Part) -> None:
        """Write what comes, as it comes. Without a length, what is too long for the catalogue is cut off."""
        assert part.source is not None
        policy, length, begun, first = self.work.policy, part.source.length, time.monotonic(), part.size
        limit = length
        if limit is None:
            known = self.file.approximate_size
            limit = known + self.file.slack if known is not None else 1 << 40
        while True:
            if self.work.stop.is_set():
                raise Stopped
            try:
                block = answer.read(policy.block)
            except Unreachable as error:
                raise _Retry(f"{error} after {part.size} of {length or '?'} bytes") from None
            if not block:
                break
            if part.size == 0 and is_page(self.file.path, block):
                raise self._failure("is a web page, perhaps a login page of the network")
            if part.size + len(block) > limit:
                part.restart()
                raise _Retry(f"more than the promised {limit} bytes came")
            part.write(block)
            elapsed = time.monotonic() - begun
            if elapsed > policy.read_timeout and part.size - first < policy.slowest * (elapsed - policy.read_timeout):
                raise _Retry(f"it drips: {size_text(part.size - first)} in {elapsed:.0f} s")
        if length is None:
            part.begin(dataclasses.replace(part.source, length=part.size), ())
        elif part.size < length:
            raise _Retry(f"the connection closed after {part.size} of {length} bytes")

    def _verified(self, part: Part) -> str:
        """The sha256 of all bytes, which are what they should be.

        Where no sha256 is known, whatever the server said of them, their number and the container's own structure
        must do.
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
            return self.file.wrong_size(part.size) or part.complaint()
        if found["sha256"] == self.sha256:
            return None
        then, advice = "as catalogued", ""
        if not self.file.sha256:
            then = "as when it was first downloaded"
            advice = f"; `model-zoo download --force {self.work.model.name}` takes all of it anew"
        return f"has the sha256 {found['sha256']}, not {self.sha256} {then}: it was damaged or changed{advice}"

    def _compare_etag(self, part: Part, found: Mapping[str, str]) -> None:
        """An ETag that looks like an MD5 and is none of these bytes has them fetched again, and if they are the same
        bytes then, it is none of any bytes at this mirror."""
        assert part.source is not None
        claimed = part.source.etag_md5
        if claimed is None or claimed == found["md5"] or self.endpoint in self.work.odd_etags:
            return
        if self.doubted == found["sha256"]:
            self.work.odd_etags.add(self.endpoint)
            return
        self.doubted = found["sha256"]
        part.restart()
        raise _Retry(f"it has the MD5 {found['md5']}, and its ETag is {claimed}")


class _Progress:
    """What a user sees of a download: a bar on a terminal, and otherwise only what matters. For several threads.

    Args:
        name: of the model.
        files: those to come; what is known of their sizes makes the total, until servers know better.
        shown: whether there is a bar; None shows it where stderr is a terminal.
    """

    def __init__(self, name: str, files: Iterable[File], shown: bool | None):
        from tqdm import tqdm  # type: ignore[import-untyped]  # here, since only a download needs it

        self._lengths = {file.path: file.nominal_size or 0 for file in files}
        self._lock = threading.Lock()
        self.shown = sys.stderr is not None and sys.stderr.isatty() if shown is None else shown
        self._bar = tqdm(
            total=sum(self._lengths.values()),
            desc=name,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not self.shown,
        )

    def close(self) -> None:
        with self._lock:
            self._bar.close()

    def gained(self, count: int, before: bool) -> None:
        """So many bytes came, or were there `before` and are no rate; negative if they must come again."""
        with self._lock:
            if before and self.shown:
                self._bar.initial += count
            self._bar.update(count)

    def length(self, path: str, length: int) -> None:
        """A file has turned out to have this length."""
        with self._lock:
            if self.shown:
                self._bar.total += length - self._lengths.get(path, 0)
                self._lengths[path] = length
                self._bar.refresh()

    def say(self, text: str, level: int = logging.WARNING) -> None:
        """Tell the user something: what cannot wait, or what is good to know."""
        with self._lock:
            if self.shown:
                self._bar.write(text, file=sys.stderr)
            else:
                _LOG.log(level, "%s", text)
