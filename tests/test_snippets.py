"""The usage snippets that users arrive with, unchanged but for the name that is imported.

By default with small weights under the published model's name and layout; `-m slow` runs the
published architecture at its full 645 MB.
"""

import io
import sys
import types

import numpy as np
import pytest
import real_architecture
from fake_community import CommunityServer, catalogue_as_served
from PIL import Image

from model_zoo import registry

MINDONE = """
import requests
from PIL import Image
from io import BytesIO
from ppdiffusers import LDMSuperResolutionPipeline
import mindspore as ms

# load model and scheduler
pipeline = LDMSuperResolutionPipeline.from_pretrained("CompVis/ldm-super-resolution-4x-openimages")

# let's download an  image
url = (
    "https://user-images.githubusercontent.com/38061659/199705896-b48e17b8-b231-47cd-a270-4ffa5a93fa3e.png"
)
response = requests.get(url)
low_res_img = Image.open(BytesIO(response.content)).convert("RGB")
low_res_img = low_res_img.resize((128, 128))

# run pipeline in inference (sample random noise and denoise)
upscaled_image = pipeline(low_res_img, num_inference_steps=100, eta=1)[0][0]
# save image
upscaled_image.save("ldm_generated_image.png")
"""

MODEL_CARD = """
import requests
from PIL import Image
from io import BytesIO
from ppdiffusers import LDMSuperResolutionPipeline
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
model_id = "CompVis/ldm-super-resolution-4x-openimages"

# load model and scheduler
pipeline = LDMSuperResolutionPipeline.from_pretrained(model_id)
pipeline = pipeline.to(device)

# let's download an  image
url = "https://user-images.githubusercontent.com/38061659/199705896-b48e17b8-b231-47cd-a270-4ffa5a93fa3e.png"
response = requests.get(url)
low_res_img = Image.open(BytesIO(response.content)).convert("RGB")
low_res_img = low_res_img.resize((128, 128))

# run pipeline in inference (sample random noise and denoise)
upscaled_image = pipeline(low_res_img, num_inference_steps=100, eta=1).images[0]
# save image
upscaled_image.save("ldm_generated_image.png")
"""

REFERENCE_PAGE = """
import requests
from PIL import Image
from io import BytesIO
from ppdiffusers import LDMSuperResolutionPipeline
import torch

# load model and scheduler
pipeline = LDMSuperResolutionPipeline.from_pretrained("CompVis/ldm-super-resolution-4x-openimages")
pipeline = pipeline.to("cuda")

# let's download an image
url = (
    "https://user-images.githubusercontent.com/38061659/199705896-b48e17b8-b231-47cd-a270-4ffa5a93fa3e.png"
)
response = requests.get(url)
low_res_img = Image.open(BytesIO(response.content)).convert("RGB")
low_res_img = low_res_img.resize((128, 128))

# run pipeline in inference (sample random noise and denoise)
upscaled_image = pipeline(low_res_img, num_inference_steps=100, eta=1).images[0]
# save image
upscaled_image.save("ldm_generated_image.png")
"""

SMALL = {"norm_num_groups": 4, "layers_per_block": 1}
SMALL_UNET = {**real_architecture.UNET, **SMALL, "block_out_channels": [8] * 4, "attention_head_dim": 4}
SMALL_VQVAE = {**real_architecture.VQVAE, **SMALL, "block_out_channels": [4, 4, 8], "mid_block_add_attention": False}


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    real_architecture.write(folder, SMALL_UNET, SMALL_VQVAE)
    return folder


@pytest.fixture(scope="module")
def full_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    root = real_architecture.write(folder)
    for component, parameters in real_architecture.PARAMETERS.items():
        size = (root / component / "model_state.pdparams").stat().st_size
        assert 4 * parameters < size < 4 * parameters * 1.001
    return folder


def run(snippet, folder, tmp_path, monkeypatch):
    """The snippet as a script in an empty folder, where torch and mindspore are only names."""
    photo = io.BytesIO()
    Image.effect_noise((160, 120), 60).convert("RGB").save(photo, "PNG")
    import requests

    get = requests.get

    def fetch(url, *args, **kwargs):
        if "user-images" in url:
            return types.SimpleNamespace(content=photo.getvalue())
        return get(url, *args, **kwargs)

    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "mindspore", types.ModuleType("mindspore"))
    monkeypatch.setattr(requests, "get", fetch)
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "COMMUNITY", catalogue_as_served(folder, tmp_path / "catalogue"))
    monkeypatch.chdir(tmp_path)
    with CommunityServer(folder) as server:
        monkeypatch.setenv("MODEL_ZOO_ENDPOINT", server.url)
        exec(compile(snippet, "snippet.py", "exec"), {"__name__": "__main__"})
    with Image.open(tmp_path / "ldm_generated_image.png") as result:
        assert result.size == (512, 512) and np.asarray(result).std() > 1


SNIPPETS = [
    pytest.param(MINDONE, id="mindone"),
    pytest.param(MODEL_CARD, id="model-card"),
    pytest.param(REFERENCE_PAGE, id="reference-page", marks=pytest.mark.filterwarnings("ignore:.*CUDA")),
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet(snippet, small_model, tmp_path, monkeypatch):
    run(snippet, small_model, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_at_full_size(snippet, full_model, tmp_path, monkeypatch):
    run(snippet, full_model, tmp_path, monkeypatch)
