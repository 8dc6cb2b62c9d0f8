"""Where pictures come from and go to: standard input, addresses, and files that appear whole."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import secrets
import time
from pathlib import Path
from typing import IO, Iterator, List, Optional
from urllib.parse import unquote, urljoin, urlsplit

from ppdiffusers.pictures.errors import ImageError

fcntl: Optional[object]
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MAX_INPUT = 1 << 28  # bytes from an address or standard input
CONNECT, SILENCE, DEADLINE = 10.0, 30.0, 300.0  # seconds: for a connection, between bytes, for all of them
_PREFIX, _SUFFIX = ".ppdiffusers-", ".part"


@contextlib.contextmanager
def publishing(target: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """`with publishing(target) as file:` a file that becomes `target` in one rename if the block succeeds.

    It is locked while it is written, so that `sweep` tells it from what a killed process left.

    Raises:
        FileExistsError: the target is there with other bytes, and `replace` is off.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, descriptor = _locked_part(target.parent)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            _publish(part, target, replace)
    finally:
        part.unlink(missing_ok=True)


def _locked_part(folder: Path) -> tuple[Path, int]:
    while True:
        part = folder / f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}"
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if _lock(descriptor) and (os.name == "nt" or os.fstat(descriptor).st_nlink):  # not swept before it was locked
            return part, descriptor
        os.close(descriptor)


def _publish(part: Path, target: Path, replace: bool) -> None:
    if not replace:
        try:
            os.link(part, target)  # fails if the target is there, where a rename would replace it
            return
        except OSError:  # also of a file system without links
            if os.path.lexists(target):
                if target.is_file() and filecmp.cmp(part, target, shallow=False):
                    return  # another process made the same, perhaps one that died before it could tell
                raise FileExistsError(f"{target} has appeared meanwhile; it is left as it is") from None
    os.replace(part, target)


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined]
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def sweep(folder: Path) -> List[Path]:
    """Remove what processes left in `folder` that were killed while writing; what was removed."""
    swept: List[Path] = []
    if fcntl is None or not folder.is_dir():
        return swept
    with os.scandir(folder) as entries:
        parts = [
            Path(entry.path) for entry in entries if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)
        ]
    for part in parts:
        try:
            descriptor = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined]
            part.unlink(missing_ok=True)
            swept.append(part)
        except OSError:  # in use, or nobody can say
            pass
        finally:
            os.close(descriptor)
    return swept


def copy_bounded(source: IO[bytes], target: IO[bytes], name: str, limit: int = MAX_INPUT) -> None:
    """All of `source`.

    Raises:
        ImageError: it has more than `limit` bytes.
    """
    total = 0
    while block := source.read(1 << 18):
        total += len(block)
        if total > limit:
            raise ImageError(f"{name} has more than {limit >> 20} MB; save it as a file first")
        target.write(block)
    target.flush()


def is_address(text: str) -> bool:
    return "://" in text and not os.path.exists(text)


def shown(url: str) -> str:
    """An address without user, password, query and fragment: those are nobody's business."""
    try:
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "an address"


def name_of(url: str) -> str:
    """A file name after the last part of an address's path, without anything that leads elsewhere."""
    last = unquote(urlsplit(url).path, errors="replace").replace("\\", "/").rstrip("/").rpartition("/")[2]
    clean = "".join(letter if letter.isprintable() and letter not in '<>:"|?*' else "_" for letter in last)
    return clean.strip(". ")[-100:] or "picture"


def fetch(url: str, target: IO[bytes], limit: int = MAX_INPUT) -> None:
    """What lies at an http or https address, at most `limit` bytes in `DEADLINE` seconds.

    Raises:
        ImageError: another kind of address, an answer other than 200, too much, too slow, cut short, or a redirect from
            https to http.
    """
    import requests  # slow to import

    name = shown(url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ImageError(f"{name} is no http or https address; give one, or a file")
    begun, total = time.monotonic(), 0

    def refuse_downgrade(response: requests.Response, *args: object, **kwargs: object) -> None:
        if response.is_redirect:
            to = urlsplit(urljoin(response.url, response.headers["location"])).scheme
            if to != "https" and (to != "http" or urlsplit(response.url).scheme == "https"):
                response.close()
                raise ImageError(f"{name} redirects to an address that is not https: refused")

    with requests.Session() as session:
        session.max_redirects = 5
        session.headers.update({"User-Agent": "ppdiffusers", "Accept": "image/*", "Accept-Encoding": "identity"})
        session.hooks["response"].append(refuse_downgrade)
        try:
            with session.get(url, stream=True, timeout=(CONNECT, SILENCE)) as response:
                if response.status_code != 200:
                    raise ImageError(f"{name} answers HTTP {response.status_code} {response.reason or ''}".rstrip())
                length = response.headers.get("Content-Length", "")
                if length.isdecimal() and int(length[:20]) > limit:
                    raise ImageError(
                        f"{name} has {int(length[:20]) >> 20} MB; the limit is {limit >> 20}: fetch it first"
                    )
                # `read1` gives what is there, so that the deadline holds for servers that drip.
                read = getattr(response.raw, "read1", None) or (lambda size, **_: response.raw.read(1024))
                while block := read(1 << 16, decode_content=False):
                    total += len(block)
                    if total > limit:
                        raise ImageError(f"{name} has more than {limit >> 20} MB, the limit: fetch it first")
                    if time.monotonic() - begun > DEADLINE:
                        raise ImageError(f"{name} did not come within {DEADLINE:.0f} s; fetch it first")
                    target.write(block)
        except ImageError:
            raise
        except Exception as error:  # of requests and of urllib3 below it, and what http.client raises for nonsense
            while (cause := error.__cause__ or error.__context__) is not None and isinstance(cause, Exception):
                error = cause
            if type(error).__name__ == "IncompleteRead":
                raise ImageError(f"{name} was cut short after {total} bytes; try again") from None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            reason = re.sub(r"\?[^\s'\")]*", "", re.sub(r"//[^/\s]*@", "//", reason))  # passwords, tokens
            raise ImageError(f"{name} cannot be fetched ({reason})") from None
    if length.isdecimal() and total < int(length[:20]):
        raise ImageError(f"{name} was cut short after {total} of {length} bytes; try again")
    target.flush()
