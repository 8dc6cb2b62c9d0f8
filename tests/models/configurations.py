"""Small configurations that between them use every option; shared with scripts/make_reference_models.py."""

import numpy as np

UNETS = {
    "sr-like": dict(
        in_channels=6, out_channels=3, block_out_channels=(16, 32, 32, 64), norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    ),
    "celebahq-like": dict(
        block_out_channels=(14, 28, 42, 56), norm_num_groups=7, attention_head_dim=2, norm_eps=1e-5, sample_size=16,
    ),
    "ddpm-like": dict(
        block_out_channels=(8, 8, 16), norm_num_groups=4, attention_head_dim=None, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ),
    "scale-shift": dict(
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, resnet_time_scale_shift="scale_shift",
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "classes": dict(
        block_out_channels=(8, 16), norm_num_groups=4, num_class_embeds=5,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ),
    "class-timestep": dict(
        block_out_channels=(8, 16), norm_num_groups=4, class_embed_type="timestep", add_attention=False,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ),
    "class-identity": dict(
        block_out_channels=(8, 16), norm_num_groups=4, class_embed_type="identity", time_embedding_dim=24,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ),
    "centred-scaled-mid": dict(
        block_out_channels=(8, 16), norm_num_groups=4, center_input_sample=True, mid_block_scale_factor=2**0.5,
        attention_head_dim=8, layers_per_block=1,
        down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"),
    ),
    "resnet-blocks": dict(
        block_out_channels=(8, 16, 16), norm_num_groups=4, layers_per_block=1, act_fn="gelu",
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "resnet-resampling": dict(
        block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=4, downsample_type="resnet",
        upsample_type="resnet", attn_norm_num_groups=2,
        down_block_types=("AttnDownBlock2D",) * 3, up_block_types=("AttnUpBlock2D",) * 3,
    ),
    "fourier": dict(
        block_out_channels=(8, 16), norm_num_groups=4, time_embedding_type="fourier", act_fn="mish",
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ),
    "learned-no-mid": dict(
        block_out_channels=(8, 16), norm_num_groups=4, time_embedding_type="learned", num_train_timesteps=50,
        mid_block_type=None, attention_head_dim=3, out_channels=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "inpainting-like": dict(  # two heads at every level
        in_channels=7, block_out_channels=(8, 16, 24), norm_num_groups=4, attention_head_dim=(4, 8, 12),
        downsample_type="resnet", upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
}  # fmt: skip


def _vq(levels, attention_down=(), attention_up=(), **options):
    down = tuple(f"{'Attn' if i in attention_down else ''}DownEncoderBlock2D" for i in range(levels))
    up = tuple(f"{'Attn' if i in attention_up else ''}UpDecoderBlock2D" for i in range(levels))
    return dict(down_block_types=down, up_block_types=up, num_vq_embeddings=64, norm_num_groups=4, **options)


VQ_MODELS = {
    "sr-like": _vq(3, block_out_channels=(8, 16, 32), layers_per_block=2),
    "tiny": _vq(3, block_out_channels=(8, 16, 24), mid_block_add_attention=False),
    "one-level": _vq(1, block_out_channels=(8,)),
    "f8": _vq(4, block_out_channels=(8, 8, 16, 16), latent_channels=4),
    "attention-down": _vq(2, attention_down=(1,), block_out_channels=(8, 16)),
    "attention-up": _vq(2, attention_up=(0,), block_out_channels=(8, 16)),
    "attention-everywhere": _vq(2, attention_down=(0, 1), attention_up=(0, 1), block_out_channels=(8, 12)),
    "embed-dim": _vq(2, block_out_channels=(8, 16), latent_channels=4, vq_embed_dim=2),
    "grey": _vq(2, block_out_channels=(8, 16), in_channels=1, out_channels=1),
    "more-out": _vq(2, block_out_channels=(8, 16), out_channels=4, layers_per_block=3),
    "gelu": _vq(2, block_out_channels=(8, 16), act_fn="gelu"),
    "wide-latents": _vq(2, block_out_channels=(16, 16), latent_channels=8, sample_size=64, scaling_factor=1.0),
}


def torch_layout_weights(shapes, seed):
    """Random values for `{name: torch shape}`: well scaled, and the same on every machine.

    Values depend on the name alone, so neither order nor framework matters.
    """
    weights = {}
    for name, shape in shapes.items():
        random = np.random.RandomState([seed, *name.encode()])
        values = random.standard_normal(shape)
        if len(shape) == 1:
            values = 0.1 * values + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
            if name == "time_proj.weight":
                values = 10 * values  # Fourier features of scale 1, as trained ones are wide
        elif "embedding.weight" not in name and name != "time_proj.weight":
            values = values / np.sqrt(np.prod(shape[1:]))
        weights[name] = values.astype(np.float32)
    return weights


def unet_inputs(name, config):
    """Sample `[2, C, 16, 16]`, timesteps `[2]` and class labels or None."""
    random = np.random.RandomState(7)
    sample = random.standard_normal((2, config.get("in_channels", 3), 16, 16)).astype(np.float32)
    timesteps = np.array([3, 41], dtype=np.int64)
    labels = None
    if "num_class_embeds" in config:
        labels = np.array([4, 1], dtype=np.int64)
    elif config.get("class_embed_type") == "timestep":
        labels = np.array([17, 5], dtype=np.int64)
    elif config.get("class_embed_type") == "identity":
        labels = random.standard_normal((2, config["time_embedding_dim"])).astype(np.float32)
    return sample, timesteps, labels


def vq_input(config):
    """Pixels `[2, C, 16, 24]` in [-1, 1]."""
    return np.random.RandomState(8).uniform(-1, 1, (2, config.get("in_channels", 3), 16, 24)).astype(np.float32)
