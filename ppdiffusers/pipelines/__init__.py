"""Pipelines, under diffusers' names."""

from ppdiffusers.pipelines.pipeline import DenoisingProgress, DiffusionPipeline, ImagePipelineOutput
from ppdiffusers.pipelines.super_resolution import LDMSuperResolutionPipeline
from ppdiffusers.pipelines.text_to_image import LDMTextToImagePipeline
from ppdiffusers.pipelines.unconditional import LDMPipeline

__all__ = [
    "DenoisingProgress",
    "DiffusionPipeline",
    "ImagePipelineOutput",
    "LDMPipeline",
    "LDMSuperResolutionPipeline",
    "LDMTextToImagePipeline",
]
