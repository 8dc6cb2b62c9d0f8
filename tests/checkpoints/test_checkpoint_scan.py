"""`model-zoo scan` says what a file would run, where, and how deep in it; and it runs nothing itself."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import GOLDEN, RELEASES, torch_zip
from hostile_files import OTHERS, SAFETENSORS, entry, safetensors
from hostile_pickles import EVIL, RUNS, legacy, zipped
from pickle_assembly import GOOD_ARRAY, Call, called, name, pickled, raw, text, under_w

import model_zoo
from model_zoo.cli import main
from model_zoo.formats.pickle_names import NAMES
from model_zoo.scan import ScanError, scan
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.checkpoints.allowed import GLOBALS

ORDERED_DICT = called("collections", "OrderedDict")


def found(path):
    """(verdict, what, byte, part) of everything that is no data."""
    return [tuple(finding) for finding in scan(path).suspicious]


def test_one_list_serves_reading_and_scanning():
    assert set(GLOBALS) == set(NAMES)


def test_good_file(write, capsys):
    path = write(pickle.dumps({"w": np.ones(3, np.float32)}, 4))
    report = scan(path)
    assert report.clean and report.parts == 1 and report.layout == "pickle"
    names = {finding.what.replace("._core.", ".core.") for finding in report.findings}
    assert names == {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"}
    assert main(["scan", str(path)]) == 0
    out = capsys.readouterr().out
    assert "clean: it holds data only" in out and "data         numpy.dtype  (byte " in out


def test_hostile_file(write, capsys):
    content = pickle.dumps({"w": np.ones(3), "x": Call(print, "hello", 7)}, 2)
    path = write(content)
    place, call = content.index(b"c__builtin__\nprint"), content.index(b"R", content.index(b"hello"))
    assert found(path) == [
        ("would import", "__builtin__.print", place, ""),
        ("would call", "__builtin__.print('hello', 7)", call, ""),
    ]
    assert main(["scan", str(path)]) == 1
    captured = capsys.readouterr()
    assert "suspicious: 2 things that no weights need; do not unpickle it" in captured.out and not captured.err
    assert f"would call   __builtin__.print('hello', 7)  (byte {call})" in captured.out


def test_user_errors(tmp_path, capsys):
    (tmp_path / "page.bin").write_bytes(b"<html>404</html>")
    (tmp_path / "packed.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    (tmp_path / "empty").touch()
    for file, words in {
        "page.bin": "neither a pickle nor a zip",
        "packed.gz": "compressed (gzip); unpack it",
        "empty": "is empty",
        "missing": "No such file",
        ".": "is a folder",
    }.items():
        assert main(["scan", str(tmp_path / file)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "opcodes, what",
    [
        (called("os", "system", text("x" * 500)), "os.system('" + "x" * 75),
        (called("a", "b", GOOD_ARRAY, b"N", b"\x88", b"}", b"K\x07"), "a.b(array, None, True, {...}, ...)"),
        (called("a", "b", raw(b"123"), b"(K\x01K\x02t", name("c", "d")), "a.b(<3 bytes>, (1, 2), c.d)"),
        (called("a", "b", b"(" * 9 + b"t" * 9), "a.b((((...))))"),
        (called("a", "b", b"L" + b"9" * 100 + b"L\n"), "a.b(<a number of 101 digits>)"),
        (name("a", "b") + b"]R", "a.b([...])"),
        (name("a", "b") + text("x") + b"\x85\x81", "a.b('x')"),
        (name("a", "b") + b")}\x92", "a.b(, **...)"),
        (b"(" + name("a", "b") + text("x") + b"o", "a.b('x')"),
        (b"(" + text("x") + b"ia\nb\n", "a.b('x')"),
        (name("numpy", "ndarray") + b")\x81", "class numpy.ndarray()"),
        (called("numpy", "ndarray", b"K\x05"), "numpy.ndarray(5)"),
        (called("builtins", "eval", text("data"), b"}" + text("other") + b"Ns"), "builtins.eval('data', {...})"),
        (called("\x1b[2J", "x\ty"), "\\x1b[2J.x\\ty()"),
        (b"Pabc\n", "the persistent_load of whoever reads it, with 'abc'"),
        (called("a", "b") + text("x") + b"a", "a.b().append"),
        (name("os", "environ") + text("x") + text("y") + b"s", "os.environ.__setitem__"),
    ],
)
def test_what_would_be_called(opcodes, what, write):
    calls = [finding.what for finding in scan(write(pickled(opcodes))).findings if finding.verdict == "would call"]
    assert any(what in call for call in calls), calls


@pytest.mark.parametrize(
    "opcodes, what",
    [
        (name("numpy", "dtype") + b"}b", "numpy.dtype to the state {...}"),
        (called("a", "b") + text("x") + b"b", "a.b() to the state 'x'"),
        (b")}b", "() to the state {...}"),
    ],
)
def test_what_would_be_changed(opcodes, what, write):
    assert ("would change", what) in [finding[:2] for finding in found(write(pickled(opcodes)))]


def test_a_torch_file_and_what_lies_in_it(write):
    program = under_w(called("os", "system", text("true")))
    path = write(torch_zip(program, _0=bytes(8)), "model.bin")
    report = scan(path)
    assert report.layout == "zip archive"
    assert [finding.where for finding in report.suspicious] == ["archive/data.pkl"] * 2
    # An entry that another program may take for a pickle, though torch does not.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/extra/optimizer", EVIL)
    assert scan(path).suspicious[-1].where == "archive/extra/optimizer"


def test_pickles_in_pickles(write):
    for wrap in (raw, lambda inner: called("_codecs", "encode", text(inner.decode("latin-1")), text("latin1"))):
        content = EVIL
        for _ in range(3):
            content = pickled(called("pickle", "loads", wrap(content)))
        findings = scan(write(content)).suspicious
        assert findings[-1].what.endswith(".system('touch canary')")
        assert findings[-1].where == ", ".join(["in the bytes given to a call"] * 3)


def test_pickles_in_pickles_come_to_an_end(write):
    content = EVIL
    for _ in range(100):
        content = pickled(called("pickle", "loads", raw(content)))
    assert "more pickles in pickles than are followed" in scan(write(content)).suspicious[-1].what


def test_an_archive_in_a_pickle_in_an_archive(write):
    inner = called("torch", "load", called("io", "BytesIO", raw(torch_zip(EVIL))))
    findings = scan(write(torch_zip(pickled(inner)))).suspicious
    assert findings[-1].where == "archive/data.pkl, in the bytes given to a call, archive/data.pkl"
    content = torch_zip(EVIL)
    for _ in range(20):
        content = zipped(("more.zip", content))
    assert "more archives in archives than are followed" in scan(write(content)).suspicious[-1].what


def test_numpy_files(write):
    for array, clean in ((np.ones(3), True), (np.array([None]), True), (np.array([Call(print, "x")], object), False)):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        assert scan(write(file.getvalue(), "array.npy")).clean is clean
        assert scan(write(zipped(("a.npy", file.getvalue())), "arrays.npz")).clean is clean


def test_bytes_after_the_pickle(write):
    good = pickled(b"}")
    assert found(write(good + b"more")) == [("fault", "4 bytes follow the pickle", len(good), "")]
    assert scan(write(good + good)).parts == 2
    assert scan(write(good + EVIL)).suspicious[-1].what.endswith(".system('touch canary')")
    assert not scan(write(legacy(4))).clean


def test_bytes_after_the_elements_of_tensors(write):
    content = (GOLDEN / "legacy-types.pt").read_bytes()
    assert scan(write(content)).clean
    assert "4 bytes are left beside the elements" in scan(write(content + b"more")).suspicious[-1].what


def test_archives_that_deceive(write, tmp_path):
    assert "leaves the archive" in str(scan(write(zipped(("../data.pkl", pickled(b"}"))))))
    assert "leaves the archive" in str(scan(write(zipped(("a/..\\data.pkl", pickled(b"}"))))))
    script = zipped(("m/code/__torch__.py", b"class A(Module):"), ("m/data.pkl", b"N."))
    assert "TorchScript" in str(scan(write(script)))
    assert "another entry has this name" in str(scan(write(RUNS["zip-same-name"])))
    packed = zipped(("a/data.pkl", EVIL), method=zipfile.ZIP_LZMA)
    assert "the zip entry 'a/data.pkl' of method 14, which is not read" in str(scan(write(packed)))
    for kind in ("tar", "tar-behind-pickles"):
        assert "is a tar archive" in str(scan(write(OTHERS[kind])))
    with tarfile.open(tmp_path / "tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path, "files", filter=lambda member: member if member.isdir() else None)
    assert scan(tmp_path / "tar").layout == "tar archive"


def test_numbers_in_storages_are_no_pickles(write):
    """Random weights may begin like a pickle; that alone says nothing."""
    draw = np.random.default_rng(0)
    for start in (b"\x80\x02", b"\x80\x04\x95", b"}", b"(", b"cab\ncd", b"PK\x03\x04"[:3]):
        storage = start + draw.bytes(24 - len(start))
        assert scan(write(torch_zip(pickled(b"}"), _0=storage))).clean


@pytest.mark.parametrize("case", [case for case in SAFETENSORS if case != "type-not-read"])
def test_safetensors_headers(case, write):
    header, reason = SAFETENSORS[case]
    (finding,) = scan(write(safetensors(header), "model.safetensors")).suspicious
    assert finding.verdict == "fault" and reason in finding.what


def test_good_safetensors(write):
    report = scan(write(safetensors({"a": entry(0, 8), "__metadata__": {"format": "pd"}}), "model.safetensors"))
    assert report.clean and report.layout == "safetensors" and report.parts == 1


def test_what_is_read_is_clean():
    for path in [*RELEASES.iterdir(), *GOLDEN.iterdir()]:
        assert scan(path).clean
        if path.suffix != ".npz":
            open_checkpoint(path).close()


def test_a_flood_of_findings(write):
    content = pickled(b"".join(called("m", f"f{index}") + b"0" for index in range(3000)), b"N")
    report = scan(write(content))
    assert len(report.findings) <= 1001 and "more than 1000 different things" in report.findings[-1].what
    same = pickled((called("m", "f") + b"0") * 30_000, b"N")
    assert len(scan(write(same)).findings) == 2
    many = zipped(*((f"{index}.pkl", EVIL) for index in range(2000)))
    assert "more than the 1000 parts" in scan(write(many)).findings[-1].what


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
    slow = "import sys, model_zoo.cli; sys.exit(bool({'pickletools', 'model_zoo.scan'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", slow], **options).returncode == 0


def test_errors_are_of_the_zoo(tmp_path):
    with pytest.raises(ScanError):
        scan(tmp_path / "missing")
