"""Pickles with arrays in them, by the machine of `model_zoo.formats`; their tensors can be read."""

from __future__ import annotations

from typing import Any, Tuple

from model_zoo.formats import Data, Tools, archive, machine
from model_zoo.formats.archive import LEGACY_MAGIC
from ppdiffusers.checkpoints.tensors import Span, StoredTensor, TextBytes

__all__ = ["LEGACY_MAGIC", "load_pickle", "read_legacy", "read_zip"]

TOOLS = Tools(Span, TextBytes, StoredTensor)


def load_pickle(data: Data, start: int, stop: int) -> Tuple[Any, int]:
    """As `model_zoo.formats.machine.load_pickle`."""
    return machine.load_pickle(data, start, stop, tools=TOOLS)


def read_zip(data: Data, skip_objects: bool = False) -> Any:
    """As `model_zoo.formats.archive.read_zip`; `skip_objects` is that of `open_checkpoint`."""
    return archive.read_zip(data, _machine(skip_objects), TOOLS)


def read_legacy(data: Data, start: int, skip_objects: bool = False) -> Any:
    """As `model_zoo.formats.archive.read_legacy`; `skip_objects` is that of `open_checkpoint`."""
    return archive.read_legacy(data, start, _machine(skip_objects), TOOLS)


def _machine(skip_objects: bool) -> Any:
    return machine.SkippingMachine if skip_objects else machine.Machine
