"""What a file's own structure says of it; nothing of it is run."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import random
import zipfile

import pytest

from model_zoo import checks


class Boom:
    def __reduce__(self):
        return os.system, ("exit 1",)


OBJECTS = {
    "weights": {"w": random.Random(1).randbytes(70_000), "b": [0.5, 2, 10**400, -7, None, True], "u": "\u1234" * 300},
    "containers": collections.OrderedDict(a=(1, 2), b={3}, c=frozenset([4]), d=bytearray(b"5" * 300), e=complex(1, 2)),
    "code": Boom(),
}


def safetensors(sizes):
    header, end = {}, 0
    for number, size in enumerate(sizes):
        header[f"t{number}"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({**header, "__metadata__": {"format": "pd"}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", random.Random(2).randbytes(5000))
    return stream.getvalue()


WHOLE = {
    "model.safetensors": safetensors([100, 0, 5000]),
    "empty.safetensors": safetensors([]),
    "config.json": json.dumps({"a": [1, 2, "ü"]}).encode(),
    "bom.json": "\ufeff{}".encode(),
    "zip.bin": zipped(),
    "archive.zip": zipped(),
    **{
        f"{name}{protocol}.pdparams": pickle.dumps(value, protocol)
        for name, value in OBJECTS.items()
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_and_every_cut_of_them(name, tmp_path):
    file = tmp_path / name
    file.write_bytes(WHOLE[name])
    assert checks.complaint(file) is None
    generator = random.Random(name)
    for _ in range(40):
        file.write_bytes(WHOLE[name][: generator.randrange(len(WHOLE[name]))])
        assert checks.complaint(file) is not None
    if not name.endswith(".bin"):
        file.write_bytes(WHOLE[name] + b"\n<more>" if name.endswith(".json") else WHOLE[name] + bytes(30))
        assert checks.complaint(file) is not None


@pytest.mark.parametrize("name", ["README.md", "vocab.txt", "weights.pdiparams", "data.bin", "some.ckpt"])
def test_other_kinds_are_not_judged(name, tmp_path):
    file = tmp_path / name
    for content in (b"", b"anything\n", b"\x80anything", b"\x80\x02anything"):
        file.write_bytes(content)
        assert checks.complaint(file) is None


def test_several_pickles_and_bare_numbers(tmp_path):
    """As torch wrote them before 1.6."""
    file = tmp_path / "old.bin"
    objects = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"a": 1}, ["0"])
    pickles = b"".join(pickle.dumps(value, 2) for value in objects)
    file.write_bytes(pickles + bytes(1000))
    assert checks.complaint(file) is None
    for end in range(len(pickle.dumps(objects[0], 2)), len(pickles)):
        file.write_bytes(pickles[:end])
        assert checks.complaint(file) is not None


@pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\xef\xbb\xbf <HTML lang='en'>", b"\n\n<!doctype  html><p>"])
def test_pages(start, tmp_path):
    for name in ("README.md", "config.json", "weights.pdparams"):
        (tmp_path / name).write_bytes(start + b"hello")
        assert checks.complaint(tmp_path / name) == "is a web page"
    (tmp_path / "page.html").write_bytes(start)
    assert checks.complaint(tmp_path / "page.html") is None
    assert not checks.is_page("README.md", b"<h1 align='center'>a readme</h1>")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (15).to_bytes(8, "little") + b'{"a": {"b": 1}}',
        (20).to_bytes(8, "little") + b"{" + b"[" * 19,
    ],
)
def test_headers_made_to_do_harm(content, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert checks.complaint(file) is not None


def test_a_pickle_of_endless_steps_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_MOST_OPCODES", 1000)
    file = tmp_path / "long.pdparams"
    file.write_bytes(pickle.dumps(list(range(5000)), 2) + b"x")
    assert checks.complaint(file) is None
