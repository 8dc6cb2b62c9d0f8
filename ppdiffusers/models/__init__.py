"""Models, under diffusers' names."""

from ppdiffusers.aliases import answer_to
from ppdiffusers.layers.gaussian import DiagonalGaussianDistribution
from ppdiffusers.models.autoencoder import DecoderOutput
from ppdiffusers.models.autoencoder_kl import AutoencoderKL, AutoencoderKLOutput
from ppdiffusers.models.class_embedder import ClassEmbedder
from ppdiffusers.models.ldm_bert import LDMBertModel, TextEncoderOutput
from ppdiffusers.models.model import Model
from ppdiffusers.models.spatial_rescaler import SpatialRescaler
from ppdiffusers.models.unet import UNet2DOutput
from ppdiffusers.models.unet_2d import UNet2DModel
from ppdiffusers.models.unet_2d_condition import UNet2DConditionModel
from ppdiffusers.models.vq_model import VQEncoderOutput, VQModel

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLOutput",
    "ClassEmbedder",
    "DecoderOutput",
    "DiagonalGaussianDistribution",
    "LDMBertModel",
    "Model",
    "ModelMixin",
    "SpatialRescaler",
    "TextEncoderOutput",
    "UNet2DConditionModel",
    "UNet2DModel",
    "UNet2DOutput",
    "VQEncoderOutput",
    "VQModel",
]

ModelMixin = Model  # diffusers' name
answer_to(__name__, "modeling_utils", "vae")
