"""The original's `ClassEmbedder` (ldm/modules/encoders/modules.py of CompVis/latent-diffusion) beside ours."""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type

from ppdiffusers.conversion.params import REQUIRED, read_params
from ppdiffusers.conversion.rows import Rows
from ppdiffusers.models import ClassEmbedder

NAME = "ClassEmbedder"
_KNOWN = {"embed_dim": (int, REQUIRED), "n_classes": (int, 1000)}
UNUSED = ()
_GUIDED = 1001  # ImageNet's classes and one for none, which its yaml does not tell


def to_config(params: Any) -> Tuple[Type[ClassEmbedder], Dict[str, Any]]:
    """Our class and config."""
    given = read_params(NAME, params, _KNOWN, {}, ("key",))
    classes = given["n_classes"]
    return ClassEmbedder, {
        "num_classes": classes,
        "embed_dim": given["embed_dim"],
        "unconditional_class": classes - 1 if classes == _GUIDED else None,
    }


def to_params(model: ClassEmbedder) -> Dict[str, Any]:
    """What the yaml gives it; it has no place for the class that stands for none."""
    config = model.config
    return {"n_classes": config.num_classes, "embed_dim": config.embed_dim, "key": "class_label"}


def rows(model: ClassEmbedder) -> Rows:
    table = Rows(model)
    table.add("embedding", "embedding")
    return table.complete()
