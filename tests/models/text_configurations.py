"""Small configurations of the text-to-image models that between them use every option.

Shared with scripts/make_reference_text_models.py.
"""

import numpy as np

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


def _unet(down, up, **options):
    """Levels written as "x" for cross-attention and "-" for none."""
    return dict(
        down_block_types=tuple(CROSS_DOWN if level == "x" else "DownBlock2D" for level in down),
        up_block_types=tuple(CROSS_UP if level == "x" else "UpBlock2D" for level in up),
        **{"norm_num_groups": 4, "cross_attention_dim": 12, "attention_head_dim": 2, **options},
    )


UNETS = {
    "ldm-text-like": _unet("xxx-", "-xxx", block_out_channels=(8, 16, 16, 24), cross_attention_dim=20),
    "sd-2-like": _unet(
        "xx-", "-xx", block_out_channels=(8, 16, 16), attention_head_dim=(1, 2, 4), use_linear_projection=True,
        upcast_attention=True, layers_per_block=1,
    ),
    "cin-like": _unet("-xx", "xx-", block_out_channels=(8, 16, 24), in_channels=3, out_channels=3, layers_per_block=1),
    "inpainting-like": _unet("x-", "-x", block_out_channels=(8, 16), in_channels=9, layers_per_block=1),
    "deep-transformers": _unet(
        "x-", "-x", block_out_channels=(8, 16), transformer_layers_per_block=2, attention_head_dim=4, freq_shift=1,
        flip_sin_to_cos=False,
    ),
    "only-cross": _unet("xx", "xx", block_out_channels=(8, 16), only_cross_attention=True, layers_per_block=1),
    "only-cross-in-one-level": _unet(
        "xx", "xx", block_out_channels=(8, 16), only_cross_attention=(True, False), attention_head_dim=(2, 1),
        layers_per_block=1, downsample_padding=0,
    ),
    "classes-and-simple-mid": _unet(
        "x-", "-x", block_out_channels=(8, 16), num_class_embeds=5, mid_block_type="UNetMidBlock2D",
        mid_block_scale_factor=2**0.5, layers_per_block=1,
    ),
    "class-timestep-no-mid": _unet(
        "x-", "-x", block_out_channels=(8, 16), class_embed_type="timestep", mid_block_type=None, act_fn="gelu",
        layers_per_block=1,
    ),
    "class-identity-centred": _unet(
        "-x", "x-", block_out_channels=(8, 16), class_embed_type="identity", time_embedding_dim=24,
        center_input_sample=True, layers_per_block=1, norm_eps=1e-6,
    ),
    "fourier-scale-shift": _unet(
        "-x", "x-", block_out_channels=(8, 16), time_embedding_type="fourier", resnet_time_scale_shift="scale_shift",
        mid_block_scale_factor=1.5, act_fn="mish", layers_per_block=1,
    ),
    "heads-that-do-not-divide": _unet(
        "x-", "-x", block_out_channels=(8, 16), attention_head_dim=3, use_linear_projection=True, layers_per_block=1,
        flip_sin_to_cos=False, time_embedding_type="fourier", time_embedding_dim=20,
    ),
}  # fmt: skip


def _autoencoder(levels, attention_down=(), attention_up=(), **options):
    down = tuple(f"{'Attn' if i in attention_down else ''}DownEncoderBlock2D" for i in range(levels))
    up = tuple(f"{'Attn' if i in attention_up else ''}UpDecoderBlock2D" for i in range(levels))
    return dict(down_block_types=down, up_block_types=up, norm_num_groups=4, **options)


AUTOENCODERS = {
    "ldm-text-like": _autoencoder(4, block_out_channels=(8, 16, 24, 24), layers_per_block=2),
    "one-level": _autoencoder(1, block_out_channels=(8,)),
    "f4": _autoencoder(3, block_out_channels=(8, 16, 16), latent_channels=3),
    "no-quant-conv": _autoencoder(2, block_out_channels=(8, 16), use_quant_conv=False),
    "no-post-quant-conv": _autoencoder(2, block_out_channels=(8, 16), use_post_quant_conv=False),
    "neither": _autoencoder(2, block_out_channels=(8, 16), use_quant_conv=False, use_post_quant_conv=False),
    "no-mid-attention": _autoencoder(2, block_out_channels=(8, 16), mid_block_add_attention=False),
    "attention-down": _autoencoder(2, attention_down=(1,), block_out_channels=(8, 16)),
    "attention-up": _autoencoder(2, attention_up=(0, 1), block_out_channels=(8, 16)),
    "grey-gelu": _autoencoder(2, block_out_channels=(8, 16), in_channels=1, out_channels=1, act_fn="gelu"),
    "one-latent": _autoencoder(2, block_out_channels=(8, 16), latent_channels=1, out_channels=4),
    "wide-latents": _autoencoder(
        2, block_out_channels=(16, 16), latent_channels=16, layers_per_block=3, scaling_factor=1.0, sample_size=64
    ),
}


def _bert(**options):
    small = dict(
        vocab_size=50,
        max_position_embeddings=12,
        encoder_layers=2,
        encoder_ffn_dim=48,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=16,
    )
    return {**small, **options}


BERTS = {
    "published-proportions": _bert(d_model=32, encoder_ffn_dim=128, head_dim=8, encoder_attention_heads=2),
    "full-length": _bert(max_position_embeddings=77, encoder_layers=1),
    "deep": _bert(encoder_layers=8),
    "one-head": _bert(encoder_attention_heads=1, head_dim=16),
    "many-heads": _bert(encoder_attention_heads=8, head_dim=4),
    "relu": _bert(activation_function="relu", dropout=0.0),
    "silu": _bert(activation_function="silu", encoder_ffn_dim=8),
    "no-layers": _bert(encoder_layers=0, vocab_size=7),
}


def unet_inputs(config):
    """Sample `[2, C, 16, 8]`, timesteps `[2]`, condition `[2, 5, D]` and class labels or None."""
    random = np.random.RandomState(9)
    sample = random.standard_normal((2, config.get("in_channels", 4), 16, 8)).astype(np.float32)
    condition = random.standard_normal((2, 5, config["cross_attention_dim"])).astype(np.float32)
    timesteps = np.array([3, 41], dtype=np.int64)
    if config.get("time_embedding_type") == "fourier":  # noise levels: float32 sines of large angles agree with no one
        timesteps = np.array([0.25, 1.5], dtype=np.float32)
    labels = None
    if "num_class_embeds" in config:
        labels = np.array([4, 1], dtype=np.int64)
    elif config.get("class_embed_type") == "timestep":
        labels = np.array([17, 5], dtype=np.int64)
    elif config.get("class_embed_type") == "identity":
        labels = random.standard_normal((2, config["time_embedding_dim"])).astype(np.float32)
    return sample, timesteps, condition, labels


def autoencoder_input(config):
    """Pixels `[2, C, 16, 16]` in [-1, 1]."""
    return np.random.RandomState(8).uniform(-1, 1, (2, config.get("in_channels", 3), 16, 16)).astype(np.float32)


def bert_input(config):
    """Token numbers `[2, T]` of the longest T."""
    shape = (2, config["max_position_embeddings"])
    return np.random.RandomState(10).randint(0, config["vocab_size"], shape).astype(np.int64)


# Folders saved by diffusers itself, in tests/models/golden/saved.
SAVED_UNET = _unet("x-", "-x", block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=8, sample_size=8)
SAVED_AUTOENCODER = _autoencoder(2, block_out_channels=(4, 4), latent_channels=2)
SAVED_BERT = _bert(d_model=8, encoder_ffn_dim=16, head_dim=3)
