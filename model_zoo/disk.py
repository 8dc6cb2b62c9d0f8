"""Files that are written whole or not at all, for all who share a cache, by one process at a time.

Who opens a cache's folder to a group, or to all, says that they share it. What is made in such a folder gets the
permissions of the folder, as far as the umask took them away; those of the folder's group only where it has the same
group, as the set-group-ID bit of the folder provides. A folder that only its owner may write to, or that is sticky as
`/tmp` is, leaves everything to the umask.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from model_zoo.errors import CacheError

SPARE = 32 << 20  # bytes that a download leaves free
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAKING = threading.Lock()  # one thread's folder must not replace another's, which may be in use already
_POLL = 0.5  # seconds between two looks at the signs of life of a lock's owner


@contextlib.contextmanager
def writing(place: Path, *passed: int, what: str = "write") -> Iterator[None]:
    """Turn what the operating system says about `place` into advice, but for the error numbers `passed`.

    Raises:
        CacheError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in passed:
            raise
        shown = str(place) if len(str(place)) <= 300 else f"{str(place)[:300]}..."
        raise CacheError(
            f"cannot {what} {shown}: {error.strerror or error}; free or repair that place, or choose another folder"
            " with MODEL_ZOO_HOME"
        ) from error


reading = functools.partial(writing, what="read")


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a small file in one step: it is there whole, or as it was before.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name.lstrip('.')}.{token()}.tmp")
    try:
        with open(part, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            if durable:
                sync(stream.fileno())
        share(part)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def token() -> str:
    """Eight hexadecimal digits that nobody else has."""
    return os.urandom(4).hex()


def sync(descriptor: int) -> None:
    """Have a file's bytes on the disk before this returns, where the file system can promise that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk before this returns; Windows cannot be asked to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def check_space(folder: Path, need: int, spare: int = SPARE) -> None:
    """See that `need` bytes more fit into `folder`, which need not exist, and leave `spare` bytes free.

    Raises:
        CacheError: they do not.
    """
    import shutil  # loads every kind of compression

    place = next((place for place in (folder, *folder.parents) if os.path.isdir(place)), None)
    if place is None or need <= 0:
        return
    with writing(place):
        usage = shutil.disk_usage(place)
    if usage.total and usage.free < need + spare:  # some network file systems know neither
        raise CacheError(
            f"{place} has {usage.free / 1e6:,.0f} MB free, and {need / 1e6:,.0f} MB are still to come (with"
            f" {spare / 1e6:,.0f} MB to spare); free space there, or choose another folder with MODEL_ZOO_HOME"
        )


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that it holds, as far as that can be done."""
    import shutil  # loads every kind of compression

    shutil.rmtree(folder, ignore_errors=True)


def files_in(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Whatever a folder holds but folders, at any depth, in order, and whether it is a regular file; a link is none,
    wherever it leads."""
    for parent, inner, names in os.walk(folder):
        inner.sort()
        for path in (Path(parent, name) for name in (*inner, *sorted(names))):
            mode = path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                yield path, stat.S_ISREG(mode)


# Shared caches


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are not there yet.

    Raises:
        OSError: one cannot be made.
    """
    with _MAKING:
        missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
        for place in reversed(missing):
            if not _is_shared(place.parent):
                place.mkdir(exist_ok=True)
                continue
            new = place.with_name(f".{token()}.new")  # has its permissions before anybody finds it
            new.mkdir()
            try:
                share(new)
                os.rename(new, place)
            except OSError:
                new.rmdir()
                if not place.is_dir():  # nobody else has made it meanwhile
                    raise


def share(path: Path) -> None:
    """Open a file or folder that was just made to those to whom the folder around it is open."""
    with contextlib.suppress(OSError):  # another user's, or of a file system without permissions
        if not _is_shared(path.parent):
            return
        around = path.parent.stat()
        # Not by its name: whoever may write here could have put a link to another file of ours there by now.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            made = os.fstat(descriptor)
            given = around.st_mode & 0o777
            if made.st_gid != around.st_gid:  # to the folder, this group are others
                given = given & ~0o070 | (given & 0o007) << 3
            if stat.S_ISDIR(made.st_mode):
                os.fchmod(descriptor, stat.S_IMODE(made.st_mode) | given)
            elif stat.S_ISREG(made.st_mode) and made.st_nlink == 1:
                os.fchmod(descriptor, stat.S_IMODE(made.st_mode) | given & 0o666)
        finally:
            os.close(descriptor)


def _is_shared(folder: Path) -> bool:
    mode = folder.stat().st_mode
    return os.name == "posix" and bool(mode & _OTHERS_WRITE) and not mode & stat.S_ISVTX


# Locks


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
    held = False
    with contextlib.suppress(OSError, NotImplementedError):
        make_folder(path.parent)
        lock = filelock.FileLock(str(path))
        begun = heard = time.monotonic()
        last, noticed = sign(), False
        while not held and time.monotonic() - heard < silence:
            try:
                lock.acquire(timeout=_POLL, poll_interval=0.05)
                held = True
            except filelock.Timeout:
                current = sign()
                if current != last:
                    last, heard = current, time.monotonic()
                if not noticed and time.monotonic() - begun >= patience:
                    noticed = True
                    notice()
    alone = held and not _second_lock(path)
    share(path)  # some releases of filelock set its permissions at every try
    try:
        yield alone
    finally:
        if held:
            with contextlib.suppress(OSError):
                lock.release()


def _second_lock(path: Path) -> bool:
    """Whether a second lock on the same file is granted, as none must be."""
    import filelock

    second = filelock.FileLock(str(path))
    try:
        second.acquire(timeout=0)
    except OSError as error:
        return not isinstance(error, filelock.Timeout)
    second.release()
    return True
