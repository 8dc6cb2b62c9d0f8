"""What the U-Nets share: embeddings of timestep and class, and the way down, through the middle and up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import paddle
from paddle import nn

from ppdiffusers.layers.activations import get_activation
from ppdiffusers.layers.basic import Conv2D, GroupNorm, normed_and_convolved
from ppdiffusers.layers.blocks import DownBlock, MidBlock, UpBlock
from ppdiffusers.layers.embeddings import TimestepEmbedding
from ppdiffusers.models.model import Model
from ppdiffusers.outputs import Output


@dataclass
class UNet2DOutput(Output):
    """`sample`: `[B, out_channels, H, W]`, the prediction in the scheduler's `prediction_type`."""

    sample: paddle.Tensor


class UNet(Model):
    """Base of the U-Nets."""

    def _add_layers(
        self,
        time_proj: nn.Layer,
        features: int,
        temb_channels: int,
        down: Sequence[Dict[str, Any]],
        middle: Optional[Dict[str, Any]],
        up: Sequence[Dict[str, Any]],
        act_fn: str = "silu",
    ) -> None:
        """All layers of the config; what two U-Nets have in common is read from there.

        Args:
            time_proj: from timesteps to `features` values, which become an embedding of width `temb_channels`.
            down, up: further arguments of `DownBlock` and `UpBlock`, level by level on the way.
            middle: of `MidBlock`; None for no middle block.
            act_fn: of the embedding, and before the last convolution.
        """
        config = self.config
        channels, layers, last = config.block_out_channels, config.layers_per_block, len(down) - 1
        resnet: Dict[str, Any] = {
            "temb_channels": temb_channels,
            "groups": config.norm_num_groups,
            "eps": config.norm_eps,
            "act_fn": config.act_fn,
            "dropout": config.dropout,
            "time_embedding_norm": config.resnet_time_scale_shift,
        }
        self.conv_in = Conv2D(config.in_channels, channels[0], 3, padding=1)

        self._temb_channels = temb_channels
        self.time_proj = time_proj
        self.time_embedding = TimestepEmbedding(features, temb_channels, act_fn)
        self.class_embedding = None
        kind, classes = config.class_embed_type, config.num_class_embeds
        if kind is None and classes is not None:
            self.class_embedding = nn.Embedding(classes, temb_channels)
        elif kind == "timestep":
            self.class_embedding = TimestepEmbedding(features, temb_channels, act_fn)
        elif kind == "identity":
            self.class_embedding = nn.Identity()
        elif kind is not None:
            raise ValueError(f"unknown class_embed_type {kind!r}; use 'timestep', 'identity' or None")

        self.down_blocks = nn.LayerList()
        skips = [channels[0]]  # widths of what the way down hands to the way up
        for i, options in enumerate(down):
            options = {"downsample_padding": config.downsample_padding, **options}
            if i == last:
                options["downsample"] = None
            block = DownBlock(channels[max(i - 1, 0)], channels[i], layers, resnet, **options)
            self.down_blocks.append(block)
            skips += [channels[i]] * block.num_layers
        self.mid_block = None
        if middle is not None:
            scale = config.mid_block_scale_factor
            self.mid_block = MidBlock(channels[-1], resnet, output_scale_factor=scale, **middle)
        self.up_blocks = nn.LayerList()
        for i, options in zip(range(last, -1, -1), up):
            options = {**options, "upsample": None} if i == 0 else options
            taken = [skips.pop() for _ in range(layers + 1)]
            self.up_blocks.append(UpBlock(channels[min(i + 1, last)], channels[i], taken, resnet, **options))

        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], epsilon=config.norm_eps)
        self.conv_act = get_activation(act_fn)
        self.conv_out = Conv2D(channels[0], config.out_channels, 3, padding=1)

    def _network(
        self, sample: paddle.Tensor, temb: paddle.Tensor, encoder_hidden_states: Optional[paddle.Tensor] = None
    ) -> paddle.Tensor:
        """Everything after the embeddings: the U of the paper's figure 3.

        Args:
            sample: `[B, in_channels, H, W]`.
            temb: `[B, temb_channels]`, of `_embed`.
            encoder_hidden_states: `[B, S, cross_attention_dim]`, for the levels that attend to it.
        """
        hidden_states = self.conv_in(sample)
        skips = [hidden_states]
        for block in self.down_blocks:
            hidden_states, outputs = block(hidden_states, temb, encoder_hidden_states)
            skips += outputs
        if self.mid_block is not None:
            hidden_states = self.mid_block(hidden_states, temb, encoder_hidden_states)
        for block in self.up_blocks:
            hidden_states = block(hidden_states, temb, skips, encoder_hidden_states)  # takes its skips from the end
        return normed_and_convolved(self.conv_norm_out, self.conv_act, self.conv_out, hidden_states)

    def _embed(
        self, sample: paddle.Tensor, timestep: Union[paddle.Tensor, float, int], class_labels: Optional[paddle.Tensor]
    ) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """The embedding `[B, temb_channels]` that every residual block gets, and the timesteps `[B]`."""
        if not isinstance(timestep, paddle.Tensor):
            timestep = paddle.to_tensor([timestep])
        timesteps = timestep.reshape([-1]).expand([sample.shape[0]])
        if isinstance(self.time_proj, nn.Embedding) and timesteps.is_floating_point():
            timesteps = self._looked_up(timesteps)
        temb = self.time_embedding(self.time_proj(timesteps).astype(sample.dtype))
        if self.class_embedding is not None:
            if class_labels is None:
                raise ValueError("this model is class-conditional: give class_labels")
            if self.config.class_embed_type == "timestep":
                class_labels = self.time_proj(class_labels).astype(sample.dtype)
            temb = temb + self.class_embedding(class_labels).astype(sample.dtype)
        elif class_labels is not None:
            raise ValueError("class_labels given, but this model has no classes (num_class_embeds)")
        return temb, timesteps

    def _looked_up(self, timesteps: paddle.Tensor) -> paddle.Tensor:
        """As the row numbers of a learned embedding; raises ValueError for what lies between two rows."""
        for value in timesteps.tolist():
            if value != int(value):
                raise ValueError(
                    f"timestep {value:g} is not an integer, and this U-Net looks timesteps up in a table "
                    "(time_embedding_type 'learned'); set use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas "
                    "and use_lu_lambdas to False, and with Euler or LMS timestep_spacing to 'leading' or 'trailing'"
                )
        return timesteps.astype("int64")

    def _check_size(self, sample: paddle.Tensor) -> None:
        multiple = self.downsampling_factor
        height, width = sample.shape[-2:]
        if paddle.in_dynamic_mode() and (height % multiple or width % multiple):  # symbolic where it is exported
            raise ValueError(
                f"the sample is {height} x {width}; height and width must be multiples of {multiple} for this model"
            )
