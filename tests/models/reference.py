"""How models here are compared with the golden outputs of diffusers."""

from pathlib import Path

import configurations
import numpy as np

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
    model.eval()  # returns None before paddle 3
    return model


def relative_difference(ours, reference):
    ours = ours.numpy()
    assert ours.shape == reference.shape
    return np.abs(ours - reference).max() / np.abs(reference).max()
