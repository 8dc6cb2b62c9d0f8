"""Same weights, same inputs: within 2e-5 of diffusers' largest output, for every option that configs use."""

import configurations
import numpy as np
import paddle
import pytest
from reference import GOLDEN, TOLERANCE, fill, relative_difference

from ppdiffusers import UNet2DModel, VQModel


@pytest.mark.parametrize("seed, name", list(enumerate(configurations.UNETS)))
@paddle.no_grad()
def test_unet_2d(seed, name):
    config = configurations.UNETS[name]
    model = fill(UNet2DModel(**config), seed)
    sample, timesteps, labels = configurations.unet_inputs(name, config)
    labels = None if labels is None else paddle.to_tensor(labels)
    output = model(paddle.to_tensor(sample), paddle.to_tensor(timesteps), labels)
    reference = np.load(GOLDEN / "unet_2d.npz")[name]
    assert relative_difference(output.sample, reference) < TOLERANCE
    assert output[0] is output.sample


@pytest.mark.parametrize("seed, name", list(enumerate(configurations.VQ_MODELS)))
@paddle.no_grad()
def test_vq_model(seed, name):
    config = configurations.VQ_MODELS[name]
    model = fill(VQModel(**config), seed)
    golden = np.load(GOLDEN / "vq_model.npz")
    latents = model.encode(paddle.to_tensor(configurations.vq_input(config))).latents
    assert relative_difference(latents, golden[f"{name}/latents"]) < TOLERANCE

    latents = paddle.to_tensor(golden[f"{name}/latents"])
    codes, loss, indices = model.quantize(latents)
    np.testing.assert_array_equal(indices.numpy(), golden[f"{name}/indices"])
    assert relative_difference(codes, golden[f"{name}/codes"]) < TOLERANCE
    assert abs(float(loss) - float(golden[f"{name}/loss"])) < TOLERANCE * float(golden[f"{name}/loss"])
    assert relative_difference(model.decode(latents).sample, golden[f"{name}/decoded"]) < TOLERANCE
    unquantised = model.decode(latents, force_not_quantize=True).sample
    assert relative_difference(unquantised, golden[f"{name}/decoded-unquantised"]) < TOLERANCE
