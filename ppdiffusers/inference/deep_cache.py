"""A U-Net whose deep features serve several steps (DeepCache, arXiv 2312.00858).

Deep features change little from step to step. So the whole network runs only every `interval` steps, and keeps what
comes up from the depth to the skip connection `branch`. The steps between compute nothing deeper: they make and take
the skip connections 0 ... `branch`, which are counted from `conv_in`'s.
"""

from __future__ import annotations

import types
import warnings
from typing import Any, Callable, List, Mapping, Tuple

import paddle
from paddle import nn

from ppdiffusers.inference.compiled import CompiledModel
from ppdiffusers.inference.parts import Part, unet_inputs
from ppdiffusers.inference.stand_in import StandIn
from ppdiffusers.layers.basic import normed_and_convolved
from ppdiffusers.models.unet import UNet


class DeepCache(StandIn):
    """Called like `unet`, once for each step of one denoising loop, in order.

    A U-Net with a hook or with a forward that is not of this package runs whole at every step, with a warning.

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
        self._run_so_far = types.SimpleNamespace(step=0, deep=None, told=False)  # shared with `StandIn`'s copies

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result, run = super().__call__(*args, **kwargs), self._run_so_far
        if run.step == 0 and not run.told:
            run.told = True
            warnings.warn(
                f"DeepCache has no effect: this {type(self.model).__name__} has a hook or a forward of its own, or is "
                "asked for gradients, and so it runs whole at every step",
                stacklevel=2,
            )
        return result

    def _replaced(self) -> Mapping[str, Callable[..., Any]]:
        return {"_network": self._some_of_the_network}

    def _some_of_the_network(self, *tensors: paddle.Tensor) -> paddle.Tensor:
        run = self._run_so_far
        run.step += 1
        if (run.step - 1) % self._interval:
            return self._run_part(shallow_part(self.model, self._branch), run.deep, *tensors)
        prediction, run.deep = self._run_part(whole_part(self.model, self._branch), *tensors)
        return prediction

    def _run_part(self, part: Part, *tensors: Any) -> Any:
        if isinstance(self._unet, CompiledModel):
            return self._unet.part(part)(*tensors[: len(part.inputs)])
        return part.by_layers(self.model, *tensors)


def check_branch(unet: Any, branch: Any) -> None:
    """Raises ValueError unless `branch` is the number of a skip connection."""
    count = len(unet.config.block_out_channels) * (unet.config.layers_per_block + 1)
    if not isinstance(branch, int) or isinstance(branch, bool) or branch not in range(count):
        raise ValueError(
            f"cache_branch_id {branch!r} is no skip connection of this model; it has 0 (fastest) ... {count - 1}"
        )


def whole_part(unet: UNet, branch: int) -> Part:
    """The prediction, and what comes up to the layer that takes the skip connection `branch`."""
    return Part(
        f"network_and_deep_{branch}", unet_inputs(unet), lambda unet, *tensors: _network(unet, branch, None, *tensors)
    )


def shallow_part(unet: UNet, branch: int) -> Part:
    """The prediction with the deep features of another step."""
    channels = unet.config.block_out_channels
    level, skip = divmod(branch, unet.config.layers_per_block + 1)
    below = min(level + 1, len(channels) - 1) if skip == unet.config.layers_per_block else level
    inputs = {"deep": ([None, channels[below], -(2**level), -(2**level)], "float32"), **unet_inputs(unet)}
    outer = [*_layers(unet.down_blocks)[:branch], *_layers(unet.up_blocks)[-branch - 1 :]]
    if not any(getattr(block, "cross_attention", False) for block, _ in outer):
        inputs.pop("encoder_hidden_states", None)
    return Part(f"shallow_{branch}", inputs, lambda unet, deep, *tensors: _network(unet, branch, deep, *tensors)[0])


def _layers(blocks: nn.LayerList) -> List[Tuple[Any, int]]:
    """Blocks, and which of their layers."""
    return [(block, i) for block in blocks for i in range(block.num_layers)]


def _network(
    unet: UNet, branch: int, deep: Any, sample: Any, temb: Any, context: Any = None
) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The prediction, and the deep features that it is made with: those that are given, or new ones."""
    down, up = _layers(unet.down_blocks), _layers(unet.up_blocks)
    skips = [unet.conv_in(sample)]
    for block, i in down if deep is None else down[:branch]:
        skips.append(block.layer(i, skips[-1], temb, context))
    if deep is None:
        deep = skips[-1] if unet.mid_block is None else unet.mid_block(skips[-1], temb, context)
        for block, i in up[: -branch - 1]:
            deep = block.layer(i, deep, temb, skips.pop(), context)
    hidden_states = deep
    for block, i in up[-branch - 1 :]:
        hidden_states = block.layer(i, hidden_states, temb, skips.pop(), context)
    return normed_and_convolved(unet.conv_norm_out, unet.conv_act, unet.conv_out, hidden_states), deep
