"""How many threads are used: what the user says, what the container allows, and who is told."""

import os
import subprocess
import sys
import threading

import openmp
import pytest

from ppdiffusers import threads

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 31 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "22 1 254:0 / / rw - ext4 /dev/root rw\n34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def files(tmp_path, cgroup, mountinfo, **values):
    """A system with these groups; `values` are files below /sys/fs/cgroup, with / as __ and . as _."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    (tmp_path / "proc/self/mountinfo").write_text(OTHER + mountinfo)
    for name, value in values.items():
        folder, _, file = name.rpartition("__")
        path = tmp_path / "sys/fs/cgroup" / folder.replace("__", "/") / file.replace("cpu_", "cpu.", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return tmp_path


@pytest.mark.parametrize(
    "cgroup, mount, values, quota",
    [
        ("0::/\n", V2.format(root="/"), {"cpu_max": "250000 100000\n"}, 2.5),
        ("0::/\n", V2.format(root="/"), {"cpu_max": "max 100000\n"}, None),
        ("0::/\n", V2.format(root="/"), {}, None),
        ("0::/\n", V2.format(root="/"), {"cpu_max": "nonsense"}, None),
        ("0::/a/b\n", V2.format(root="/"), {"a__b__cpu_max": "max 100000", "a__cpu_max": "150000 100000"}, 1.5),
        ("0::/a/b\n", V2.format(root="/"), {"a__b__cpu_max": "50000 100000", "a__cpu_max": "150000 100000"}, 0.5),
        ("0::/pod/box\n", V2.format(root="/pod/box"), {"cpu_max": "300000 100000"}, 3.0),
        ("0::/../../x\n", V2.format(root="/"), {"cpu_max": "300000 100000"}, 3.0),
        ("0::/pod/box\n", V2.format(root="/elsewhere"), {"cpu_max": "300000 100000"}, 3.0),
        (
            "5:memory:/m\n4:cpu,cpuacct:/box\n0::/\n",
            V1.format(root="/"),
            {"cpu,cpuacct__box__cpu_cfs_quota_us": "120000", "cpu,cpuacct__box__cpu_cfs_period_us": "50000"},
            2.4,
        ),
        (
            "4:cpu,cpuacct:/\n0::/\n",
            V1.format(root="/"),
            {"cpu,cpuacct__cpu_cfs_quota_us": "-1", "cpu,cpuacct__cpu_cfs_period_us": "100000"},
            None,
        ),
        (
            "4:cpu,cpuacct:/\n0::/\n",
            V1.format(root="/"),
            {"cpu,cpuacct__cpu_cfs_quota_us": "1000", "cpu,cpuacct__cpu_cfs_period_us": "0"},
            None,
        ),
    ],
)
def test_quota_of_a_container(tmp_path, cgroup, mount, values, quota):
    assert threads.cpu_quota(files(tmp_path, cgroup, mount, **values)) == quota


def test_no_control_groups_no_bound(tmp_path):
    assert threads.cpu_quota(tmp_path) is None


def test_hardware_threads_of_a_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 4, 5, 6}, raising=False)
    for number, siblings in {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}.items():
        file = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{siblings}\n")
    assert threads.physical_cores(tmp_path) == 3


@pytest.mark.parametrize(
    "now, began_with, found",
    [
        (None, b"", None),
        ("4", b"", 4),
        (" 6 , 2", b"", 6),
        ("1", b"HOME=/\0OMP_NUM_THREADS=1\0", 1),
        ("1", b"HOME=/\0OMP_NUM_THREADS=8,2\0A=b\0", 8),
        ("1", b"HOME=/\0MY_OMP_NUM_THREADS=8\0", None),
        ("1", None, None),
        ("0", b"", None),
        ("many", b"", None),
    ],
)
def test_number_that_openmp_was_given(tmp_path, monkeypatch, now, began_with, found):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if now is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", now)
    if began_with is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/environ").write_bytes(began_with)
    assert threads._openmp_threads(tmp_path) == found


def test_who_has_the_say(monkeypatch):
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    for quota, expected in [(None, 8), (2.1, 3), (0.2, 1), (64.0, 8)]:
        monkeypatch.setattr(threads, "cpu_quota", lambda quota=quota: quota)
        monkeypatch.setattr(threads, "_openmp_threads", lambda: None)
        monkeypatch.delenv("PPDIFFUSERS_THREADS", raising=False)
        assert threads.get_num_threads() == expected
        monkeypatch.setattr(threads, "_openmp_threads", lambda: 12)
        assert threads.get_num_threads() == 12
        monkeypatch.setenv("PPDIFFUSERS_THREADS", "5")
        assert threads.get_num_threads() == 5
    monkeypatch.setattr(threads, "use_threads", lambda: None)
    threads.set_num_threads(7)
    assert threads.get_num_threads() == 7
    for wrong in (0, -1, 2.0, True, "4"):
        with pytest.raises(ValueError, match="give a positive int"):
            threads.set_num_threads(wrong)
    monkeypatch.setattr(threads, "_chosen", None)
    for wrong in ("0", "-2", "two"):
        monkeypatch.setenv("PPDIFFUSERS_THREADS", wrong)
        with pytest.raises(ValueError, match=f"PPDIFFUSERS_THREADS is '{wrong}'"):
            threads.get_num_threads()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the environment that a process began with")
@pytest.mark.parametrize("given, wanted", [("3", "3"), ("1", "1"), (None, "2")])
def test_paddle_does_not_change_what_the_user_set(given, wanted):
    environment = {
        key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", threads.ENVIRONMENT)
    }
    code = (
        "import paddle, os; assert os.environ['OMP_NUM_THREADS'];"
        "from ppdiffusers import threads; threads.physical_cores, threads.cpu_quota = lambda: 2, lambda: None;"
        "print(threads.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), **({"OMP_NUM_THREADS": given} if given else {})},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == [wanted], done.stderr[-2000:]


def test_a_setting_is_of_the_thread_that_computes():
    """Every thread has to be told, which is why engines do it before they run."""
    found = []
    openmp.threads_here()  # skips in this thread, if at all

    def work(count):
        threads.use_threads(count)
        found.append(openmp.threads_here())

    for count in (3, 2):
        thread = threading.Thread(target=work, args=(count,))
        thread.start()
        thread.join()
    assert found == [3, 2]
