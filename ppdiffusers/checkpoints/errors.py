"""What is said of a weight file that cannot be used."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A weight file that cannot be read or written; the message names the file, the fault and the remedy."""


class FormatError(Exception):
    """A fault inside a file, said as what the file does ("ends early"); `open_checkpoint` adds the name and remedy."""


def shorten(text: object) -> str:
    """`text` for a message: a hostile file may hold names of any length, and codes that drive a terminal."""
    words = str(text)
    if len(words) > 80:
        words = words[:77] + "..."
    return words if words.isprintable() else repr(words)[1:-1]
