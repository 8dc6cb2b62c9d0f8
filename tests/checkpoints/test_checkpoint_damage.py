"""Damaged files: whatever is cut off or changed, the answer is a CheckpointError or sound arrays."""

from __future__ import annotations

import random

import numpy as np
import pytest
from checkpoint_files import TORCH_FILES

from ppdiffusers.checkpoints import CheckpointError, open_checkpoint

KINDS = [name for name in TORCH_FILES if name != "diffusers.bin"]
KINDS += ["safetensors", "pdparams", *(f"pickle-{protocol}" for protocol in range(6))]


def read_all(path) -> int:
    """Bytes of all tensors, each looked at."""
    total = 0
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.keys():
            array = checkpoint.read(name)
            assert array.shape == checkpoint.shape(name)
            with np.errstate(all="ignore"):
                array.sum()
            total += array.nbytes
            checkpoint.release(name)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_noticed(kind, good_files, write):
    content = good_files[kind]
    assert read_all(write(content)) > 0
    points = {*range(0, len(content), max(1, len(content) // 80)), *range(16), *range(len(content) - 30, len(content))}
    for point in sorted(points):
        with pytest.raises(CheckpointError):
            read_all(write(content[:point]))


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes(kind, good_files, write):
    """Most changes hit the data and pass; those that hit the structure must not lead anywhere else."""
    draw = random.Random(kind)
    content = good_files[kind]
    refused = 0
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 1, 2, 8])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            # No change of a few bytes can make little data much (the factor is bfloat16 read as float32).
            assert read_all(write(bytes(changed))) <= 2 * len(content)
        except CheckpointError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("kind", KINDS)
def test_parts_moved_about(kind, good_files, write):
    draw = random.Random(kind)
    content = good_files[kind]
    for _ in range(50):
        first, second, third = sorted(draw.randrange(len(content)) for _ in range(3))
        moved = content[:first] + content[second:third] + content[first:second] + content[third:]
        for changed in (moved, content[:first] + content[second:], content[:third] + content[first:]):
            try:
                read_all(write(changed))
            except CheckpointError:
                pass
