"""A U-Net whose deep features serve several steps (DeepCache, arXiv 2312.00858).

Deep features change little from step to step. So the whole network runs only every `interval` steps, and keeps what
comes up from the depth to the skip connection `branch`. The steps between compute nothing deeper: they make and take
the skip connections 0 ... `branch`, which are counted from `conv_in`'s.
"""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import paddle
from paddle import nn

from ppdiffusers.inference.compiled import CompiledModel
from ppdiffusers.inference.parts import Part, unet_inputs
from ppdiffusers.inference.stand_in import StandIn
from ppdiffusers.layers.basic import normed_and_convolved
from ppdiffusers.models.half_precision import runs_in_half
from ppdiffusers.models.unet import UNet

Layers = Sequence[Tuple[nn.Layer, int]]  # blocks, and which of their layers


class DeepCache(StandIn):
    """Called like `unet`, once for each step of one denoising loop, in order.

    Args:
        unet: layers, or what `compile_model` made of them.
        interval: steps for which deep features serve; 1 for no reuse.
        branch: the skip connection within which layers are computed at every step.

    Raises:
        ValueError: an interval below 1, or a branch that the U-Net does not have.
    """

    def __init__(self, unet: Any, interval: int = 3, branch: int = 0):
        super().__init__(unet.model if isinstance(unet, CompiledModel) else unet)
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f"the interval {interval!r} is not possible; give a positive int, 1 for no reuse")
        check_branch(self.model, branch)
        self._unet, self._interval, self._branch = unet, interval, branch
        self._step = 0
        self._deep: Optional[paddle.Tensor] = None

    def _replaced(self) -> Mapping[str, Callable[..., Any]]:
        return {"_network": self._some_of_the_network}

    def _some_of_the_network(self, *tensors: paddle.Tensor) -> paddle.Tensor:
        whole = self._step % self._interval == 0
        self._step += 1
        if not whole:
            return self._run_part(shallow_part(self.model, self._branch), self._deep, *tensors)
        prediction, self._deep = self._run_part(whole_part(self.model, self._branch), *tensors)
        return prediction

    def _run_part(self, part: Part, *tensors: Any) -> Any:
        if isinstance(self._unet, CompiledModel):
            return self._unet.part(part)(*tensors[: len(part.inputs)])
        return runs_in_half(part.function)(self.model, *tensors)


def check_branch(unet: Any, branch: Any) -> None:
    """Raises ValueError unless `branch` is the number of a skip connection."""
    count = len(unet.config.block_out_channels) * (unet.config.layers_per_block + 1)
    if not isinstance(branch, int) or isinstance(branch, bool) or branch not in range(count):
        raise ValueError(
            f"cache_branch_id {branch!r} is no skip connection of this model; it has 0 (fastest) ... {count - 1}"
        )


def whole_part(unet: UNet, branch: int) -> Part:
    """The prediction, and what comes up to the layer that takes the skip connection `branch`."""

    def run(unet: UNet, sample: Any, temb: Any, context: Any = None) -> Tuple[paddle.Tensor, paddle.Tensor]:
        skips = _down(unet, _layers(unet.down_blocks), sample, temb, context)
        deep = skips[-1]
        if unet.mid_block is not None:
            deep = unet.mid_block(deep, temb, context)
        deep = _up(_layers(unet.up_blocks)[: -branch - 1], deep, temb, skips, context)
        return _outer(unet, branch, deep, temb, skips, context), deep

    return Part(f"network_and_deep_{branch}", unet_inputs(unet), run)


def shallow_part(unet: UNet, branch: int) -> Part:
    """The prediction with the deep features of another step."""
    channels = unet.config.block_out_channels
    level, skip = divmod(branch, unet.config.layers_per_block + 1)
    below = min(level + 1, len(channels) - 1) if skip == unet.config.layers_per_block else level
    inputs = {"deep": ([None, channels[below], -(2**level), -(2**level)], "float32"), **unet_inputs(unet)}
    outer = [*_layers(unet.down_blocks)[:branch], *_layers(unet.up_blocks)[-branch - 1 :]]
    if not any(getattr(block, "cross_attention", False) for block, _ in outer):
        inputs.pop("encoder_hidden_states", None)

    def run(unet: UNet, deep: Any, sample: Any, temb: Any, context: Any = None) -> paddle.Tensor:
        skips = _down(unet, _layers(unet.down_blocks)[:branch], sample, temb, context)
        return _outer(unet, branch, deep, temb, skips, context)

    return Part(f"shallow_{branch}", inputs, run)


def _layers(blocks: nn.LayerList) -> Layers:
    return [(block, i) for block in blocks for i in range(block.num_layers)]


def _down(unet: UNet, layers: Layers, sample: Any, temb: Any, context: Any) -> List[paddle.Tensor]:
    """The skip connections: of `conv_in`, and of each of `layers`."""
    skips = [unet.conv_in(sample)]
    for block, i in layers:
        skips.append(block.layer(i, skips[-1], temb, context))
    return skips


def _up(layers: Layers, hidden_states: Any, temb: Any, skips: List[paddle.Tensor], context: Any) -> paddle.Tensor:
    """`skips` is consumed from its end."""
    for block, i in layers:
        hidden_states = block.layer(i, hidden_states, temb, skips.pop(), context)
    return hidden_states


def _outer(unet: UNet, branch: int, deep: Any, temb: Any, skips: List[paddle.Tensor], context: Any) -> paddle.Tensor:
    hidden_states = _up(_layers(unet.up_blocks)[-branch - 1 :], deep, temb, skips, context)
    return normed_and_convolved(unet.conv_norm_out, unet.conv_act, unet.conv_out, hidden_states)
