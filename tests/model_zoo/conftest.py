from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

import pytest

from model_zoo import http, registry

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parents[1] / "scripts")]  # the drills are tests, too

from fake_community import CommunityServer  # noqa: E402
from zoo_files import ALIAS, NAME, weights  # noqa: E402


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    """Nothing of the machine's settings or cache gets into a test."""
    for key in ("MODEL_ZOO_ENDPOINT", "MODEL_ZOO_JOBS", "MODEL_ZOO_OFFLINE", "MODEL_ZOO_REGISTRY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("MODEL_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http, "POLICY", http.Policy(2.0, 0.4, attempts=3, backoff=0.01, block=1000))


@pytest.fixture
def contents():
    """The files of the small model by path, in the order of its manifest."""
    generator = random.Random(7)

    def text(size):
        return json.dumps({"_class_name": "X", "text": generator.randbytes(size).hex()[: size - 32]}).encode()

    return {
        "model_index.json": text(256),
        "empty.txt": b"",
        "unet/config.json": text(703),
        "unet/model_state.pdparams": weights(generator, 20_000),
    }


@pytest.fixture
def folder(tmp_path):
    """Where the small model belongs."""
    return tmp_path / "home" / "tester" / "small"


@pytest.fixture
def community(tmp_path, contents):
    """A running server that has the small model."""
    for path, content in contents.items():
        file = tmp_path / "served" / NAME / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with CommunityServer(tmp_path / "served") as server:
        yield server


@pytest.fixture
def catalogue_of(monkeypatch, tmp_path):
    """A function that makes manifests the whole catalogue and returns the folder they lie in."""
    monkeypatch.setattr(registry, "COMMUNITY", tmp_path / "community")
    monkeypatch.setattr(registry, "BUILTIN", tmp_path / "builtin")

    def write(*manifests):
        for values in manifests:
            file = tmp_path / "community" / f"{values['name']}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        return tmp_path / "community"

    return write


@pytest.fixture
def manifest(contents):
    """The small model as a JSON object: an exact size, nothing, both, and a rounded size are known of its files."""
    digest = hashlib.sha256(contents["unet/config.json"]).hexdigest()
    return {
        "name": NAME,
        "task": "super-resolution",
        "pipeline": "LDMSuperResolutionPipeline",
        "licence": "Apache-2.0",
        "origin": "this test",
        "paper": None,
        "aliases": [ALIAS],
        "files": [
            {"path": "model_index.json", "size": 256},
            {"path": "empty.txt", "size": 0},
            {"path": "unet/config.json", "size": 703, "sha256": digest},
            {"path": "unet/model_state.pdparams", "approximate_size": 20_300},
        ],
    }


@pytest.fixture
def shared(zoo, catalogue_of, tmp_path, monkeypatch):
    """The server, with the small model in a registry that other processes see."""
    monkeypatch.setenv("MODEL_ZOO_REGISTRY", str(catalogue_of()))
    monkeypatch.setattr(registry, "COMMUNITY", tmp_path / "nothing")
    return zoo


@pytest.fixture
def zoo(community, manifest, catalogue_of, monkeypatch):
    """The server, with the small model in the catalogue and MODEL_ZOO_ENDPOINT set."""
    catalogue_of(manifest)
    monkeypatch.setenv("MODEL_ZOO_ENDPOINT", community.url)
    return community
