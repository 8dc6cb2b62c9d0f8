"""Addresses as they may be shown: user names, passwords and the tokens of queries are nobody's business."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def public(url: str) -> str:
    """An address without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port != 0:  # asking for it checks it
            return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        pass
    # It is none. The last @ may end a password that has the slash of a path in it, or follows no scheme.
    return re.split(r"[?#]", re.sub(r"^([A-Za-z][\w+.-]*://)?.*@", r"\1", url, flags=re.DOTALL))[0]


def scrub(text: str) -> str:
    """A message of somebody else's as it may be shown: every address in it public, whatever quotes are around it, and
    nothing that a terminal would obey."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = re.sub(r"//[^/\s'\"<>]*@", "//", text)
    return re.sub(r"((?:\w+:/)?/[^\s?'\"<>]*)\?[^\s'\"<>)]*", r"\1", text)
