"""The text-to-image models: within 2e-5 of diffusers, from every file that their weights are published in."""

import json
import shutil

import numpy as np
import paddle
import pytest
import text_configurations
from reference import GOLDEN, TOLERANCE, fill, relative_difference

from ppdiffusers import AutoencoderKL, CheckpointError, ConfigError, Generator, LDMBertModel, UNet2DConditionModel
from ppdiffusers.checkpoints import save_pdparams
from ppdiffusers.checkpoints.names import current_name
from ppdiffusers.layers import transformer
from ppdiffusers.layers.gaussian import DiagonalGaussianDistribution

SAVED = GOLDEN / "saved"
SAMPLE_SEED = 5  # as in scripts/make_reference_text_models.py


def tensors(arrays):
    return [None if array is None else paddle.to_tensor(array) for array in arrays]


@pytest.mark.parametrize("seed, name", list(enumerate(text_configurations.UNETS)))
@paddle.no_grad()
def test_unet_2d_condition(seed, name):
    config = text_configurations.UNETS[name]
    model = fill(UNet2DConditionModel(**config), seed)
    inputs = tensors(text_configurations.unet_inputs(config))
    output = model(*inputs)
    reference = np.load(GOLDEN / "unet_2d_condition.npz")[name]
    assert relative_difference(output.sample, reference) < TOLERANCE
    (sample,) = model(*inputs, return_dict=False)
    np.testing.assert_array_equal(sample.numpy(), output[0].numpy())


@pytest.mark.parametrize("seed, name", list(enumerate(text_configurations.AUTOENCODERS)))
@paddle.no_grad()
def test_autoencoder_kl(seed, name):
    config = text_configurations.AUTOENCODERS[name]
    model = fill(AutoencoderKL(**config), seed)
    golden = {key.partition("/")[2]: value for key, value in np.load(GOLDEN / "autoencoder_kl.npz").items()
              if key.startswith(f"{name}/")}  # fmt: skip
    x = paddle.to_tensor(text_configurations.autoencoder_input(config))
    posterior = model.encode(x).latent_dist
    assert relative_difference(posterior.parameters, golden["moments"]) < TOLERANCE

    posterior = DiagonalGaussianDistribution(paddle.to_tensor(golden["moments"]))
    other = DiagonalGaussianDistribution(0.5 * posterior.parameters + 0.1)
    sample = posterior.sample(Generator(SAMPLE_SEED))
    assert relative_difference(sample, golden["sample"]) < TOLERANCE
    assert relative_difference(posterior.kl(), golden["kl"]) < TOLERANCE
    assert relative_difference(posterior.kl(other), golden["kl-other"]) < TOLERANCE
    assert relative_difference(posterior.nll(paddle.to_tensor(golden["sample"])), golden["nll"]) < TOLERANCE

    decoded = model.decode(posterior.mode()).sample
    assert relative_difference(decoded, golden["decoded"]) < TOLERANCE
    assert relative_difference(model(x).sample, golden["decoded"]) < TOLERANCE
    drawn = model(x, sample_posterior=True, generator=Generator(SAMPLE_SEED)).sample
    assert relative_difference(drawn, model.decode(sample, return_dict=False)[0].numpy()) < TOLERANCE
    assert relative_difference(drawn, golden["decoded"]) > 0.01  # a draw is not the mean


@pytest.mark.parametrize("seed, name", list(enumerate(text_configurations.BERTS)))
@paddle.no_grad()
def test_ldm_bert(seed, name):
    config = text_configurations.BERTS[name]
    model = fill(LDMBertModel(**config), seed)
    input_ids = paddle.to_tensor(text_configurations.bert_input(config))
    output = model(input_ids)
    assert relative_difference(output.last_hidden_state, np.load(GOLDEN / "ldm_bert.npz")[name]) < TOLERANCE
    assert output[0] is output.last_hidden_state
    assert model(input_ids[:, :5]).last_hidden_state.shape == [2, 5, config["d_model"]]


def test_the_posterior_is_clamped():
    posterior = DiagonalGaussianDistribution(paddle.to_tensor([0.5, 0.5, -100.0, 100.0]).reshape([1, 4, 1, 1]))
    np.testing.assert_allclose(posterior.logvar.flatten(), [-30, 20])
    np.testing.assert_allclose(posterior.std.flatten(), np.exp([-15, 10]), rtol=1e-6)
    np.testing.assert_allclose(posterior.var.flatten(), np.exp([-30, 20]), rtol=1e-6)
    np.testing.assert_array_equal(posterior.mode(), posterior.mean)


@pytest.mark.parametrize("seeds", [7, [7, 8]])
def test_a_draw_follows_its_seeds(seeds):
    posterior = DiagonalGaussianDistribution(paddle.zeros([2, 8, 4, 4]))
    draw = posterior.sample(seeds).numpy()
    np.testing.assert_array_equal(draw, posterior.sample(seeds).numpy())
    if isinstance(seeds, list):
        alone = DiagonalGaussianDistribution(paddle.zeros([1, 8, 4, 4])).sample(seeds[1]).numpy()
        np.testing.assert_array_equal(draw[1:], alone)


@paddle.no_grad()
def test_folders_saved_by_diffusers():
    golden = np.load(SAVED / "outputs.npz")
    unet = UNet2DConditionModel.from_pretrained(SAVED, subfolder="unet")
    inputs = tensors(text_configurations.unet_inputs(text_configurations.SAVED_UNET))
    assert relative_difference(unet(*inputs).sample, golden["unet"]) < TOLERANCE
    autoencoder = AutoencoderKL.from_pretrained(SAVED, subfolder="vqvae")
    pixels = paddle.to_tensor(text_configurations.autoencoder_input(text_configurations.SAVED_AUTOENCODER))
    assert relative_difference(autoencoder(pixels).sample, golden["vqvae"]) < TOLERANCE
    assert relative_difference(bert_output(LDMBertModel.from_pretrained(SAVED, subfolder="bert")), golden["bert"]) < (
        TOLERANCE
    )
    for name, model in (("unet", unet), ("vqvae", autoencoder)):
        original = json.loads((SAVED / name / "config.json").read_text())
        assert all(original[key] == (list(v) if isinstance(v, tuple) else v) for key, v in model.config.items())


def bert_output(model):
    return model(paddle.to_tensor(text_configurations.bert_input(text_configurations.SAVED_BERT))).last_hidden_state


@paddle.no_grad()
def test_a_pickled_text_encoder(tmp_path):
    shutil.copy(SAVED / "bert" / "config.json", tmp_path)
    shutil.copy(SAVED / "pytorch_model.bin", tmp_path)
    output = bert_output(LDMBertModel.from_pretrained(tmp_path))
    assert relative_difference(output, np.load(SAVED / "outputs.npz")["bert"]) < TOLERANCE


def ported_name(name):
    """How the community's Paddle port calls a tensor of the text encoder."""
    if name.startswith("model.layers."):
        name = name.replace("model.layers.", "encoder.layers.")
        parts = {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2", "fc1": "linear1", "fc2": "linear2"}
        for ours, theirs in parts.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        return name
    return {
        "model.embed_tokens.weight": "embeddings.word_embeddings.weight",
        "model.embed_positions.weight": "embeddings.position_embeddings.weight",
        "model.layer_norm.weight": "final_layer_norm.weight",
        "model.layer_norm.bias": "final_layer_norm.bias",
    }[name]


@pytest.mark.parametrize("prefix", ["", "ldmbert."])
@paddle.no_grad()
def test_the_community_text_encoder(tmp_path, prefix):
    """Its folder has a second config, and its encoder is made of Paddle's own layers."""
    config = text_configurations.SAVED_BERT
    expected = fill(LDMBertModel(**config), 3)
    state = {prefix + ported_name(name): value.numpy() for name, value in expected.state_dict().items()}
    save_pdparams(tmp_path / "model_state.pdparams", state)
    extra = dict(architectures=["LDMBertModel"], model_type="ldmbert", paddlenlp_version=None, use_cache=True)
    (tmp_path / "config.json").write_text(json.dumps({**config, **extra, "init_std": 0.02, "pad_token_id": 0}))
    (tmp_path / "model_config.json").write_text(json.dumps({"init_args": [config], "init_class": "LDMBertModel"}))
    loaded = LDMBertModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(bert_output(loaded).numpy(), bert_output(expected).numpy())


def test_only_the_text_encoder_has_names_of_the_port():
    for kind, config in ((UNet2DConditionModel, text_configurations.SAVED_UNET),
                         (AutoencoderKL, text_configurations.SAVED_AUTOENCODER),
                         (LDMBertModel, text_configurations.SAVED_BERT)):  # fmt: skip
        names = list(kind(**config).state_dict())
        assert [current_name(name) for name in names] == names


@pytest.mark.parametrize("safe_serialization", [True, False])
@pytest.mark.parametrize(
    "kind, config",
    [
        (UNet2DConditionModel, text_configurations.SAVED_UNET),
        (AutoencoderKL, text_configurations.SAVED_AUTOENCODER),
        (LDMBertModel, text_configurations.SAVED_BERT),
    ],
)
def test_round_trip(tmp_path, kind, config, safe_serialization):
    model = fill(kind(**config), 4)
    model.save_pretrained(tmp_path, safe_serialization)
    again = kind.from_pretrained(tmp_path)
    assert again.config == model.config
    for name, value in again.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[name].numpy(), err_msg=name)


def test_a_head_that_is_not_of_the_text_encoder_is_an_error(tmp_path):
    model = LDMBertModel(**text_configurations.SAVED_BERT)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    save_pdparams(tmp_path / "model_state.pdparams", {**state, "to_labels.weight": np.zeros((3, 3), np.float32)})
    model.save_config(tmp_path)
    with pytest.raises(CheckpointError, match="unexpected: to_labels.weight"):
        LDMBertModel.from_pretrained(tmp_path)
    (tmp_path / "model_state.pdparams").unlink()
    with pytest.raises(CheckpointError, match="model.safetensors, pytorch_model.bin"):
        LDMBertModel.from_pretrained(tmp_path)


SMALL = text_configurations.SAVED_UNET


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(dual_cross_attention=True), "dual_cross_attention=True"),
        (dict(encoder_hid_dim=8), "encoder_hid_dim=8"),
        (dict(num_attention_heads=8), "num_attention_heads=8"),
        (dict(addition_embed_type="text_time"), "addition_embed_type='text_time'"),
        (dict(conv_in_kernel=1), "conv_in_kernel=1"),
        (dict(class_embed_type="projection"), "projection"),
        (dict(mid_block_type="UNetMidBlock2DSimpleCrossAttn"), "UNetMidBlock2DSimpleCrossAttn"),
        (dict(down_block_types=["AttnDownBlock2D", "DownBlock2D"]), "AttnDownBlock2D"),
        (dict(up_block_types=["UpBlock2D"]), "2, 2 and 1"),
        (dict(layers_per_block=[1, 2]), "layers_per_block"),
        (dict(transformer_layers_per_block=[1, 2]), "transformer_layers_per_block"),
        (dict(cross_attention_dim=[8, 8]), "cross_attention_dim"),
        (dict(norm_num_groups=None), "norm_num_groups"),
        (dict(attention_head_dim=[1, 2, 3]), "attention_head_dim has 3 entries"),
        (dict(attention_head_dim=16), "attention_head_dim 16"),
        (dict(only_cross_attention=[True]), "only_cross_attention has 1 entries"),
        (dict(time_embedding_type="learned"), "learned"),
        (dict(time_embedding_type="fourier", time_embedding_dim=7), "time_embedding_dim 7"),
        (dict(cross_attention_dims=8), "did you mean 'cross_attention_dim'"),
    ],
)
def test_unet_configs_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        UNet2DConditionModel.from_config({**SMALL, **changes})


def test_autoencoder_configs_that_are_refused():
    config = text_configurations.SAVED_AUTOENCODER
    for changes, message in (
        (dict(shift_factor=0.1), "shift_factor=0.1"),
        (dict(block_out_channels=[4]), "1, 2 and 2"),
    ):
        with pytest.raises(ValueError, match=message):
            AutoencoderKL.from_config({**config, **changes})
    AutoencoderKL.from_config({**config, "shift_factor": None, "force_upcast": True})
    with pytest.raises(ConfigError, match="latents_mean"):
        AutoencoderKL.from_config(config, latents_mean=[0.0, 0.0])


def test_calls_that_are_refused():
    unet = UNet2DConditionModel(**SMALL)
    sample, condition = paddle.zeros([2, 4, 8, 8]), paddle.zeros([2, 5, 8])
    for arguments, message in (
        ((sample, 3, None), "give encoder_hidden_states"),
        ((sample, 3, paddle.zeros([2, 5, 9])), r"\[2, 5, 9\]; this call needs \[2, S, 8\]"),
        ((sample, 3, condition[:1]), r"\[1, 5, 8\]"),
        ((sample, 3, condition[0]), r"\[5, 8\]"),
        ((sample[:, :, :7], 3, condition), "7 x 8; .* multiples of 2"),
        ((sample, 3, condition, paddle.zeros([2], "int64")), "no classes"),
    ):
        with pytest.raises(ValueError, match=message):
            unet(*arguments)
    with pytest.raises(ValueError, match="13 tokens; .* at most 12"):
        LDMBertModel(**text_configurations.SAVED_BERT)(paddle.zeros([1, 13], "int64"))


@paddle.no_grad()
def test_a_unet_without_cross_attention_needs_no_condition():
    down, up = ("DownBlock2D",) * 2, ("UpBlock2D",) * 2
    unet = UNet2DConditionModel(**{**SMALL, "down_block_types": down, "up_block_types": up, "mid_block_type": None})
    assert unet(paddle.zeros([1, 4, 6, 10]), 3, None).sample.shape == [1, 4, 6, 10]


@paddle.no_grad()
@pytest.mark.parametrize("upcast, dtype", [(True, paddle.float32), (False, paddle.float64)])
def test_attention_in_float32_on_request(monkeypatch, upcast, dtype):
    """A float64 layer stands for a half-precision one, whose products Paddle does not compute on a CPU."""
    seen = []
    monkeypatch.setattr(transformer, "attend", lambda *parts: seen.extend(part.dtype for part in parts) or parts[2])
    layer = transformer.CrossAttention(8, 8, 2, 4, upcast)
    layer.to(dtype="float64")
    tokens = paddle.ones([1, 16, 8], "float64")
    assert layer(tokens, tokens).dtype == paddle.float64
    assert seen == [dtype] * 3


def test_the_published_parameter_counts():
    """Of diffusers 0.42.1's own models on torch's meta device:

    python -c "import torch; torch.set_default_device('meta'); from diffusers import *; print(sum(p.numel() for p in
    UNet2DConditionModel(sample_size=32, cross_attention_dim=1280, attention_head_dim=8).parameters()))"

    and so for AutoencoderKL with the arguments below and LDMBertModel(LDMBertConfig()).model. The files published
    for Paddle are 3.2 GB, 319.1 MB and 2.0 GB, four bytes a parameter.
    """
    with paddle.LazyGuard():  # shapes only
        unet = UNet2DConditionModel(sample_size=32, cross_attention_dim=1280, attention_head_dim=8)
        autoencoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        bert = LDMBertModel()
    assert unet.num_parameters() == 872_300_484
    assert autoencoder.num_parameters() == 83_653_863
    assert bert.num_parameters() == 542_895_360
    assert round(unet.num_parameters() * 4 / 2**30, 1) == 3.2
    assert round(autoencoder.num_parameters() * 4 / 2**20, 1) == 319.1
    assert round(bert.num_parameters() * 4 / 2**30, 1) == 2.0
