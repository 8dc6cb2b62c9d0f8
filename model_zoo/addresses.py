"""Addresses as they may be shown: user names, passwords and the tokens of queries are nobody's business."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def public(url: str) -> str:
    """An address without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return scrub(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def scrub(text: str) -> str:
    """A message of somebody else's with every address in it made public, whatever quotes are around it."""
    text = re.sub(r"//[^/\s'\"<>]*@", "//", text)
    return re.sub(r"((?:\w+:/)?/[^\s?'\"<>]*)\?[^\s'\"<>)]*", r"\1", text)
