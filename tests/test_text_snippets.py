"""The text-to-image snippets that users arrive with, unchanged but for the name that is imported.

Small weights and a small vocabulary under the published model's name and layout.
"""

import json

import fake_torch
import numpy as np
import paddle
import PIL.Image
import pytest
import real_architecture
from fake_community import CommunityServer, catalogue_as_served

from model_zoo import registry
from ppdiffusers import AutoencoderKL, LDMBertModel, UNet2DConditionModel
from ppdiffusers.checkpoints import save_pdparams

NAME = "CompVis/ldm-text2im-large-256"

REFERENCE_PAGE = """
from ppdiffusers import DiffusionPipeline

# load model and scheduler
ldm = DiffusionPipeline.from_pretrained("CompVis/ldm-text2im-large-256")

# run pipeline in inference (sample random noise and denoise)
prompt = "A painting of a squirrel eating a burger"
images = ldm([prompt], num_inference_steps=50, eta=0.3, guidance_scale=6).images

# save images
for idx, image in enumerate(images):
    image.save(f"squirrel-{idx}.png")
"""

# Written for a release whose pipelines returned a bare tensor. Only the line that calls the pipeline is
# adapted, with `output_type="pd"` and `.images`; torch, np and PIL were never imported in it.
OLD_MODEL_CARD = """
from ppdiffusers import DiffusionPipeline

ldm = DiffusionPipeline.from_pretrained("fusing/latent-diffusion-text2im-large")

generator = torch.manual_seed(42)

prompt = "A painting of a squirrel eating a burger"
image = ldm([prompt], generator=generator, eta=0.3, guidance_scale=6.0, num_inference_steps=50, output_type="pd").images

image_processed = image.cpu().permute(0, 2, 3, 1)
image_processed = image_processed * 255.
image_processed = image_processed.numpy().astype(np.uint8)
image_pil = PIL.Image.fromarray(image_processed[0])

# save image
image_pil.save("test.png")
"""

INDEX = {
    "_class_name": "LDMTextToImagePipeline",
    "_diffusers_version": "0.7.0",
    "bert": ["latent_diffusion", "LDMBertModel"],
    "scheduler": ["ppdiffusers", "DDIMScheduler"],
    "tokenizer": ["paddlenlp.transformers", "BertTokenizer"],
    "unet": ["ppdiffusers", "UNet2DConditionModel"],
    "vqvae": ["ppdiffusers", "AutoencoderKL"],
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "trained_betas": None,
}
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a painting of squirrel eating burger".split()
BERT = {
    "vocab_size": len(VOCABULARY),
    "max_position_embeddings": 77,
    "encoder_layers": 2,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "head_dim": 8,
    "activation_function": "gelu",
    "d_model": 16,
    "dropout": 0.1,
    "pad_token_id": 0,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 2,
    "block_out_channels": [8, 8, 8, 8],
    "cross_attention_dim": 16,
    "in_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 4,
    "sample_size": 32,
}
VQVAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 4, 4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SMALL_FILES = {  # contents, and the published size in bytes
    "model_index.json": (INDEX, 394),
    "bert/config.json": (BERT, 535),
    "bert/model_config.json": ({"init_class": "LDMBertModel"}, 359),
    "scheduler/scheduler_config.json": (SCHEDULER, 284),
    "tokenizer/added_tokens.json": ({}, 2),
    "tokenizer/special_tokens_map.json": ({"cls_token": "[CLS]", "sep_token": "[SEP]"}, 112),
    "tokenizer/tokenizer_config.json": ({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}, 298),
    "unet/config.json": (UNET, 746),
    "vqvae/config.json": (VQVAE, 549),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    root = folder / NAME
    for path, (values, size) in SMALL_FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values).ljust(size)
        assert len(text) == size, path
        (root / path).write_text(text)
    (root / "README.md").write_text("model card\n")
    (root / "tokenizer" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    paddle.seed(0)
    for component, kind, config in (
        ("bert", LDMBertModel, BERT),
        ("unet", UNet2DConditionModel, UNET),
        ("vqvae", AutoencoderKL, VQVAE),
    ):
        state = kind.from_config(config).state_dict()
        arrays = {name: value.numpy() for name, value in state.items()}
        if component == "vqvae":  # transformers in a unet were called to_q from the first
            arrays = real_architecture.old_names(state)
        save_pdparams(root / component / "model_state.pdparams", arrays)
    return folder


def run(snippet, folder, tmp_path, monkeypatch):
    """The snippet as a script in an empty folder, where torch is a stub."""
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "COMMUNITY", catalogue_as_served(folder, tmp_path / "catalogue"))
    monkeypatch.chdir(tmp_path)
    with CommunityServer(folder) as server:
        monkeypatch.setenv("MODEL_ZOO_ENDPOINT", server.url)
        exec(compile(snippet, "snippet.py", "exec"), {"torch": fake_torch, "np": np, "PIL": PIL})
        assert {path.rpartition(NAME)[1] for path in server.paths()} == {NAME}


def check(file):
    with PIL.Image.open(file) as result:
        assert result.size == (256, 256) and np.asarray(result).std() > 1


def test_the_reference_page(model, tmp_path, monkeypatch):
    run(REFERENCE_PAGE, model, tmp_path, monkeypatch)
    check(tmp_path / "squirrel-0.png")


@pytest.mark.skipif(not hasattr(paddle.Tensor, "permute"), reason="this paddle's tensors have no permute")
def test_the_old_model_card_by_the_models_old_name(model, tmp_path, monkeypatch):
    run(OLD_MODEL_CARD, model, tmp_path, monkeypatch)
    check(tmp_path / "test.png")
