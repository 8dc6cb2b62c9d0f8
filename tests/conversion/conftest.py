from __future__ import annotations

import json

import compvis_models
import pytest

from ppdiffusers.checkpoints import save_torch
from ppdiffusers.conversion import convert


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    return folder


@pytest.fixture(scope="session")
def original(tmp_path_factory, vocabulary):
    """Writes a model of `compvis_models` as the original would have, once; gives its folder."""
    made = {}

    def write(name):
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp(name)
            named = (line.split(" ", 1) for line in compvis_models.golden(name)["names"].tolist())
            save_torch(folder / "model.ckpt", compvis_models.weights({key: json.loads(text) for key, text in named}))
            (folder / "config.yaml").write_text(json.dumps({"model": compvis_models.CONFIGS[name]}))
            if name.startswith("text"):
                (folder / "tokenizer").mkdir()
                (folder / "tokenizer" / "vocab.txt").write_text((vocabulary / "vocab.txt").read_text())
        return made[name]

    return write


@pytest.fixture(scope="session")
def ours(tmp_path_factory, original):
    """Converts a model of `compvis_models`, once; gives the folder."""
    made = {}

    def write(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("ours") / name
            convert(original(name), made[name])
        return made[name]

    return write
