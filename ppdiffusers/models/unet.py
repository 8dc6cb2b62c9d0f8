"""What the U-Nets share: embeddings of timestep and class, the sizes that they take, and the way down and up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import paddle
from paddle import nn

from ppdiffusers.layers.embeddings import TimestepEmbedding
from ppdiffusers.models.model import Model
from ppdiffusers.outputs import Output

Layers = Sequence[Tuple[nn.Layer, int]]  # blocks, and which of their layers


@dataclass
class UNet2DOutput(Output):
    """`sample`: `[B, out_channels, H, W]`, the prediction in the scheduler's `prediction_type`."""

    sample: paddle.Tensor


@dataclass
class DeepCache:
    """What the steps of one denoising loop share (DeepCache, arXiv 2312.00858).

    Deep features change little from step to step. So the whole network runs only every `interval` steps, and keeps
    what comes up from the depth to the skip connection `branch`. The steps between compute nothing deeper: they make
    and take the skip connections 0 ... `branch`, which are counted from `conv_in`'s.
    """

    interval: int
    branch: int
    step: int = 0
    deep: Optional[paddle.Tensor] = None

    def __post_init__(self) -> None:
        if not isinstance(self.interval, int) or self.interval < 1:
            raise ValueError(f"the interval {self.interval!r} is not possible; give a positive int, 1 for no reuse")


class UNet(Model):
    """Base of the U-Nets. Their configs have `class_embed_type`, `num_class_embeds`, `block_out_channels` and
    `layers_per_block`."""

    conv_in: nn.Layer
    down_blocks: nn.LayerList
    mid_block: Optional[nn.Layer]
    up_blocks: nn.LayerList
    conv_norm_out: nn.Layer
    conv_act: nn.Layer
    conv_out: nn.Layer

    _reads_condition = False  # through cross-attention

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

    def _programs(self) -> Dict[str, Dict[str, Any]]:
        sample = ([None, self.config.in_channels, None, None], "float32")
        inputs: Dict[str, Any] = {"sample": sample, "temb": ([None, self._temb_channels], "float32")}
        if self._reads_condition:
            inputs["encoder_hidden_states"] = ([None, None, self.config.cross_attention_dim], "float32")
        return {"_network": inputs}

    def _deep_programs(self, branch: int) -> Dict[str, Dict[str, Any]]:
        """As `_programs`, of the two methods that a `DeepCache` makes use of."""
        inputs = self._programs()["_network"]
        channels = self.config.block_out_channels
        level, skip = divmod(branch, self.config.layers_per_block + 1)
        below = min(level + 1, len(channels) - 1) if skip == self.config.layers_per_block else level
        deep = ([None, channels[below], -(2**level), -(2**level)], "float32")
        return {
            "_network_and_deep": {"branch": branch, **inputs},
            "_shallow": {"branch": branch, "deep": deep, **inputs},
        }

    def check_branch(self, branch: int) -> None:
        """Raises ValueError unless `branch` is the number of a skip connection."""
        count = len(self.config.block_out_channels) * (self.config.layers_per_block + 1)
        if not isinstance(branch, int) or isinstance(branch, bool) or branch not in range(count):
            raise ValueError(
                f"cache_branch_id {branch!r} is no skip connection of this model; it has 0 (fastest) ... {count - 1}"
            )

    def _run(self, cache: Optional[DeepCache], *tensors: paddle.Tensor) -> paddle.Tensor:
        """`_network`, or as much of it as this step of `cache` needs."""
        if cache is None or cache.interval == 1:
            return self._network(*tensors)
        self.check_branch(cache.branch)
        full = cache.step % cache.interval == 0
        cache.step += 1
        if not full:
            return self._deep_method("_shallow", cache.branch)(cache.branch, cache.deep, *tensors)
        prediction, cache.deep = self._deep_method("_network_and_deep", cache.branch)(cache.branch, *tensors)
        return prediction

    def _deep_method(self, name: str, branch: int) -> Callable[..., Any]:
        """The method, or the program that stands for it where the model is compiled."""
        compiled = self.__dict__.get("_network")
        return getattr(self, name) if compiled is None else compiled.siblings(self._deep_programs(branch))[name]

    # What is compiled: everything after the embeddings.

    def _network(
        self, sample: paddle.Tensor, temb: paddle.Tensor, encoder_hidden_states: Optional[paddle.Tensor] = None
    ) -> paddle.Tensor:
        return self._network_and_deep(0, sample, temb, encoder_hidden_states)[0]

    def _network_and_deep(
        self,
        branch: int,
        sample: paddle.Tensor,
        temb: paddle.Tensor,
        encoder_hidden_states: Optional[paddle.Tensor] = None,
    ) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """The prediction, and what comes up to the layer that takes the skip connection `branch`."""
        skips = self._down(_layers(self.down_blocks), sample, temb, encoder_hidden_states)
        deep = skips[-1]
        if self.mid_block is not None:
            deep = self.mid_block(deep, temb, encoder_hidden_states)
        deep = self._up(_layers(self.up_blocks)[: -branch - 1], deep, temb, skips, encoder_hidden_states)
        return self._outer(branch, deep, temb, skips, encoder_hidden_states), deep

    def _shallow(
        self,
        branch: int,
        deep: paddle.Tensor,
        sample: paddle.Tensor,
        temb: paddle.Tensor,
        encoder_hidden_states: Optional[paddle.Tensor] = None,
    ) -> paddle.Tensor:
        """The prediction with the `deep` of another step."""
        skips = self._down(_layers(self.down_blocks)[:branch], sample, temb, encoder_hidden_states)
        return self._outer(branch, deep, temb, skips, encoder_hidden_states)

    def _down(
        self, layers: Layers, sample: paddle.Tensor, temb: paddle.Tensor, context: Optional[paddle.Tensor]
    ) -> List[paddle.Tensor]:
        """The skip connections: of `conv_in`, and of each of `layers`."""
        skips = [self.conv_in(sample)]
        for block, i in layers:
            skips.append(block.layer(i, skips[-1], temb, context))
        return skips

    def _up(
        self,
        layers: Layers,
        hidden_states: paddle.Tensor,
        temb: paddle.Tensor,
        skips: List[paddle.Tensor],
        context: Optional[paddle.Tensor],
    ) -> paddle.Tensor:
        """`skips` is consumed from its end."""
        for block, i in layers:
            hidden_states = block.layer(i, hidden_states, temb, skips.pop(), context)
        return hidden_states

    def _outer(
        self,
        branch: int,
        deep: paddle.Tensor,
        temb: paddle.Tensor,
        skips: List[paddle.Tensor],
        context: Optional[paddle.Tensor],
    ) -> paddle.Tensor:
        hidden_states = self._up(_layers(self.up_blocks)[-branch - 1 :], deep, temb, skips, context)
        return self.conv_out(self.conv_act(self.conv_norm_out(hidden_states)))

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

    def _check_size(self, sample: paddle.Tensor) -> None:
        multiple = 2 ** (len(self.config.block_out_channels) - 1)
        height, width = sample.shape[-2:]
        if paddle.in_dynamic_mode() and (height % multiple or width % multiple):  # symbolic where it is exported
            raise ValueError(
                f"the sample is {height} x {width}; height and width must be multiples of {multiple} for this model"
            )


def _layers(blocks: nn.LayerList) -> Layers:
    return [(block, i) for block in blocks for i in range(block.num_layers)]
