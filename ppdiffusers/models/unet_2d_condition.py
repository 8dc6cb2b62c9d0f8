"""The U-Net that reads a condition through cross-attention (arXiv 2112.10752, section 3.3)."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple, Union

import paddle
from paddle import nn

from ppdiffusers.config import register_to_config
from ppdiffusers.layers.activations import get_activation
from ppdiffusers.layers.basic import Conv2D, GroupNorm
from ppdiffusers.layers.blocks import (
    CONDITION_DOWN_BLOCKS,
    CONDITION_UP_BLOCKS,
    DownBlock,
    MidBlock,
    UpBlock,
    block_type,
    check_levels,
    per_level,
)
from ppdiffusers.layers.embeddings import GaussianFourierProjection, Timesteps
from ppdiffusers.models.unet import UNet, UNet2DOutput

MID_BLOCKS = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)


class UNet2DConditionModel(UNet):
    """Noisy sample, timestep and condition to a prediction of the same height and width.

    Arguments are diffusers' config keys. Height and width must be multiples of `2 ** (levels - 1)`.

    Args:
        sample_size: height and width that it was trained on; informative.
        center_input_sample: map the input from [0, 1] to [-1, 1].
        down_block_types: from `DownBlock2D`, `CrossAttnDownBlock2D`.
        mid_block_type: `UNetMidBlock2DCrossAttn`, `UNetMidBlock2D` (a single residual block), or None.
        up_block_types: from `UpBlock2D`, `CrossAttnUpBlock2D`.
        only_cross_attention: transformers attend to the condition twice and not to themselves; one value, or one
            a level. The middle block is left out of it.
        layers_per_block: residual blocks a level down; one more up.
        mid_block_scale_factor: divides the residual sums of the middle block.
        cross_attention_dim: width of the condition.
        transformer_layers_per_block: transformer blocks after a residual block.
        attention_head_dim: the *number* of heads, whatever its name says; one value, or one a level.
        use_linear_projection: transformers have linear layers at their ends, not 1x1 convolutions.
        class_embed_type: None, "timestep" or "identity"; with None, `num_class_embeds` classes are embedded.
        upcast_attention: attend in float32, whatever the type of the model.
        resnet_time_scale_shift: "default" or "scale_shift".
        time_embedding_type: "positional" or "fourier".
    """

    _fixed_config_keys = {
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "num_attention_heads": None,
        "dual_cross_attention": False,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "time_cond_proj_dim": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "projection_class_embeddings_input_dim": None,
        "attention_type": "default",
        "class_embeddings_concat": False,
        "cross_attention_norm": None,
    }
    _legacy_config_keys = {
        **dict.fromkeys(_fixed_config_keys, "of models that are no latent diffusion"),
        "mid_block_only_cross_attention": "only of middle blocks that no latent diffusion model has",
        "addition_embed_type_num_heads": "only of an addition_embed_type",
        "reverse_transformer_layers_per_block": "only where transformer_layers_per_block is a list",
    }

    @register_to_config
    def __init__(
        self,
        sample_size: Optional[Union[int, Tuple[int, int]]] = None,
        in_channels: int = 4,
        out_channels: int = 4,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: Sequence[str] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        mid_block_type: Optional[str] = "UNetMidBlock2DCrossAttn",
        up_block_types: Sequence[str] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        only_cross_attention: Union[bool, Sequence[bool]] = False,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        dropout: float = 0.0,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1280,
        transformer_layers_per_block: int = 1,
        attention_head_dim: Union[int, Sequence[int]] = 8,
        use_linear_projection: bool = False,
        class_embed_type: Optional[str] = None,
        num_class_embeds: Optional[int] = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        time_embedding_type: str = "positional",
        time_embedding_dim: Optional[int] = None,
    ):
        super().__init__()
        levels = len(block_out_channels)
        check_levels(block_out_channels, down_block_types, up_block_types)
        if mid_block_type not in MID_BLOCKS:
            raise ValueError(f"unknown mid_block_type {mid_block_type!r}; use one of {MID_BLOCKS}")
        for key in ("layers_per_block", "norm_num_groups", "cross_attention_dim", "transformer_layers_per_block"):
            if type(self.config[key]) is not int:
                raise ValueError(f"{key} {self.config[key]!r} is not supported; it must be one integer for all levels")
        heads = per_level("attention_head_dim", attention_head_dim, levels)
        only_cross = per_level("only_cross_attention", only_cross_attention, levels)

        time_proj, features, temb_channels = self._time_projection()
        resnet: Dict[str, Any] = {
            "temb_channels": temb_channels,
            "groups": norm_num_groups,
            "eps": norm_eps,
            "act_fn": act_fn,
            "dropout": dropout,
            "time_embedding_norm": resnet_time_scale_shift,
        }
        transformer: Dict[str, Any] = {
            "context_dim": cross_attention_dim,
            "layers": transformer_layers_per_block,
            "groups": norm_num_groups,
            "linear_projection": use_linear_projection,
            "upcast": upcast_attention,
        }

        self.conv_in = Conv2D(in_channels, block_out_channels[0], 3, padding=1)
        self._add_embeddings(time_proj, features, temb_channels, act_fn)

        level_transformers = [
            {**transformer, "heads": heads[i], "only_cross_attention": only_cross[i]} for i in range(levels)
        ]
        self.down_blocks = nn.LayerList()
        skips = [block_out_channels[0]]  # widths of what the way down hands to the way up
        for i, (name, channels) in enumerate(zip(down_block_types, block_out_channels)):
            kind, last = block_type(name, CONDITION_DOWN_BLOCKS), i == levels - 1
            self.down_blocks.append(
                DownBlock(
                    block_out_channels[max(i - 1, 0)],
                    channels,
                    layers_per_block,
                    resnet,
                    downsample=None if last else "conv",
                    downsample_padding=downsample_padding,
                    transformer=level_transformers[i] if kind.cross_attention else None,
                )
            )
            skips += [channels] * (layers_per_block + (not last))

        self.mid_block = None
        if mid_block_type is not None:
            crossing = mid_block_type == "UNetMidBlock2DCrossAttn"
            self.mid_block = MidBlock(
                block_out_channels[-1],
                resnet,
                output_scale_factor=mid_block_scale_factor,
                transformer={**transformer, "heads": heads[-1]} if crossing else None,
                num_resnets=2 if crossing else 1,
            )

        self.up_blocks = nn.LayerList()
        previous = block_out_channels[-1]
        for i, (name, channels) in enumerate(zip(up_block_types, reversed(block_out_channels))):
            kind, last = block_type(name, CONDITION_UP_BLOCKS), i == levels - 1
            self.up_blocks.append(
                UpBlock(
                    previous,
                    channels,
                    [skips.pop() for _ in range(layers_per_block + 1)],
                    resnet,
                    upsample=None if last else "conv",
                    transformer=level_transformers[levels - 1 - i] if kind.cross_attention else None,
                )
            )
            previous = channels
        self.conv_norm_out = GroupNorm(norm_num_groups, block_out_channels[0], epsilon=norm_eps)
        self.conv_act = get_activation(act_fn)
        self.conv_out = Conv2D(block_out_channels[0], out_channels, 3, padding=1)

    def _time_projection(self) -> Tuple[nn.Layer, int, int]:
        """The layer from timesteps to features, the number of features, and the width of the embedding."""
        config = self.config
        channels = config.block_out_channels[0]
        if config.time_embedding_type == "positional":
            width = config.time_embedding_dim or 4 * channels
            return Timesteps(channels, config.flip_sin_to_cos, config.freq_shift), channels, width
        if config.time_embedding_type == "fourier":
            width = config.time_embedding_dim or 2 * channels
            if width % 2:
                raise ValueError(f"time_embedding_dim {width} is odd; 'fourier' makes pairs of sine and cosine")
            projection = GaussianFourierProjection(width // 2, 1.0, log=False, flip_sin_to_cos=config.flip_sin_to_cos)
            return projection, width, width
        raise ValueError(f"unknown time_embedding_type {config.time_embedding_type!r}; use 'positional' or 'fourier'")

    def forward(
        self,
        sample: paddle.Tensor,
        timestep: Union[paddle.Tensor, float, int],
        encoder_hidden_states: Optional[paddle.Tensor],
        class_labels: Optional[paddle.Tensor] = None,
        return_dict: bool = True,
    ) -> Union[UNet2DOutput, Tuple[paddle.Tensor]]:
        """
        Args:
            sample: `[B, in_channels, H, W]`.
            timestep: a number or `[1]` for the whole batch, or `[B]`.
            encoder_hidden_states: the condition, `[B, S, cross_attention_dim]` with any S; None for a model without
                cross-attention.
            class_labels: `[B]` class numbers, or what `class_embed_type` says.

        Raises:
            ValueError: a condition or a sample of another shape; class labels missing, or given to a model without
                classes.
        """
        self._check_size(sample)
        if self._reads_condition:
            self._check_condition(sample, encoder_hidden_states)
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        temb, _ = self._embed(sample, timestep, class_labels)
        prediction = self._network(sample, temb, *([encoder_hidden_states] if self._reads_condition else []))
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)

    @property
    def _reads_condition(self) -> bool:
        """Whether any block attends to the condition; the config may leave all of them without.

        An exported model, which has no blocks, asks this too.
        """
        config = self.config
        kinds = (*config.down_block_types, config.mid_block_type or "", *config.up_block_types)
        return any("CrossAttn" in kind for kind in kinds)

    def _check_condition(self, sample: paddle.Tensor, condition: Optional[paddle.Tensor]) -> None:
        width = self.config.cross_attention_dim
        if condition is None:
            raise ValueError(f"this model is conditional: give encoder_hidden_states [B, S, {width}]")
        if not paddle.in_dynamic_mode():  # symbolic sizes where it is exported
            return
        shape = list(condition.shape)
        if len(shape) != 3 or shape[0] != sample.shape[0] or shape[2] != width:
            raise ValueError(f"encoder_hidden_states are {shape}; this call needs [{sample.shape[0]}, S, {width}]")
