"""The JSON schema and the reader agree: on every manifest of the package, and on what is wrong with others."""

from __future__ import annotations

import dataclasses
import json

import pytest

from model_zoo import File, ManifestError, Model, pack, registry
from model_zoo.manifest import parse

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((registry.COMMUNITY.parent / "manifest.schema.json").read_text())
MANIFESTS = sorted([*registry.COMMUNITY.glob("*/*.json"), *registry.BUILTIN.glob("*/*/model.json")])


@pytest.fixture(scope="module")
def schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: "/".join(file.with_suffix("").parts[-3:]))
def test_manifests_of_the_package(file, schema):
    values = json.loads(file.read_text())
    schema.validate(values)
    model = registry.read_manifest(file, builtin=file.name == "model.json")
    assert model.task in {entry.task for entry in registry.list_models()}


def test_every_key_is_in_the_schema():
    ours = {"folder", "registry", "place", "file", "remote"}
    assert SCHEMA["properties"].keys() - {"schema"} == {f.name for f in dataclasses.fields(Model)} - ours
    files = {field.name for field in dataclasses.fields(File)}
    assert SCHEMA["$defs"]["file"]["properties"].keys() == files


def test_packed_manifest(schema):
    folder = registry.find("ppdiffusers/ldm-super-resolution-4x-tiny").folder
    facts = {"name": "a/b", "licence": "MIT", "origin": "x", "base_url": "https://b.example:8080/zoo/"}
    schema.validate(pack.describe(folder, **facts)[0])


ORIGINAL = {"checkpoint": "https://a.example/x.zip", "config": {"target": "x"}}
GOOD = [
    {},
    {"paper": "https://arxiv.org/abs/2112.10752", "description": "Gr\u00fc\u00dfe", "note": None},
    {"base_url": "http://[::1]:8080/zoo", "mirrors": ["https://b.example"]},
    {"files": [{"path": "a/b/c.d-e+f_", "size": 0, "sha256": "0" * 64, "approximate_size": None}]},
    {"files": [], "original": ORIGINAL},
    {"original": {**ORIGINAL, "member": "model.ckpt"}},
    {"other": 1, "place": "../x", "folder": "/", "registry": "x"},
    {"files": [{"path": "a", "other": 1}]},
    {"schema": 1, "revisions": {"v1.0": [{"path": "a"}]}},
]
BAD = [
    *(
        {"name": name}
        for name in ("", "a", "a/b/c", "/a", "a/", "../b", "a/..", "a b/c", "\u00e4/b", "a/" + "b" * 101, 5)
    ),
    *({"aliases": value} for value in ("a/b", ["a"], [5], None)),
    *(
        {key: value}
        for key in ("task", "pipeline", "licence", "origin")
        for value in ("", None, 5, "a\nb", "a\x1b[2Jb")
    ),
    *({key: value} for key in ("paper", "description", "note") for value in (5, "a\nb", "\x9bb", [])),
    *(
        {"base_url": value}
        for value in (
            "b.example",
            "ftp://b.example",
            "https://u:pass@b.example",
            "https://b.example/?q",
            5,
            "http://",
            "https://b.example/#a",
            "https://b.example/a b",
            "https://b\u00e4r.example",
            "https://b.example/\\..",
        )
    ),
    {"mirrors": ["b.example"]},
    {"mirrors": "https://b.example"},
    *({"files": [{"path": path}]} for path in ("../x", "/x", "a//b", "a\\b", ".x", "a/.x", "", "a/", "C:x", "a\n", 5)),
    {"files": [{"path": "/".join("abcdefghijk")}]},
    {"files": [{"path": "a" * 151}]},
    *({"files": [{"path": "a", key: value}]} for key in ("size", "approximate_size") for value in (-1, 1.5, "1", True)),
    *({"files": [{"path": "a", "sha256": value}]} for value in ("", "0" * 63, "A" * 64, 0)),
    {"files": [{}]},
    {"files": ["a"]},
    {"files": {}},
    {"files": []},
    {"files": None},
    {"schema": 2},
    {"schema": "1"},
    {"revisions": {"v1": {}}},
    {"revisions": {"../v1": []}},
    *({"original": value} for value in ({}, [], {"checkpoint": "x"}, {**ORIGINAL, "config": {}})),
    {"original": {**ORIGINAL, "checkpoint": "file:///etc"}},
    {"original": {**ORIGINAL, "member": ""}},
]


@pytest.mark.parametrize("change", GOOD, ids=str)
def test_good(change, manifest, schema):
    values = {**manifest, **change}
    schema.validate(values)
    assert parse(values).name == values["name"]


@pytest.mark.parametrize("change", BAD, ids=lambda change: str(change)[:60])
def test_bad(change, manifest, schema):
    values = {**manifest, **change}
    assert not schema.is_valid(values)
    with pytest.raises(ManifestError) as caught:
        parse(values)
    message = str(caught.value)
    assert len(message) < 500 and message.isprintable() and "pass@" not in message


@pytest.mark.parametrize("key", ["name", "task", "pipeline", "licence", "origin", "paper", "files"])
def test_missing_key(key, manifest, schema):
    del manifest[key]
    assert not schema.is_valid(manifest)
    with pytest.raises(ManifestError, match=f"key '{key}' is missing"):
        parse(manifest)


@pytest.mark.parametrize("files", [["a", "A"], ["a", "a/b"], ["a/B", "A/b/c"]], ids=str)
def test_paths_that_cannot_lie_beside_each_other(files, manifest):
    """What a schema cannot say."""
    with pytest.raises(ManifestError, match="twice|as a file and as a folder"):
        parse({**manifest, "files": [{"path": path} for path in files]})
