"""Files that must be refused though unpickling them would run nothing: damaged, deceiving, or bombs."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
import zlib
from typing import Any, Dict, Tuple

import numpy as np
from checkpoint_files import torch_zip
from hostile_pickles import EVIL, LEGACY, zipped
from pickle_assembly import (
    EMPTY_ARRAY,
    GOOD_ARRAY,
    array_state,
    called,
    name,
    pickled,
    raw,
    stack_name,
    tensor,
    text,
    under_w,
)


def split(plan: Any) -> bytes:
    return pickle.dumps({"w0": np.ones(2), "UnpackBigParamInfor@@": {"w": plan}}, 4)


# Amplification: little in the file, much to do.
COLLIDING = b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(20_000))
MANY_DICTS = b"0ccollections\nOrderedDict\nh\x01\x85R" * 1000
MANY_TEXTS = (b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R0") * 10_000
MANY_CALLS = b"0h\x02h\x01R" * 20_000

# Names that no weights need, and nothing that would show.
NAMES = {
    "operator": pickled(called("operator", "attrgetter", text("system"))),
    "torch.load": pickled(called("torch", "load", text("x"))),
    "load_from_bytes": pickled(called("torch.storage", "_load_from_bytes", b"C\x02K.")),
    "load-library": pickled(called("torch.ops", "load_library", text("evil.so"))),
    "paddle-eval": pickled(called("builtins", "eval", text("data"), b"}")),
    "paddle-eval-of-more": pickled(called("builtins", "eval", text("data"), b"}(" + text("data") + b"NNNu")),
    "paddle-eval-three": pickled(called("builtins", "eval", text("data"), b"}" + text("data") + b"Ns", b"}")),
    "numpy.fromfile": pickled(called("numpy", "fromfile", text("/etc/passwd"))),
    "numpy.distutils": pickled(called("numpy.distutils.exec_command", "exec_command", text("true"))),
    "copyreg": pickled(called("copyreg", "_reconstructor", name("os", "_wrap_close"))),
    "dotted": pickled(stack_name("numpy", "dtype.__reduce__"), protocol=4),
    "our-own": pickled(name("ppdiffusers.checkpoints.allowed", "open_checkpoint")),
    "lightning": pickled(name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"), b")\x81"),
    "not-utf8-name": b"\x80\x02cos\xff\nsystem\n.",
    "look-alike": pickled(name("numpy.\u0441ore.multiarray", "_reconstruct")),  # a Cyrillic letter
    "terminal-codes": pickled(text("\x1b[2J"), text("\n"), b"\x93"),
    "long-name": pickled(name("a" * 60_000, "b" * 60_000)),
}

SYSTEM = name("posix", "system")
ORDERED_DICT = called("collections", "OrderedDict")

# Allowed names, composed so that pickle.load runs what it never should: each is a file that the walk of one opcode
# after the other would pass.
BUILT = ORDERED_DICT + b"}" + text("__setstate__") + SYSTEM.replace(b"posix\nsystem", b"_codecs\nencode") + b"sb"
_COMPOSED = {
    "two-builds": BUILT + text("x") + b"b",
    "function-in-list": b"]" + name("collections", "OrderedDict") + b"a",
    "function-in-dict": b"}" + text("a") + name("numpy", "dtype") + b"s",
    "function-in-tuple-in-list": b"]" + name("numpy", "dtype") + b"\x85a",
    "function-at-the-top": name("numpy", "dtype"),
    "class-in-dict": b"}" + text("a") + name("numpy", "ndarray") + b"s",
    "append-as-attribute": ORDERED_DICT + b"}" + text("append") + name("_codecs", "encode") + b"sb" + text("x") + b"a",
    "dunder-of-data": ORDERED_DICT + b"}" + text("__setstate__") + text("data") + b"sb",
    "state-of-slots": ORDERED_DICT + b"N}" + text("__setstate__") + text("data") + b"s\x86b",
    "state-of-text": ORDERED_DICT + text("state") + b"b",
    "function-as-argument": called("torch._utils", "_rebuild_parameter", b"N", b"\x88", name("numpy", "dtype")),
    "flags-of-type": called("numpy", "dtype", text("f8"), b"\x89\x88")
    + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x01tb",
    "metadata-of-type": called("numpy", "dtype", text("f8"), b"\x89\x88")
    + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0}tb",
    "huge-empty-array": called("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"),
                               b"J\xff\xff\xff\x7f\x85", b"C\x01b"),
    "what-eval-leaves": b"}"
    + text("data") + b"Nsq\x01" + name("builtins", "eval") + text("data") + b"h\x01\x86R0]h\x01a",
    "huge-array-with-little-data": GOOD_ARRAY.replace(b"K\0\x85C\x01b", b"J\xff\xff\xff\x7f\x85C\x01b"),
    "array-of-another-code": GOOD_ARRAY.replace(b"C\x01b", b"C\x01O"),
    "eval-of-more": called("builtins", "eval", text("data "), b"}" + text("data") + b"Ns"),
    "function-for-an-argument-that-is-ignored": called("torch", "device", name("numpy", "dtype")),
    "class-for-an-argument-that-is-ignored": called("torch", "device", name("numpy", "ndarray")),
    "leading-zeros": SYSTEM + b"p" + b"0" * 70 + b"7\n0N0g7\n" + text("true") + b"\x85R",
}  # fmt: skip
COMPOSED = {case: pickled(program) for case, program in _COMPOSED.items()}


REFUSED: Dict[str, bytes] = {
    **NAMES,
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
    "inst-allowed": b"(icollections\nOrderedDict\n.",
    "obj-allowed": pickled(b"(ccollections\nOrderedDict\no"),
    "newobj-allowed": pickled(b"cnumpy\nndarray\n)\x81"),
    "newobj-ex": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
    # calls of what is no function, and odd arguments of what is one
    "call-text": pickled(text("os.system"), text("true"), b"\x85R"),
    "call-class": pickled(b"cnumpy\nndarray\n)R"),
    "call-storage": pickled(b"ctorch\nFloatStorage\nK\x05\x85R"),
    "call-without-tuple": pickled(b"cnumpy\ndtype\n", text("f4"), b"R"),
    "call-of-many": pickled(b"cnumpy\ndtype\n(", b"K\x01" * 1000, b"tR"),
    "array-of-other-class": pickled(called("numpy.core.multiarray", "_reconstruct", b"cnumpy\ndtype\n", b")", b"N")),
    "attributes-of-other-class": pickled(
        called("torch._tensor", "_rebuild_from_type_v2", name("torch._utils", "_rebuild_tensor"), b"NN}")
    ),
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
    "data-not-latin1": under_w(
        array_state(b"K\x01\x85", b"").replace(raw(b""), called("_codecs", "encode", text("\u0400aaa"), text("latin1")))
    ),
    **{
        f"length-{opcode!r}-{length}": b"\x80\x05}" + text("w") + opcode + struct.pack("<Q", length) + b"abcs."
        for opcode in (b"\x8e", b"\x8d", b"\x96", b"\x95")
        for length in (2**40, 2**62, 2**63, 2**64 - 1)
    },
    "length-of-integer": pickled(b"\x8b\xff\xff\xff\x7f"),
    "length-below-zero": pickled(b"\x8b\xff\xff\xff\xff"),
    "string-below-zero": pickled(b"T\xff\xff\xff\xff"),
    "digits": b"}" + text("w") + b"I" + b"9" * 100_000 + b"\ns.",
    "hexadecimal-digits": b"}" + text("w") + b"L0x" + b"f" * 100_000 + b"L\ns.",
    "endless-line": b"(c" + b"a" * 100_000,
    "not-utf8-text": pickled(b"X\x02\0\0\0\xff\xfe"),
    "half-an-escape": b"(V\\u00\n.",
    "text-without-quotes": b"(Sabc\n.",
    # stack and memory
    "empty": b"\x80\x04.",
    "no-stop": b"\x80\x04}",
    "pop-nothing": b"\x80\x040.",
    "mark-missing": b"\x80\x04t.",
    "tuple-of-nothing": b"\x80\x04\x87.",
    "memo-missing": b"\x80\x04h\x05.",
    "memo-negative": b"}g-1\n.",
    "memo-far": pickled(b"}r\xff\xff\xff\xff0j\xff\xff\xff\x7f"),
    "odd-items": pickled(b"}(", text("a"), b"u"),
    "items-of-list": pickled(b"](", text("a"), text("b"), b"u"),
    "append-to-tuple": pickled(b")K\x01a"),
    "append-to-text": pickled(text("a"), text("b"), b"a"),
    "unhashable-key": pickled(b"}]K\x01s"),
    "tuple-key": pickled(b"}K\x01\x85K\x01s"),
    "number-for-name": pickled(b"}K\x01", GOOD_ARRAY, b"s"),
    "deep-lists": pickled(b"]" * 40_000, b"a" * 39_999),
    "deep-tuples": pickled(b")", b"\x85" * 60_000),
    "deep-marks": pickled(b"(" * 60_000),
    "endless-lists": pickled(b"]" * 1_000_001),
    "laughing-lists": pickled(b"]" + b"2\x86" * 1000),
    "laughing-key": pickled(b"})" + b"2\x86" * 1000 + b"K\x01s"),
    "laughing-shape": under_w(array_state(b")" + b"2\x86" * 1000, bytes(8))),
    "laughing-dicts": pickled(
        b"".join(b"}" + text("a") + b"h\0s" + text("b") + b"h\0sq\0" for _ in range(1000))
    ).replace(b"h\0s", b"Ns", 2),
    "colliding-keys": pickled(b"}(", COLLIDING, b"u"),
    "list-given-often": pickled(b"](", b"K\x01K\x02\x86" * 30_000, b"eq\x01", MANY_DICTS),
    "long-text-encoded-often": pickled(text("a" * 60_000), b"q\x010", MANY_TEXTS, b"N"),
    "long-arguments-given-often": pickled(
        b"(" + b"N" * 100_000 + b"tq\x01", name("torch", "Size"), b"q\x02", MANY_CALLS, b"N"
    ),
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
    "split-missing": split({"OriginShape": (2,), "slices": ["w1"]}),
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


# Archives


def archive(program: bytes = pickled(b"}"), **changes: Any) -> bytes:
    """A torch archive of one pickle, its directory entry changed: `offset`, `packed`, `size`, `method`, `name`."""
    content = bytearray(zipped(("archive/data.pkl", program)))
    directory = content.rfind(b"PK\x01\x02")
    places = {"flags": (8, "<H"), "method": (10, "<H"), "packed": (20, "<I"), "size": (24, "<I"), "offset": (42, "<I")}
    for key, value in changes.items():
        place, form = places[key]
        struct.pack_into(form, content, directory + place, value)
    return bytes(content)


def many_entries(count: int) -> bytes:
    """A directory of `count` entries that all lie in the same place."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, len(local), 0)
    return local + entry * count + end


def bomb(method: int, megabytes: int, announced: int) -> bytes:
    """A data.pkl of zeros that unpacks to far more than it says."""
    content = bytearray(zipped(("archive/data.pkl", bytes(megabytes * 2**20)), method=method))
    struct.pack_into("<I", content, content.rfind(b"PK\x01\x02") + 24, announced)
    return bytes(content)


def truncated_stream() -> bytes:
    packed = zlib.compress(pickled(b"}"), 9)[2:-4]
    content = zipped(("archive/data.pkl", pickled(b"}")), method=zipfile.ZIP_DEFLATED)
    return content.replace(packed, packed[:-2] + b"\0\0")


ARCHIVES = {
    "deflate-bomb": bomb(zipfile.ZIP_DEFLATED, 20, 20 * 2**20),
    "deflate-bomb-that-lies": bomb(zipfile.ZIP_DEFLATED, 20, 1000),
    "bzip2-bomb": bomb(zipfile.ZIP_BZIP2, 20, 1000),
    "lzma-bomb": bomb(zipfile.ZIP_LZMA, 20, 1000),
    "deflate-damaged": truncated_stream(),
    "entries-in-one-place": many_entries(1000),
    "many-entries": many_entries(20_000),
    "offset-beyond": archive(offset=2**31),
    "offset-none": archive(offset=2**32 - 1),
    "size-beyond": archive(size=2**31, packed=2**31),
    "sizes-differ": archive(size=5),
    "encrypted": archive(flags=1),
    "unknown-method": archive(method=99),
    "other-name-inside": archive().replace(b"archive/data.pkl", b"archive/data.pkm", 1),
    "no-data-pkl": zipped(("archive/data.txt", b"")),
    "two-data-pkl": zipped(("a/data.pkl", pickled(b"}")), ("b/data.pkl", pickled(b"}"))),
    "same-name": zipped(("a/data.pkl", pickled(b"}")), ("a/data.pkX", pickled(b"}"))).replace(b"pkX", b"pkl"),
    "bytes-before": b"PK\x03\x04" + archive(),
    "bytes-after": archive() + b"x",
    "no-directory": archive()[:-60],
    "big-endian": torch_zip(under_w(tensor(b"K\0K\x02\x85K\x01\x85")), _0=bytes(24)).replace(b"little", b"biggie"),
    "empty": zipped(),
}


# safetensors


def safetensors(header: Any, data: bytes = bytes(8)) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


def entry(begin: int, end: int, **changes: Any) -> Dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


# Header, and a word of what is said about it.
SAFETENSORS: Dict[str, Tuple[Any, str]] = {
    "overlap": ({"a": entry(0, 8), "b": entry(4, 8)}, "overlapping"),
    "same-place": ({"a": entry(0, 8), "b": entry(0, 8)}, "overlapping"),
    "hole": ({"a": entry(0, 4), "b": entry(8, 12)}, "hole"),
    "hole-at-start": ({"a": entry(4, 8)}, "hole"),
    "beyond-the-end": ({"a": entry(0, 12)}, "ends early"),
    "bytes-left": ({"a": entry(0, 4)}, "after its last"),
    "backwards": ({"a": entry(0, 8, data_offsets=[8, 0])}, "backwards"),
    "negative": ({"a": entry(0, 8, data_offsets=[-8, 0])}, "backwards"),
    "wrong-size": ({"a": entry(0, 8, shape=[3])}, "8 bytes"),
    "other-type-size": ({"a": entry(0, 8, dtype="F64")}, "8 bytes"),
    "negative-shape": ({"a": entry(0, 8, shape=[-1, -2])}, "impossible"),
    "huge-shape": ({"a": entry(0, 8, shape=[2**50, 0])}, "impossible"),
    "overflowing-shape": ({"a": entry(0, 8, shape=[2**40, 2**40])}, "8 bytes"),
    "deep-shape": ({"a": entry(0, 8, shape=[1] * 1000 + [2])}, "shape"),
    "text-shape": ({"a": entry(0, 8, shape="2")}, "shape"),
    "float-shape": ({"a": entry(0, 8, shape=[2.0])}, "shape"),
    "true-offset": ({"a": entry(0, 8, data_offsets=[False, 8])}, "offsets"),
    "float-offset": ({"a": entry(0, 8, data_offsets=[0, 8.0])}, "offsets"),
    "one-offset": ({"a": entry(0, 8, data_offsets=[0])}, "offsets"),
    "type-not-read": ({"a": entry(0, 8, shape=[8], dtype="F8_E4M3")}, "F8_E4M3"),
    "unknown-type": ({"a": entry(0, 8, dtype="F7")}, "F7"),
    "list-type": ({"a": entry(0, 8, dtype=["F32"])}, "type"),
    "no-type": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "entry"),
    "more-keys": ({"a": entry(0, 8, extra=1)}, "entry"),
    "number-entry": ({"a": 3}, "entry"),
    "metadata-number": ({"__metadata__": {"a": 3}}, "metadata"),
    "metadata-list": ({"__metadata__": []}, "metadata"),
    "key-twice": (b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":3}', "twice"),
    "key-of-entry-twice": (b'{"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}}', "twice"),
    "not-json": (b"{not json}", "damaged"),
    "not-utf8": (b'{"\xff": 1}', "damaged"),
    "constant": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,8]}}', "impossible"),
    "deep": (b'{"a":' + b"[" * 1_000_000, "damaged"),
    "long-number": (b'{"a":' + b"9" * 1_000_000 + b"}", "digits"),
    "text-after": (b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}} x', "damaged"),
}


# Other files


def tar_behind_pickles() -> bytes:
    """torch's five pickles are the name of a tar archive's member; torch.load prefers the archive."""
    start = b"".join(pickle.dumps(value, 2) for value in (LEGACY[0], 1001, {"little_endian": True}, {}, []))
    assert len(start) < 100
    content = EVIL.ljust(512, b"\0")
    header = bytearray(start.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(EVIL) + b"0" * 12)
    header += b" " * 8 + b"0" + bytes(355)
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(1024)


OTHERS = {
    "tar-behind-pickles": tar_behind_pickles(),
    "nothing": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "page": b"<!DOCTYPE html><html>404</html>",
    "json": b'{"a": 1}',
    "c-text": b"configuration\nof something\nelse\n",
    "python-text": b"import os\n",
    "bracket-text": b"(see the notes)\n",
    "zeros": bytes(1000),
    "byte": b"\x80",
    "tar": bytes(257) + b"ustar\x0000" + bytes(500),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "gzip": b"\x1f\x8b" + zlib.compress(pickle.dumps({}, 2)),
    "numpy-file": b"\x93NUMPY\x01\0\x76\0"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(118)
    + b"1234",
}
