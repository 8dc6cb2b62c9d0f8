"""What every conversation with a server needs: patience, a careful session, and plain words for what went wrong."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from model_zoo.addresses import public, scrub
from model_zoo.errors import DownloadError

if TYPE_CHECKING:
    import requests


@dataclasses.dataclass(frozen=True)
class Policy:
    """How patient a download is; seconds, and bytes for `block`."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    attempts: int = 5  # in a row that brought nothing new, at each mirror
    backoff: float = 0.5  # before the second attempt, doubled before each further one
    block: int = 1 << 18  # what fits into a core's cache
    longest_wait: float = 120.0  # that a server may ask for
    lock_notice: float = 3.0  # before it is said that another process has the file
    lock_silence: float = 600.0  # without a sign of life from that process


class Stopped(Exception):
    """Another file of the model has failed, or the user has had enough."""


def open_session() -> requests.Session:
    """A session that asks for plain bytes and follows no redirect from https to http."""
    import requests  # half of the package's start-up time if it were imported above

    session = requests.Session()
    session.max_redirects = 5
    session.headers["User-Agent"] = "model_zoo"
    # A compressed answer has neither the length nor the byte positions of the file.
    session.headers["Accept-Encoding"] = "identity"
    session.hooks["response"].append(_refuse_downgrade)
    return session


def address(endpoint: str, model: str, path: str) -> str:
    """Where a file of a model lies."""
    return f"{endpoint}/{model}/{quote(path)}"


def status(response: requests.Response) -> str:
    """`HTTP 404 Not Found`, or whatever a server calls it."""
    return scrub(f"HTTP {response.status_code} {(response.reason or '')[:100]}".rstrip())


def retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait; 0 where it does not say, or not so that it can be understood."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After") or "0")
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


def reason(error: BaseException, handled: BaseException | None = None) -> str:
    """The first cause: of six wrapped exceptions, the one that says 'Connection refused'.

    Args:
        handled: what the caller of the caller was busy with, which is no cause of this.
    """
    import requests

    if isinstance(error, requests.exceptions.InvalidURL):  # it may quote half of a password
        return (
            "a redirect, or the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, is no address such as"
            " http://user:password@host:8080 (in a password, / is %2F and @ is %40)"
        )
    while (cause := error.__cause__ or error.__context__) is not None and cause is not handled:
        error = cause
    return scrub(str(error)) or type(error).__name__


def _refuse_downgrade(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    """Hook of the session, called before a redirect is followed."""
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["location"])
    if urlsplit(response.url).scheme == "https" and urlsplit(target).scheme != "https":
        response.close()
        raise DownloadError(
            f"{public(response.url)} redirects to {public(target)}, which is not https: refused, since anyone on the"
            " way could replace the file"
        )
