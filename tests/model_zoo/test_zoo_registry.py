from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import model_zoo
from model_zoo import registry

MANIFESTS = sorted(registry.COMMUNITY.glob("*/*.json"))


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_community_manifest(file):
    model = registry.read_manifest(file)
    assert model_zoo.find(model.name) == model
    assert all(model_zoo.find(alias) == model for alias in model.aliases)
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", model.task)
    assert model.description and model.paper
    paths = {item.path for item in model.files}
    if not paths:
        assert model.original is not None
        with pytest.raises(model_zoo.NotConvertedError, match=rf"fetch https.* FOLDER --model {model.name}`"):
            model_zoo.download(model.name)
        return
    assert {"model_index.json", "scheduler/scheduler_config.json"} <= paths
    weights = {path for path in paths if path.endswith((".pdparams", ".safetensors"))}
    assert weights
    assert all(f"{Path(path).parent.as_posix()}/config.json" in paths for path in weights)


def test_published_facts():
    assert sorted(registry.COMMUNITY.rglob("*.json")) == MANIFESTS and len(MANIFESTS) >= 3
    model = model_zoo.find("CompVis/ldm-super-resolution-4x-openimages")
    sizes = {file.path: file.size for file in model.files}
    assert sizes == {
        "README.md": None,
        "model_index.json": 256,
        "scheduler/scheduler_config.json": 288,
        "unet/config.json": 703,
        "unet/model_state.pdparams": None,
        "vqvae/config.json": 518,
        "vqvae/model_state.pdparams": None,
    }
    # The parameter counts of the architecture, four bytes each, and a little for the names.
    assert model.nominal_size == pytest.approx(4 * (113_622_563 + 55_322_782), rel=0.001)
    assert not model.size_is_exact
    assert model_zoo.find("fusing/latent-diffusion-text2im-large").name == "CompVis/ldm-text2im-large-256"
    assert len(model_zoo.find("CompVis/ldm-text2im-large-256").files) == 14
    for name in ("CompVis/ldm-celebahq-256", "fusing/latent-diffusion-celeba-256"):
        assert model_zoo.find(name).pipeline == "LDMPipeline"


def test_list_by_task():
    names = [model.name for model in model_zoo.list_models(task="super-resolution")]
    assert "CompVis/ldm-super-resolution-4x-openimages" in names
    assert "CompVis/ldm-celebahq-256" not in names
    with pytest.raises(model_zoo.UnknownTaskError, match="'superresolution'.*super-resolution"):
        model_zoo.list_models(task="superresolution")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("CompVis/ldm-super-resolution-4x-openimage", "CompVis/ldm-super-resolution-4x-openimages"),
        ("compvis/LDM-celebahq-256", "CompVis/ldm-celebahq-256"),
        ("ldm-celebahq", "CompVis/ldm-celebahq-256"),
        ("someone/ldm-text2im-large", "CompVis/ldm-text2im-large-256"),
        ("latent-diffusion-text2im-large", "fusing/latent-diffusion-text2im-large"),
        ("ffhq", "CompVis/ldm-ffhq-256"),
        ("churches", "CompVis/ldm-lsun-churches-256"),
    ],
)
def test_unknown_names_meet_the_nearest_known_one(wrong, right):
    with pytest.raises(model_zoo.UnknownModelError) as caught:
        model_zoo.find(wrong)
    assert caught.value.suggestions[0] == right
    assert right in str(caught.value) and repr(wrong) in str(caught.value)


@pytest.mark.parametrize("name", ["", "qqqq", "x" * 5000, "../../etc", "a\0b"])
def test_names_like_nothing(name):
    with pytest.raises(model_zoo.UnknownModelError, match="model-zoo list") as caught:
        model_zoo.find(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "is of the schema 2; this release knows 1: update it"),
        ({"name": "tester/other"}, "the place of the file"),
        ({"aliases": ["no-owner"]}, "model name 'no-owner'"),
        ({"files": [{"path": "a", "size": 2**60}]}, "size of a"),
        ({"files": [{"size": 1}]}, "key 'path' is missing"),
        ({"files": [{"path": "a"}, {"path": "A"}]}, "twice"),
    ],
    ids=str,
)
def test_schema(change, message, manifest, catalogue_of):
    folder = catalogue_of(manifest)
    assert [model.name for model in model_zoo.list_models()] == ["tester/small"]
    (folder / "tester" / "small.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(model_zoo.ManifestError, match=message):
        registry.read_manifest(folder / "tester" / "small.json")
    with pytest.warns(UserWarning, match="an entry is passed over in this package"):
        assert model_zoo.list_models() == []


def test_missing_keys_and_broken_json(manifest, catalogue_of):
    del manifest["licence"]
    folder = catalogue_of(manifest)
    with pytest.warns(UserWarning, match="'licence' is missing"):
        model_zoo.list_models()
    for text in ("{", "[]", "\udcff"):
        (folder / "tester" / "small.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.warns(UserWarning, match=r"small\.json"):
            model_zoo.list_models()


def test_two_models_cannot_claim_one_name(manifest, catalogue_of):
    catalogue_of(manifest, {**manifest, "name": "tester/twin"})
    with pytest.warns(UserWarning, match="both claim the name elder/small"):
        assert len(model_zoo.list_models()) == 1


@pytest.fixture
def builtin(manifest, catalogue_of):
    catalogue_of()
    folder = registry.BUILTIN / "tester" / "tiny"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "README.md").write_text("hello")
    (folder / ".hidden").write_text("no file of the model")
    files = [{"path": "README.md", "size": 5}, {"path": "unet/config.json", "size": 2}]
    (folder / "model.json").write_text(json.dumps({**manifest, "name": "tester/tiny", "files": files}))
    return folder


def test_builtin_model_has_what_its_manifest_says(builtin):
    model = model_zoo.find("tester/tiny")
    assert model.folder == builtin
    assert [(file.path, file.size) for file in model.files] == [("README.md", 5), ("unet/config.json", 2)]
    assert model_zoo.download("elder/small") == builtin
    assert model_zoo.resolve("tester/tiny", local_files_only=True) == builtin
    (builtin / "README.md").unlink()
    with pytest.raises(model_zoo.CacheError, match="install the package again"):
        model_zoo.download("tester/tiny")
    (builtin / "model.json").unlink()
    assert model_zoo.list_models() == []


def test_embedded_models_have_hashes_of_every_file():
    for file in registry.BUILTIN.glob("*/*/model.json"):
        model = registry.read_manifest(file, builtin=True)
        there = {path.relative_to(file.parent).as_posix() for path in file.parent.rglob("*") if path.is_file()}
        assert {item.path for item in model.files} == there - {"model.json"}
        assert all(item.size is not None and item.sha256 is not None for item in model.files)
        assert all(found.verdict == "ok" for found in model_zoo.verify(model.name))
        assert model_zoo.download(model.name) == model_zoo.find(model.name).folder == file.parent


def test_revisions(manifest, catalogue_of, tmp_path):
    catalogue_of({**manifest, "revisions": {"v2": [{"path": "new.json"}]}})
    model = model_zoo.find("elder/small", revision="v2")
    assert [file.path for file in model.files] == ["new.json"]
    assert (model.place, model.remote) == ("tester/small@v2", "tester/small@v2")
    with pytest.raises(model_zoo.ManifestError, match="has no revision 'v3'; known: v2"):
        model_zoo.find("tester/small", revision="v3")


def test_models_are_frozen():
    model = model_zoo.find("CompVis/ldm-celebahq-256")
    for frozen, field in ((model, "name"), (model.files[0], "size")):
        with pytest.raises(AttributeError):
            setattr(frozen, field, 1)


def test_import_and_listing_load_nothing_heavy():
    code = (
        "import sys; from model_zoo.cli import main; import model_zoo; main(['list'])\n"
        "heavy = {'paddle', 'ppdiffusers', 'numpy', 'requests', 'urllib3', 'tqdm', 'filelock', 'tarfile'}\n"
        "sys.exit(f'loaded: {sorted(heavy & set(sys.modules))}' if heavy & set(sys.modules) else 0)"
    )
    root = Path(model_zoo.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CompVis/ldm-celebahq-256" in done.stdout


def test_no_two_files_import_each_other():
    """Nor in a longer circle; imports within functions count."""
    root = Path(model_zoo.__file__).parent
    files = {
        ".".join(("model_zoo", *path.relative_to(root).with_suffix("").parts)): path for path in root.rglob("*.py")
    }
    files = {re.sub(r"\.__init__$", "", name): path for name, path in files.items()}
    needs = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("model_zoo"):
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
                found |= inner or {node.module}
        needs[name] = (found & files.keys()) - {name, "model_zoo"}
    assert len(files) <= 23 and sum(map(len, needs.values())) > 50
    while needs:
        free = {name for name, found in needs.items() if not found}
        assert free, f"a circle among {sorted(needs)}"
        needs = {name: found - free for name, found in needs.items() if name not in free}
