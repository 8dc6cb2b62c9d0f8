"""What the folder of the small model must look like after a download."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import model_zoo

NAME = "tester/small"
ALIAS = "elder/small"
WEIGHTS = "unet/model_state.pdparams"


def weights(generator, size):
    """A pickle of random bytes, `size` bytes long (at least 300)."""
    rest = size - len(pickle.dumps(bytes(256), 4)) + 256
    content = pickle.dumps(generator.randbytes(rest), 4)
    return content if len(content) == size else pickle.dumps(generator.randbytes(rest - len(content) + size), 4)


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_right(folder, contents):
    """Every file of the model, the marker, and nothing else."""
    assert files_in(folder) == {*contents, ".complete"}
    for path, content in contents.items():
        assert (folder / path).read_bytes() == content


def assert_nothing_wrong(folder, contents):
    """Only whole files have their names, and the marker is not there."""
    present = files_in(folder) if folder.is_dir() else set()
    assert ".complete" not in present
    for path in present & set(contents):
        assert (folder / path).read_bytes() == contents[path]
    kinds = (".part", ".part.json", ".record.json")
    assert all(Path(path).name.startswith(".") and path.endswith(kinds) for path in present - set(contents))


def left_parts(folder):
    """The unfinished files below a folder."""
    return [path for path in folder.rglob(".*.part") if path.is_file()]


def python(code, *arguments, before=(), **options):
    """A process of its own, behind the command `before`, that runs `code` with a patient but quick policy."""
    head = (
        "import sys, model_zoo\nfrom model_zoo import http, part\n"
        "http.POLICY = http.Policy(5.0, 5.0, attempts=5, backoff=0.05, block=1 << 16)\n"
    )
    return subprocess.Popen(
        [*before, sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=Path(model_zoo.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
