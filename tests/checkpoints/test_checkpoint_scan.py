"""`model-zoo scan` judges by the one reader of pickles, says why, and runs nothing itself."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import GOLDEN, RELEASES, torch_zip
from hostile_files import COMPOSED, OTHERS, SAFETENSORS, entry, safetensors
from hostile_pickles import CANARY, EVIL, RUNS, object_array, zipped
from pickle_assembly import GOOD_ARRAY, Call, called, name, pickled, raw, text, under_w

import model_zoo
from model_zoo.cli import main
from model_zoo.formats import machine
from model_zoo.formats.scan import ScanError, complaint, scan
from ppdiffusers.checkpoints import CheckpointError, open_checkpoint

SYSTEM = name("posix", "system")


def test_good_file(write, capsys):
    path = write(pickle.dumps({"w": np.ones(3, np.float32)}, 4))
    report = scan(path)
    assert report.safe and report.layout == "a pickle" and report.runs == []
    assert main(["scan", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: safe: a pickle that names nothing but data\n"


def test_hostile_file(write, capsys):
    path = write(pickle.dumps({"w": np.ones(3), "x": Call(print, "hello", 7)}, 2))
    report = scan(path)
    assert not report.safe and "names __builtin__.print, which weights do not need" in report.reason
    assert report.runs == ["import __builtin__.print", "call __builtin__.print('hello', 7)"]
    assert main(["scan", str(path)]) == 1
    captured = capsys.readouterr()
    assert f"{path}: refused: it names __builtin__.print" in captured.out and not captured.err
    assert "  would call __builtin__.print('hello', 7)" in captured.out


def test_several_files_and_folders(tmp_path, capsys):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "good.pdparams").write_bytes(pickle.dumps({"w": np.ones(3)}, 4))
    (tmp_path / "model" / "README.md").write_text("# a model\n")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "evil.bin").write_bytes(EVIL)
    assert main(["scan", str(tmp_path / "model")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("safe") == 1 and "2 other files" in captured.err
    assert main(["scan", str(tmp_path / "model"), str(tmp_path / "evil.bin")]) == 1
    assert capsys.readouterr().out.count("refused") == 1
    (tmp_path / "model" / "config.json").write_bytes(EVIL)  # whatever it is called
    assert main(["scan", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("refused") == 2


def test_user_errors(tmp_path, capsys):
    (tmp_path / "page.bin").write_bytes(b"<html>404</html>")
    (tmp_path / "empty").touch()
    for file, words in {
        "page.bin": "neither a pickle nor a zip",
        "empty": "is empty",
        "missing": "No such file",
    }.items():
        assert main(["scan", str(tmp_path / file)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    with pytest.raises(ScanError):
        scan(tmp_path)


@pytest.mark.parametrize(
    "opcodes, what",
    [
        (called("os", "system", text("x" * 500)), "call os.system('" + "x" * 75),
        (called("a", "b", GOOD_ARRAY, b"N", b"\x88", b"}", b"K\x07"), "call a.b(<PickledArray>, None, True, <dict>"),
        (called("a", "b", raw(b"123"), b"(K\x01K\x02t", name("c", "d")), "call a.b(<Span>, (1, 2), c.d)"),
        (called("a", "b", b"(" * 9 + b"t" * 9), "call a.b(((...)))"),
        (name("a", "b") + text("x") + b"\x85\x81", "call a.b('x')"),
        (b"(" + name("a", "b") + text("x") + b"o", "call a.b('x')"),
        (name("os", "environ") + text("x") + text("y") + b"s", "call os.environ.__setitem__('x', 'y')"),
        (called("a", "b") + text("x") + b"b", "call a.b(...).__setstate__('x')"),
    ],
)  # fmt: skip
def test_what_would_be_called(opcodes, what, write):
    assert any(run.startswith(what) for run in scan(write(pickled(opcodes))).runs)


@pytest.mark.parametrize("case", COMPOSED)
def test_allowed_names_that_are_composed(case, write):
    path = write(COMPOSED[case])
    assert not scan(path).safe
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


@pytest.mark.parametrize("digits", [1, 64, 65, 70, 200])
def test_places_in_memory_are_read_as_pickle_reads_them(digits, write):
    """The name that a long index hides is met under it, or the file is refused."""
    program = b"N" + b"p" + b"0" * (digits - 1) + b"7\n0" + SYSTEM + b"p7\n0g" + b"0" * (digits - 1) + b"7\n."
    assert not scan(write(b"\x80\x02" + program)).safe


def test_safetensors_for_one_reader_and_a_pickle_for_another(write, monkeypatch, tmp_path):
    """Its length bytes are a text that skips to the name of a tensor, which begins a line that ends with the header."""
    monkeypatch.chdir(tmp_path)
    program = pickled(called("posix", "system", text(f"touch {CANARY}")))[2:]
    header = json.dumps({"V": {"dtype": "U8", "shape": [len(program)], "data_offsets": [0, len(program)]}}).encode()
    length = ord("U") + 256 * 8
    found = struct.pack("<Q", length) + header.ljust(length - 1) + b"\n" + program
    pickle.loads(found)
    assert (tmp_path / CANARY).exists(), "the attack does not work"
    open_checkpoint(write(found, "model.safetensors")).close()  # as safetensors it is what it says
    report = scan(write(found, "model.safetensors"))
    assert not report.safe and "safetensors for one reader and a pickle for another" in report.reason


def test_files_that_are_two_formats(write, tmp_path):
    weights = pickle.dumps({"w": np.ones(3)}, 4)
    header = safetensors({"a": entry(0, 8)})
    more = zipped(("archive/data.pkl", EVIL))
    longer = safetensors({"a": {"dtype": "U8", "shape": [len(more)], "data_offsets": [0, len(more)]}}, more)
    assert scan(write(header, "model.safetensors")).safe
    for content in (weights + more, longer):
        report = scan(write(content, "model.safetensors"))
        assert not report.safe and "two formats at once" in report.reason
    for kind in ("tar", "tar-behind-pickles"):
        assert "a tar archive" in scan(write(OTHERS[kind])).reason
    with tarfile.open(tmp_path / "tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path, "files", filter=lambda member: member if member.isdir() else None)
    assert not scan(tmp_path / "tar").safe
    base256 = bytearray(OTHERS["tar-behind-pickles"])  # a checksum that only tarfile understands
    total = 256 + sum(base256[:148]) + sum(base256[156:512])
    base256[148:156] = b"\x80" + total.to_bytes(7, "big")
    assert scan(write(bytes(base256))).layout == "a tar archive"


def test_a_torch_file_and_what_lies_in_it(write):
    path = write(torch_zip(under_w(called("os", "system", text("true"))), _0=bytes(8)), "model.bin")
    report = scan(path)
    assert report.layout == "a torch archive" and report.runs == ["import os.system", "call os.system('true')"]
    good = torch_zip(pickled(b"}"), _0=bytes(8))
    assert scan(write(good, "model.bin")).safe
    with zipfile.ZipFile(path, "a") as archive:  # a pickle for others, though torch does not look at it
        archive.writestr("archive/extra/optimizer", EVIL)
    assert "extra/optimizer" in scan(path).reason
    script = zipped(("m/code/__torch__.py", b"class A(Module):"), ("m/data.pkl", b"N."))
    assert "__torch__.py" in scan(write(script)).reason
    assert "bytes after its pickle" in scan(write(torch_zip(pickled(b"}") + EVIL))).reason


def test_numbers_in_storages_are_no_pickles(write):
    """Random weights may begin like a pickle; that alone says nothing."""
    draw = np.random.default_rng(0)
    for start in (b"\x80\x02", b"\x80\x04\x95", b"}", b"(", b"cab\ncd", b"PK\x03\x04"[:3]):
        storage = start + draw.bytes(24 - len(start))
        assert scan(write(torch_zip(pickled(b"}"), _0=storage))).safe


@pytest.mark.parametrize("case", [case for case in SAFETENSORS if case != "type-not-read"])
def test_safetensors_headers(case, write):
    header, reason = SAFETENSORS[case]
    assert reason in scan(write(safetensors(header), "model.safetensors")).reason


def test_what_is_read_is_safe():
    for path in [*RELEASES.iterdir(), *(path for path in GOLDEN.iterdir() if path.suffix != ".npz")]:
        report = scan(path)
        assert report.safe, report
        open_checkpoint(path).close()


def test_other_containers_are_refused_by_name(write):
    for content, words in (
        (b"\x1f\x8b" + bytes(20), "is packed (gzip)"),
        (object_array(), "numpy's"),
        (zipped(("a.npy", object_array())), "not one that torch.save wrote"),
    ):
        assert words in scan(write(content)).reason
    assert any("system" in run for run in scan(write(object_array())).runs)


def test_a_flood_of_calls(write):
    content = pickled(b"".join(called("m", f"f{index}") + b"0" for index in range(3000)), b"N")
    assert len(scan(write(content)).runs) == 100
    nested = pickled(name("a", "b") + b")R" * 200_000)  # what calls give is called again: its name must not grow
    assert len(scan(write(nested)).runs) <= 100


def test_one_span_of_many_arrays_is_not_joined(write):
    """1.2 MB that would become 2 GB: Paddle's list of parts names one string of bytes 2,048 times."""
    size = 1 << 20
    kind = (
        called("numpy", "dtype", text("u1"), b"\x89\x88")
        + b"(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbq\x01"
    )
    shape = b"J" + struct.pack("<i", size) + b"\x85q\x02"
    made = called("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\0\x85", b"C\x01b")
    first = raw(bytes(size)) + b"q\x030" + kind + b"0" + shape + b"0"
    parts = b"".join(text(f"w{i}") + made + b"(K\x01h\x02h\x01\x89h\x03tb" for i in range(2048))
    names = b"(" + b"".join(text(f"w{i}") for i in range(2048)) + b"l"
    plan = b"}" + text("w") + b"}(" + text("OriginShape") + b"\x8a\x04" + struct.pack("<I", size << 11)[:4] + b"\x85"
    plan += text("slices") + names + b"us"
    path = write(pickled(first, b"}(", parts, text("UnpackBigParamInfor@@"), plan, b"u"))
    for refused in (lambda: open_checkpoint(path), lambda: scan(path)):
        try:
            report = refused()
        except CheckpointError as error:
            assert "times its size" in str(error)
        else:
            assert "times its size" in report.reason


def test_bytes_after_the_pickle(write):
    good = pickle.dumps({"w": np.ones(3)}, 4)
    assert scan(write(good)).safe
    assert "4 bytes after its end" in scan(write(good + b"more")).reason
    report = scan(write(good + EVIL))
    assert not report.safe and any("system" in run for run in report.runs)


def test_entries_that_share_bytes(write):
    """A pickle that lies within the numbers of a storage: one reader sees numbers where another sees a pickle."""
    program = pickled(b"}")

    def local(entry_name, content):
        head = struct.pack(
            "<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, len(content), len(content), len(entry_name), 0
        )
        return head + entry_name.encode() + content

    inner = local("archive/data.pkl", program)
    outer = local("archive/data/0", inner)
    for shared in (True, False):
        body = outer if shared else outer + inner
        places = {"archive/data/0": (0, len(inner)), "archive/data.pkl": (len(body) - len(inner), len(program))}
        directory = b"".join(
            struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size, len(key), 0, 0, 0, 0, 0, place)
            + key.encode()
            for key, (place, size) in places.items()
        )
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), len(body), 0)
        report = scan(write(body + directory + end))
        assert report.safe is not shared, report
        assert not shared or "overlap" in report.reason


def test_it_needs_no_library(tmp_path):
    (tmp_path / "file").write_bytes(RUNS["zip"])
    code = (
        "import sys; from model_zoo.cli import main; code = main(['scan', 'file']);"
        "bad = {'numpy', 'paddle', 'ppdiffusers', 'requests'} & set(sys.modules);"
        "sys.exit(10 * len(bad) + code)"
    )
    options = {"env": {**os.environ, "PYTHONPATH": str(Path(model_zoo.__file__).parents[1])}, "cwd": tmp_path}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert run.returncode == 1 and "would call" in run.stdout, run


# Whether a file is whole by its own account


class Boom:
    def __reduce__(self):
        return os.system, ("exit 1",)


WHOLE = {
    "model.safetensors": safetensors({"a": entry(0, 8)}),
    "config.json": b'{"a": [1, 2, "\xc3\xbc"]}',
    "bom.json": "\ufeff{}".encode(),
    "zip.bin": zipped(("archive/data.pkl", bytes(range(256)) * 20)),
    "torch.ckpt": (GOLDEN / "legacy-types.pt").read_bytes(),
    **{
        f"{kind}{protocol}.pdparams": pickle.dumps(value, protocol)
        for kind, value in {
            "weights": {"w": bytes(range(256)) * 300, "b": [0.5, -7, None, True]},
            "code": Boom(),
        }.items()
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("file_name", WHOLE)
def test_whole_files_and_every_cut_of_them(file_name, tmp_path):
    file, content = tmp_path / file_name, WHOLE[file_name]
    file.write_bytes(content)
    assert complaint(file) is None
    for end in range(0, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:end])
        assert complaint(file) is not None
    if file_name != "zip.bin":
        file.write_bytes(content + b"\n<more>" if file_name.endswith(".json") else content + bytes(30))
        assert complaint(file) is not None


@pytest.mark.parametrize("file_name", ["README.md", "vocab.txt", "weights.pdiparams"])
def test_other_kinds_are_not_judged(file_name, tmp_path):
    file = tmp_path / file_name
    for content in (
        b"anything\n",
        b"\x80anything",
        b"<h1 align='center'>a readme</h1>",
        b"<!-- a comment -->\n# title",
    ):
        file.write_bytes(content)
        assert complaint(file) is None


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html>", b"\xef\xbb\xbf <HTML lang='en'>", b"\n\n<!doctype  html><p>", b"<!-- hotel --> <html>",
     b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", b"<head>", b"<!-- a --><!-- b -->\n<body>"],
)  # fmt: skip
def test_pages(content, tmp_path):
    for file_name in ("README.md", "config.json", "weights.pdparams"):
        (tmp_path / file_name).write_bytes(content + b"hello")
        assert complaint(tmp_path / file_name) == "is a web page or an error document"
    (tmp_path / "page.html").write_bytes(content)
    assert complaint(tmp_path / "page.html") is None


@pytest.mark.parametrize(
    ("file_name", "content"),
    [("model_index.json", b'{"error": "no such model"}'), ("model_index.json", b"{}"), ("model_index.json", b"[]"),
     ("config.json", b'{"error": {"code": 404}}'), ("config.json", b'{"message": "Not Found", "status": 404}')],
)  # fmt: skip
def test_error_documents(file_name, content, tmp_path):
    (tmp_path / file_name).write_bytes(content)
    assert complaint(tmp_path / file_name) is not None
    (tmp_path / file_name).write_bytes(b'{"_class_name": "X", "error": 1}')
    assert complaint(tmp_path / file_name) is None


SHORT_TEXTS = {
    "UTF-8": (b"\x80\x02(", text("x" * 600), b"t."),
    "protocol 0": (b"\x80\x02(", b"V" + b"x" * 600 + b"\n", b"t."),
    "Python 2": (b"\x80\x02(", b"T" + struct.pack("<i", 600) + b"x" * 600, b"t."),
    "Python 2, protocol 0": (b"\x80\x02(", b"S'" + b"x" * 600 + b"'\n", b"t."),
}


@pytest.mark.parametrize("kind", SHORT_TEXTS)
def test_short_texts_have_a_bound_together(kind, write, monkeypatch):
    """Each becomes an object: half a gigabyte of them took two."""
    monkeypatch.setattr(machine, "MAX_TEXT", 2000)
    monkeypatch.setattr(machine, "WINDOW", 7)  # the end of a line is looked for piece by piece
    start, one, end = SHORT_TEXTS[kind]
    assert scan(write(start + one * 3 + end)).safe
    assert "of names and short texts" in scan(write(start + one * 4 + end)).reason
