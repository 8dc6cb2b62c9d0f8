from __future__ import annotations

import hashlib
import json
import os
import random

import pytest
from fake_community import CommunityServer
from zoo_files import files_in

import model_zoo
from model_zoo import pack

FACTS = {"name": "me/mine", "licence": "Apache-2.0", "origin": "trained for this test"}


@pytest.fixture
def pipeline(tmp_path):
    """A saved pipeline; its weights are a real safetensors file."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [5000], "data_offsets": [0, 5000]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + random.Random(3).randbytes(5000)
    index = {
        "_class_name": "LDMSuperResolutionPipeline",
        "unet": ["ppdiffusers", "UNet2DModel"],
        "feature_extractor": [None, None],
    }
    files = {
        "model_index.json": json.dumps(index).encode(),
        "README.md": b"# mine\n",
        "unet/config.json": b"{}",
        "unet/diffusion_paddle_model.safetensors": weights,
    }
    for path, content in files.items():
        (tmp_path / "saved" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "saved" / path).write_bytes(content)
    return tmp_path / "saved"


def test_pack_serve_download(pipeline, tmp_path, monkeypatch):
    """And a newer version in the place of the older one."""
    manifest, hidden = pack.describe(pipeline, **FACTS)
    assert hidden == []
    index = pack.publish(pipeline, manifest, tmp_path / "zoo")
    with CommunityServer(tmp_path / "zoo") as server:
        monkeypatch.setenv("MODEL_ZOO_REGISTRY", f"{server.url}/{index.name}")
        folder = model_zoo.download("me/mine")
        assert folder == tmp_path / "home" / "me" / "mine"
        assert all((folder / path).read_bytes() == (pipeline / path).read_bytes() for path in files_in(pipeline))
        assert files_in(folder) == files_in(pipeline) | {".complete"}
        assert [model.name for model in model_zoo.list_models("super-resolution")].count("me/mine") == 1
        (pipeline / "unet/config.json").write_text('{"newer": true}')
        (pipeline / "README.md").unlink()
        pack.publish(pipeline, pack.describe(pipeline, **FACTS)[0], tmp_path / "zoo")
        asked = len(server.requests)
        assert model_zoo.download("me/mine") == folder and len(server.requests) == asked  # complete: nobody is asked
        assert (folder / "unet/config.json").read_text() == "{}"
        (folder / "unet/config.json").unlink()
        model_zoo.download("me/mine")
        assert (folder / "unet/config.json").read_text() == '{"newer": true}'
    assert model_zoo.download("me/mine") == folder  # nor does it need the server any more


def test_use_in_its_place(pipeline, tmp_path, monkeypatch):
    index = pack.publish(pipeline, pack.describe(pipeline, **FACTS)[0], tmp_path / "zoo")
    for place in (index, index.parent, index.parent / "me" / "mine.json"):
        monkeypatch.setenv("MODEL_ZOO_REGISTRY", str(place))
        assert model_zoo.download("me/mine", local_files_only=True) == tmp_path / "zoo" / "me" / "mine"


def test_base_url(pipeline, tmp_path, monkeypatch):
    """Manifests here, files in a bucket elsewhere."""
    with CommunityServer(tmp_path / "bucket") as bucket:
        manifest, _ = pack.describe(pipeline, **FACTS, base_url=f"{bucket.url}/models/")
        pack.publish(pipeline, manifest, tmp_path / "bucket" / "models")
        (tmp_path / "registry" / "me").mkdir(parents=True)
        (tmp_path / "registry" / "me" / "mine.json").write_text(json.dumps(manifest))
        monkeypatch.setenv("MODEL_ZOO_REGISTRY", str(tmp_path / "registry"))
        folder = model_zoo.download("me/mine")
        assert (folder / "unet/config.json").read_bytes() == b"{}"
        assert all(path.startswith("models/me/mine/") for path in bucket.paths())


def test_manifest(pipeline):
    manifest, _ = pack.describe(pipeline, **FACTS, paper="https://arxiv.org/abs/2112.10752", description="Mine.")
    assert {key: manifest[key] for key in FACTS} == FACTS
    assert (manifest["task"], manifest["pipeline"]) == ("super-resolution", "LDMSuperResolutionPipeline")
    assert [item["path"] for item in manifest["files"]] == sorted(files_in(pipeline), key=lambda path: path.split("/"))
    for item in manifest["files"]:
        content = (pipeline / item["path"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert pack.describe(pipeline, **FACTS)[0] == pack.describe(pipeline, **FACTS)[0]


def test_hidden_files_are_left_out(pipeline):
    (pipeline / ".git").mkdir()
    (pipeline / ".git" / "config").write_text("secret")
    (pipeline / "unet" / ".DS_Store").write_text("")
    manifest, hidden = pack.describe(pipeline, **FACTS)
    assert sorted(hidden) == [".git/config", "unet/.DS_Store"]
    assert not any(".git" in item["path"] for item in manifest["files"])


@pytest.mark.parametrize("name", ["unet/model_state.pdparams", "unet/pytorch_model.bin", "x.ckpt", "run.py", "log"])
def test_other_kinds_of_files_are_refused_unless_asked_for(name, pipeline):
    (pipeline / name).write_bytes(b"x")
    with pytest.raises(model_zoo.SourceError, match=rf"holds {name}: neither .* --every-kind"):
        pack.describe(pipeline, **FACTS)
    manifest, _ = pack.describe(pipeline, **FACTS, every_kind=True)
    assert name in [item["path"] for item in manifest["files"]]


def change_index(folder, **changes):
    values = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**values, **changes}))


BROKEN = {
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
    "no JSON": (lambda folder: (folder / "model_index.json").write_text("{"), r"model_index\.json: Expecting"),
    "no class": (lambda folder: change_index(folder, _class_name=None), "names no pipeline"),
    "no name of a class": (lambda folder: change_index(folder, _class_name="os.system('x')"), "names no pipeline"),
    "lacks a part": (
        lambda folder: change_index(folder, vqvae=["a", "B"]),
        "names 'vqvae', but there is no such folder",
    ),
    "unknown class": (lambda folder: change_index(folder, _class_name="Other"), "say the task with --task, such as"),
    "a name with blanks": (lambda folder: (folder / "a b.txt").write_text(""), "file path 'a b.txt' is refused"),
    "a name twice": (lambda folder: [(folder / x).write_text("") for x in ("a.txt", "A.txt")], "lists a.txt twice"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_folders_that_are_no_saved_pipeline(broken, pipeline):
    change, message = BROKEN[broken]
    change(pipeline)
    with pytest.raises(model_zoo.ModelZooError, match=message):
        pack.describe(pipeline, **FACTS)


@pytest.mark.skipif(os.name != "posix", reason="links and devices of POSIX")
def test_links_and_devices_are_refused(pipeline, tmp_path):
    for name in ("unet/link.json", "linked"):
        (pipeline / name).symlink_to(tmp_path)
        with pytest.raises(model_zoo.SourceError, match="is a link or device"):
            pack.describe(pipeline, **FACTS)
        (pipeline / name).unlink()
    os.mkfifo(pipeline / "pipe.txt")
    with pytest.raises(model_zoo.SourceError, match="is a link or device"):
        pack.describe(pipeline, **FACTS)


def test_zoo_of_several(pipeline, tmp_path, monkeypatch):
    zoo = tmp_path / "zoo"
    for name in ("me/mine", "me/other", "you/mine", "me/mine"):
        pack.publish(pipeline, pack.describe(pipeline, **{**FACTS, "name": name})[0], zoo)
    assert [item["name"] for item in json.loads((zoo / "index.json").read_text())["models"]] == [
        "me/mine", "me/other", "you/mine"
    ]  # fmt: skip
    assert not [path for path in zoo.iterdir() if path.name.startswith(".")]
    monkeypatch.setenv("MODEL_ZOO_REGISTRY", str(zoo))
    assert {"me/mine", "me/other", "you/mine"} <= {model.name for model in model_zoo.list_models()}


def test_what_changed_meanwhile_is_not_published(pipeline, tmp_path):
    manifest, _ = pack.describe(pipeline, **FACTS)
    (pipeline / "unet/config.json").write_text("[]")
    with pytest.raises(model_zoo.SourceError, match="changed while it was packed"):
        pack.publish(pipeline, manifest, tmp_path / "zoo")
    assert not files_in(tmp_path / "zoo") and not list((tmp_path / "zoo").iterdir())


def test_the_zoo_cannot_lie_in_the_pipeline(pipeline):
    manifest, _ = pack.describe(pipeline, **FACTS)
    before = files_in(pipeline)
    with pytest.raises(model_zoo.SourceError, match="lie in one another"):
        pack.publish(pipeline, manifest, pipeline / "zoo")
    assert files_in(pipeline) == before


def test_zoo_that_cannot_be_written(pipeline, tmp_path):
    (tmp_path / "zoo").write_text("in the way")
    with pytest.raises(model_zoo.CacheError, match="cannot write to"):
        pack.publish(pipeline, pack.describe(pipeline, **FACTS)[0], tmp_path / "zoo")
