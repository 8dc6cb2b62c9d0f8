"""Pipelines by what they do, under diffusers' names."""

from __future__ import annotations

from typing import Any, ClassVar, Type

from ppdiffusers.config import PathLike
from ppdiffusers.pipelines.inpaint import LDMInpaintPipeline
from ppdiffusers.pipelines.pipeline import DiffusionPipeline
from ppdiffusers.pipelines.text_to_image import LDMTextToImagePipeline


class AutoPipeline:
    """Base: the pipeline for one task, of a saved one or of another's components."""

    _pipeline_class: ClassVar[Type[DiffusionPipeline]]

    @classmethod
    def from_pretrained(cls, name_or_path: PathLike, **options: Any) -> Any:
        """As of the pipeline's class.

        Raises:
            ConfigError: a saved pipeline for another task, or as of `DiffusionPipeline.from_pretrained`.
        """
        return cls._pipeline_class.from_pretrained(name_or_path, **options)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **components: Any) -> Any:
        """As of `DiffusionPipeline.from_pipe`."""
        return cls._pipeline_class.from_pipe(pipeline, **components)


class AutoPipelineForText2Image(AutoPipeline):
    """Makes an `LDMTextToImagePipeline`."""

    _pipeline_class = LDMTextToImagePipeline


class AutoPipelineForInpainting(AutoPipeline):
    """Makes an `LDMInpaintPipeline`."""

    _pipeline_class = LDMInpaintPipeline
