"""Configs under diffusers' names."""

from ppdiffusers.config import Configurable as ConfigMixin
from ppdiffusers.config import FrozenConfig as FrozenDict
from ppdiffusers.config import register_to_config

__all__ = ["ConfigMixin", "FrozenDict", "register_to_config"]
