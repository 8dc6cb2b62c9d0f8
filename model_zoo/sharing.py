"""A cache that several users write to: what one of them puts there, the others can use, whatever their umasks are.

Who opens a cache's folder to a group, or to all, says that they share it. What is made in such a folder gets the
permissions of the folder, as far as the umask took them away; those of the folder's group only where it has the same
group, as the set-group-ID bit of the folder provides. A folder that only its owner may write to, or that is sticky as
`/tmp` is, leaves everything to the umask.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAKING = threading.Lock()  # one thread's folder must not replace another's, which may be in use already


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are not there yet.

    Raises:
        OSError: one cannot be made.
    """
    with _MAKING:
        missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
        for place in reversed(missing):
            if _is_shared(place.parent):
                _make_shared(place)
            else:
                place.mkdir(exist_ok=True)


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


def _make_shared(place: Path) -> None:
    """Make a folder that has its permissions before anybody finds it."""
    new = place.with_name(f".{secrets.token_hex(8)}.new")
    new.mkdir()
    try:
        share(new)
        os.rename(new, place)
    except OSError:
        new.rmdir()
        if not place.is_dir():  # nobody else has made it meanwhile
            raise


def _is_shared(folder: Path) -> bool:
    mode = folder.stat().st_mode
    return os.name == "posix" and bool(mode & _OTHERS_WRITE) and not mode & stat.S_ISVTX
