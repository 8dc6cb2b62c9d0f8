"""What is said of a model that cannot be converted."""

from __future__ import annotations


class ConversionError(ValueError):
    """A checkpoint or a config that has no counterpart in the other format; the message names it and the remedy."""
