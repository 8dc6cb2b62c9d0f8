"""The original's `UNetModel`: its parameters and its layers, beside `UNet2DModel` and `UNet2DConditionModel`.

Source of names and order: the constructor in ldm/modules/diffusionmodules/openaimodel.py of CompVis/latent-diffusion.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple, Type, Union

from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.conversion.params import REQUIRED, read_params, require_equal
from ppdiffusers.conversion.rows import LINEAR, POINTWISE_1D, SAME, Rows, Rule, Table
from ppdiffusers.models import UNet2DConditionModel, UNet2DModel

NAME = "UNetModel"
UNet = Union[UNet2DModel, UNet2DConditionModel]
UNetClass = Union[Type[UNet2DModel], Type[UNet2DConditionModel]]

_KNOWN = {
    "image_size": (int, REQUIRED),
    "in_channels": (int, REQUIRED),
    "out_channels": (int, REQUIRED),
    "model_channels": (int, REQUIRED),
    "num_res_blocks": (int, REQUIRED),
    "attention_resolutions": (list, REQUIRED),
    "channel_mult": (list, [1, 2, 4, 8]),
    "dropout": (float, 0.0),
    "num_heads": (int, -1),
    "num_head_channels": (int, -1),
    "use_scale_shift_norm": (bool, False),
    "resblock_updown": (bool, False),
    "use_spatial_transformer": (bool, False),
    "transformer_depth": (int, 1),
    "context_dim": (int, None),
}
_ONLY = {
    "conv_resample": True,
    "dims": 2,
    "num_classes": None,
    "num_heads_upsample": -1,
    "use_new_attention_order": False,
    "n_embed": None,
}
_IGNORED = (
    "use_checkpoint",  # of training
    "use_fp16",  # type in memory, which is chosen at loading here
    "legacy",  # two ways to count the heads, which agree
)
_GROUPS = 32
_EPS = 1e-5

RESNET: Table = {
    "norm1": ("in_layers.0", SAME),
    "conv1": ("in_layers.2", SAME),
    "time_emb_proj": ("emb_layers.1", LINEAR),
    "norm2": ("out_layers.0", SAME),
    "conv2": ("out_layers.3", SAME),
    "conv_shortcut": ("skip_connection", SAME),
}
TRANSFORMER: Table = {name: (name, SAME) for name in ("norm", "proj_in", "proj_out")}
TRANSFORMER_BLOCK: Table = {
    **{name: (name, SAME) for name in ("norm1", "norm2", "norm3")},
    **{
        f"{attention}.{part}": (f"{attention}.{part}", LINEAR)
        for attention in ("attn1", "attn2")
        for part in ("to_q", "to_k", "to_v", "to_out.0")
    },
    **{name: (name, LINEAR) for name in ("ff.net.0.proj", "ff.net.2")},
}


def to_config(params: Any) -> Tuple[UNetClass, Dict[str, Any]]:
    """Our class and config of what the yaml gives `UNetModel`.

    Raises:
        ConversionError: parameters that no model here has.
    """
    given = read_params(NAME, params, _KNOWN, _ONLY, _IGNORED)
    multiples, factors = given["channel_mult"], given["attention_resolutions"]  # "resolutions": of downsampling
    if multiples[:1] != [1]:
        raise ConversionError(f"{NAME} with channel_mult {multiples} has no counterpart here: it must begin with 1")
    width = given["model_channels"]
    if width % _GROUPS:
        raise ConversionError(f"{NAME} has norms of {_GROUPS} groups: model_channels {width} is no multiple of it")
    widths = [width * multiple for multiple in multiples]
    attends = [2**level in factors for level in range(len(widths))]
    crossing, resampling = given["use_spatial_transformer"], given["resblock_updown"]
    if crossing and resampling:
        raise ConversionError(f"{NAME} with both use_spatial_transformer and resblock_updown has no counterpart here")
    config = {
        "sample_size": given["image_size"],
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": given["num_res_blocks"],
        "dropout": given["dropout"],
        "norm_num_groups": _GROUPS,
        "norm_eps": _EPS,
        "resnet_time_scale_shift": "scale_shift" if given["use_scale_shift_norm"] else "default",
        **_block_types(attends, "Cross" if crossing else "", resampling),
    }
    heads = _head_counts(widths, given["num_heads"], given["num_head_channels"], attends)
    if crossing:
        if given["context_dim"] is None:
            raise ConversionError(f"{NAME} with use_spatial_transformer needs context_dim in the yaml")
        config["attention_head_dim"] = _shortest(heads, attends)  # the number of heads, whatever its name
        config["cross_attention_dim"] = given["context_dim"]
        config["transformer_layers_per_block"] = given["transformer_depth"]
        return UNet2DConditionModel, config
    config["attention_head_dim"] = _shortest([width // n for width, n in zip(widths, heads)], attends)
    config["downsample_type"] = config["upsample_type"] = "resnet" if resampling else "conv"
    if given["use_scale_shift_norm"]:
        config["attn_norm_num_groups"] = _GROUPS  # or the middle attention would have no norm
    return UNet2DModel, config


def to_params(model: UNet) -> Dict[str, Any]:
    """What the yaml of the original gives `UNetModel` for this model.

    Raises:
        ConversionError: a model that it cannot be.
    """
    config = model.config
    widths, down = config.block_out_channels, config.down_block_types
    attends = ["Attn" in name for name in down]
    crossing = isinstance(model, UNet2DConditionModel)
    if type(config.sample_size) is not int:
        raise ConversionError(f"{NAME} needs one sample_size, and the unet's config has {config.sample_size}")
    if any(width % widths[0] for width in widths):
        raise ConversionError(f"{NAME} has no block_out_channels {widths}: all are multiples of the first there")
    params = {
        "image_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": widths[0],
        "attention_resolutions": [2**level for level, attending in enumerate(attends) if attending],
        "num_res_blocks": config.layers_per_block,
        "channel_mult": [width // widths[0] for width in widths],
        "dropout": config.dropout,
        "use_scale_shift_norm": config.resnet_time_scale_shift == "scale_shift",
    }
    heads = _heads(model)
    relevant = _relevant(attends)
    if len({heads[level] for level in relevant}) == 1:
        params["num_heads"] = heads[relevant[0]]
    else:
        params["num_head_channels"] = widths[relevant[0]] // heads[relevant[0]]
    if crossing:
        params["use_spatial_transformer"] = True
        params["transformer_depth"] = config.transformer_layers_per_block
        params["context_dim"] = config.cross_attention_dim
        key = heads
    else:
        params["resblock_updown"] = "resnet" in (config.downsample_type, config.upsample_type)
        key = [width // count for width, count in zip(widths, heads)]
    canonical = {**config, "attention_head_dim": _shortest(key, attends)}
    require_equal(NAME, type(model), canonical, to_config(params)[1], ())
    return params


def rows(model: UNet) -> Rows:
    """The tensors of `UNetModel`, under their names in it."""
    table, levels = Rows(model), len(model.config.block_out_channels)
    heads = _heads(model)
    for number in (1, 2):
        table.add(f"time_embedding.linear_{number}", f"time_embed.{2 * number - 2}", LINEAR)
    table.add("conv_in", "input_blocks.0.0")
    place = 1
    for level, block in enumerate(model.down_blocks):
        for layer in range(len(block.resnets)):
            _add_layer(table, f"down_blocks.{level}", layer, f"input_blocks.{place}", heads[level])
            place += 1
        if block.downsamplers is not None:
            _add_resampling(table, f"down_blocks.{level}.downsamplers.0", f"input_blocks.{place}.0", "op")
            place += 1
    table.add_table("mid_block.resnets.0", "middle_block.0", RESNET)
    _add_attention(table, "mid_block.attentions.0", "middle_block.1", heads[-1])
    table.add_table("mid_block.resnets.1", "middle_block.2", RESNET)
    place = 0
    for index, block in enumerate(model.up_blocks):
        for layer in range(len(block.resnets)):
            _add_layer(table, f"up_blocks.{index}", layer, f"output_blocks.{place}", heads[levels - 1 - index])
            place += 1
        if block.upsamplers is not None:  # behind the last residual block, and behind its attention if there is one
            behind = f"output_blocks.{place - 1}.{1 if block.attentions is None else 2}"
            _add_resampling(table, f"up_blocks.{index}.upsamplers.0", behind, "conv")
    table.add("conv_norm_out", "out.0")
    table.add("conv_out", "out.2")
    return table.complete()


def _add_layer(table: Rows, ours: str, layer: int, theirs: str, heads: int) -> None:
    table.add_table(f"{ours}.resnets.{layer}", f"{theirs}.0", RESNET)
    _add_attention(table, f"{ours}.attentions.{layer}", f"{theirs}.1", heads)


def _add_attention(table: Rows, ours: str, theirs: str, heads: int) -> None:
    """A transformer, or self-attention whose queries, keys and values are one tensor there, head by head."""
    table.add_table(ours, theirs, TRANSFORMER)
    block = 0
    while f"{ours}.transformer_blocks.{block}.norm1.weight" in table.shapes:
        inner = f"transformer_blocks.{block}"
        table.add_table(f"{ours}.{inner}", f"{theirs}.{inner}", TRANSFORMER_BLOCK)
        block += 1
    parts = [f"{ours}.{part}" for part in ("to_q", "to_k", "to_v")]
    table.add_parts(parts, f"{theirs}.qkv", Rule(transposed=True, kernel=1, parts=3, heads=heads))
    table.add(f"{ours}.group_norm", f"{theirs}.norm")
    table.add(f"{ours}.to_out.0", f"{theirs}.proj_out", POINTWISE_1D)


def _add_resampling(table: Rows, ours: str, theirs: str, convolution: str) -> None:
    table.add(f"{ours}.conv", f"{theirs}.{convolution}")
    table.add_table(ours, theirs, RESNET)


def _block_types(attends: Sequence[bool], cross: str, resampling: bool) -> Dict[str, List[str]]:
    last = len(attends) - 1
    plain = [resampling and not attending for attending in attends]  # a residual block resamples, and nothing attends
    down = [
        f"{cross}AttnDownBlock2D"
        if attends[i]
        else "ResnetDownsampleBlock2D"
        if plain[i] and i < last
        else "DownBlock2D"
        for i in range(last + 1)
    ]
    up = [
        f"{cross}AttnUpBlock2D" if attends[i] else "ResnetUpsampleBlock2D" if plain[i] and i > 0 else "UpBlock2D"
        for i in reversed(range(last + 1))
    ]
    return {"down_block_types": down, "up_block_types": up}


def _relevant(attends: Sequence[bool]) -> List[int]:
    """Levels whose heads matter: those with attention, and the last one for the middle block."""
    return [level for level, attending in enumerate(attends) if attending or level == len(attends) - 1]


def _shortest(values: Sequence[int], attends: Sequence[bool]) -> Union[int, List[int]]:
    """One value where one serves all levels: diffusers knows no other form for a `UNet2DModel`."""
    different = {values[level] for level in _relevant(attends)}
    return different.pop() if len(different) == 1 else list(values)


def _head_counts(widths: Sequence[int], heads: int, head_channels: int, attends: Sequence[bool]) -> List[int]:
    """Heads of every level, from a number of heads or, which wins, a width of them."""
    key, divisor = ("num_heads", heads) if head_channels == -1 else ("num_head_channels", head_channels)
    if divisor < 1:
        raise ConversionError(f"{NAME} needs num_heads or num_head_channels in the yaml")
    for level in _relevant(attends):
        if widths[level] % divisor:
            raise ConversionError(f"{NAME} has attention of width {widths[level]}, no multiple of {key} {divisor}")
    return [heads if head_channels == -1 else max(1, width // head_channels) for width in widths]


def _heads(model: UNet) -> List[int]:
    """Heads of every level; 1 where there is no attention."""
    config = model.config
    levels = len(config.block_out_channels)
    value = config.attention_head_dim
    values = list(value) if isinstance(value, (list, tuple)) else [value] * levels
    if isinstance(model, UNet2DConditionModel):
        return values
    return [max(1, width // (dim or width)) for width, dim in zip(config.block_out_channels, values)]
