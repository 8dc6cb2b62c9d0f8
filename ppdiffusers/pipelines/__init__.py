"""Pipelines, under diffusers' names."""

from ppdiffusers.pipelines.pipeline import DenoisingProgress, DiffusionPipeline, ImagePipelineOutput
from ppdiffusers.pipelines.super_resolution import LDMSuperResolutionPipeline

__all__ = ["DenoisingProgress", "DiffusionPipeline", "ImagePipelineOutput", "LDMSuperResolutionPipeline"]
