"""Pipelines, under diffusers' names."""

from ppdiffusers.pipelines.class_conditional import LDMClassConditionalPipeline
from ppdiffusers.pipelines.inpaint import LDMInpaintPipeline
from ppdiffusers.pipelines.layout_to_image import LDMLayoutToImagePipeline
from ppdiffusers.pipelines.pipeline import DiffusionPipeline
from ppdiffusers.pipelines.results import DenoisingProgress, ImagePipelineOutput
from ppdiffusers.pipelines.semantic_synthesis import LDMSemanticSynthesisPipeline
from ppdiffusers.pipelines.super_resolution import LDMSuperResolutionPipeline
from ppdiffusers.pipelines.text_to_image import LDMTextToImagePipeline
from ppdiffusers.pipelines.unconditional import LDMPipeline

__all__ = [
    "DenoisingProgress",
    "DiffusionPipeline",
    "ImagePipelineOutput",
    "LDMClassConditionalPipeline",
    "LDMInpaintPipeline",
    "LDMLayoutToImagePipeline",
    "LDMPipeline",
    "LDMSemanticSynthesisPipeline",
    "LDMSuperResolutionPipeline",
    "LDMTextToImagePipeline",
]
