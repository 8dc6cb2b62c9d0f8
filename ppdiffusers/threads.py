"""How many threads paddle and the compiled programs compute with: one setting for both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

ENVIRONMENT = "PPDIFFUSERS_THREADS"

_chosen: Optional[int] = None


def set_num_threads(count: int) -> None:
    """Use `count` threads from now on. Programs that are compiled already keep theirs.

    Raises:
        ValueError: not a positive int.
    """
    global _chosen
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{count!r} threads is not possible; give a positive int")
    _chosen = count
    use_threads()


def get_num_threads() -> int:
    """What `set_num_threads` or PPDIFFUSERS_THREADS chose; otherwise the physical cores of this process.

    Raises:
        ValueError: PPDIFFUSERS_THREADS is no positive whole number.
    """
    if _chosen is not None:
        return _chosen
    value = os.environ.get(ENVIRONMENT, "").strip()
    if not value:
        return physical_cores()
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{ENVIRONMENT} is {value!r}; set it to a number of threads, or leave it out")
    return int(value)


def use_threads(count: Optional[int] = None) -> None:
    """Hand the setting, or `count`, to paddle in this thread: its import sets OMP_NUM_THREADS to 1."""
    from paddle.base import core

    core.set_num_threads(get_num_threads() if count is None else count)


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of a core count once where Linux tells them apart."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    cores = set()
    for number in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.is_file() else str(number))
    return len(cores)
