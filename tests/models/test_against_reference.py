"""Same weights, same inputs: within 2e-5 of diffusers' largest output, for every option that configs use."""

from pathlib import Path

import configurations
import numpy as np
import paddle
import pytest

from ppdiffusers import UNet2DModel, VQModel
from ppdiffusers.models.model import linear_weights

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 2e-5


def fill(model, seed):
    transposed = linear_weights(model)
    state = model.state_dict()
    shapes = {k: tuple(v.shape)[::-1] if k in transposed else tuple(v.shape) for k, v in state.items()}
    weights = configurations.torch_layout_weights(shapes, seed)
    for name, value in state.items():
        value.set_value(weights[name].T if name in transposed else weights[name])
    return model.eval()


def relative_difference(ours, reference):
    ours = ours.numpy()
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.abs(reference).max()


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
