"""The pictures that the embedded models are trained on, as scripts/prepare_training_data.py writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import numpy as np

# Probability of each source of scripts/prepare_training_data.py.
DEFAULT_MIX = {"graphics-3d": 0.5, "twemoji": 0.1, "fluent-flat": 0.1, "noto": 0.1, "photographs": 0.2}


def area_downscale(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average `factor` x `factor` blocks: `[..., H, W, C]` to `[..., H / factor, W / factor, C]`, float32."""
    *batch, height, width, channels = pixels.shape
    if height % factor or width % factor:
        raise ValueError(f"a {height}x{width} picture does not divide into {factor}x{factor} blocks; crop it first")
    blocks = pixels.reshape(*batch, height // factor, factor, width // factor, factor, channels)
    return blocks.mean(axis=(-4, -2), dtype=np.float32)


def low_resolution(pixels: np.ndarray, factor: int = 4) -> np.ndarray:
    """The picture that a user would hand in: area average, rounded to the 8 bits of a file.

    Both sides are `[..., H, W, C]` in [-1, 1].
    """
    levels = np.round((area_downscale(pixels, factor) + 1) * 127.5)
    return (levels / 127.5 - 1).astype(np.float32)


def composite(premultiplied: np.ndarray, background: np.ndarray) -> np.ndarray:
    """`[H, W, 4]` uint8 premultiplied over a plain `[3]` colour (0 to 255): `[H, W, 3]` float32 in [-1, 1]."""
    rgba = premultiplied.astype(np.float32)
    rgb = rgba[..., :3] + (1 - rgba[..., 3:] / 255) * background
    return rgb / 127.5 - 1


class Crops:
    """Random square crops of the prepared pictures.

    Args:
        folder: output of `scripts/prepare_training_data.py`.
        split: "train" or "heldout".
        size: side of a crop in pixels.
        mix: probability of each source.
    """

    def __init__(
        self,
        folder: Union[str, Path],
        split: str = "train",
        size: int = 64,
        mix: Optional[Dict[str, float]] = None,
    ):
        folder = Path(folder)
        index = json.loads((folder / "index.json").read_text())
        mix = DEFAULT_MIX if mix is None else mix
        self.size = size
        self._sources: List[Tuple[np.ndarray, np.ndarray]] = []
        for source in mix:
            rows = np.array([i for i, row in enumerate(index[source]) if row["split"] == split])
            self._sources.append((np.load(folder / f"{source}.npy", mmap_mode="r"), rows))
        weights = np.array(list(mix.values()), dtype=np.float64)
        self._weights = weights / weights.sum()

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """`[size, size, 3]` float32 in [-1, 1]."""
        pictures, rows = self._sources[random.choice(len(self._sources), p=self._weights)]
        picture = pictures[rows[random.integers(len(rows))]]
        height, width, channels = picture.shape
        # Pictures of 256 and more are mostly seen at half their size: sharper, and more of the thing.
        factor = 2 if min(height, width) >= 4 * self.size and random.random() < 0.75 else 1
        side = self.size * factor
        for _ in range(4):  # look for a crop that is not empty
            top = random.integers(height - side + 1)
            left = random.integers(width - side + 1)
            crop = picture[top : top + side, left : left + side]
            if channels == 3 or crop[..., 3].mean() > 40:
                break
        if channels == 4:
            background = np.full(3, 255.0) if random.random() < 0.5 else random.uniform(0, 255, size=3)
            crop = composite(crop, background)
        else:
            crop = crop.astype(np.float32) / 127.5 - 1
        if factor > 1:
            crop = area_downscale(crop, factor)
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        if random.random() < 0.25:  # other colours for the same shapes
            crop = crop[..., random.permutation(3)]
        return np.ascontiguousarray(crop, dtype=np.float32)


def heldout_graphics(folder: Union[str, Path], size: int = 128) -> Tuple[List[str], np.ndarray]:
    """Names and pictures `[N, size, size, 3]` in [-1, 1] of the held-out 3D graphics on white."""
    folder = Path(folder)
    rows = json.loads((folder / "index.json").read_text())["graphics-3d"]
    chosen = [i for i, row in enumerate(rows) if row["split"] == "heldout"]
    pictures = np.load(folder / "graphics-3d.npy", mmap_mode="r")
    white = np.full(3, 255.0)
    scaled = [area_downscale(composite(pictures[i], white), pictures.shape[1] // size) for i in chosen]
    return [rows[i]["name"] for i in chosen], np.stack(scaled)


def heldout_photographs(folder: Union[str, Path], size: int = 256) -> Tuple[List[str], np.ndarray]:
    """Names and central crops `[N, size, size, 3]` in [-1, 1] of the held-out photographs."""
    folder = Path(folder)
    rows = json.loads((folder / "index.json").read_text())["photographs"]
    chosen = [i for i, row in enumerate(rows) if row["split"] == "heldout"]
    pictures = np.load(folder / "photographs.npy", mmap_mode="r")
    top, left = (pictures.shape[1] - size) // 2, (pictures.shape[2] - size) // 2
    crops = pictures[chosen, top : top + size, left : left + size]
    return [rows[i]["name"] for i in chosen], crops.astype(np.float32) / 127.5 - 1
