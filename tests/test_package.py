"""What importing costs, and what is promised by the public names."""

import subprocess
import sys

import pytest

import ppdiffusers


def python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_does_no_work():
    """Neither package imports anything heavy until a name is used."""
    heavy = "{'paddle', 'paddlenlp', 'torch', 'requests', 'tqdm', 'PIL', 'safetensors'}"
    assert python(f"import sys, ppdiffusers, model_zoo; print({heavy} & set(sys.modules))").strip() == "set()"


def test_paddlenlp_is_not_needed():
    code = "import sys; sys.modules['paddlenlp'] = None\nimport ppdiffusers\n"
    python(code + "for name in ppdiffusers.__all__: getattr(ppdiffusers, name)")


@pytest.mark.parametrize("name", ppdiffusers.__all__)
def test_public_names_exist_and_are_documented(name):
    value = getattr(ppdiffusers, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(ppdiffusers)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="StableDiffusion"):
        _ = ppdiffusers.StableDiffusionPipeline
