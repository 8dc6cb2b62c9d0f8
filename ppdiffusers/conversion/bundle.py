"""What passes between the formats: a pipeline whose models have no memory yet, and its tensors, not read yet."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Type, TypeVar

import paddle

from ppdiffusers.checkpoints import Pending
from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.models.model import Model
from ppdiffusers.pipelines import DiffusionPipeline

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """
    Attributes:
        pipeline: carries the configs; its models are made by `without_memory`.
        tensors: by component, then by today's names; linear weights are [in, out], as Paddle has them.
    """

    pipeline: DiffusionPipeline
    tensors: Mapping[str, Mapping[str, Pending]]


def bundled(
    kind: Type[DiffusionPipeline], components: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Pending]]
) -> Bundle:
    """A bundle of these components.

    Raises:
        ConversionError: they do not go together.
    """
    try:
        return Bundle(kind(**components), tensors)
    except (TypeError, ValueError) as error:
        raise ConversionError(f"the parts of the model make no {kind.__name__}: {error}") from error


def without_memory(kind: Type[AnyModel], config: Mapping[str, Any]) -> AnyModel:
    """A model with names and shapes, but without values."""
    with paddle.LazyGuard():
        return kind.from_config(config)
