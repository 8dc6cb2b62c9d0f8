"""Bring the missing files of a model: several at once, each by one process at a time."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Callable

from model_zoo import cache, lock
from model_zoo.errors import CacheError, DownloadError
from model_zoo.hub import Hub
from model_zoo.part import Part, Taken, bytes_left, progress_of
from model_zoo.progress import Progress
from model_zoo.registry import File, Model
from model_zoo.source import Source
from model_zoo.web import Stopped

# Seconds for threads to put down what they hold, after an error or Ctrl-C. One that waits for the network may take
# longer; the process may end before it does, since parts are safe at any time.
_FAREWELL = 2.0


def fetch(
    model: Model,
    folder: Path,
    files: Sequence[File],
    endpoints: Sequence[str],
    advice: str,
    jobs: int,
    shown: bool | None,
) -> None:
    """Bring `files` of a model into its folder; each appears there whole and verified, or not at all.

    Files whose hashes the catalogue does not know are of one moment: if one of them changes at its source before all
    of them are here, it is fetched again.

    Args:
        endpoints: mirrors in the order in which they are tried.
        advice: what a user may do if none of them has a file.
        jobs: how many files at once.
        shown: whether a progress bar is; None leaves that to the terminal.

    Raises:
        DownloadError: a file could not be had, or was not the one that the catalogue describes.
        CacheError: it could not be written.
    """
    cache.check_place(folder.parent.parent, folder, model)
    left = {file.path: bytes_left(folder / file.path) for file in files}
    cache.check_space(folder, sum(max(0, (file.nominal_size or 0) - left[file.path]) for file in files), cache.SPARE)
    stop = threading.Event()
    new = [file for file in files if cache.trusted_hash(folder, file) is None]
    with Progress(model.name, files, shown) as progress, Hub(endpoints, advice, progress.say, stop) as hub:
        for _ in range(3):
            bring = functools.partial(_bring, hub, model, folder, progress)
            _run([functools.partial(bring, file) for file in files], jobs, stop)
            files = _outdated(hub, model, folder, new, jobs) if new else []
            if not files:
                break
            for file in files:
                cache.forget(folder, file)
        else:
            raise DownloadError(f"{files[0].path} of {model.name} keeps changing at its source; try again later")
        if new:
            progress.note(
                f"recorded the sha256 of {len(new)} file{'s' if len(new) > 1 else ''} of {model.name} that the"
                " catalogue knows none of; later downloads and `model-zoo verify` compare with it"
            )


def _run(tasks: Iterable[Callable[[], None]], workers: int, stop: threading.Event) -> None:
    """Run tasks in threads; the first error ends them all and is raised."""
    waiting = collections.deque(tasks)
    failures: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
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
                stop.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(waiting)))]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not stop.is_set():
            for thread in threads:
                thread.join(0.05)
    finally:
        unfinished = stop.is_set() or any(thread.is_alive() for thread in threads)
        if unfinished:
            stop.set()
            end = time.monotonic() + _FAREWELL
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - time.monotonic()))
    if failures:
        raise failures[0]


def _bring(hub: Hub, model: Model, folder: Path, progress: Progress, file: File) -> None:
    """Bring one file, unless another process does so first."""
    destination = folder / file.path
    lock_file = cache.locks_of(folder) / f"{file.path}.lock"

    def sign() -> object:
        if hub.stop.is_set():
            raise Stopped
        return progress_of(destination)

    def notice() -> None:
        progress.say(f"waiting for another process that downloads {file.path} of {model.name} (it locks {lock_file})")

    for _ in range(3):
        with lock.hold(lock_file, sign, notice, hub.policy.lock_notice, hub.policy.lock_silence) as alone:
            if not cache.missing_files(model, folder, [file]):
                size = destination.stat().st_size
                progress.length(file.path, size)
                progress.adopted(size)
                return
            with Part(destination, alone, progress.gained, progress.adopted) as part:
                trusted = cache.trusted_hash(folder, file)
                on_length = functools.partial(progress.length, file.path)
                try:
                    sha256 = hub.fetch(model.name, file, trusted, part, on_length)
                    cache.write_record(destination, cache.Record(file.path, part.size, sha256, part.source))
                    part.publish()
                    return
                except Taken:
                    pass
    raise CacheError(f"{destination} keeps being replaced by other processes; try again when they are done")


def _outdated(hub: Hub, model: Model, folder: Path, new: Sequence[File], jobs: int) -> list[File]:
    """Files that must be fetched again lest the model be a mixture of two versions of it.

    Raises:
        DownloadError: the model was complete here before, and `new` files do not go with what it was.
    """
    recorded = cache.records(folder, model.files)
    changed: list[File] = []

    def look(file: File, source: Source) -> None:
        with contextlib.suppress(DownloadError):  # nobody says that it has changed
            if source.change(hub.look(model.name, file, source.endpoint)) is not None:
                changed.append(file)

    unsure = [file for file in model.files if file.sha256 is None and file.path in recorded]
    sources = ((file, recorded[file.path].source) for file in unsure)
    _run([functools.partial(look, file, source) for file, source in sources if source], jobs, hub.stop)
    settled = cache.marked(folder)
    kept = sorted(file.path for file in changed if file.path in settled)
    if kept:
        for file in new:
            cache.forget(folder, file)
        raise DownloadError(
            f"{', '.join(kept)} of {model.name} changed at its source since it was downloaded, so new files do not go"
            f" with it; `model-zoo remove {model.name}` and download it again to have the new version"
        )
    return changed
