"""Processes that are killed, and processes that want the same."""

from __future__ import annotations

import contextlib
import random
import signal
import time

from model_zoo import cache
from zoo_drill.place import CONFIG, FETCH, WEIGHTS, Place, Row, parts, until

# A file system that grants every lock to everybody.
NO_LOCKS = """
import filelock
class Granted:
    def __init__(self, *arguments, **options): pass
    def acquire(self, *arguments, **options): pass
    def release(self): pass
filelock.FileLock = Granted
"""


def kill(place: Place, row: Row, runs: int) -> None:
    """SIGKILL at a random moment of a process's life; then another process. The ratio is of bytes that were safe."""
    halves = wholes = 0
    for number in range(runs):
        rng = random.Random(f"{row.name} {number}")
        place.reset()
        place.publish(rng, hashes=number % 2 == 0)
        place.server.fail(path=WEIGHTS, drip=0.004, drip_bytes=len(place.weights) // 100)
        process = place.child(FETCH)
        if rng.random() < 0.9:  # else while it starts
            with contextlib.suppress(TimeoutError):
                until(lambda process=process: place.server.requests or process.poll() is not None, 20)
        time.sleep(rng.uniform(0, 0.55))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        file = place.folder / WEIGHTS
        if file.exists() and file.read_bytes() != place.weights:
            row.count("wrong", remark=f"{number}: a wrong file after the kill")
            continue
        safe = len(place.weights) if file.exists() else max((p.stat().st_size for p in parts(place)), default=0)
        halves, wholes = halves + (0 < safe < len(place.weights)), wholes + (safe == len(place.weights))
        place.server.forget()
        outcome, remark = place.state(place.download())
        asked = [request for request in place.server.requests if request.path.endswith(WEIGHTS)]
        start = int(asked[0].headers.get("Range", "bytes=0-")[6:-1]) if asked else len(place.weights)
        if outcome == "absent" or start != safe or len(asked) > 1:
            outcome, remark = "wrong", f"{number}: {safe} bytes were safe, and it asked from {start} on; {remark}"
        row.count(outcome, (safe - start) / place.total, 0.0, remark)
    row.remarks.append(
        f"{halves} kills left a part of the file, {wholes} all of it, and {runs - halves - wholes} nothing"
    )


def eight(place: Place, row: Row, runs: int, code: str, allowed: float) -> None:
    """Eight at once."""
    for number in range(runs):
        rng = random.Random(f"{row.name} {number}")
        place.reset()
        place.publish(rng, hashes=number % 2 == 0)
        place.server.fail(path=WEIGHTS, drip=0.004, drip_bytes=len(place.weights) // 200)
        children = [place.child(code + FETCH) for _ in range(8)]
        answers = [child.communicate() for child in children]
        failed = [err for child, (_, err) in zip(children, answers) if child.returncode]
        outcome, remark = place.state(None)
        left = {path.name for path in place.folder.rglob("*") if path.is_file()}
        if failed or left != {cache.MARKER, CONFIG, WEIGHTS.rpartition("/")[2]}:
            outcome, remark = "wrong", f"{len(failed)} failed, {sorted(left)} lie there: {failed[:1]}"
        row.count(outcome, place.server.bytes_sent / place.total, allowed, remark)
