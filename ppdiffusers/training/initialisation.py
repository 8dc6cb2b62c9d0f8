"""How a model that is trained from scratch begins: as the authors' and diffusers' do, which is torch's default.

Paddle's own start is another: its convolutions deviate 2.4 times as much, its embeddings 0.09 times.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import paddle
from paddle import nn

from ppdiffusers.layers.attention import Attention
from ppdiffusers.layers.quantizer import VectorQuantizer
from ppdiffusers.layers.resnet import ResnetBlock2D
from ppdiffusers.layers.transformer import Transformer2DModel
from ppdiffusers.models import LDMBertModel
from ppdiffusers.models.unet import UNet

_TOKEN_DEVIATION = 0.02  # of the embeddings of the text encoder, in CompVis' and diffusers' code


@paddle.no_grad()
def initialise(model: nn.Layer, seed: int = 0, style: str = "torch") -> None:
    """Draw the weights of a fresh model anew; each is a function of the seed and its name.

    Convolutions and linear layers: uniform within 1 / sqrt(fan in), biases too (torch's `kaiming_uniform_` with
    a = sqrt(5)). Embeddings: the standard normal, but 0.02 of it in a text encoder, and for a codebook of K codes
    uniform within 1 / K. Norms: 1 and 0.

    Args:
        style: "torch", which diffusers' models start with; or "compvis", which sets the last convolution of a U-Net
            and of each of its residual blocks to zero, and the projection out of its attentions.
    """
    deviation = _TOKEN_DEVIATION if isinstance(model, LDMBertModel) else 1.0
    codebooks = {id(layer.embedding) for layer in model.sublayers() if isinstance(layer, VectorQuantizer)}
    for name, layer in model.named_sublayers(include_self=True):
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if isinstance(layer, (nn.Conv2D, nn.Linear)):
            shape = layer.weight.shape  # [out, in, k, k], or [in, out]
            bound = 1 / math.sqrt(math.prod(shape[1:]) if isinstance(layer, nn.Conv2D) else shape[0])
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    parameter.set_value(random.uniform(-bound, bound, parameter.shape).astype(np.float32))
        elif isinstance(layer, nn.Embedding) and id(layer) in codebooks:
            bound = 1 / layer.weight.shape[0]
            layer.weight.set_value(random.uniform(-bound, bound, layer.weight.shape).astype(np.float32))
        elif isinstance(layer, nn.Embedding):
            layer.weight.set_value(random.normal(0, deviation, layer.weight.shape).astype(np.float32))
    if style == "compvis" and isinstance(model, UNet):
        for layer in (model, *model.sublayers()):
            last = None
            if isinstance(layer, ResnetBlock2D):
                last = layer.conv2
            elif isinstance(layer, Transformer2DModel):
                last = layer.proj_out
            elif isinstance(layer, Attention):
                last = layer.to_out[0]
            elif layer is model:
                last = model.conv_out
            if last is not None:
                last.weight.set_value(paddle.zeros_like(last.weight))
                last.bias.set_value(paddle.zeros_like(last.bias))
