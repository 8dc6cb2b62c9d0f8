"""Small models in the original's layout, one or more a task; shared with scripts/make_reference_compvis.py.

Only their configs, the names and shapes of their tensors and their outputs are kept: the values are drawn again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
STEPS = 2  # of sampling
ENCODERS = "ldm.modules.encoders.modules"


def first_stage(kind="VQModelInterface", **ddconfig):
    double = kind == "AutoencoderKL"
    shape = {
        **{"double_z": double, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32},
        **{"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
        **ddconfig,
    }
    params = {"embed_dim": shape["z_channels"], "ddconfig": shape, "lossconfig": {"target": "torch.nn.Identity"}}
    return {"target": f"ldm.models.autoencoder.{kind}", "params": params if double else {**params, "n_embed": 16}}


def model(unet, cond_stage, first=None, **params):
    shape = {
        **{"image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1},
        **{"attention_resolutions": [2], "channel_mult": [1, 2]},
        **unet,
    }
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            **{"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "image_size": 8},
            **{"channels": shape["out_channels"], "first_stage_key": "image"},
            **params,
            "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": shape},
            "first_stage_config": first or first_stage(),
            "cond_stage_config": cond_stage,
        },
    }


def stage(kind, **params):
    return {"target": f"{ENCODERS}.{kind}", "params": params}


def crossing(**unet):
    return {"use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 32, **unet}


CONFIGS = {
    "unconditional": model({"num_head_channels": 16}, "__is_unconditional__", concat_mode=False),
    "churches": model(
        {"num_heads": 4, "use_scale_shift_norm": True, "resblock_updown": True, "channel_mult": [1, 2, 2],
         "attention_resolutions": [1, 2], "in_channels": 4, "out_channels": 4},
        "__is_unconditional__", first_stage("AutoencoderKL", z_channels=4), concat_mode=False, scale_by_std=True,
    ),
    "super-resolution": model({"in_channels": 6, "num_head_channels": 32}, {"target": "torch.nn.Identity"}),
    "inpainting": model(
        {"in_channels": 7, "num_heads": 8, "resblock_updown": True, "num_res_blocks": 2}, "__is_first_stage__",
        first_stage(attn_type="none"), concat_mode=True,
    ),
    "semantic-synthesis": model(
        {"in_channels": 6, "num_heads": 8, "attention_resolutions": [32, 16, 8]},
        stage("SpatialRescaler", n_stages=1, in_channels=5, out_channels=3), concat_mode=True,
        cond_stage_trainable=True,
    ),
    "layout": model(
        crossing(num_head_channels=16, transformer_depth=3),
        stage("BERTEmbedder", n_embed=32, n_layer=2, vocab_size=64, max_seq_len=20, use_tokenizer=False),
        conditioning_key="crossattn",
    ),
    "classes": model(
        crossing(num_heads=1), stage("ClassEmbedder", n_classes=1001, embed_dim=32), conditioning_key="crossattn",
        use_ema=False,
    ),
    "classes-f8": model(
        crossing(num_head_channels=32, attention_resolutions=[2, 1], in_channels=4, out_channels=4),
        stage("ClassEmbedder", embed_dim=32, key="class_label"), first_stage(z_channels=4, attn_resolutions=[8]),
        conditioning_key="crossattn",
    ),
    "text": model(
        crossing(num_head_channels=32), stage("BERTEmbedder", n_embed=32, n_layer=1), conditioning_key="crossattn",
    ),
    "text-large": model(
        crossing(num_heads=8, attention_resolutions=[2, 1], in_channels=4, out_channels=4, legacy=False),
        stage("BERTEmbedder", n_embed=32, n_layer=2), first_stage("AutoencoderKL", z_channels=4),
        conditioning_key="crossattn", scale_factor=0.18215, use_ema=False,
    ),
}  # fmt: skip


def averaged(name):
    """Whether the original samples with averaged weights."""
    return CONFIGS[name]["params"].get("use_ema", True)


def golden(name):
    """Names and shapes of a model's tensors, and its outputs."""
    return np.load(GOLDEN / f"{name}.npz")


def weights(shapes):
    """Well scaled random values of `{name: shape}`; each depends on its name alone."""
    return {name: _draw(name, shape) for name, shape in shapes.items()}


def _draw(name, shape):
    if name == "scale_factor":
        return np.float32(0.8125)
    values = np.random.RandomState(list(name.encode())).standard_normal(shape)
    if len(shape) < 2:
        return (0.1 * values + (name.endswith("weight"))).astype(np.float32)  # 1-d weights are those of norms
    embedding = "emb" in name.split(".")[-2]
    return (values / (1 if embedding else np.sqrt(np.prod(shape[1:])))).astype(np.float32)


def inputs(name):
    """What goes into the parts: latents, timesteps, pixels, and what is conditioned on."""
    params = CONFIGS[name]["params"]
    channels = params["unet_config"]["params"]["out_channels"]
    random = np.random.RandomState(11)
    values = {
        "latents": random.standard_normal((2, channels, 8, 8)).astype(np.float32),
        "timesteps": np.array([721, 40], dtype=np.int64),
        "pixels": random.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32),
    }
    condition = params["cond_stage_config"]
    kind = "" if isinstance(condition, str) else condition["target"].rpartition(".")[2]
    if kind == "BERTEmbedder":
        values["condition"] = random.randint(0, condition["params"].get("vocab_size", 30522), (2, 12)).astype(np.int64)
    elif kind == "ClassEmbedder":
        values["condition"] = np.array([7, 999], dtype=np.int64)
    elif kind == "SpatialRescaler":
        values["condition"] = (random.randint(0, 5, (2, 1, 16, 16)) == np.arange(5)[:, None, None]).astype(np.float32)
    elif name in ("inpainting", "super-resolution"):
        extra = params["unet_config"]["params"]["in_channels"] - channels
        values["condition"] = random.standard_normal((2, extra, 8, 8)).astype(np.float32)
    return values
