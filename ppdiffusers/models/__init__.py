"""Models, under diffusers' names."""

from ppdiffusers.models.autoencoder import DecoderOutput
from ppdiffusers.models.model import Model
from ppdiffusers.models.unet_2d import UNet2DModel, UNet2DOutput
from ppdiffusers.models.vq_model import VQEncoderOutput, VQModel

__all__ = ["DecoderOutput", "Model", "UNet2DModel", "UNet2DOutput", "VQEncoderOutput", "VQModel"]
