"""From a picture to the low-resolution one that a user would have.

`bsrgan` is the degradation model of arXiv 2103.14006 (sections 3 and 4): two blurs, a downscaling, Gaussian, JPEG and
sensor noise, in random order, JPEG last once more. Its camera pipeline (demosaicing and colour mapping, applied to a
quarter of the pictures there) is left out: signal-dependent noise alone stands for the sensor.
"""

from __future__ import annotations

import io
import math
from typing import Callable, Dict, List

import numpy as np
from PIL import Image

from ppdiffusers.training.prepared import low_resolution

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)


def degrade(pixels: np.ndarray, factor: int, kind: str, random: np.random.Generator) -> np.ndarray:
    """`[H, W, 3]` in [-1, 1] to `[H / factor, W / factor, 3]` in [-1, 1], rounded to 8 bits.

    Args:
        kind: "area", the mean of blocks, or "bsrgan".
    """
    if kind == "area":
        return low_resolution(pixels, factor)
    return (np.round(bsrgan(pixels / 2 + np.float32(0.5), factor, random) * 255) / 127.5 - 1).astype(np.float32)


def bsrgan(picture: np.ndarray, factor: int, random: np.random.Generator) -> np.ndarray:
    """`[H, W, 3]` in [0, 1] to `[H / factor, W / factor, 3]` in [0, 1]."""
    height, width = (side // factor for side in picture.shape[:2])
    steps: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "blur 1": lambda x: blur(x, random_kernel(factor, random)),
        "blur 2": lambda x: blur(x, random_kernel(factor, random)),
        "downscale": lambda x: _downscale(x, height, width, random),
        "resize": lambda x: _rescale(x, random),
        "noise": lambda x: add_noise(x, random),
        "jpeg": lambda x: jpeg(x, int(random.integers(30, 96))) if random.random() < 0.9 else x,
        "sensor": lambda x: _sensor_noise(x, random) if random.random() < 0.25 else x,
    }
    order: List[str] = list(random.permutation(list(steps)))
    # The last downscaling stands after the one between, so that this one has something to change.
    first, second = sorted((order.index("resize"), order.index("downscale")))
    order[first], order[second] = "resize", "downscale"
    for name in order:
        picture = np.clip(steps[name](picture), 0, 1)
    return jpeg(picture, int(random.integers(30, 96)))


def random_kernel(factor: int, random: np.random.Generator) -> np.ndarray:
    """A Gaussian `[k, k]`, k = 7, 9 ... 21: isotropic, or with two axes in any direction."""
    side = 2 * int(random.integers(2, 10)) + 3
    if random.random() < 0.5:
        variances = np.full(2, max(0.1, (2 + 0.2 * factor) * random.random()) ** 2)
    else:
        variances = np.maximum(0.1, (4 + factor) * random.random(2))
    return gaussian(side, variances, random.uniform(0, math.pi))


def gaussian(side: int, variances: np.ndarray, angle: float) -> np.ndarray:
    """`[side, side]` with sum 1; `variances` along two axes, the first turned by `angle` from x to y."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * (u * u / variances[0] + v * v / variances[1]))
    normed: np.ndarray = kernel / kernel.sum()
    return normed


def blur(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`[H, W, C]` convolved with `[k, k]`, mirrored at the border."""
    half = kernel.shape[0] // 2
    padded = np.pad(picture, ((half, half), (half, half), (0, 0)), mode="symmetric")
    shape = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, s=shape)[..., None]
    whole = np.fft.irfft2(spectrum, s=shape, axes=(0, 1))
    return whole[2 * half :, 2 * half :].astype(np.float32)


def add_noise(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise of 2 to 25 of 255 levels: of each value, of all channels alike, or correlated between them."""
    level = random.uniform(2, 25) / 255
    kind, shape = random.random(), picture.shape
    if kind < 0.4:
        noise = random.standard_normal(shape)
    elif kind < 0.8:
        noise = np.broadcast_to(random.standard_normal((*shape[:2], 1)), shape)
    else:
        mixing = random.standard_normal((3, 3))
        mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)  # unit variance in each channel
        noise = random.standard_normal(shape) @ mixing.T
    return (picture + level * noise).astype(np.float32)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """Saved as JPEG and read again."""
    file = io.BytesIO()
    Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(np.float32) / 255


def _resize(picture: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    planes = [Image.fromarray(np.ascontiguousarray(picture[..., i], np.float32)) for i in range(picture.shape[2])]
    return np.stack([np.asarray(plane.resize((width, height), method)) for plane in planes], axis=-1)


def _rescale(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """To 0.5 to 1 of the size, for a quarter of the pictures by half exactly."""
    scale = 0.5 if random.random() < 0.25 else random.uniform(0.5, 1)
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return _resize(picture, height, width, _FILTERS[random.integers(3)])


def _downscale(picture: np.ndarray, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """To the final size; now and then by taking pixels, after a blur."""
    if random.random() < 0.25:
        sigma = random.uniform(0.1, 0.6 * picture.shape[0] / height)
        picture = blur(picture, gaussian(25, np.full(2, sigma**2), 0.0))
        return _resize(picture, height, width, Image.Resampling.NEAREST)
    return _resize(picture, height, width, _FILTERS[random.integers(3)])


def _sensor_noise(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shot noise: its variance grows with the light."""
    photons = 10 ** random.uniform(2, 4)
    return (random.poisson(np.clip(picture, 0, 1) * photons) / photons).astype(np.float32)
