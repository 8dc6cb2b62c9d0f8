"""Latent diffusion (arXiv 2112.10752) in PaddlePaddle, under diffusers' names.

Names are imported when they are first used: `import ppdiffusers` alone does not import paddle.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

from ppdiffusers.version import __version__

if TYPE_CHECKING:
    from ppdiffusers.checkpoints import CheckpointError
    from ppdiffusers.config import ConfigError
    from ppdiffusers.images import ImageError, open_image
    from ppdiffusers.models import AutoencoderKL, LDMBertModel, UNet2DConditionModel, UNet2DModel, VQModel
    from ppdiffusers.pipelines import (
        DiffusionPipeline,
        ImagePipelineOutput,
        LDMPipeline,
        LDMSuperResolutionPipeline,
        LDMTextToImagePipeline,
    )
    from ppdiffusers.random import Generator
    from ppdiffusers.schedulers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
    )
    from ppdiffusers.tokenizer import BertTokenizer

_HOMES = {
    "AutoencoderKL": "models",
    "BertTokenizer": "tokenizer",
    "CheckpointError": "checkpoints",
    "ConfigError": "config",
    "DDIMScheduler": "schedulers",
    "DDPMScheduler": "schedulers",
    "DPMSolverMultistepScheduler": "schedulers",
    "DiffusionPipeline": "pipelines",
    "EulerAncestralDiscreteScheduler": "schedulers",
    "EulerDiscreteScheduler": "schedulers",
    "Generator": "random",
    "ImageError": "images",
    "ImagePipelineOutput": "pipelines",
    "LDMBertModel": "models",
    "LDMPipeline": "pipelines",
    "LDMSuperResolutionPipeline": "pipelines",
    "LDMTextToImagePipeline": "pipelines",
    "LMSDiscreteScheduler": "schedulers",
    "PNDMScheduler": "schedulers",
    "UNet2DConditionModel": "models",
    "UNet2DModel": "models",
    "VQModel": "models",
    "open_image": "images",
}

__all__ = [
    "AutoencoderKL",
    "BertTokenizer",
    "CheckpointError",
    "ConfigError",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DiffusionPipeline",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "Generator",
    "ImageError",
    "ImagePipelineOutput",
    "LDMBertModel",
    "LDMPipeline",
    "LDMSuperResolutionPipeline",
    "LDMTextToImagePipeline",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UNet2DConditionModel",
    "UNet2DModel",
    "VQModel",
    "__version__",
    "open_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ppdiffusers' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ppdiffusers.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
