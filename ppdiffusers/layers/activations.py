"""Activations by the names that configs use."""

from __future__ import annotations

from paddle import nn

from ppdiffusers.layers.basic import Silu

_ACTIVATIONS = {"silu": Silu, "swish": Silu, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU}


def get_activation(name: str) -> nn.Layer:
    """Layer for a config's `act_fn`.

    Raises:
        ValueError: an unknown name.
    """
    try:
        return _ACTIVATIONS[name.lower()]()
    except (KeyError, AttributeError):
        raise ValueError(f"unknown activation {name!r}; use one of {', '.join(_ACTIVATIONS)}") from None
