"""The residual block of every model here."""

from __future__ import annotations

from typing import Optional

import paddle
from paddle import nn

from ppdiffusers.layers.activations import get_activation
from ppdiffusers.layers.basic import Conv2D, GroupNorm, Linear, added, normed_and_activated, normed_and_convolved
from ppdiffusers.layers.resampling import Downsample2D, Upsample2D


class ResnetBlock2D(nn.Layer):
    """norm, act, conv, (+ time embedding), norm, act, conv, + shortcut; all at `[B, C, H, W]`.

    Args:
        temb_channels: width of the time embedding; None for blocks without one.
        groups, eps: of the group norms.
        time_embedding_norm: "default" adds the projected embedding before the second norm,
            "scale_shift" scales and shifts what the second norm returns.
        output_scale_factor: the sum of branch and shortcut is divided by it.
        up, down: resample both branches between the first activation and the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: Optional[int],
        groups: int = 32,
        eps: float = 1e-6,
        act_fn: str = "silu",
        dropout: float = 0.0,
        time_embedding_norm: str = "default",
        output_scale_factor: float = 1.0,
        up: bool = False,
        down: bool = False,
    ):
        super().__init__()
        if time_embedding_norm not in ("default", "scale_shift"):
            raise ValueError(f"unknown resnet_time_scale_shift {time_embedding_norm!r}; use 'default' or 'scale_shift'")
        self.scale_shift = time_embedding_norm == "scale_shift"
        self.output_scale_factor = output_scale_factor
        self.norm1 = GroupNorm(groups, in_channels, epsilon=eps)
        self.conv1 = Conv2D(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = None
        if temb_channels is not None:
            self.time_emb_proj = Linear(temb_channels, out_channels * (2 if self.scale_shift else 1))
        self.norm2 = GroupNorm(groups, out_channels, epsilon=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv2D(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = get_activation(act_fn)
        self.resample: Optional[nn.Layer] = None
        if up:
            self.resample = Upsample2D(in_channels, use_conv=False)
        elif down:
            self.resample = Downsample2D(in_channels, use_conv=False)
        self.conv_shortcut = Conv2D(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, input_tensor: paddle.Tensor, temb: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        if self.resample is None:
            hidden_states = normed_and_convolved(self.norm1, self.nonlinearity, self.conv1, input_tensor)
        else:
            hidden_states = self.resample(normed_and_activated(self.norm1, self.nonlinearity, input_tensor))
            input_tensor, hidden_states = self.resample(input_tensor), self.conv1(hidden_states)

        if self.time_emb_proj is not None:
            temb = self.time_emb_proj(self.nonlinearity(temb)).unsqueeze(-1).unsqueeze(-1)  # [B, C or 2C, 1, 1]
        if temb is not None and self.scale_shift:
            scale, shift = paddle.chunk(temb, 2, axis=1)
            hidden_states = self.nonlinearity(self.norm2(hidden_states) * (1 + scale) + shift)
            hidden_states = self.conv2(self.dropout(hidden_states))
        else:
            hidden_states = hidden_states if temb is None else added(hidden_states, temb)
            if self.dropout.p == 0 and not self.dropout._forward_pre_hooks and not self.dropout._forward_post_hooks:
                hidden_states = normed_and_convolved(self.norm2, self.nonlinearity, self.conv2, hidden_states)
            else:
                hidden_states = normed_and_activated(self.norm2, self.nonlinearity, hidden_states)
                hidden_states = self.conv2(self.dropout(hidden_states))

        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        output = added(input_tensor, hidden_states)
        return output if self.output_scale_factor == 1 else output / self.output_scale_factor
