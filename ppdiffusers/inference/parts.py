"""Which work of a model is compiled: all that has convolutions or attention, and nothing that is cheap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

from ppdiffusers.models import AutoencoderKL, LDMBertModel, VQModel
from ppdiffusers.models.model import Model
from ppdiffusers.models.unet import UNet

# Name to shape and type of a tensor. None is a size that differs from call to call, and -n an n-th of such a height or
# width.
Inputs = Dict[str, Tuple[List[Optional[int]], str]]


@dataclass(frozen=True)
class Part:
    """Some of a model's work, from tensors to a tensor or a tuple of them.

    Attributes:
        name: of files and in messages.
        inputs: in the order of the call.
        function: called with the model and the tensors, it computes this with the model's layers.
    """

    name: str
    inputs: Inputs
    function: Callable[..., Any]


def parts_of(model: Any) -> Dict[str, Part]:
    """The parts of a model, by the method that each stands for."""
    return {method: Part(method.strip("_"), inputs, _method(method)) for method, inputs in _inputs(model).items()}


def _method(name: str) -> Callable[..., Any]:
    return lambda model, *tensors: getattr(model, name)(*tensors)


def _inputs(model: Model) -> Dict[str, Inputs]:
    config = model.config
    if isinstance(model, UNet):
        return {"_network": unet_inputs(model)}
    if isinstance(model, VQModel):
        return {
            "_to_latents": {"x": ([None, config.in_channels, None, None], "float32")},
            "_to_pixels": {"latents": ([None, config.vq_embed_dim or config.latent_channels, None, None], "float32")},
        }
    if isinstance(model, AutoencoderKL):
        return {
            "_to_moments": {"x": ([None, config.in_channels, None, None], "float32")},
            "_to_pixels": {"z": ([None, config.latent_channels, None, None], "float32")},
        }
    if isinstance(model, LDMBertModel):
        return {"_encode": {"input_ids": ([None, None], "int64")}}
    return {}


def unet_inputs(unet: UNet) -> Inputs:
    inputs: Inputs = {
        "sample": ([None, unet.config.in_channels, None, None], "float32"),
        "temb": ([None, unet._temb_channels], "float32"),
    }
    if getattr(unet, "_reads_condition", False):
        inputs["encoder_hidden_states"] = ([None, None, unet.config.cross_attention_dim], "float32")
    return inputs
