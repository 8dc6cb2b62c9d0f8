#!/usr/bin/env python3
"""What downloads of the model zoo make of everything that can go wrong, against a real server on this machine.

    python scripts/zoo_fault_drill.py                   # all of it: a few minutes, 5 GB of disk for the speed row
    python scripts/zoo_fault_drill.py --quick           # a fifth of the points, no speed row
    python scripts/zoo_fault_drill.py --only cut kill   # rows whose names contain one of these words

A run is *right* if the file is what was published, and *absent* if there is no file, one line says why, and the same
command brings the right file once the fault is gone. Anything else is wrong, and the exit code is then 1. The ratio is
bytes sent to bytes published; a run is over the bound if more than 1.1 times the model and a block for every request
were sent, not counting what any client would have to fetch again: of an older version, or from a server that ignores
Range. Of killed processes the ratio is that of bytes which were safe and fetched again. The rows about reading follow
(`--only pickle`): scripts/zoo_pickle_drill.py alone prints them too.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zoo_pickle_drill
from zoo_drill import answers, filesystem, network, processes
from zoo_drill.place import BLOCK, CommunityServer, Place, Row
from zoo_drill.speed import speed

from model_zoo import http


def drills(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[Place, Row], None]]]:
    points = 4 if options.quick else options.points
    for name, prepare in network.FAULTS.items():
        yield name, lambda place, row, prepare=prepare: network.fault(place, row, prepare, points)
    for name, answer in answers.FAULTS.items():
        yield name, lambda place, row, answer=answer: answers.fault(place, row, answer, max(2, points // 4))
    yield "redirect from https to http", lambda place, row: network.https_to_http(place, row, points)
    yield "killed (SIGKILL), then restarted", lambda place, row: processes.kill(place, row, 10 if options.quick else 50)
    rounds = 1 if options.quick else 5
    yield "8 processes at once", lambda place, row: processes.eight(place, row, rounds, "", 1.0)
    yield (
        "8 processes at once, a lock that everybody gets",
        lambda place, row: processes.eight(place, row, rounds, processes.NO_LOCKS, 8.0),
    )
    yield "disk full half-way", lambda place, row: filesystem.disk_full(place, row, points)
    yield "a disk that is too small", lambda place, row: filesystem.small_disk(place, row, points)
    yield "read-only cache, no permission", lambda place, row: filesystem.locked_up(place, row, points)
    yield (
        "5,000 characters, ../, case clashes in names and manifests",
        lambda place, row: filesystem.hostile(place, row, 2 * points),
    )
    yield "symlinks in the cache that lead out of it", lambda place, row: filesystem.links(place, row, points)
    if not options.quick:
        yield "speed of 1 GB from loopback", lambda place, row: speed(place, row, options.gigabytes << 30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="rows whose names contain one of these words")
    parser.add_argument("--quick", action="store_true", help="a fifth of the points, and no speed row")
    parser.add_argument("--points", type=int, default=20, help="random points for each fault (default: 20)")
    parser.add_argument("--gigabytes", type=int, default=1, help="size of the file of the speed row")
    options = parser.parse_args()
    chosen = [word.lower() for word in options.only or ("",)]
    logging.disable()
    for key in ("MODEL_ZOO_OFFLINE", "MODEL_ZOO_JOBS", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        os.environ.pop(key, None)
    http.POLICY = http.Policy(2.0, 0.25, backoff=0.01, block=BLOCK)
    print("| fault | runs | right | absent | wrong | worst bytes ratio | over the bound | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="zoo-drill-") as root, CommunityServer(Path(root, "served")) as server:
        place = Place(Path(root), server)
        for name, work in drills(options):
            if not any(word in name.lower() for word in chosen):
                continue
            row, begun = Row(name), time.monotonic()
            work(place, row)
            row.seconds = time.monotonic() - begun
            failed = failed or row.wrong > 0 or row.over > 0
            print(row, *(f"    {remark}" for remark in row.remarks[:5]), sep="\n", flush=True)
    if any(word in "hostile, mutated and good pickles" for word in chosen):
        print()
        failed = (
            not zoo_pickle_drill.table(200 if options.quick else 1000, 500 if options.quick else 10_000, seed=0)
            or failed
        )
    print("something is wrong" if failed else "nothing is wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
