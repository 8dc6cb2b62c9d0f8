"""How many threads paddle and the compiled programs compute with: one setting for both."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import Iterator, Optional, Tuple

ENVIRONMENT = "PPDIFFUSERS_THREADS"
_OPENMP = "OMP_NUM_THREADS"
_FILES = Path("/")  # below which Linux tells about processes and CPUs

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
    """What was chosen, by the first of these that says something: `set_num_threads`, PPDIFFUSERS_THREADS,
    OMP_NUM_THREADS as the user set it; otherwise the physical cores of this process, or fewer if its container may use
    less time than they have.

    Raises:
        ValueError: PPDIFFUSERS_THREADS is no positive whole number.
    """
    if _chosen is not None:
        return _chosen
    value = os.environ.get(ENVIRONMENT, "").strip()
    if value:
        if not value.isdigit() or int(value) < 1:
            raise ValueError(f"{ENVIRONMENT} is {value!r}; set it to a number of threads, or leave it out")
        return int(value)
    quota = cpu_quota()
    allowed = physical_cores() if quota is None else min(physical_cores(), math.ceil(quota))
    return _openmp_threads() or allowed


def _openmp_threads(files: Path = _FILES) -> Optional[int]:
    """OMP_NUM_THREADS, unless it is the 1 that importing paddle sets where there was none. Of a list, as OpenMP has for
    nested loops, the first. None: not set, or no number, which OpenMP ignores too."""
    value = os.environ.get(_OPENMP, "")
    if value == "1":
        try:
            began_with = (files / "proc/self/environ").read_bytes().split(b"\0")
        except OSError:
            return None
        value = next((line.decode() for line in began_with if line.startswith(f"{_OPENMP}=".encode())), "")
    first = value.rpartition("=")[2].split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def use_threads(count: Optional[int] = None) -> None:
    """Hand the setting, or `count`, to paddle in this thread: its import sets OMP_NUM_THREADS to 1."""
    from paddle.base import core

    core.set_num_threads(get_num_threads() if count is None else count)


def physical_cores(files: Path = _FILES) -> int:
    """Cores that this process may use; two hardware threads of a core count once where Linux tells them apart."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    cores = set()
    for number in allowed:
        siblings = files / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        cores.add(siblings.read_text() if siblings.is_file() else str(number))
    return len(cores)


def cpu_quota(files: Path = _FILES) -> Optional[float]:
    """How many CPUs' time the control groups of this process may use (2.5), of either version; None: all there is.

    Source: cpu.max in the kernel's cgroup-v2.rst, cpu.cfs_quota_us in sched-bwc.rst. A group is bound by those around
    it too.
    """
    return min((quota for group in control_groups("cpu", files) if (quota := _quota(group))), default=None)


def control_groups(controller: str, files: Path = _FILES) -> Iterator[Path]:
    """Folders of the control groups of this process, and of those around them, that bound its "cpu" or "memory"."""
    for top, group in _hierarchies(controller, files):
        yield group
        while group != top:
            group = group.parent
            yield group


def _hierarchies(controller: str, files: Path) -> Iterator[Tuple[Path, Path]]:
    """Folders of hierarchies, and in each that of this process."""
    try:
        groups = (files / "proc/self/cgroup").read_text().splitlines()
        mounts = (files / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    paths = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        for each in controllers.split(","):  # of version 2 it is empty
            paths[each] = path
    for line in mounts:
        place, _, kind = line.partition(" - ")
        root, top = place.split()[3:5]
        kind, _, options = kind.split(" ", 2)
        group = paths.get({"cgroup2": "", "cgroup": controller}.get(kind, "none"))
        if group is None or (kind == "cgroup" and controller not in options.split(",")):
            continue
        folder = files / top.lstrip("/")
        try:
            yield folder, folder / PurePosixPath(group).relative_to(root)
        except ValueError:  # what is mounted is the group itself, under another name
            yield folder, folder


def _quota(group: Path) -> Optional[float]:
    try:
        if (group / "cpu.max").is_file():
            quota, period = map(float, (group / "cpu.max").read_text().split())
        else:
            quota, period = (float((group / f"cpu.cfs_{each}_us").read_text()) for each in ("quota", "period"))
    except (OSError, ValueError):  # "max", or a group without bounds
        return None
    return quota / period if quota > 0 and period > 0 else None
