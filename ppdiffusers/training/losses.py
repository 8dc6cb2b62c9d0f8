"""Measures of pictures: perceptual distance, PSNR, SSIM, and the Fréchet distance of sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Union

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.config import ConfigError
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

    def features(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """The last activations, averaged over the picture: `[B, 256]` of AlexNet, `[B, 512]` of VGG16."""
        return list(self._features(pictures))[-1].mean(axis=[2, 3])

    def forward(self, a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
        """Distances `[B]` of pictures `[B, 3, H, W]` in [-1, 1]; sides of 64 and more are meaningful."""
        distances = [
            (((x - y) ** 2) * head).sum(axis=1).mean(axis=[1, 2])
            for x, y, head in zip(self._features(a), self._features(b), self._heads)
        ]
        return sum(distances[1:], distances[0])


def open_lpips(weights: Union[str, Path]) -> LPIPS:
    """Of a file whose name says the network, as scripts/fetch_training_data.sh makes them.

    Raises:
        ConfigError: no such file, or one of another name.
    """
    net = next((net for net in _NETWORKS if net in Path(weights).name), None)
    if net is None or not Path(weights).is_file():
        raise ConfigError(
            f"lpips is {str(weights)!r}; it must be a file lpips-vgg.npz or lpips-alex.npz, which "
            "`bash scripts/fetch_training_data.sh data` writes to data/prepared"
        )
    return LPIPS(weights, net)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal to noise ratio in dB, `[B]`, of pictures `[B, ...]` in [-1, 1], clipped and rounded to 8 bits."""
    levels = [np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.float64) for x in (a, b)]
    errors = ((levels[0] - levels[1]) ** 2).reshape(len(a), -1).mean(axis=1)
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-10))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity, `[B]`, of pictures `[B, H, W, C]` in [-1, 1], clipped and rounded to 8 bits.

    Wang et al., Image quality assessment, 2004: a Gaussian window of 11 pixels with deviation 1.5, K1 = 0.01,
    K2 = 0.03, means over all whole windows and channels. Sides are at least 11.
    """
    x, y = (np.round((np.clip(each, -1, 1) + 1) * 127.5).astype(np.float64) for each in (a, b))
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            views = np.lib.stride_tricks.sliding_window_view(values, 11, axis=axis)
            values = views @ window
        return values

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, covariance = (mean(p * q) - m * n for p, q, m, n in (
        (x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y)
    ))  # fmt: skip
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    whole: np.ndarray = similarity.reshape(len(a), -1).mean(axis=1)
    return whole


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of the normal distributions that fit features `[N, D]` and `[M, D]` (arXiv 1706.08500, equation 6).

    Distances are comparable between sets of the same numbers of pictures, and features of the same network, only.
    """
    means = [each.mean(axis=0) for each in (a, b)]
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (a, b)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.sqrt(np.maximum(product, 0)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + trace)


def to_tensor(pictures: np.ndarray) -> paddle.Tensor:
    """`[B, H, W, C]` to `[B, C, H, W]`."""
    return paddle.to_tensor(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
