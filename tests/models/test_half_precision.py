"""Models in float16 and bfloat16 on a CPU: they run, say once how, and stay as they are."""

import functools
import types
import warnings

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdiffusers import (
    AutoencoderKL,
    LDMBertModel,
    LDMSuperResolutionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from ppdiffusers.models import half_precision
from ppdiffusers.models.class_embedder import ClassEmbedder
from ppdiffusers.models.model import dtype_name
from ppdiffusers.models.spatial_rescaler import SpatialRescaler

LEVELS = dict(block_out_channels=(8, 16), norm_num_groups=4)
FIRST_STAGE = dict(
    LEVELS, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4
)
# Exact in both types.
SAMPLE, PIXELS = (
    (np.random.default_rng(0).integers(-16, 17, shape) / 8).astype(np.float32)
    for shape in ([2, 4, 8, 8], [2, 3, 16, 16])
)
IDS = np.array([[1, 5, 3], [2, 2, 9]])


def unet():
    blocks = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    return UNet2DModel(in_channels=4, attention_head_dim=4, time_embedding_type="fourier", **blocks, **LEVELS)


def conditional_unet():
    blocks = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    )
    return UNet2DConditionModel(attention_head_dim=2, cross_attention_dim=12, **blocks, **LEVELS)


def bert():
    return LDMBertModel(
        vocab_size=20, max_position_embeddings=8, encoder_layers=2, encoder_ffn_dim=16, encoder_attention_heads=2,
        head_dim=4, d_model=12,
    )  # fmt: skip


def tensor(array, dtype):
    made = paddle.to_tensor(array)
    return made.astype(dtype) if made.is_floating_point() else made


CONDITION = SAMPLE[:, 0, :3, :4].repeat(3, axis=-1)
CALLS = {
    "unet": (unet, lambda model, of: model(of(SAMPLE), 7).sample),
    "conditional": (conditional_unet, lambda model, of: model(of(SAMPLE), 7, of(CONDITION))[0]),
    "by name": (conditional_unet, lambda model, of: model(of(SAMPLE), 7, encoder_hidden_states=of(CONDITION))[0]),
    "vq encode": (lambda: VQModel(**FIRST_STAGE), lambda model, of: model.encode(of(PIXELS)).latents),
    "vq decode": (lambda: VQModel(**FIRST_STAGE), lambda model, of: model.decode(of(SAMPLE)).sample),
    "vq decode as is": (lambda: VQModel(**FIRST_STAGE), lambda model, of: model.decode(of(SAMPLE), True).sample),
    "vq": (lambda: VQModel(**FIRST_STAGE), lambda model, of: model(of(PIXELS)).sample),
    "kl encode": (
        lambda: AutoencoderKL(**FIRST_STAGE), lambda model, of: model.encode(of(PIXELS)).latent_dist.sample(0)
    ),
    "kl decode": (lambda: AutoencoderKL(**FIRST_STAGE), lambda model, of: model.decode(of(SAMPLE)).sample),
    "bert": (bert, lambda model, of: model(of(IDS)).last_hidden_state),
    "classes": (lambda: ClassEmbedder(10, 6), lambda model, of: model(of(IDS[0]))),
    "rescaler": (lambda: SpatialRescaler(1, 4, 2), lambda model, of: model(of(SAMPLE))),
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    half_precision._tell.cache_clear()
    paddle.seed(0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("build, call", CALLS.values(), ids=CALLS)
@paddle.no_grad()
def test_every_entry_of_every_model(build, call, dtype, tmp_path):
    model = build()
    model.eval()
    model.save_pretrained(tmp_path / "half", paddle_dtype=dtype)
    full = type(model).from_pretrained(tmp_path / "half")
    model.to(dtype=dtype)
    loaded = type(model).from_pretrained(tmp_path / "half", paddle_dtype=dtype)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for half in (model, loaded):
            full.set_state_dict({name: value.astype("float32") for name, value in half.state_dict().items()})
            expected = call(full, functools.partial(tensor, dtype="float32"))
            parts, content = list(half.named_parameters()), half.__dict__.copy()
            for of_inputs in ("float32", dtype):
                result = call(half, functools.partial(tensor, dtype=of_inputs))
                assert result.dtype == paddle.float32
                np.testing.assert_array_equal(result.numpy(), expected.numpy())
            after = list(half.named_parameters())
            assert [(n, id(p)) for n, p in after] == [(n, id(p)) for n, p in parts]
            assert half.__dict__ == content
            assert dtype_name(half.dtype) == dtype and all(p.dtype == half.dtype for _, p in after)
    told = [message for message in told if "return float32" in str(message.message)]
    assert len(told) == 1 and told[0].filename == __file__


def test_full_precision_says_nothing_and_takes_half_arguments():
    model = unet()
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model(paddle.to_tensor(SAMPLE).astype("float16"), 7).sample
    rounded = paddle.to_tensor(SAMPLE.astype("float16").astype("float32"))
    np.testing.assert_array_equal(result.numpy(), model(rounded, 7).sample.numpy())


class Doubling(nn.Layer):
    """As adapters are injected: around a layer, with weights of its own."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.factor = self.create_parameter([1], default_initializer=nn.initializer.Constant(4.0))
        self.register_buffer("mix", 0.5 * paddle.eye(8))

    def forward(self, x):
        assert self.mix.dtype == self.factor.dtype == paddle.float32
        return self.base(x @ self.mix) * self.factor


@pytest.mark.filterwarnings("ignore:paddle computes in neither")
@paddle.no_grad()
def test_what_is_changed_in_a_model_has_its_effect():
    model = unet()
    model.eval()
    model.to(dtype="float16")
    sample = paddle.to_tensor(SAMPLE)
    plain = model(sample, 7).sample.numpy()
    seen = []
    hook = model.conv_in.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.dtype))
    outer = model.register_forward_post_hook(lambda layer, inputs, output: output.sample * 3)
    np.testing.assert_array_equal(model(sample, 7).numpy(), 3 * plain)
    assert seen == [paddle.float32]
    hook.remove()
    outer.remove()
    whole = model.conv_out
    model.conv_out = Doubling(whole)
    model.conv_out.to(dtype="float16")
    np.testing.assert_allclose(model(sample, 7).sample.numpy(), 2 * plain, rtol=1e-5, atol=1e-6)
    model.conv_out = whole
    model.conv_act.forward = types.MethodType(lambda self, x: paddle.zeros_like(x), model.conv_act)
    zero = model(sample, 7).sample.numpy()
    del model.conv_act.forward
    assert (zero != plain).any()
    again = whole.forward
    whole.forward = types.MethodType(lambda self, x: nn.Conv2D.forward(self, x) * 2, whole)  # reads half weights
    np.testing.assert_allclose(model(sample, 7).sample.numpy(), 2 * plain, rtol=1e-6)
    whole.forward = lambda x: again(x) * 2  # so hides them
    with pytest.raises(TypeError, match="float16 weights.*replaced forward"):
        model(sample, 7)
    del whole.forward
    with pytest.raises(ValueError, match="multiples of 2"):  # our own messages stay
        model(sample[:, :, :7], 7)
    np.testing.assert_array_equal(model(sample, 7).sample.numpy(), plain)


@pytest.mark.filterwarnings("ignore:paddle computes in neither")
def test_gradients_reach_inputs_and_half_weights():
    model = unet()
    model.eval()
    sample = paddle.to_tensor(SAMPLE, stop_gradient=False)
    model(sample, 7).sample.sum().backward()
    expected = sample.grad.numpy()
    weight = model.conv_out.weight.grad.numpy()
    model.clear_gradients()
    sample.clear_grad()
    model.to(dtype="bfloat16")
    model(sample, 7).sample.sum().backward()
    np.testing.assert_allclose(sample.grad.numpy(), expected, atol=0.1 * np.abs(expected).max())
    found = model.conv_out.weight.grad
    assert found.dtype == paddle.bfloat16
    np.testing.assert_allclose(found.astype("float32").numpy(), weight, atol=0.1 * np.abs(weight).max())


class OfTorch:
    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"torch.{self.name}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_names_of_types(dtype):
    for spelling in (dtype, f"paddle.{dtype}", getattr(paddle, dtype), OfTorch(dtype)):
        assert dtype_name(spelling) == dtype
    if dtype != "bfloat16":
        assert dtype_name(getattr(np, dtype)) == dtype_name(np.dtype(dtype)) == dtype
    for wrong in ("int8", np.int64, OfTorch("complex64"), 16):
        with pytest.raises(ValueError, match="is not one of float32, float16, bfloat16"):
            dtype_name(wrong)


def test_types_by_other_libraries_names(tmp_path):
    SpatialRescaler(1, 2, 2).save_pretrained(tmp_path)
    for name in ("paddle_dtype", "torch_dtype", "dtype"):
        assert SpatialRescaler.from_pretrained(tmp_path, **{name: "torch.float16"}).dtype == paddle.float16
    assert SpatialRescaler.from_pretrained(tmp_path, torch_dtype=None).dtype == paddle.float32
    with pytest.raises(ValueError, match="ask for bfloat16 and float16; give one"):
        SpatialRescaler.from_pretrained(tmp_path, torch_dtype="float16", dtype="bfloat16")


def test_a_pipeline_in_half_precision_makes_the_pictures_of_its_weights(tmp_path):
    name, call = (
        "ppdiffusers/ldm-super-resolution-4x-tiny",
        {"num_inference_steps": 2, "generator": 1, "output_type": "np", "consistency": 0},
    )
    picture = np.linspace(0, 1, 16 * 20 * 3, dtype=np.float32).reshape(16, 20, 3)
    wanted = LDMSuperResolutionPipeline.from_pretrained(name, engine="eager")(picture, **call).images
    for engine in ("eager", "onednn"):
        half = LDMSuperResolutionPipeline.from_pretrained(name, engine=engine, precision="fp32", torch_dtype="float16")
        got = half(picture, **call).images
        assert half.unet.dtype == half.dtype == paddle.float16 and 0 < np.abs(got - wanted).mean() < 2e-3
        if half._compiled:
            assert half._compiled["unet"].describe()["network"] == "oneDNN (fp32)"
