"""How much memory is left: of the machine, of control groups of both versions, of the process's own limit."""

import subprocess
import sys

import pytest

from ppdiffusers import memory

V2 = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "33 31 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
BOX = "memory__box"


def files(root, groups, mounts, **values):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 16000 kB\nMemFree: 1000 kB\nMemAvailable: 9000 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    for name, text in values.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name.replace("memory_", "memory.")).write_text(text)
    return root


@pytest.mark.parametrize(
    "groups, mounts, values, left",
    [
        ("", "", {}, 9000 << 10),
        ("0::/\n", V2, {"memory_max": "max", "memory_current": "5"}, 9000 << 10),
        ("0::/\n", V2, {"memory_max": "3000", "memory_current": "1000"}, 2000),
        ("0::/\n", V2, {"memory_max": "3000", "memory_current": "2900", "memory_stat": "inactive_file 500"}, 600),
        ("0::/a\n", V2, {"a__memory_max": "max", "memory_max": "70", "memory_current": "7"}, 63),
        ("4:memory:/box\n", V1, {f"{BOX}__memory_limit_in_bytes": "900", f"{BOX}__memory_usage_in_bytes": "1"}, 899),
        ("0::/\n", V2, {"memory_max": "3000", "memory_current": "4000"}, 0),
    ],
)  # fmt: skip
def test_available(tmp_path, groups, mounts, values, left):
    assert memory.available(files(tmp_path, groups, mounts, **values)) == left


def test_without_any_word_of_the_system(tmp_path):
    assert memory.available(tmp_path) == 1 << 34


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
def test_limit_of_the_process():
    code = """if True:
        import resource
        from ppdiffusers import memory
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        print(memory.available())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 100 << 20 < int(done.stdout) < 1 << 30
