"""What is said of a weight file that cannot be used."""

from __future__ import annotations

from model_zoo.formats import FormatError, shorten

__all__ = ["CheckpointError", "FormatError", "shorten"]


class CheckpointError(ValueError):
    """A weight file that cannot be read or written; the message names the file, the fault and the remedy."""
