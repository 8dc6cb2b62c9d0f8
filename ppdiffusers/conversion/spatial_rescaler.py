"""The original's `SpatialRescaler` (ldm/modules/encoders/modules.py of CompVis/latent-diffusion) beside ours."""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type

from ppdiffusers.conversion.params import REQUIRED, read_params
from ppdiffusers.conversion.rows import Rows
from ppdiffusers.models import SpatialRescaler

NAME = "SpatialRescaler"
_KNOWN = {"n_stages": (int, 1), "in_channels": (int, 3), "out_channels": (int, REQUIRED)}
UNUSED = ()
_ONLY = {"method": "bilinear", "multiplier": 0.5, "bias": False}


def to_config(params: Any) -> Tuple[Type[SpatialRescaler], Dict[str, Any]]:
    """Our class and config; raises ConversionError for a rescaling that it does not do."""
    return SpatialRescaler, read_params(NAME, params, _KNOWN, _ONLY)


def to_params(model: SpatialRescaler) -> Dict[str, Any]:
    return dict(model.config)


def rows(model: SpatialRescaler) -> Rows:
    table = Rows(model)
    table.add("channel_mapper", "channel_mapper")
    return table.complete()
