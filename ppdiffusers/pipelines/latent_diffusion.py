"""Latent diffusion under the names of its own folder in ppdiffusers 0.29 and diffusers."""

from __future__ import annotations

from typing import Any

from ppdiffusers.aliases import answer_to
from ppdiffusers.config import FrozenConfig, unknown_keys
from ppdiffusers.models import LDMBertModel
from ppdiffusers.pipelines.super_resolution import LDMSuperResolutionPipeline
from ppdiffusers.pipelines.text_to_image import LDMTextToImagePipeline
from ppdiffusers.pipelines.unconditional import LDMPipeline

__all__ = ["LDMBertConfig", "LDMBertModel", "LDMPipeline", "LDMSuperResolutionPipeline", "LDMTextToImagePipeline"]


class LDMBertConfig(FrozenConfig):
    """Arguments of an `LDMBertModel`: `LDMBertModel(LDMBertConfig(vocab_size=30522, ...))`.

    Raises:
        ConfigError: an argument that the model does not know.
    """

    def __init__(self, **arguments: Any):
        keys = LDMBertModel.config_keys()
        unknown = [key for key in arguments if key not in keys and key not in LDMBertModel._legacy_config_keys]
        if unknown:
            raise unknown_keys(LDMBertModel, unknown, "LDMBertConfig(...)")
        super().__init__({key: value for key, value in arguments.items() if key in keys})

    def __reduce__(self) -> Any:
        return FrozenConfig, (dict(self),)


answer_to(__name__, "pipeline_latent_diffusion", "pipeline_latent_diffusion_superresolution")
