"""Small models and pipelines for tests of what runs them."""

import numpy as np
import paddle

from ppdiffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMBertModel,
    LDMSuperResolutionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from ppdiffusers.inference import compiled

EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"
TWO = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
CODER = {**TWO, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
MODELS = {
    "unet": lambda: UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        **TWO,
    ),
    "resampling unet": lambda: UNet2DModel(
        down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=4,
        **TWO,
    ),
    "conditional unet": lambda: UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=24,
        **TWO,
    ),
    "vq": lambda: VQModel(**CODER),
    "kl": lambda: AutoencoderKL(**CODER),
    "bert": lambda: LDMBertModel(
        vocab_size=50, encoder_layers=2, d_model=32, encoder_ffn_dim=64, encoder_attention_heads=2, head_dim=16
    ),
}
CALLS = {
    "unet": lambda model, batch: model(image(3, batch), 7)[0],
    "resampling unet": lambda model, batch: model(image(3, batch), 7, class_labels=paddle.to_tensor([1] * batch))[0],
    "conditional unet": lambda model, batch: model(image(4, batch), 7, paddle.ones([batch, 3, 24]) * 0.2)[0],
    "vq": lambda model, batch: model.decode(model.encode(image(3, batch))[0], force_not_quantize=True)[0],
    "kl": lambda model, batch: model.decode(model.encode(image(3, batch))[0].mode())[0],
    "bert": lambda model, batch: model(paddle.to_tensor([[3, 4, 5, 6]] * batch))[0],
}
# One level each: compiled in a fifth of a second.
ONE = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
TINY_UNET = {**ONE, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "mid_block_type": None}


def image(channels, batch=1, height=12, width=20, seed=1):
    values = np.random.default_rng(seed).standard_normal([batch, channels, height, width])
    return paddle.to_tensor(values.astype("float32"))


def build(name, seed=0):
    paddle.seed(seed)
    model = MODELS[name]()
    model.eval()
    return model


def tiny_unet(kind=UNet2DModel, **config):
    paddle.seed(0)
    unet = kind(**{**TINY_UNET, "in_channels": 6, "out_channels": 3, **config})
    unet.eval()
    return unet


def tiny_pipeline(scheduler=None, **models):
    paddle.seed(1)
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), num_vq_embeddings=16, **ONE
    )
    vqvae.eval()
    models = {"vqvae": vqvae, "unet": tiny_unet(), **models}
    return LDMSuperResolutionPipeline(**models, scheduler=scheduler or DDIMScheduler(clip_sample=False))


def compile_from(pixels, monkeypatch):
    """With "auto", tiny pipelines compile what their U-Net does from so many pixels on, and every decoder."""
    weights = compiled._weights_by_level(tiny_unet(), "_network")
    work = pixels * sum(count / 4**level for level, count in weights.items())
    monkeypatch.setitem(compiled.WORTH_COMPILING, "_network", (work, 0))
    monkeypatch.setitem(compiled.WORTH_COMPILING, "_to_pixels", (0, 0))


def picture(height=8, width=8, seed=0):
    return np.random.default_rng(seed).random([height, width, 3], np.float32)


def latents(pipeline, size=(8, 8), steps=2, generator=3, **call):
    """What the denoising loop gives for a picture of `size`, as an array."""
    call = {"output_type": "latent", **call}
    return np.array(pipeline(picture(*size), num_inference_steps=steps, generator=generator, **call).images)


def facts(model):
    """All that a user can see of a model, objects by identity."""
    layers = dict(model.named_sublayers(include_self=True))
    visited = []
    model.apply(lambda layer: visited.append(id(layer)))
    return {
        "layers": {name: (id(layer), type(layer)) for name, layer in layers.items()},
        "attributes": {name: _attributes(layer) for name, layer in layers.items()},
        "parameters": {name: (id(value), value.stop_gradient) for name, value in model.named_parameters()},
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "buffers": {name: id(value) for name, value in model.named_buffers()},
        "state": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "children": [(name, id(layer)) for name, layer in model.named_children()],
        "apply": visited,
        "training": [layer.training for layer in layers.values()],
        "classes": {kind: dict(vars(kind)) for kind in map(type, layers.values())},
    }


def _attributes(layer):
    # `_built` is a note of Paddle's to itself that its next call may take a shorter way.
    return {key: id(value) for key, value in vars(layer).items() if key != "_built"}
