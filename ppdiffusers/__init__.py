"""Latent diffusion (arXiv 2112.10752) in PaddlePaddle, under diffusers' names.

Names are imported when they are first used: `import ppdiffusers` alone does not import paddle.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, List

try:
    from paddle_latent_diffusion import refuse_mixture
except ModuleNotFoundError:  # the package's folder alone is on the path: no environment, and no mixture
    pass
else:
    refuse_mixture(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ppdiffusers.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from ppdiffusers.checkpoints import CheckpointError
    from ppdiffusers.config import ConfigError
    from ppdiffusers.conversion.convert import convert
    from ppdiffusers.image_processor import VaeImageProcessor
    from ppdiffusers.images import ImageError, open_image
    from ppdiffusers.inference import compile_model
    from ppdiffusers.layout import LayoutBox
    from ppdiffusers.models import (
        AutoencoderKL,
        ClassEmbedder,
        LDMBertModel,
        SpatialRescaler,
        UNet2DConditionModel,
        UNet2DModel,
        VQModel,
    )
    from ppdiffusers.optimization import get_scheduler
    from ppdiffusers.pipelines import (
        AutoPipelineForInpainting,
        AutoPipelineForText2Image,
        DDIMPipeline,
        DDPMPipeline,
        DiffusionPipeline,
        ImagePipelineOutput,
        LDMClassConditionalPipeline,
        LDMInpaintPipeline,
        LDMLayoutToImagePipeline,
        LDMPipeline,
        LDMSemanticSynthesisPipeline,
        LDMSuperResolutionPipeline,
        LDMTextToImagePipeline,
        PNDMPipeline,
    )
    from ppdiffusers.pipelines.latent_diffusion import LDMBertConfig
    from ppdiffusers.random import Generator
    from ppdiffusers.schedulers import (
        DDIMInverseScheduler,
        DDIMScheduler,
        DDPMScheduler,
        DEISMultistepScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSinglestepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        LCMScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )
    from ppdiffusers.threads import get_num_threads, set_num_threads
    from ppdiffusers.tokenizer import BertTokenizer
    from ppdiffusers.training_utils import EMAModel
    from ppdiffusers.utils import load_image

_HOMES = {
    "AutoPipelineForInpainting": "pipelines",
    "AutoPipelineForText2Image": "pipelines",
    "AutoencoderKL": "models",
    "BertTokenizer": "tokenizer",
    "CheckpointError": "checkpoints",
    "ClassEmbedder": "models",
    "ConfigError": "config",
    "DDIMInverseScheduler": "schedulers",
    "DDIMPipeline": "pipelines",
    "DDIMScheduler": "schedulers",
    "DDPMPipeline": "pipelines",
    "DDPMScheduler": "schedulers",
    "DEISMultistepScheduler": "schedulers",
    "DPMSolverMultistepScheduler": "schedulers",
    "DPMSolverSinglestepScheduler": "schedulers",
    "DiffusionPipeline": "pipelines",
    "EMAModel": "training_utils",
    "EulerAncestralDiscreteScheduler": "schedulers",
    "EulerDiscreteScheduler": "schedulers",
    "Generator": "random",
    "HeunDiscreteScheduler": "schedulers",
    "ImageError": "images",
    "ImagePipelineOutput": "pipelines",
    "LCMScheduler": "schedulers",
    "LDMBertConfig": "pipelines.latent_diffusion",
    "LDMBertModel": "models",
    "LDMClassConditionalPipeline": "pipelines",
    "LDMInpaintPipeline": "pipelines",
    "LDMLayoutToImagePipeline": "pipelines",
    "LDMPipeline": "pipelines",
    "LDMSemanticSynthesisPipeline": "pipelines",
    "LDMSuperResolutionPipeline": "pipelines",
    "LDMTextToImagePipeline": "pipelines",
    "LMSDiscreteScheduler": "schedulers",
    "LayoutBox": "layout",
    "PNDMPipeline": "pipelines",
    "PNDMScheduler": "schedulers",
    "SpatialRescaler": "models",
    "UNet2DConditionModel": "models",
    "UNet2DModel": "models",
    "UniPCMultistepScheduler": "schedulers",
    "VQModel": "models",
    "VaeImageProcessor": "image_processor",
    "compile_model": "inference",
    "convert": "conversion",
    "get_num_threads": "threads",
    "get_scheduler": "optimization",
    "load_image": "utils",
    "open_image": "images",
    "set_num_threads": "threads",
}

__all__ = [
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "AutoencoderKL",
    "BertTokenizer",
    "CheckpointError",
    "ClassEmbedder",
    "ConfigError",
    "DDIMInverseScheduler",
    "DDIMPipeline",
    "DDIMScheduler",
    "DDPMPipeline",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DiffusionPipeline",
    "EMAModel",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "Generator",
    "HeunDiscreteScheduler",
    "ImageError",
    "ImagePipelineOutput",
    "LCMScheduler",
    "LDMBertConfig",
    "LDMBertModel",
    "LDMClassConditionalPipeline",
    "LDMInpaintPipeline",
    "LDMLayoutToImagePipeline",
    "LDMPipeline",
    "LDMSemanticSynthesisPipeline",
    "LDMSuperResolutionPipeline",
    "LDMTextToImagePipeline",
    "LMSDiscreteScheduler",
    "LayoutBox",
    "PNDMPipeline",
    "PNDMScheduler",
    "SpatialRescaler",
    "UNet2DConditionModel",
    "UNet2DModel",
    "UniPCMultistepScheduler",
    "VQModel",
    "VaeImageProcessor",
    "__version__",
    "compile_model",
    "convert",
    "get_num_threads",
    "get_scheduler",
    "load_image",
    "open_image",
    "set_num_threads",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ppdiffusers' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ppdiffusers.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(__all__)
