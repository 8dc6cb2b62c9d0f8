"""Pipelines, under diffusers' names."""

from ppdiffusers.aliases import answer_to
from ppdiffusers.pipelines.auto import AutoPipelineForInpainting, AutoPipelineForText2Image
from ppdiffusers.pipelines.class_conditional import LDMClassConditionalPipeline
from ppdiffusers.pipelines.inpaint import LDMInpaintPipeline
from ppdiffusers.pipelines.layout_to_image import LDMLayoutToImagePipeline
from ppdiffusers.pipelines.pipeline import DiffusionPipeline
from ppdiffusers.pipelines.pixels import DDIMPipeline, DDPMPipeline, PNDMPipeline
from ppdiffusers.pipelines.results import DenoisingProgress, ImagePipelineOutput
from ppdiffusers.pipelines.semantic_synthesis import LDMSemanticSynthesisPipeline
from ppdiffusers.pipelines.super_resolution import LDMSuperResolutionPipeline
from ppdiffusers.pipelines.text_to_image import LDMTextToImagePipeline
from ppdiffusers.pipelines.unconditional import LDMPipeline

__all__ = [
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "DDIMPipeline",
    "DDPMPipeline",
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
    "PNDMPipeline",
]

# As diffusers calls the files; `latent_diffusion` is a module of its own.
answer_to(
    __name__, "pipeline_utils", "pipeline_output", "auto_pipeline", "ddim", "ddpm", "pndm", "latent_diffusion_uncond"
)
