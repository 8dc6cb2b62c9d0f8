"""Hostile and damaged files, each read and scanned in a process of its own, under limits of time and memory.

    python tests/checkpoints/pickle_drill.py hostile|good|mutants [--count 1000] [--seed 0]

prints one JSON object a file. It forks, so it must not share a process with PaddlePaddle.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, TextIO, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import hostile_files  # noqa: E402
import hostile_pickles  # noqa: E402
import numpy as np  # noqa: E402
from checkpoint_files import RELEASES, good_files, torch_zip  # noqa: E402
from hostile_pickles import CANARY  # noqa: E402
from pickle_assembly import under_w  # noqa: E402

from model_zoo.formats.scan import ScanError, scan  # noqa: E402
from ppdiffusers.checkpoints import CheckpointError, open_checkpoint  # noqa: E402

SECONDS = 10  # of the processor's time for a file: a machine may stand still for longer than that
PATIENCE = 120  # seconds by the clock
MEMORY = 512 * 2**20  # bytes beyond what the process has before it opens the file


# What is done with a file


def read(path: Path) -> str:
    """ "arrays", "refused: why", or what is wrong with the arrays or the message."""
    size = path.stat().st_size
    for options in ({"skip_objects": True}, {}):  # the stricter way last: it is the answer
        try:
            total = 0
            with open_checkpoint(path, **options) as checkpoint:
                for name in checkpoint.keys():
                    array = checkpoint.read(name)
                    if array.shape != checkpoint.shape(name):
                        return "WRONG SHAPE"
                    with np.errstate(all="ignore"):
                        array.sum()
                    total += array.nbytes
                    checkpoint.release(name)
            # bfloat16 becomes twice as long, a packed archive is a few kilobytes here, storages may be shared.
            answer = "arrays" if total <= 4 * size + 4096 else f"ARRAYS OF {total} BYTES"
        except CheckpointError as error:
            message = str(error)
            fine = message.startswith(str(path)) and len(message) < len(str(path)) + 500 and message.isprintable()
            answer = f"refused: {message[len(str(path)) :]}" if fine else f"UNREADABLE MESSAGE: {message}"
        if answer[0].isupper():
            return answer
    return answer


def look(path: Path) -> str:
    """ "safe", "refused: why; what would run", or "no weight file"."""
    try:
        report = scan(path)
    except ScanError as error:
        return "no weight file" if str(error).startswith(str(path)) else f"UNREADABLE MESSAGE: {error}"
    if not all(line.isprintable() and len(line) < 1000 for line in str(report).splitlines()):
        return "UNREADABLE REPORT"
    return "safe" if report.safe else "; ".join([f"refused: {report.reason}", *report.runs])[:2000]


def examine(path: Path) -> Dict[str, str]:
    results = {}
    for key, action in (("read", read), ("scan", look)):
        try:
            results[key] = action(path)
        except BaseException as error:
            results[key] = f"CRASH: {type(error).__name__}: {str(error)[:200]}"
    return results


# Containment


def drill(files: Iterable[Tuple[str, bytes]], work: Path) -> Iterator[Dict[str, Any]]:
    """Read and scan files one by one in a child process; when a file ends it, the next child goes on behind it."""
    folder = work / "victim"
    folder.mkdir(exist_ok=True)
    waiting = list(files)
    while waiting:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            with os.fdopen(send, "w") as pipe:
                _examine_all(waiting, folder, pipe)
            os._exit(0)
        os.close(send)
        with os.fdopen(receive) as pipe:
            answers = [json.loads(line) for line in pipe if line.endswith("\n")]
        _, status = os.waitpid(child, 0)
        yield from answers
        waiting = waiting[len(answers) :]
        if waiting:
            hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)
            how = "HANG" if hung else f"CRASH: ended with status {status}"
            (name, _), *waiting = waiting
            yield {"name": name, "read": how, "scan": how, "canary": canary_sings(folder), "seconds": 0, "peak_mb": 0}


def _examine_all(files: List[Tuple[str, bytes]], folder: Path, pipe: TextIO) -> None:
    os.chdir(folder)
    limit = _memory("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, content in files:
        path = folder / "file"
        path.write_bytes(content)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before, started = _memory("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        answers = examine(path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        outcome = {"canary": canary_sings(folder), "seconds": round(time.process_time() - started, 3)}
        peak = round(max(_memory("VmHWM") - before, 0) / 2**20, 1)
        pipe.write(json.dumps({"name": name, **answers, **outcome, "peak_mb": peak}) + "\n")
        pipe.flush()
        path.unlink()
        if outcome["canary"]:
            os.unlink(CANARY)


def _memory(what: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what + ":"))


def prove(content: bytes, work: Path) -> bool:
    """Whether the file makes the canary when it is unpickled, in a process and a folder of its own."""
    folder = Path(tempfile.mkdtemp(dir=work))
    hostile_pickles.prepare(folder)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        signal.alarm(PATIENCE)
        hostile_pickles.prove(content)
        os._exit(0)
    os.waitpid(child, 0)
    return canary_sings(folder, patience=1.0)  # a command may be on its way


def canary_sings(folder: Path, patience: float = 0.0) -> bool:
    until = time.monotonic() + patience
    while not os.path.lexists(folder / CANARY):
        if time.monotonic() >= until:
            return False
        time.sleep(0.01)
    return True


# The files


def hostile() -> Dict[str, bytes]:
    files = {f"runs {name}": content for name, content in hostile_pickles.RUNS.items()}
    files.update({f"refused {name}": content for name, content in hostile_files.REFUSED.items()})
    for name, program in hostile_files.TORCH.items():
        if name != "good":
            files[f"torch {name}"] = torch_zip(under_w(program), _0=bytes(24))
    files.update({f"composed {name}": content for name, content in hostile_files.COMPOSED.items()})
    files.update({f"archive {name}": content for name, content in hostile_files.ARCHIVES.items()})
    for name, (header, _) in hostile_files.SAFETENSORS.items():
        files[f"safetensors {name}"] = hostile_files.safetensors(header)
    files.update({f"other {name}": content for name, content in hostile_files.OTHERS.items()})
    return files


def every_good_file(work: Path) -> Dict[str, bytes]:
    return {**good_files(work), **{path.name: path.read_bytes() for path in sorted(RELEASES.iterdir())}}


def mutants(count: int, seed: int, work: Path) -> Iterator[Tuple[str, bytes]]:
    """`count` damaged copies of the good files in turn."""
    files = every_good_file(work)
    names = sorted(files)
    draw = random.Random(seed)
    for index in range(count):
        name = names[index % len(names)]
        how = MUTATIONS[draw.randrange(len(MUTATIONS))]
        yield f"{index} {name} {how.__name__}", how(files[name], draw, files[draw.choice(names)])


def bytes_changed(content: bytes, draw: random.Random, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8, 32])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def bit_flipped(content: bytes, draw: random.Random, other: bytes) -> bytes:
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def extreme_number(content: bytes, draw: random.Random, other: bytes) -> bytes:
    size = draw.choice([1, 2, 4, 8])
    place = draw.randrange(len(content))
    value = draw.choice([b"\xff" * size, b"\0" * size, b"\xff" * (size - 1) + b"\x7f", b"\0" * (size - 1) + b"\x80"])
    return content[:place] + value + content[place + size :]


def cut_short(content: bytes, draw: random.Random, other: bytes) -> bytes:
    return content[: draw.randrange(len(content))]


def bytes_inserted(content: bytes, draw: random.Random, other: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.choice([1, 1, 2, 8, 100])) + content[place:]


def part_removed(content: bytes, draw: random.Random, other: bytes) -> bytes:
    first, second = sorted(draw.randrange(len(content)) for _ in range(2))
    return content[:first] + content[second:]


def part_repeated(content: bytes, draw: random.Random, other: bytes) -> bytes:
    first, second = sorted(draw.randrange(len(content)) for _ in range(2))
    return content[:second] + content[first:]


def parts_swapped(content: bytes, draw: random.Random, other: bytes) -> bytes:
    first, second, third = sorted(draw.randrange(len(content)) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def other_file_spliced_in(content: bytes, draw: random.Random, other: bytes) -> bytes:
    place = draw.randrange(min(len(content), len(other)))
    return content[:place] + other[place:]


MUTATIONS = (
    bytes_changed,
    bit_flipped,
    extreme_number,
    cut_short,
    bytes_inserted,
    part_removed,
    part_repeated,
    parts_swapped,
    other_file_spliced_in,
)


def run(kind: str, count: int = 1000, seed: int = 0) -> Iterator[Dict[str, Any]]:
    """One outcome a file: name, read, scan, canary, seconds, peak_mb; `proof` of those that would run something."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if kind == "hostile":
            files = hostile()
            for outcome in drill(files.items(), work):
                name = outcome["name"]
                yield {**outcome, "proof": prove(files[name], work)} if name.startswith("runs ") else outcome
        else:
            yield from drill(every_good_file(work).items() if kind == "good" else mutants(count, seed, work), work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["hostile", "good", "mutants"])
    parser.add_argument("--count", type=int, default=1000, help="of mutants")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for outcome in run(options.kind, options.count, options.seed):
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
