"""The nearest of many codes, against a slow formula."""

import numpy as np
import paddle
import pytest

from ppdiffusers.layers import quantizer


@pytest.mark.parametrize("count, dim", [(3, 1), (8192, 3), (70_000, 4)])  # the last: more codes than scores at once
def test_nearest_is_the_nearest(count, dim):
    draw = np.random.default_rng(0)
    layer = quantizer.VectorQuantizer(count, dim)
    codes = draw.standard_normal((count, dim)).astype("float32")
    layer.embedding.weight.set_value(codes)
    latents = draw.standard_normal((2, dim, 3, 5)).astype("float32")
    found = layer.nearest(paddle.to_tensor(latents))
    assert found.dtype == paddle.int64 and found.shape == [2, 3, 5]
    flat = latents.transpose(0, 2, 3, 1).reshape(-1, dim).astype(np.float64)
    distances = np.linalg.norm(flat[:, None] - codes[None], axis=-1)
    chosen = np.take_along_axis(distances, found.numpy().reshape(-1, 1), axis=1)[:, 0]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-5)


def test_a_latent_that_is_a_code_stays():
    layer = quantizer.VectorQuantizer(9000, 3)
    numbers = np.array([[[0, 8999, 17], [4000, 1, 8998]]])
    latents = layer.lookup(paddle.to_tensor(numbers))
    np.testing.assert_array_equal(layer.nearest(latents).numpy(), numbers)
