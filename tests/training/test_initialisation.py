"""How models begin: torch's and diffusers' distributions, CompVis' zeros."""

import numpy as np
import paddle
import pytest
from training_cases import encoder, unet, vqvae

from ppdiffusers import ClassEmbedder, LDMBertModel, UNet2DConditionModel, UNet2DModel, VQModel
from ppdiffusers.training.initialisation import initialise


def uniform(values, bound):
    """Whether values fill [-bound, bound] evenly."""
    values = values.numpy().ravel()
    deviation = pytest.approx(bound / 3**0.5, rel=4 / values.size**0.5)
    return abs(values).max() <= bound and (values.std() == deviation)


def test_layers_begin_as_torch_s_do():
    model = UNet2DConditionModel(**unet(3, 16, channels=(32, 64)))
    initialise(model, 1)
    assert uniform(model.conv_in.weight, (3 * 9) ** -0.5)
    block = model.down_blocks[1].resnets[0]
    assert uniform(block.conv1.weight, (32 * 9) ** -0.5) and uniform(block.conv2.weight, (64 * 9) ** -0.5)
    assert uniform(block.conv2.bias, (64 * 9) ** -0.5) and np.ptp(block.conv2.bias.numpy()) > 0
    attention = model.down_blocks[1].attentions[0].transformer_blocks[0].attn2
    assert uniform(attention.to_k.weight, 16**-0.5)  # [in, out] here, [out, in] there
    assert uniform(attention.to_out[0].weight, 64**-0.5)
    assert (block.norm1.weight.numpy() == 1).all() and (block.norm1.bias.numpy() == 0).all()
    table = ClassEmbedder(100, 64)
    initialise(table)
    assert table.embedding.weight.numpy().std() == pytest.approx(1, abs=0.05)
    bert = LDMBertModel(**encoder(500, 4, width=64))
    initialise(bert)
    assert bert.model.embed_tokens.weight.numpy().std() == pytest.approx(0.02, rel=0.05)
    codebook = VQModel(**{key: value for key, value in vqvae().items() if key[0] != "_"})
    initialise(codebook)
    assert uniform(codebook.quantize.embedding.weight, 1 / 128)


def test_a_seed_and_a_name_say_what_a_weight_is():
    models = [UNet2DModel(**unet()) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6)):
        initialise(model, seed)
    first, same, other = (model.mid_block.resnets[0].conv1.weight.numpy() for model in models)
    assert (first == same).all() and (first != other).mean() > 0.99
    assert (first != models[0].mid_block.resnets[1].conv1.weight.numpy()).mean() > 0.99


def test_compvis_begins_residual_branches_at_zero():
    model = UNet2DConditionModel(**unet(3, 16))
    initialise(model, 0, "compvis")
    x = paddle.randn([1, 3, 8, 8])
    told = paddle.randn([1, 2, 16])
    assert float(model(x, 5, told).sample.abs().max()) == 0
    block = model.down_blocks[0].resnets[0]
    features = paddle.randn([1, 16, 8, 8])
    np.testing.assert_array_equal(block(features, paddle.randn([1, 64])).numpy(), features.numpy())
    first_stage = VQModel(**{key: value for key, value in vqvae().items() if key[0] != "_"})
    initialise(first_stage, 0, "compvis")  # the authors' autoencoders have no zeros
    assert all(np.abs(value.numpy()).max() > 0 for name, value in first_stage.named_parameters() if "norm" not in name)
