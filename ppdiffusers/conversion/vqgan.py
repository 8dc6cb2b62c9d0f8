"""The original's first stages, `VQModel` (and `VQModelInterface`) and `AutoencoderKL`, beside ours.

Source of names: ldm/models/autoencoder.py and ldm/modules/diffusionmodules/model.py of CompVis/latent-diffusion.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type, Union

from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.conversion.params import REQUIRED, read_params, require_equal
from ppdiffusers.conversion.rows import POINTWISE, SAME, Rows, Table
from ppdiffusers.models import AutoencoderKL, VQModel

VQ = ("VQModelInterface", "VQModel")  # the first is the second as a diffusion model uses it: latents not quantised
KL = "AutoencoderKL"
Autoencoder = Union[VQModel, AutoencoderKL]
AutoencoderClass = Union[Type[VQModel], Type[AutoencoderKL]]

_KNOWN = {"embed_dim": (int, REQUIRED), "ddconfig": (dict, REQUIRED)}
_IGNORED = (
    *("lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor"),  # of training
    *("batch_resize_range", "scheduler_config", "lr_g_factor"),
)
_ONLY_VQ = {"remap": None, "sane_index_shape": False, "use_ema": False}
_SHAPE = {
    "double_z": (bool, True),
    "z_channels": (int, REQUIRED),
    "resolution": (int, REQUIRED),
    "in_channels": (int, REQUIRED),
    "out_ch": (int, REQUIRED),
    "ch": (int, REQUIRED),
    "ch_mult": (list, [1, 2, 4, 8]),
    "num_res_blocks": (int, REQUIRED),
    "attn_resolutions": (list, REQUIRED),
    "attn_type": (str, "vanilla"),
}
_ONLY_SHAPE = {"resamp_with_conv": True, "use_linear_attn": False, "give_pre_end": False, "tanh_out": False}
_GROUPS = 32
_INFORMATIVE = ("scaling_factor",)  # it stands elsewhere in the original's yaml

RESNET: Table = {
    **{name: (name, SAME) for name in ("norm1", "conv1", "norm2", "conv2")},
    "conv_shortcut": ("nin_shortcut", SAME),
}
ATTENTION: Table = {
    "group_norm": ("norm", SAME),
    "to_q": ("q", POINTWISE),
    "to_k": ("k", POINTWISE),
    "to_v": ("v", POINTWISE),
    "to_out.0": ("proj_out", POINTWISE),
}


def to_config(name: str, params: Any, scale_factor: float) -> Tuple[AutoencoderClass, Dict[str, Any]]:
    """Our class and config.

    Args:
        name: the original's class.
        params: what the yaml gives it.
        scale_factor: what latents are multiplied with, from elsewhere in the yaml or from the checkpoint.

    Raises:
        ConversionError: a class or parameters that no model here has.
    """
    if name not in (*VQ, KL):
        raise ConversionError(f"the first stage {name!r} has no counterpart here; {', '.join((*VQ, KL))} have")
    quantised = name != KL
    if quantised:
        given = read_params(name, params, {**_KNOWN, "n_embed": (int, REQUIRED)}, _ONLY_VQ, _IGNORED)
    else:
        given = read_params(name, params, _KNOWN, {}, _IGNORED)
    shape = read_params(f"{name}'s ddconfig", given["ddconfig"], _SHAPE, _ONLY_SHAPE, ("dropout",))
    if shape["double_z"] is quantised:
        raise ConversionError(f"a {name} with double_z: {shape['double_z']} has no counterpart here")
    if shape["attn_type"] not in ("vanilla", "none"):
        raise ConversionError(f"a {name} with attn_type {shape['attn_type']!r} has no counterpart here")
    if shape["ch"] % _GROUPS:
        raise ConversionError(f"a {name} has norms of {_GROUPS} groups: ch {shape['ch']} is no multiple of it")
    attending = shape["attn_type"] != "none"
    attends = [
        attending and shape["resolution"] // 2**level in shape["attn_resolutions"]
        for level in range(len(shape["ch_mult"]))
    ]
    config = {
        "in_channels": shape["in_channels"],
        "out_channels": shape["out_ch"],
        "down_block_types": ["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attends],
        "up_block_types": ["AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attends)],
        "block_out_channels": [shape["ch"] * multiple for multiple in shape["ch_mult"]],
        "layers_per_block": shape["num_res_blocks"],
        "latent_channels": shape["z_channels"],
        "norm_num_groups": _GROUPS,
        "sample_size": shape["resolution"],
        "scaling_factor": scale_factor,
        "mid_block_add_attention": attending,
    }
    if quantised:
        if scale_factor != 1:
            raise ConversionError(f"a {name} with scale_factor {scale_factor}: here its latents are never scaled")
        return VQModel, {**config, "num_vq_embeddings": given["n_embed"], "vq_embed_dim": given["embed_dim"]}
    if given["embed_dim"] != shape["z_channels"]:
        raise ConversionError(
            f"an {KL} with embed_dim {given['embed_dim']} and z_channels {shape['z_channels']} has no counterpart "
            "here; they must be equal"
        )
    return AutoencoderKL, config


def to_params(model: Autoencoder) -> Tuple[str, Dict[str, Any]]:
    """The original's class and what its yaml gives it for this model.

    Raises:
        ConversionError: a model that it cannot be.
    """
    config = model.config
    quantised = isinstance(model, VQModel)
    name = VQ[0] if quantised else KL
    widths, size = config.block_out_channels, config.sample_size
    if any(width % widths[0] for width in widths):
        raise ConversionError(f"{name} has no block_out_channels {widths}: all are multiples of the first there")
    attends = ["Attn" in kind for kind in config.down_block_types]
    shape = {
        "attn_type": "vanilla" if config.mid_block_add_attention else "none",
        "double_z": not quantised,
        "z_channels": config.latent_channels,
        "resolution": size,
        "in_channels": config.in_channels,
        "out_ch": config.out_channels,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config.layers_per_block,
        "attn_resolutions": [size // 2**level for level, here in enumerate(attends) if here],
        "dropout": 0.0,
    }
    params: Dict[str, Any] = {"embed_dim": config.latent_channels}
    canonical = dict(config)
    if quantised:
        params["embed_dim"] = canonical["vq_embed_dim"] = config.vq_embed_dim or config.latent_channels
        params["n_embed"] = config.num_vq_embeddings
    params.update(ddconfig=shape, lossconfig={"target": "torch.nn.Identity"})
    require_equal(name, type(model), canonical, to_config(name, params, 1.0)[1], _INFORMATIVE)
    return name, params


def rows(model: Autoencoder) -> Rows:
    """The tensors of the first stage, under their names in it. Its levels up count as those down, coarse ones last."""
    table, levels = Rows(model), len(model.config.block_out_channels)
    for coder in ("encoder", "decoder"):
        for ours, theirs in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
            table.add(f"{coder}.{ours}", f"{coder}.{theirs}")
        table.add_table(f"{coder}.mid_block.resnets.0", f"{coder}.mid.block_1", RESNET)
        table.add_table(f"{coder}.mid_block.attentions.0", f"{coder}.mid.attn_1", ATTENTION)
        table.add_table(f"{coder}.mid_block.resnets.1", f"{coder}.mid.block_2", RESNET)
    for level in range(levels):
        _add_level(table, f"encoder.down_blocks.{level}", f"encoder.down.{level}")
        _add_level(table, f"decoder.up_blocks.{levels - 1 - level}", f"decoder.up.{level}")
    for name in ("quantize.embedding", "quant_conv", "post_quant_conv"):
        table.add(name, name)
    return table.complete()


def _add_level(table: Rows, ours: str, theirs: str) -> None:
    layer = 0
    while f"{ours}.resnets.{layer}.conv1.weight" in table.shapes:
        table.add_table(f"{ours}.resnets.{layer}", f"{theirs}.block.{layer}", RESNET)
        table.add_table(f"{ours}.attentions.{layer}", f"{theirs}.attn.{layer}", ATTENTION)
        layer += 1
    table.add(f"{ours}.downsamplers.0.conv", f"{theirs}.downsample.conv")
    table.add(f"{ours}.upsamplers.0.conv", f"{theirs}.upsample.conv")
