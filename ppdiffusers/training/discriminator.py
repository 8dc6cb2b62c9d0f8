"""The patch discriminator of a first stage (arXiv 1611.07004; 2012.09841, section 3.1)."""

from __future__ import annotations

from typing import Any, List

import paddle
import paddle.nn.functional as F
from paddle import nn


class PatchDiscriminator(nn.Layer):
    """Pictures `[B, C, H, W]` to logits `[B, 1, h, w]`, one a patch; real ones are to be positive.

    Args:
        layers: halvings, before which the width doubles, up to 8 times the first.
    """

    def __init__(self, channels: int = 3, layers: int = 3, width: int = 64):
        super().__init__()

        def conv(inner: int, outer: int, stride: int, bias: bool = False) -> nn.Conv2D:
            weight = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.02))
            return nn.Conv2D(inner, outer, 4, stride, 1, weight_attr=weight, bias_attr=None if bias else False)

        def norm(outer: int) -> nn.BatchNorm2D:
            return nn.BatchNorm2D(outer, weight_attr=paddle.ParamAttr(initializer=nn.initializer.Normal(1.0, 0.02)))

        parts: List[Any] = [conv(channels, width, 2, bias=True), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            inner, outer = (width * min(2**power, 8) for power in (i - 1, i))
            parts += [conv(inner, outer, 2 if i < layers else 1), norm(outer), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*parts, conv(outer, 1, 1, bias=True))

    def forward(self, pictures: paddle.Tensor) -> paddle.Tensor:
        return self.main(pictures)


def hinge_loss(real: paddle.Tensor, fake: paddle.Tensor) -> paddle.Tensor:
    """Of the discriminator, from its logits."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(loss: paddle.Tensor, adversarial: paddle.Tensor, last: paddle.Tensor) -> paddle.Tensor:
    """What makes the gradient of `adversarial` at the decoder's last weights as large as that of `loss` (lambda of
    arXiv 2012.09841, equation 7), at most 10,000."""
    gradients = [paddle.grad(each, last, retain_graph=True)[0] for each in (loss, adversarial)]
    norms = [paddle.sqrt((gradient * gradient).sum()) for gradient in gradients]
    return (norms[0] / (norms[1] + 1e-4)).clip(0.0, 1e4).detach()
