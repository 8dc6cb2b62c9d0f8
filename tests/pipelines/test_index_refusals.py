"""A `model_index.json` chooses among our own classes; no entry of it imports anything else or leaves its folder."""

from __future__ import annotations

import json
import sys

import pytest

from ppdiffusers import DiffusionPipeline, UNet2DModel
from ppdiffusers.config import ConfigError

MODULE = "evil_module_of_an_index"
ODD_CLASSES = [MODULE, f"{MODULE}.Pipeline", "os.system", "__import__", "DiffusionPipeline", "UNet2DModel"]
ODD_CLASSES += ["../LDMPipeline", "ldmpipeline", "", "LDMPipeline\0", "x" * 10_000, None, 3, True, ["LDMPipeline"], {}]
ODD_ENTRIES = [
    [MODULE, "Model"],
    [MODULE, "UNet2DModel"],
    ["os", "system"],
    ["builtins", "eval"],
    ["ppdiffusers", "os"],
    ["ppdiffusers", "DiffusionPipeline"],
    ["ppdiffusers.checkpoints", "open_checkpoint"],
    ["ppdiffusers", f"{MODULE}.UNet2DModel"],
    ["ppdiffusers", "__class__"],
    ["../ppdiffusers", "UNet2DModel"],
    ["ppdiffusers", "../UNet2DModel"],
    ["ppdiffusers", ["UNet2DModel"]],
    [["ppdiffusers"], "UNet2DModel"],
    ["ppdiffusers", {"UNet2DModel": 1}],
    ["ppdiffusers", "UNet2DModel", "more"],
    ["UNet2DModel"],
    [None, None],
    [],
    {},
    "UNet2DModel",
    "x" * 10_000,
    None,
    3,
    True,
]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a folder with this index; a module that entries name lies ready to be imported."""
    (tmp_path / f"{MODULE}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(index, **options):
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return DiffusionPipeline.from_pretrained(tmp_path, **options)

    yield load
    assert MODULE not in sys.modules


def refusal(error) -> str:
    message = str(error.value)
    assert "model_index.json" in message and "\n" not in message and len(message) < 2500
    return message


@pytest.mark.parametrize("name", ODD_CLASSES, ids=lambda name: repr(name)[:40])
def test_odd_classes(name, load):
    with pytest.raises(ConfigError) as error:
        load({"_class_name": name, "_module": MODULE, "auto_map": {"AutoModel": f"{MODULE}.Model"}})
    assert "does not have" in refusal(error)


@pytest.mark.parametrize("entry", ODD_ENTRIES, ids=lambda entry: repr(entry)[:40])
def test_odd_components(entry, load):
    with pytest.raises(ConfigError) as error:
        load({"_class_name": "LDMPipeline", "unet": entry, "vqvae": entry, "scheduler": entry})
    assert "which is not loaded" in refusal(error)


@pytest.mark.parametrize("option", ["trust_remote_code", "custom_pipeline", "custom_revision"])
def test_nothing_lifts_the_refusal(option, load):
    with pytest.raises(ConfigError, match=f"does not know '{option}'"):
        load({"_class_name": "LDMPipeline"}, **{option: True})


def test_configs_name_no_code(tmp_path, load):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": MODULE, "auto_map": {"AutoModel": MODULE}}))
    with pytest.raises(ConfigError, match="auto_map"):
        UNet2DModel.from_config(tmp_path)
