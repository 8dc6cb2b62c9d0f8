"""What goes wrong with pictures."""

from __future__ import annotations


class ImageError(ValueError):
    """A picture that cannot be used; the message names it and the remedy."""
