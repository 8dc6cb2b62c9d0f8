"""What is said of a weight file that cannot be used."""

from __future__ import annotations


class FormatError(Exception):
    """A fault inside a file, said as what the file does ("ends early"); the caller adds the name and the remedy."""


def shorten(text: object) -> str:
    """`text` for a message: a hostile file may hold names of any length, and codes that drive a terminal."""
    words = str(text)
    if len(words) > 80:
        words = words[:77] + "..."
    return words if words.isprintable() else repr(words)[1:-1]
