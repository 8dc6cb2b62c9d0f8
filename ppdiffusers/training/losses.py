"""Perceptual distance and other measures of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Union

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.layers.basic import Conv2D

# Convolutions (in, out, kernel, stride, padding) between poolings "M"; taps follow the last one of each run.
_NETWORKS: Dict[str, List[Any]] = {
    "alex": [
        (3, 64, 11, 4, 2), "M3", (64, 192, 5, 1, 2), "M3",
        (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1),
    ],
    "vgg": [
        (3, 64, 3, 1, 1), (64, 64, 3, 1, 1), "M2", (64, 128, 3, 1, 1), (128, 128, 3, 1, 1), "M2",
        (128, 256, 3, 1, 1), (256, 256, 3, 1, 1), (256, 256, 3, 1, 1), "M2",
        (256, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), "M2",
        (512, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1),
    ],
}  # fmt: skip
_TAPS = {"alex": (0, 1, 2, 3, 4), "vgg": (1, 3, 6, 9, 12)}  # convolutions whose activations are compared


class LPIPS(nn.Layer):
    """Learned perceptual distance (arXiv 1801.03924, version 0.1), differentiable.

    Args:
        weights: `lpips-alex.npz` or `lpips-vgg.npz` as `scripts/prepare_training_data.py` writes
            them: `conv<i>.weight`, `conv<i>.bias` of the network, `head<i>` of the linear layers.
        net: "alex" or "vgg".
    """

    def __init__(self, weights: Union[str, Path], net: str = "alex"):
        super().__init__()
        if net not in _NETWORKS:
            raise ValueError(f"unknown network {net!r}; use 'alex' or 'vgg'")
        self._plan, self._taps = _NETWORKS[net], _TAPS[net]
        self.convolutions = nn.LayerList([Conv2D(i, o, k, s, p) for i, o, k, s, p in self._shapes()])
        with np.load(weights) as arrays:
            for i, convolution in enumerate(self.convolutions):
                convolution.weight.set_value(arrays[f"conv{i}.weight"])
                convolution.bias.set_value(arrays[f"conv{i}.bias"])
            self._heads = [paddle.to_tensor(arrays[f"head{i}"]).reshape([1, -1, 1, 1]) for i in range(len(self._taps))]
        for parameter in self.parameters():
            parameter.stop_gradient = True
        # The published constants of the network's inputs, for pixels in [-1, 1].
        self._shift = paddle.to_tensor([-0.030, -0.088, -0.188]).reshape([1, 3, 1, 1])
        self._scale = paddle.to_tensor([0.458, 0.448, 0.450]).reshape([1, 3, 1, 1])

    def _shapes(self) -> List[Any]:
        return [step for step in self._plan if not isinstance(step, str)]

    def _features(self, pictures: paddle.Tensor) -> Iterator[paddle.Tensor]:
        x, index = (pictures - self._shift) / self._scale, 0
        for step in self._plan:
            if isinstance(step, str):
                x = F.max_pool2d(x, int(step[1]), 2)
                continue
            x = F.relu(self.convolutions[index](x))
            if index in self._taps:
                yield x / (paddle.sqrt((x * x).sum(axis=1, keepdim=True) + 1e-20) + 1e-10)
            index += 1

    def forward(self, a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
        """Distances `[B]` of pictures `[B, 3, H, W]` in [-1, 1]; sides of 64 and more are meaningful."""
        distances = [
            (((x - y) ** 2) * head).sum(axis=1).mean(axis=[1, 2])
            for x, y, head in zip(self._features(a), self._features(b), self._heads)
        ]
        return sum(distances[1:], distances[0])


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal to noise ratio in dB, `[B]`, of pictures `[B, ...]` in [-1, 1], clipped and rounded to 8 bits."""
    levels = [np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.float64) for x in (a, b)]
    errors = ((levels[0] - levels[1]) ** 2).reshape(len(a), -1).mean(axis=1)
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-10))
