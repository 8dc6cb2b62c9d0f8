"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List

from ppdiffusers.threads import control_groups

_FILES = Path("/")
_UNKNOWN = 1 << 34  # where the system does not say


def available(files: Path = _FILES) -> int:
    """Bytes: what the machine has free, and the control groups of this process and its own limit (`ulimit -v`) leave.

    Source: memory.max in the kernel's cgroup-v2.rst, memory.limit_in_bytes in cgroup-v1/memory.rst. Pages of files
    that a group could give back count as free.
    """
    found = [_of_machine(files), *_of_limit(files)]
    for group in control_groups("memory", files):
        found += _of_group(group)
    return max(0, min(found))


def _of_machine(files: Path) -> int:
    try:
        lines = (files / "proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if len(line.split()) > 1}
    return sizes.get("MemAvailable", sizes.get("MemFree", _UNKNOWN))


def _of_limit(files: Path) -> List[int]:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return []
        return [limit - int((files / "proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")]
    except (ImportError, OSError, ValueError):
        return []


def _of_group(group: Path) -> List[int]:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            most, now = int((group / limit).read_text()), int((group / used).read_text())
        except (OSError, ValueError):  # another version, or "max"
            continue
        try:
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            statistics = {}
        return [most - now + int(statistics.get("inactive_file", 0))]
    return []
