"""The condition of a class-conditional model: one learned vector a class (arXiv 2112.10752, section 4.3.1)."""

from __future__ import annotations

from typing import Optional

import paddle
from paddle import nn

from ppdiffusers.config import register_to_config
from ppdiffusers.models.model import Model


class ClassEmbedder(Model):
    """Class numbers to the condition that a `UNet2DConditionModel` attends to.

    Args:
        num_classes: rows of the table, the one that stands for no class included.
        embed_dim: width of the condition, the U-Net's `cross_attention_dim`.
        unconditional_class: the row that training put in place of the class now and then, for classifier-free
            guidance (arXiv 2207.12598): 1000 of the 1001 of the published `cin256-v2`. None for a model that was
            trained without.

    Raises:
        ValueError: a number out of range.
    """

    @register_to_config
    def __init__(self, num_classes: int = 1000, embed_dim: int = 512, unconditional_class: Optional[int] = None):
        super().__init__()
        for name, value in (("num_classes", num_classes), ("embed_dim", embed_dim)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive int, not {value!r}")
        if unconditional_class is not None and unconditional_class not in range(num_classes):
            raise ValueError(f"unconditional_class {unconditional_class!r} is not in 0 ... {num_classes - 1}, or None")
        self.embedding = nn.Embedding(num_classes, embed_dim)

    def forward(self, labels: paddle.Tensor) -> paddle.Tensor:
        """
        Args:
            labels: class numbers, int64 `[B]`, each in 0 ... num_classes - 1.

        Returns:
            `[B, 1, embed_dim]`: a sequence of one token.
        """
        return self.embedding(labels).unsqueeze(1)
