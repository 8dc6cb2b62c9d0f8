"""Hostile files end in one clear error; nothing that they name is run, and none takes long."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time

import numpy as np
import pytest
from checkpoint_files import torch_zip

from ppdiffusers.checkpoints import CheckpointError, open_checkpoint

CANARY = "canary"  # what a working attack creates, in the working folder
SHELL = f"touch {CANARY}"
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"  # six floats, key "0"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def __reduce__(self):
        return self.function, self.arguments


def called(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that call `module.name`, which need not exist here."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


def under_w(*opcodes: bytes) -> bytes:
    return pickled(b"}", text("w"), *opcodes, b"s")


def split(plan) -> bytes:
    return pickle.dumps({"w0": np.ones(2), "UnpackBigParamInfor@@": {"w": plan}}, 4)


def array_state(shape: bytes, raw: bytes, code: bytes = b"f4") -> bytes:
    """Opcodes of an array with this shape (as opcodes) and data."""
    made = called("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", b"K\0\x85", b"C\x01b")
    kind = called("numpy", "dtype", text(code.decode()), b"\x89\x88") + b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xff"
    return made + b"(K\x01" + shape + kind + b"J\xff\xff\xff\xffK\0tb\x89B" + struct.pack("<I", len(raw)) + raw + b"tb"


EMPTY_ARRAY = called("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", b")", b"N")
GOOD_ARRAY = array_state(b"K\x02\x85", bytes(8))


def tensor(arguments: bytes, function: str = "_rebuild_tensor_v2") -> bytes:
    return called("torch._utils", function, STORAGE, arguments, b"\x89N")


RUNS = {f"reduce-{protocol}": pickle.dumps({"w": Call(os.system, SHELL)}, protocol) for protocol in range(6)}
RUNS.update(
    {
        "top-level": pickle.dumps(Call(os.system, SHELL), 4),
        "eval": pickle.dumps({"w": Call(eval, f"open({CANARY!r}, 'w')")}, 2),
        "exec": pickle.dumps({"w": Call(exec, f"open({CANARY!r}, 'w')")}, 4),
        "open": pickle.dumps({"w": Call(open, CANARY, "w")}, 4),
        "getattr": pickle.dumps({"w": Call(getattr, "", "join")}, 4),
        "import": pickle.dumps(Call(__import__, "antigravity"), 3),
        "paddle-eval": pickled(called("builtins", "eval", text("data"), b"}")),
        "nested-in-list": pickle.dumps({"a": [({"b": Call(os.system, SHELL)},)]}, 4),
        "nested-in-key": pickle.dumps({("a", Call(os.system, SHELL)): 1}, 4),
        "after-good-arrays": pickle.dumps({"w": np.ones(3), "x": Call(os.system, SHELL)}, 4),
        "popped": pickled(b"}", called("posix", "system", text(SHELL)), b"0"),
        "subprocess": pickled(called("subprocess", "Popen", text(SHELL))),
        "numpy.load": pickled(called("numpy", "load", text("x.npy"), b"\x88")),
        "numpy.fromfile": pickled(called("numpy", "fromfile", text("/etc/passwd"))),
        "numpy.memmap": pickled(called("numpy", "memmap", text(CANARY), text("u1"), text("w+"), b"K\0K\x01")),
        "numpy.save": pickled(called("numpy", "save", text(CANARY), b"K\x01")),
        "numpy.f2py": pickled(called("numpy.f2py.crackfortran", "myeval", text(f"open({CANARY!r}, 'w')"))),
        "numpy.f2py.getlincoef": pickled(called("numpy.f2py.crackfortran", "getlincoef", text("x"), b"}")),
        "numpy.distutils": pickled(called("numpy.distutils.exec_command", "exec_command", text(SHELL))),
        "numpy.runstring": pickled(called("numpy.testing._private.utils", "runstring", text("1"), b"}")),
        "ctypes": pickled(called("ctypes", "CDLL", text("libc.so.6"))),
        "operator": pickled(called("operator", "attrgetter", text("system"))),
        "pickle.loads": pickled(called("pickle", "loads", b"C\x02K.")),
        "torch.load": pickled(called("torch", "load", text("x"))),
        "load_from_bytes": pickled(called("torch.storage", "_load_from_bytes", b"C\x02K.")),
        "copyreg": pickled(called("copyreg", "_reconstructor", b"cos\n_wrap_close\n")),
        "import-only": pickled(b"cantigravity\nfly\n"),
        "dotted": b"\x80\x04\x8c\x05numpy\x94\x8c\x10dtype.__reduce__\x93.",
        "our-own": pickled(b"cppdiffusers.checkpoints.allowed\nopen_checkpoint\n"),
        "inst": b"(X\x0c\0\0\0touch canaryios\nsystem\n.",
        "inst-allowed": b"(icollections\nOrderedDict\n.",
        "obj": b"(cos\nsystem\n" + text(SHELL) + b"o.",
        "obj-allowed": pickled(b"(ccollections\nOrderedDict\no"),
        "newobj": pickled(b"cos\nsystem\n", text(SHELL), b"\x85\x81"),
        "newobj-allowed": pickled(b"cnumpy\nndarray\n)\x81"),
        "newobj-ex": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
    }
)

# Amplification: little in the file, much to do.
COLLIDING = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(50_000))
MANY_DICTS = b"0ccollections\nOrderedDict\nh\x01\x85R" * 10_000
MANY_TEXTS = (b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R0") * 50_000

REFUSED = {
    # state, extensions, ids, sets, buffers
    "setstate-of-type": pickled(called("numpy", "dtype", text("f4")), b"}", text("__setstate__"), b"cnumpy\ndtype\nsb"),
    "setstate-of-function": pickled(b"cnumpy\ndtype\n}", text("build"), b"Nsb"),
    "setstate-of-text": pickled(text("a"), b"}b"),
    "state-of-storage-type": pickled(b"ctorch\nFloatStorage\n}", text("dtype"), text("object"), b"sb"),
    "ext1": pickled(b"\x82\x01"),
    "ext2": pickled(b"\x83\x01\0"),
    "ext4": pickled(b"\x84\x01\0\0\0"),
    "persistent-id": pickled(b"Pos.system\n"),
    "binary-persistent-id": pickled(text("0"), b"Q"),
    "empty-set": b"\x80\x04\x8f.",
    "frozen-set": b"\x80\x04(K\x01\x91.",
    "next-buffer": b"\x80\x05\x97.",
    "read-only-buffer": b"\x80\x05\x98.",
    "protocol-6": b"\x80\x06}.",
    "unknown-opcode": b"\x80\x04\xff.",
    # calls of what is no function, and odd arguments of what is one
    "call-text": pickled(text("os.system"), text(SHELL), b"\x85R"),
    "call-class": pickled(b"cnumpy\nndarray\n)R"),
    "call-without-tuple": pickled(b"cnumpy\ndtype\n", text("f4"), b"R"),
    "call-of-many": pickled(b"cnumpy\ndtype\n(", b"K\x01" * 1000, b"tR"),
    "array-of-other-class": pickled(called("numpy.core.multiarray", "_reconstruct", b"cnumpy\ndtype\n", b")", b"N")),
    "other-codec": pickled(called("_codecs", "encode", text("abc"), text("rot13"))),
    "codec-of-bytes": pickled(called("_codecs", "encode", b"C\x01a", text("latin1"))),
    "bytes-of-number": pickled(called("builtins", "bytes", b"J\xff\xff\xff\x7f")),
    "tuple-of-list": pickled(called("builtins", "tuple", b"]")),
    "dict-of-numbers": pickled(called("collections", "OrderedDict", b"](K\x01K\x02e")),
    "text-is-no-name": b"\x80\x04K\x01K\x02\x93.",
    # types
    **{
        f"type-{code}": under_w(array_state(b"K\x01\x85", bytes(8), code.encode()))
        for code in ("O8", "O", "V8", "S8", "U2", "M8", "m8", "f16", "c8", "u4", "f4,f4", "(2,)f4", "<f4", "float32")
    },
    "type-of-dict": pickled(called("numpy", "dtype", b"}")),
    "structured-type": pickled(
        called("numpy", "dtype", text("f4")), b"(K\x03", text("|"), b"N(", text("x"), b"t}K\x04K\x01K\x10tb"
    ),
    "object-array": pickle.dumps({"w": np.array([None, 1])}, 4),
    # sizes
    "shape-too-large": under_w(array_state(b"\x8a\x06\0\0\0\0\0\x01\x85", bytes(8))),
    "shape-overflow": under_w(array_state(b"(" + b"J\0\0\0\x40" * 8 + b"t", b"")),
    "shape-too-small": under_w(array_state(b"K\x01\x85", bytes(8))),
    "shape-zero-times-huge": under_w(array_state(b"K\0" + b"\x8a\x05\0\0\0\0\x40" * 2 + b"\x87", b"")),
    "shape-negative": under_w(array_state(b"J\xfe\xff\xff\xffJ\xff\xff\xff\xff\x86", bytes(8))),
    "shape-of-text": under_w(array_state(text("a") + b"\x85", bytes(8))),
    "shape-of-many": under_w(array_state(b"(" + b"K\x01" * 40 + b"t", bytes(4))),
    "array-without-data": under_w(EMPTY_ARRAY),
    **{
        f"length-{opcode!r}-{length}": b"\x80\x05}" + text("w") + opcode + struct.pack("<Q", length) + b"abcs."
        for opcode in (b"\x8e", b"\x8d", b"\x96", b"\x95")
        for length in (2**40, 2**62, 2**63, 2**64 - 1)
    },
    "length-of-integer": pickled(b"\x8b\xff\xff\xff\x7f"),
    "length-below-zero": pickled(b"\x8b\xff\xff\xff\xff"),
    "string-below-zero": pickled(b"T\xff\xff\xff\xff"),
    "digits": b"}" + text("w") + b"I" + b"9" * 100_000 + b"\ns.",
    "endless-line": b"(c" + b"a" * 100_000,
    # stack and memory
    "empty": b"\x80\x04.",
    "no-stop": b"\x80\x04}",
    "pop-nothing": b"\x80\x040.",
    "mark-missing": b"\x80\x04t.",
    "tuple-of-nothing": b"\x80\x04\x87.",
    "memo-missing": b"\x80\x04h\x05.",
    "memo-negative": b"}g-1\n.",
    "odd-items": pickled(b"}(", text("a"), b"u"),
    "items-of-list": pickled(b"](", text("a"), text("b"), b"u"),
    "append-to-tuple": pickled(b")K\x01a"),
    "append-to-text": pickled(text("a"), text("b"), b"a"),
    "unhashable-key": pickled(b"}]K\x01s"),
    "tuple-key": pickled(b"}K\x01\x85K\x01s"),
    "number-for-name": pickled(b"}K\x01", GOOD_ARRAY, b"s"),
    "deep-lists": pickled(b"]" * 500_000, b"a" * 499_999),
    "deep-tuples": pickled(b")", b"\x85" * 1_000_000),
    "deep-marks": pickled(b"(" * 1_000_000),
    "endless-lists": pickled(b"]" * 3_000_000),
    "laughing-lists": pickled(b"]" + b"2\x86" * 1000),
    "laughing-key": pickled(b"})" + b"2\x86" * 1000 + b"K\x01s"),
    "laughing-shape": under_w(array_state(b")" + b"2\x86" * 1000, bytes(8))),
    "colliding-keys": pickled(b"}(", COLLIDING, b"u"),
    "list-given-often": pickled(b"](", b"K\x01K\x02\x86" * 100_000, b"eq\x01", MANY_DICTS),
    "long-text-encoded-often": pickled(text("a" * 60_000), b"q\x010", MANY_TEXTS, b"N"),
    "list-in-itself": pickled(b"]q\x01h\x01a"),
    # other values
    "list": pickle.dumps([np.ones(2)], 4),
    "array": pickle.dumps(np.ones(2), 4),
    "no-tensors": pickle.dumps({"a": 1, "b": "c"}, 4),
    "trailing-bytes": pickle.dumps({"w": np.ones(2)}, 4) + b"x",
    "split-list": pickle.dumps({"w": np.ones(2), "UnpackBigParamInfor@@": [1]}, 4),
    "split-shape": split({"OriginShape": (3,), "slices": ["w0"]}),
    "split-no-shape": split({"slices": ["w0"]}),
    "split-twice": split({"OriginShape": (4,), "slices": ["w0", "w0"]}),
}

TORCH = {
    "good": tensor(b"K\0K\x02K\x03\x86K\x03K\x01\x86"),
    "expanded": tensor(b"K\0\x8a\x06\0\0\0\0\0\x01\x85K\0\x85"),
    "one-too-many": tensor(b"K\x01K\x06\x85K\x01\x85"),
    "overlapping-beyond": tensor(b"K\0K\x03K\x03\x86K\x01K\x01\x86"),
    "negative-offset": tensor(b"J\xff\xff\xff\xffK\x02\x85K\x01\x85"),
    "negative-stride": tensor(b"K\x05K\x02\x85J\xff\xff\xff\xff\x85"),
    "strides-short": tensor(b"K\0K\x02K\x03\x86K\x01\x85"),
    "overflow": tensor(b"K\0K\x02\x85\x8a\x08" + b"\xff" * 7 + b"\x7f\x85"),
    "offset-text": tensor(text("a") + b"K\x02\x85K\x01\x85"),
    "no-storage": called("torch._utils", "_rebuild_tensor_v2", b"NK\0K\x02\x85K\x01\x85\x89N"),
    "no-tensor": called("torch._utils", "_rebuild_parameter", b"N\x88N"),
    "no-id": tensor(b"").replace(b"storage", b"storaga"),
    "too-large": tensor(b"K\0K\x02\x85K\x01\x85").replace(b"cpuK\x06", b"cpuK\x07"),
    "missing": tensor(b"K\0K\x02\x85K\x01\x85").replace(b"X\x01\0\0\x000", b"X\x01\0\0\x001"),
    "outside": tensor(b"K\0K\x02\x85K\x01\x85").replace(b"X\x01\0\0\x000", text("../../etc/passwd")),
    "other-type": tensor(b"K\0K\x02\x85K\x01\x85").replace(b"FloatStorage", b"QInt8Storage"),
}


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """Nothing hostile may have an effect, and nothing may take long."""
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    yield
    assert not (tmp_path / CANARY).exists()
    assert time.monotonic() - started < 20


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.keys():
                checkpoint.read(name)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) < len(str(path)) + 400 and "\n" not in message
    return message


def test_the_attacks_work_elsewhere(tmp_path):
    """Else the tests below would show nothing."""
    pickle.loads(RUNS["reduce-4"])
    assert (tmp_path / CANARY).exists()
    (tmp_path / CANARY).unlink()
    assert pickle.loads(under_w(GOOD_ARRAY))["w"].shape == (2,)


@pytest.mark.parametrize("name", RUNS)
def test_pickles_that_run_code(name, write):
    message = refused(write(RUNS[name]))
    assert "not executed" in message or "opcode" in message
    message = refused(write(torch_zip(RUNS[name], _0=bytes(24)), "weights.bin"))
    assert "not executed" in message or "opcode" in message


def test_the_message_names_what_would_have_run(write):
    assert "posix.system" in refused(write(RUNS["reduce-4"])) or os.name != "posix"
    assert "numpy.f2py.crackfortran.myeval" in refused(write(RUNS["numpy.f2py"]))
    assert "os.system" in refused(write(RUNS["inst"]))
    assert "safetensors" in refused(write(RUNS["inst"]))  # the remedy
    assert "\\x1b[2J" in refused(write(pickled(text("\x1b[2J"), text("\n"), b"\x93")))


@pytest.mark.parametrize("name", REFUSED)
def test_pickles_that_are_refused(name, write):
    refused(write(REFUSED[name]))


@pytest.mark.parametrize("name", TORCH)
def test_torch_archives(name, write):
    path = write(torch_zip(under_w(TORCH[name]), _0=np.arange(6, dtype="<f4").tobytes()))
    if name == "good":
        with open_checkpoint(path) as checkpoint:
            np.testing.assert_array_equal(checkpoint.read("w"), [[0, 1, 2], [3, 4, 5]])
    else:
        refused(path)


def test_values_that_are_left_out_may_be_deep(write):
    deep = b"]" * 100_000 + b"a" * 99_999
    path = write(pickled(b"}(", text("w"), GOOD_ARRAY, text("deep"), deep, b"u"))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.keys() == ["w"]


def safetensors(header, data: bytes = bytes(8)) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


def entry(begin: int, end: int, **changes):
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


SAFETENSORS = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 8)}, "overlapping"),
    "hole": ({"a": entry(0, 4), "b": entry(8, 12)}, "hole"),
    "hole-at-start": ({"a": entry(4, 8)}, "hole"),
    "beyond-the-end": ({"a": entry(0, 12)}, "ends early"),
    "bytes-left": ({"a": entry(0, 4)}, "after its last"),
    "backwards": ({"a": entry(0, 8, data_offsets=[8, 0])}, "backwards"),
    "negative": ({"a": entry(0, 8, data_offsets=[-8, 0])}, "backwards"),
    "wrong-size": ({"a": entry(0, 8, shape=[3])}, "8 bytes"),
    "negative-shape": ({"a": entry(0, 8, shape=[-1, -2])}, "impossible"),
    "huge-shape": ({"a": entry(0, 8, shape=[2**40, 2**40])}, "impossible"),
    "text-shape": ({"a": entry(0, 8, shape="2")}, "shape"),
    "float-shape": ({"a": entry(0, 8, shape=[2.0])}, "shape"),
    "true-offset": ({"a": entry(0, 8, data_offsets=[False, 8])}, "offsets"),
    "one-offset": ({"a": entry(0, 8, data_offsets=[0])}, "offsets"),
    "unknown-type": ({"a": entry(0, 8, dtype="F8_E4M3")}, "F8_E4M3"),
    "list-type": ({"a": entry(0, 8, dtype=["F32"])}, "type"),
    "no-type": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "entry"),
    "more-keys": ({"a": entry(0, 8, extra=1)}, "entry"),
    "number-entry": ({"a": 3}, "entry"),
    "metadata-number": ({"__metadata__": {"a": 3}}, "metadata"),
    "key-twice": (b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":3}', "twice"),
    "not-json": (b"{not json}", "damaged"),
    "not-utf8": (b'{"\xff": 1}', "damaged"),
    "deep": (b'{"a":' + b"[" * 1_000_000, "damaged"),
    "long-number": (b'{"a":' + b"9" * 1_000_000 + b"}", ""),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_headers(name, write):
    header, reason = SAFETENSORS[name]
    assert reason in refused(write(safetensors(header), "model.safetensors"))


def test_safetensors_header_length(write):
    good = safetensors({"a": entry(0, 8)})
    for length in (0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1):
        refused(write(struct.pack("<Q", length) + good[8:], "model.safetensors"))


OTHERS = {
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "page": b"<!DOCTYPE html><html>404</html>",
    "json": b'{"a": 1}',
    "c-text": b"configuration\nof something\nelse\n",
    "bracket-text": b"(see the notes)\n",
    "zeros": bytes(1000),
    "byte": b"\x80",
    "zip-without-pickle": torch_zip(b"").replace(b"data.pkl", b"data.txt"),
    "tar": bytes(257) + b"ustar\x0000" + bytes(500),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_no_weights(name, write):
    refused(write(OTHERS[name]))


def test_files_that_are_not_there(tmp_path):
    assert "No such file" in refused(tmp_path / "missing.pdparams")
    assert "folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe")
