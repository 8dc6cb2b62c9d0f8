"""Conversion between the formats that latent diffusion models come in: CompVis' checkpoints, diffusers', ours.

A source becomes a `Bundle`, a pipeline without memory beside tensors that are not read yet, and a bundle becomes a
target; the tables between names and layouts are one module a foreign part.
"""

from ppdiffusers.conversion.convert import convert
from ppdiffusers.conversion.errors import ConversionError

__all__ = ["ConversionError", "convert"]
