"""Run pipelines, engines, a training step and timings on a GPU, compare with the CPU, and print a report.

    bash scripts/gpu_check.sh [gpu | gpu:1 | cpu]

Every check is a function of the device that returns what it found, or raises: `Skip` where it does not apply. They run
in a worker process one after the other; after one that fails the next gets a new worker, since a GPU's error may spoil
all that follows in a process, and one that crashes or hangs is a failed row too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence

from gpu_check_rows import CHECKS, Check
from gpu_check_subjects import Skip

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600.0  # seconds for one check
MARK = "@row "  # of a worker's lines


class Row(NamedTuple):
    section: str
    name: str
    state: str  # "ok", "FAILED" or "skipped"
    text: str
    trace: str = ""

    def __str__(self) -> str:
        return f"  {self.state:8} {self.name:46} {self.text}"


# The report


def work(device: str, start: int) -> None:
    """The worker: checks from number `start` on, a marked line of JSON each; ends after one that failed."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for section, name, function in CHECKS[start:]:
        row = outcome(section, name, function, device)
        print(f"\n{MARK}{json.dumps(row)}", flush=True)
        if row.state == "FAILED":
            break
    os._exit(0)  # what libraries do at their end, after all is told, is not checked


def outcome(section: str, name: str, function: Check, device: str) -> Row:
    try:
        return Row(section, name, "ok", function(device))
    except Skip as reason:
        return Row(section, name, "skipped", str(reason))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"{type(error).__name__}: {lines[-1] if lines else ''}"
        return Row(section, name, "FAILED", text, "".join(traceback.format_exc().splitlines(keepends=True)[-25:]))


def run(device: str, limit: float) -> Iterator[Row]:
    """All rows, from as many workers as it takes."""
    done = 0
    while done < len(CHECKS):
        with tempfile.TemporaryFile() as errors:
            command = [sys.executable, os.path.abspath(sys.argv[0]), device, "--worker", str(done)]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            before = done
            for row in rows_of(worker, limit):
                done += 1
                yield row
            if worker.wait() != 0 or done == before:  # it died in this one
                section, name, _ = CHECKS[done]
                errors.seek(0)
                said = errors.read()[-3000:].decode(errors="replace")
                ended = f"its process ended with status {worker.returncode}"
                if worker.returncode == -9:
                    ended += f", after {limit:g} s or for want of memory"
                yield Row(section, name, "FAILED", ended, said)
                done += 1


def rows_of(worker: subprocess.Popen, limit: float) -> Iterator[Row]:
    """What a worker tells, until it ends; it is killed when a row takes longer than `limit` seconds."""
    assert worker.stdout is not None
    timer = threading.Timer(limit, worker.kill)
    timer.start()
    try:
        for line in worker.stdout:
            if line.startswith(MARK):
                timer.cancel()
                yield Row(*json.loads(line[len(MARK) :]))
                timer = threading.Timer(limit, worker.kill)
                timer.start()
    finally:
        timer.cancel()


def main(arguments: Optional[Sequence[str]] = None, limit: float = LIMIT) -> int:
    device, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["gpu"]
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "gpu") or (number and (kind == "cpu" or not number.isdigit())):
        print(f"{device!r} is no device; use gpu, gpu:1 or cpu", file=sys.stderr)
        return 2
    if rest[:1] == ["--worker"]:
        work(device, int(rest[1]))
        return 0
    print(f"ppdiffusers on {device}, {time.strftime('%Y-%m-%d')}")
    section = ""
    found: List[Row] = []
    for row in run(device, limit):
        if row.section != section:
            section = row.section
            print(section)
        print(row, flush=True)
        found.append(row)
        if row.name == "device" and row.state == "FAILED":
            break  # nothing else could be right
    states = Counter(row.state for row in found)
    print(
        f"{states['ok']} ok, {states['FAILED']} failed, {states['skipped']} skipped, {len(CHECKS) - len(found)} not run"
    )
    for row in found:
        if row.trace:
            print(f"\n{row.section}, {row.name}:\n{row.trace.rstrip()}")
    return 1 if states["FAILED"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
