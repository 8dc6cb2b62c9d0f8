"""The U-Net of unconditional and super-resolution diffusion (arXiv 2112.10752, appendix E; 2006.11239)."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple, Union

import paddle
from paddle import nn

from ppdiffusers.config import register_to_config
from ppdiffusers.layers.basic import Conv2D, GroupNorm, Silu
from ppdiffusers.layers.blocks import (
    DOWN_BLOCKS,
    UP_BLOCKS,
    DownBlock,
    MidBlock,
    UpBlock,
    block_type,
    check_levels,
    per_level,
)
from ppdiffusers.layers.embeddings import GaussianFourierProjection, Timesteps
from ppdiffusers.models.unet import UNet, UNet2DOutput


class UNet2DModel(UNet):
    """Noisy sample and timestep to a prediction of the same height and width.

    Arguments are diffusers' config keys. Height and width must be multiples of `2 ** (levels - 1)`.

    Args:
        sample_size: height and width that it was trained on; informative.
        center_input_sample: map the input from [0, 1] to [-1, 1].
        time_embedding_type: "positional", "fourier" (the sample is then divided by the timestep) or "learned".
        down_block_types: from `DownBlock2D`, `AttnDownBlock2D`, `ResnetDownsampleBlock2D`.
        mid_block_type: `UNetMidBlock2D`, or None for no middle block.
        up_block_types: from `UpBlock2D`, `AttnUpBlock2D`, `ResnetUpsampleBlock2D`.
        layers_per_block: residual blocks a level down; one more up.
        mid_block_scale_factor: divides the residual sums of the middle block.
        downsample_type, upsample_type: "conv" or "resnet", of the blocks with attention; the others' names say it.
        attention_head_dim: width of a head, None for a single head; or one value a level on the way down, of which
            the middle block takes the last. A model with a fixed number of heads needs that; diffusers has no such.
        resnet_time_scale_shift: "default" or "scale_shift".
        add_attention: attention in the middle block.
        class_embed_type: None, "timestep" or "identity"; with None, `num_class_embeds` classes are embedded.
        num_train_timesteps: rows of the "learned" time embedding.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: Optional[Union[int, Tuple[int, int]]] = None,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: Optional[int] = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: Sequence[str] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        mid_block_type: Optional[str] = "UNetMidBlock2D",
        up_block_types: Sequence[str] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: Union[int, Sequence[Optional[int]], None] = 8,
        norm_num_groups: int = 32,
        attn_norm_num_groups: Optional[int] = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        class_embed_type: Optional[str] = None,
        num_class_embeds: Optional[int] = None,
        num_train_timesteps: Optional[int] = None,
    ):
        super().__init__()
        levels = len(block_out_channels)
        check_levels(block_out_channels, down_block_types, up_block_types)
        if mid_block_type not in ("UNetMidBlock2D", None):
            raise ValueError(f"unknown mid_block_type {mid_block_type!r}; use 'UNetMidBlock2D' or None")
        for key, value in (("downsample_type", downsample_type), ("upsample_type", upsample_type)):
            if value not in ("conv", "resnet"):
                raise ValueError(f"unknown {key} {value!r}; use 'conv' or 'resnet'")
        given = per_level("attention_head_dim", attention_head_dim, levels)
        head_dims = [head_dim or channels for head_dim, channels in zip(given, block_out_channels)]
        temb_channels = time_embedding_dim or 4 * block_out_channels[0]
        resnet: Dict[str, Any] = {
            "temb_channels": temb_channels,
            "groups": norm_num_groups,
            "eps": norm_eps,
            "act_fn": act_fn,
            "dropout": dropout,
            "time_embedding_norm": resnet_time_scale_shift,
        }

        self.conv_in = Conv2D(in_channels, block_out_channels[0], 3, padding=1)
        self._add_embeddings(*self._time_projection(), temb_channels)

        self.down_blocks = nn.LayerList()
        skips = [block_out_channels[0]]  # widths of what the way down hands to the way up
        for i, (name, channels) in enumerate(zip(down_block_types, block_out_channels)):
            kind, last = block_type(name, DOWN_BLOCKS), i == levels - 1
            down = None if last else kind.resampling(downsample_type)
            self.down_blocks.append(
                DownBlock(
                    block_out_channels[max(i - 1, 0)],
                    channels,
                    layers_per_block,
                    resnet,
                    head_dim=head_dims[i] if kind.attention else None,
                    downsample=down,
                    downsample_padding=downsample_padding,
                )
            )
            skips += [channels] * (layers_per_block + (not last))

        self.mid_block = None
        if mid_block_type is not None:
            channels = block_out_channels[-1]
            # As published: where the time embedding scales and shifts, this attention has no norm of its own.
            groups = norm_num_groups if resnet_time_scale_shift == "default" else None
            self.mid_block = MidBlock(
                channels,
                resnet,
                head_dim=head_dims[-1] if add_attention else None,
                attention_groups=attn_norm_num_groups if attn_norm_num_groups is not None else groups,
                output_scale_factor=mid_block_scale_factor,
            )

        self.up_blocks = nn.LayerList()
        previous = block_out_channels[-1]
        for i, (name, channels) in enumerate(zip(up_block_types, reversed(block_out_channels))):
            kind, last = block_type(name, UP_BLOCKS), i == levels - 1
            up = None if last else kind.resampling(upsample_type)
            self.up_blocks.append(
                UpBlock(
                    previous,
                    channels,
                    [skips.pop() for _ in range(layers_per_block + 1)],
                    resnet,
                    head_dim=head_dims[levels - 1 - i] if kind.attention else None,
                    upsample=up,
                )
            )
            previous = channels

        self.conv_norm_out = GroupNorm(norm_num_groups, block_out_channels[0], epsilon=norm_eps)
        self.conv_act = Silu()
        self.conv_out = Conv2D(block_out_channels[0], out_channels, 3, padding=1)

    def _time_projection(self) -> Tuple[nn.Layer, int]:
        """The layer from timesteps to features, and the number of features."""
        config = self.config
        channels = config.block_out_channels[0]
        if config.time_embedding_type == "positional":
            return Timesteps(channels, config.flip_sin_to_cos, config.freq_shift), channels
        if config.time_embedding_type == "fourier":
            return GaussianFourierProjection(channels, scale=16), 2 * channels
        if config.time_embedding_type == "learned":
            if config.num_train_timesteps is None:
                raise ValueError("time_embedding_type 'learned' needs num_train_timesteps")
            return nn.Embedding(config.num_train_timesteps, channels), channels
        raise ValueError(
            f"unknown time_embedding_type {config.time_embedding_type!r}; use 'positional', 'fourier' or 'learned'"
        )

    def forward(
        self,
        sample: paddle.Tensor,
        timestep: Union[paddle.Tensor, float, int],
        class_labels: Optional[paddle.Tensor] = None,
        return_dict: bool = True,
    ) -> Union[UNet2DOutput, Tuple[paddle.Tensor]]:
        """
        Args:
            sample: `[B, in_channels, H, W]`.
            timestep: a number or `[1]` for the whole batch, or `[B]`.
            class_labels: `[B]` class numbers, or what `class_embed_type` says.

        Raises:
            ValueError: class labels missing, or given to a model without classes; another height or width.
        """
        self._check_size(sample)
        config = self.config
        if config.center_input_sample:
            sample = 2 * sample - 1
        temb, timesteps = self._embed(sample, timestep, class_labels)
        prediction = self._network(sample, temb)
        if config.time_embedding_type == "fourier":
            prediction = prediction / timesteps.astype(prediction.dtype).reshape([-1, 1, 1, 1])
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)
