"""What a `model_index.json` may name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Type

from ppdiffusers.checkpoints.errors import shorten
from ppdiffusers.config import ConfigError

INDEX_FILE = "model_index.json"

# What a model_index.json may name, and where it is here. Nothing else is ever imported for one.
_LIBRARIES = ("ppdiffusers", "diffusers", "latent_diffusion", "paddlenlp.transformers", "transformers")
_COMPONENTS = {
    "AutoencoderKL": "ppdiffusers.models",
    "BertTokenizer": "ppdiffusers.tokenizer",
    "BertTokenizerFast": "ppdiffusers.tokenizer",
    "ClassEmbedder": "ppdiffusers.models",
    "LDMBertModel": "ppdiffusers.models",
    "SpatialRescaler": "ppdiffusers.models",
    "UNet2DConditionModel": "ppdiffusers.models",
    "UNet2DModel": "ppdiffusers.models",
    "VQModel": "ppdiffusers.models",
    "DDIMInverseScheduler": "ppdiffusers.schedulers",
    "DDIMScheduler": "ppdiffusers.schedulers",
    "DDPMScheduler": "ppdiffusers.schedulers",
    "DEISMultistepScheduler": "ppdiffusers.schedulers",
    "DPMSolverMultistepScheduler": "ppdiffusers.schedulers",
    "DPMSolverSinglestepScheduler": "ppdiffusers.schedulers",
    "EulerAncestralDiscreteScheduler": "ppdiffusers.schedulers",
    "EulerDiscreteScheduler": "ppdiffusers.schedulers",
    "HeunDiscreteScheduler": "ppdiffusers.schedulers",
    "LCMScheduler": "ppdiffusers.schedulers",
    "LMSDiscreteScheduler": "ppdiffusers.schedulers",
    "PNDMScheduler": "ppdiffusers.schedulers",
    "UniPCMultistepScheduler": "ppdiffusers.schedulers",
}
PIPELINES = {
    "DDIMPipeline": "ppdiffusers.pipelines.pixels",
    "DDPMPipeline": "ppdiffusers.pipelines.pixels",
    "LDMClassConditionalPipeline": "ppdiffusers.pipelines.class_conditional",
    "LDMInpaintPipeline": "ppdiffusers.pipelines.inpaint",
    "LDMLayoutToImagePipeline": "ppdiffusers.pipelines.layout_to_image",
    "LDMPipeline": "ppdiffusers.pipelines.unconditional",
    "LDMSemanticSynthesisPipeline": "ppdiffusers.pipelines.semantic_synthesis",
    "LDMSuperResolutionPipeline": "ppdiffusers.pipelines.super_resolution",
    "LDMTextToImagePipeline": "ppdiffusers.pipelines.text_to_image",
    "PNDMPipeline": "ppdiffusers.pipelines.pixels",
}


def component_class(entry: Any, folder: Path) -> Type[Any]:
    """Our class for a `["library", "ClassName"]` of a `model_index.json`."""
    library, name = entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (None, entry)
    if library not in _LIBRARIES or not isinstance(name, str) or name not in _COMPONENTS:
        raise ConfigError(
            f"{folder / INDEX_FILE} asks for {shorten(repr(name))} of {shorten(repr(library))}, which is not loaded: "
            f"ppdiffusers knows {', '.join(_COMPONENTS)} of {', '.join(_LIBRARIES)}"
        )
    return getattr(importlib.import_module(_COMPONENTS[name]), name)
