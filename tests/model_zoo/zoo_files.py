"""What the folder of the small model must look like after a download."""

from __future__ import annotations

from pathlib import Path

NAME = "tester/small"
ALIAS = "elder/small"
WEIGHTS = "unet/model_state.pdparams"


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
    assert all(Path(path).name.startswith(".") and path.endswith(".part") for path in present - set(contents))
