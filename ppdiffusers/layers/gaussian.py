"""The posterior of a KL-regularised autoencoder (arXiv 1312.6114)."""

from __future__ import annotations

import math
from typing import Any, Optional, Sequence

import paddle

from ppdiffusers.random import randn_tensor


class DiagonalGaussianDistribution:
    """Normal distribution of independent values.

    Args:
        parameters: `[B, 2 * C, h, w]`: means, then logarithms of variances, which are clamped to [-30, 20].

    Attributes:
        mean, logvar, std, var: `[B, C, h, w]`.
    """

    def __init__(self, parameters: paddle.Tensor):
        self.parameters = parameters
        self.mean, logvar = paddle.chunk(parameters, 2, axis=1)
        self.logvar = paddle.clip(logvar, -30.0, 20.0)
        self.std = paddle.exp(0.5 * self.logvar)
        self.var = paddle.exp(self.logvar)

    def sample(self, generator: Any = None) -> paddle.Tensor:
        """A draw `[B, C, h, w]`.

        Args:
            generator: as in `ppdiffusers.random.randn_tensor`: a `Generator`, a seed, or one an image.
        """
        return self.mean + self.std * randn_tensor(self.mean.shape, generator, self.mean.dtype)

    def mode(self) -> paddle.Tensor:
        """The most likely value: the mean."""
        return self.mean

    def kl(self, other: Optional[DiagonalGaussianDistribution] = None) -> paddle.Tensor:
        """Kullback-Leibler divergence in nats, summed over each image: `[B]`.

        Args:
            other: the distribution to measure it from; the standard normal when None.
        """
        if other is None:
            terms = self.mean**2 + self.var - 1 - self.logvar
        else:
            terms = (self.mean - other.mean) ** 2 / other.var + self.var / other.var - 1 - self.logvar + other.logvar
        return 0.5 * terms.sum(axis=[1, 2, 3])

    def nll(self, sample: paddle.Tensor, dims: Sequence[int] = (1, 2, 3)) -> paddle.Tensor:
        """Negative log-likelihood of `sample` `[B, C, h, w]` in nats, summed over `dims`."""
        terms = math.log(2 * math.pi) + self.logvar + (sample - self.mean) ** 2 / self.var
        return 0.5 * terms.sum(axis=list(dims))
