"""Setting a codebook from latents."""

from __future__ import annotations

import numpy as np
import paddle


@paddle.no_grad()
def kmeans(points: paddle.Tensor, count: int, iterations: int = 15, seed: int = 0) -> paddle.Tensor:
    """`[count, D]` centres of `[N, D]` points by Lloyd's algorithm; an empty cluster restarts at a random point.

    Raises:
        ValueError: fewer points than centres.
    """
    if points.shape[0] < count:
        raise ValueError(f"{points.shape[0]} points cannot make {count} centres; give more latents")
    random = np.random.default_rng(seed)
    values = points.numpy()
    centres = values[random.permutation(len(values))[:count]]
    for _ in range(iterations):
        codes = paddle.to_tensor(centres)
        half_norms = 0.5 * (codes * codes).sum(axis=1)
        parts = [points[start : start + 16384] for start in range(0, len(values), 16384)]
        nearest = np.concatenate(
            [paddle.argmin(half_norms - paddle.matmul(part, codes, transpose_y=True), axis=1).numpy() for part in parts]
        )
        sizes = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, column, minlength=count) for column in values.T], axis=1)
        centres = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
        empty = sizes == 0
        centres[empty] = values[random.integers(len(values), size=int(empty.sum()))]
    return paddle.to_tensor(centres)
