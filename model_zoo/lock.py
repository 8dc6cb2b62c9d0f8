"""One process at a time for each file of the cache, as far as the file system has locks at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from model_zoo.sharing import make_folder, share

_POLL = 0.5  # seconds between two looks at the owner's signs of life


@contextlib.contextmanager
def hold(
    path: Path, sign: Callable[[], object], notice: Callable[[], None], patience: float, silence: float
) -> Iterator[bool]:
    """Hold the lock file `path` while the body runs.

    Gives whether the lock really keeps others out. It may not: some network file systems grant every lock, others
    have none, and a lock file may be another user's. Then the body runs all the same, so it must be right without
    the lock, which only saves work. The operating system frees the lock of a process that dies.

    Args:
        sign: something that changes as long as the owner of the lock gets on.
        notice: called once, `patience` seconds after the waiting began.
        silence: seconds without a sign after which the owner is taken for dead: locks of a file server may outlive
            the machine that asked for them.
    """
    import filelock  # asyncio is among what it loads

    lock: Any = None
    try:
        make_folder(path.parent)
        lock = filelock.FileLock(str(path))
        held = _acquire(lock, sign, notice, patience, silence)
        share(path)
    except (OSError, NotImplementedError):
        held = False
    try:
        yield held and _keeps_out(path)
    finally:
        if held:
            with contextlib.suppress(OSError):
                lock.release()


def _acquire(
    lock: Any, sign: Callable[[], object], notice: Callable[[], None], patience: float, silence: float
) -> bool:
    import filelock

    begun = heard = time.monotonic()
    last, noticed = sign(), False
    while True:
        try:
            lock.acquire(timeout=_POLL, poll_interval=0.05)
            return True
        except filelock.Timeout:
            now, current = time.monotonic(), sign()
        if current != last:
            last, heard = current, now
        if now - heard >= silence:
            return False
        if now - begun >= patience and not noticed:
            noticed = True
            notice()


def _keeps_out(path: Path) -> bool:
    """Whether a second lock on the same file fails, as it must."""
    import filelock

    second = filelock.FileLock(str(path))
    try:
        second.acquire(timeout=0)
    except OSError as error:
        return isinstance(error, filelock.Timeout)
    second.release()
    return False
