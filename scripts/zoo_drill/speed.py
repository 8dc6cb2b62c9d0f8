"""How fast a large file comes, beside curl."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys

from zoo_drill import ROOT
from zoo_drill.place import Place, Row


def speed(place: Place, row: Row, size: int) -> None:
    """Medians of three in turn: curl, and this package with and without its hashing; fsync included in both."""
    published = place.root / "large" / "drill" / "large"
    published.mkdir(parents=True)
    block = random.Random(1).randbytes(1 << 24)
    with open(published / "weights.bin", "wb") as stream:
        for number in range(size >> 24):
            stream.write(number.to_bytes(8, "little") + block[8:])
    total = (published / "weights.bin").stat().st_size
    place.register({"name": "drill/large", "files": [{"path": "weights.bin"}]}, "drill/large")
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "fake_community.py", place.root / "large"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    unhashed = (
        "from model_zoo import part\n"
        "class Idle(part.Follower):\n"
        "    def run(self): self._stream.close()\n"
        "    def result(self): return {'sha256': '0' * 64}\n"
        "part.Follower = Idle\n"
    )
    ours = (
        "import time; import model_zoo.transfer; http.POLICY = http.Policy(); begun = time.perf_counter()\n"
        f"model_zoo.download('drill/large', progress=False, endpoint={url!r})\n"
        "print(time.perf_counter() - begun)\n"
    )
    curl = ["curl", "-sS", "-o", place.root / "curled", "-w", "%{time_total}", f"{url}/drill/large/weights.bin"]
    times: dict[str, list[float]] = {"curl": [], "ours": [], "ours without hashing": []}
    for _ in range(3):
        for kind in times:
            shutil.rmtree(place.home, ignore_errors=True)
            (place.root / "curled").unlink(missing_ok=True)
            os.sync()
            if kind == "curl":
                times[kind].append(float(subprocess.run(curl, capture_output=True, text=True, check=True).stdout))
            else:
                out, err = place.child((unhashed if "without" in kind else "") + ours).communicate()
                if not out:
                    raise RuntimeError(err)
                times[kind].append(float(out))
    assert server.stdin is not None
    server.stdin.close()
    server.wait()
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    for kind, seconds in medians.items():
        rate = medians["curl"] / seconds
        each = ", ".join(f"{value:.2f}" for value in times[kind])
        row.remarks.append(f"{kind}: {seconds:.2f} s ({each}), {total / seconds / 1e6:,.0f} MB/s, {rate:.2f} x curl")
    fast = medians["curl"] / medians["ours"] >= 0.9
    row.count("right" if fast else "wrong")
