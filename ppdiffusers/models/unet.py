"""What the U-Nets share: embeddings of timestep and class, and the way down, through the middle and up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

import paddle
from paddle import nn

from ppdiffusers.layers.basic import normed_and_convolved
from ppdiffusers.layers.embeddings import TimestepEmbedding
from ppdiffusers.models.model import Model
from ppdiffusers.outputs import Output


@dataclass
class UNet2DOutput(Output):
    """`sample`: `[B, out_channels, H, W]`, the prediction in the scheduler's `prediction_type`."""

    sample: paddle.Tensor


class UNet(Model):
    """Base of the U-Nets. Their configs have `class_embed_type`, `num_class_embeds` and `block_out_channels`."""

    conv_in: nn.Layer
    down_blocks: nn.LayerList
    mid_block: Optional[nn.Layer]
    up_blocks: nn.LayerList
    conv_norm_out: nn.Layer
    conv_act: nn.Layer
    conv_out: nn.Layer

    def _add_embeddings(self, time_proj: nn.Layer, features: int, temb_channels: int, act_fn: str = "silu") -> None:
        """The layers from timesteps, through `features` values of `time_proj`, and classes to `temb_channels`."""
        self._temb_channels = temb_channels
        self.time_proj = time_proj
        self.time_embedding = TimestepEmbedding(features, temb_channels, act_fn)
        self.class_embedding = None
        kind, classes = self.config.class_embed_type, self.config.num_class_embeds
        if kind is None and classes is not None:
            self.class_embedding = nn.Embedding(classes, temb_channels)
        elif kind == "timestep":
            self.class_embedding = TimestepEmbedding(features, temb_channels, act_fn)
        elif kind == "identity":
            self.class_embedding = nn.Identity()
        elif kind is not None:
            raise ValueError(f"unknown class_embed_type {kind!r}; use 'timestep', 'identity' or None")

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
        self,
        sample: paddle.Tensor,
        timestep: Union[paddle.Tensor, float, int],
        class_labels: Optional[paddle.Tensor],
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
        multiple = 2 ** (len(self.config.block_out_channels) - 1)
        height, width = sample.shape[-2:]
        if paddle.in_dynamic_mode() and (height % multiple or width % multiple):  # symbolic where it is exported
            raise ValueError(
                f"the sample is {height} x {width}; height and width must be multiples of {multiple} for this model"
            )
