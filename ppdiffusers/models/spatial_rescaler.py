"""The condition of semantic synthesis: a label map as small as the latents (arXiv 2112.10752, section 4.3.2)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ppdiffusers.config import register_to_config
from ppdiffusers.layers.basic import Conv2D
from ppdiffusers.models.model import Model


class SpatialRescaler(Model):
    """One plane a class, halved a few times, to a few channels that a `UNet2DModel` sees beside the latents.

    Args:
        n_stages: halvings.
        in_channels: classes.
        out_channels: channels of the condition.

    Raises:
        ValueError: a number out of range.
    """

    @register_to_config
    def __init__(self, n_stages: int = 1, in_channels: int = 3, out_channels: int = 3):
        super().__init__()
        for name, value, least in (
            ("n_stages", n_stages, 0),
            ("in_channels", in_channels, 1),
            ("out_channels", out_channels, 1),
        ):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, not {value!r}")
        self.channel_mapper = Conv2D(in_channels, out_channels, 1, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """
        Args:
            x: `[B, in_channels, H, W]`, 1 where a pixel is of the class and 0 elsewhere.

        Returns:
            `[B, out_channels, h, w]`, h = H / 2 ** n_stages.

        Raises:
            ValueError: a height or width that does not divide so.
        """
        factor = 2**self.config.n_stages
        height, width = x.shape[-2:]
        if paddle.in_dynamic_mode() and (height % factor or width % factor):  # symbolic where it is exported
            raise ValueError(f"the map is {height} x {width}; height and width must be multiples of {factor}")
        # Bilinear halving is the mean of 2 x 2; several halvings are one mean.
        return self.channel_mapper(F.avg_pool2d(x, factor, factor) if factor > 1 else x)
