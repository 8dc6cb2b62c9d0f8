"""Speed and memory side by side with torch + diffusers, on the published architectures with random weights.

    python scripts/benchmark.py [--peer-python PYTHON] [--peers torch compile openvino] [--only ROW ...]
                                [--engine auto|onednn|inference|eager] [--busy 2] [--size 128] [--steps 100]
                                [--pictures 16x16 ...] [--json OUT.json] [--plot OUT.png]

Every measurement runs in a process of its own, and the sides of a row take turns. A ratio is that of the medians, the
first side's / the other's. With --peer-python (an interpreter that has torch and diffusers) the others are, by --peers:
torch as it is (float32 in the better of its two memory layouts, bfloat16 channels-last), torch.compile with freezing
under inference mode, and OpenVINO. Some rows have others: `read` paddle.load, `first picture` the layers as they are,
`auto` the other engines, for the whole command `ppdiffusers upscale` on pictures of several sizes.

`first_s` are the seconds until the first result, compiling and that call included (torch.compile: with an empty cache).
Peak memory is of the whole process. With --busy N every row is measured once more beside N processes that keep a core
busy each. A row that needs bfloat16 is skipped on CPUs without it, one that fails is told and leaves the others alone;
--json is written after every row. Exit status 1: something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from benchmark_programs import COMMON, PEERS, SIZES, Row, Side, rows

ROOT = Path(__file__).parents[1]
BEST = "the best of them"
# It ends with this process, even if that is killed.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6): pass
"""


class Failed(Exception):
    """A program that did not end well; the message has its last lines."""


def measure(side: Side, folder: Path, repeats: int, args: argparse.Namespace, environment: Dict[str, str]) -> Any:
    code = f"{COMMON}{side.program}\nprint(json.dumps({{'seconds': result, 'memory': memory, 'more': more}}))"
    python = args.peer_python if side.peer else sys.executable
    command = [python, "-c", code, folder, args.size, repeats, args.steps, args.engine]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    except OSError as error:
        raise Failed(f"{python} does not run: {error}") from None
    if done.returncode:
        raise Failed(done.stderr[-2000:].strip() or f"ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def taking_part(row: Row, args: argparse.Namespace) -> Dict[str, Side]:
    """The sides of a row that can be measured and are asked for."""
    peers = [name for name in row.sides if name not in PEERS or name in args.peers] if args.peer_python else []
    return {name: side for name, side in row.sides.items() if not side.peer or name in peers}


def compare(
    name: str, row: Row, folders: Dict[str, Path], args: argparse.Namespace, environment: Dict[str, str]
) -> Dict[str, Any]:
    """One row of the table: of each side medians and least of the seconds, the largest memory, what it tells of itself
    (in its first process); and ratios, the first side's / the others'."""
    sides = taking_part(row, args)
    seconds: Dict[str, List[float]] = {each: [] for each in sides}
    memory: Dict[str, List[float]] = {each: [] for each in sides}
    found: Dict[str, Dict[str, Any]] = {each: {} for each in sides}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as cache:
        for _ in range(args.rounds or row.rounds):
            for each, side in sides.items():
                if "error" in found[each]:
                    continue
                try:
                    result = measure(
                        side, folders[side.folder], row.repeats, args, {**environment, "TORCHINDUCTOR_CACHE_DIR": cache}
                    )
                except Failed as error:
                    found[each]["error"] = str(error)
                    continue
                seconds[each] += result["seconds"]
                memory[each] += [result["memory"]] if result["memory"] is not None else []
                found[each] = {**result["more"], **found[each]}
    for each in sides:
        if "error" not in found[each]:
            figures = {"s": statistics.median(seconds[each]), "min_s": min(seconds[each]), "runs": len(seconds[each])}
            if memory[each]:
                figures["mb"] = max(memory[each])
            found[each] = {**figures, **found[each]}
    result = {"what": name, "sides": found}
    if row.note:
        result["note"] = row.note
    first, *others = sides
    for key, title in (("s", "ratio"), ("mb", "memory_ratio")):
        ratios = {
            each: found[first][key] / found[each][key] for each in others if key in found[first] and key in found[each]
        }
        if len(ratios) > 1:
            ratios[BEST] = max(ratios.values())
        if ratios:
            result[title] = ratios
    return result


def slowdown(quiet: Dict[str, Any], loaded: Dict[str, Any]) -> Dict[str, float]:
    """By side, how many times as long it took beside busy processes."""
    pairs = {each: (loaded["sides"][each].get("s"), side.get("s")) for each, side in quiet["sides"].items()}
    return {each: pair[0] / pair[1] for each, pair in pairs.items() if None not in pair}


def show(result: Dict[str, Any]) -> Iterator[str]:
    """Lines of text for one row."""
    if "skipped" in result:
        yield f"{result['what']}: skipped, {result['skipped']}"
        return
    yield result["what"] + (f" ({result['note']})" if "note" in result else "")
    for name, side in result["sides"].items():
        if "error" in side:
            yield f"    {name:12} FAILED: {side['error'].splitlines()[-1]}"
        else:
            facts = "  ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in side.items())
            yield f"    {name:12} {facts}"
    for title in ("ratio", "memory_ratio", "slowdown"):
        if title in result:
            yield f"    {title:12} " + "  ".join(f"{name}={value:.3f}" for name, value in result[title].items())


def failures(table: Sequence[Dict[str, Any]]) -> List[str]:
    return [f"{row['what']}: {name}" for row in table for name, side in row.get("sides", {}).items() if "error" in side]


def run(
    chosen: Dict[str, Row],
    folders: Dict[str, Path],
    args: argparse.Namespace,
    bfloat16: bool,
    environment: Dict[str, str],
) -> List[Dict[str, Any]]:
    """The whole table; printed and written row by row."""
    table: List[Dict[str, Any]] = []

    def add(result: Dict[str, Any]) -> None:
        table.append(result)
        print("\n".join(show(result)), flush=True)
        if args.json:
            args.json.write_text(json.dumps(table, indent=2) + "\n")

    for name, row in chosen.items():
        if row.bfloat16 and not bfloat16:
            add({"what": name, "skipped": "this CPU has no bfloat16 arithmetic"})
            continue
        quiet = compare(name, row, folders, args, environment)
        add(quiet)
        if args.busy:
            with busy(args.busy):
                loaded = compare(f"{name}, beside {args.busy} busy processes", row, folders, args, environment)
            add({**loaded, "slowdown": slowdown(quiet, loaded)})
    return table


def plot(table: Sequence[Dict[str, Any]], file: Path) -> None:
    """A bar a ratio: our time as a part of the other's; bars end at twice that, their numbers do not."""
    from PIL import Image, ImageDraw, ImageFont

    bars = [
        (f"{row['what']} / {peer}", ratio)
        for row in table
        for peer, ratio in row.get("ratio", {}).items()
        if peer != BEST
    ]
    longest = min(2.0, max([1.25, *(ratio for _, ratio in bars)]))
    left, width, height = 290, 520, 34
    image = Image.new("RGB", (left + width + 90, height * len(bars) + 50), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    one = left + width / longest
    for i, (title, ratio) in enumerate(bars):
        top = 10 + i * height
        end = left + width * min(ratio, longest) / longest
        draw.rectangle([left, top, end, top + height - 12], fill="#2f7d4f" if ratio <= 1 else "#b5532c")
        draw.text((10, top + 5), title, fill="black", font=font)
        draw.text((end + 6, top + 5), f"{ratio:.2f}", fill="black", font=font)
    bottom = 10 + height * len(bars)
    draw.line([one, 6, one, bottom], fill="black")
    draw.text((one - 60, bottom + 8), "1.00 = the other's time", fill="black", font=font)
    image.save(file)


def size(text: str) -> Tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 120x80")
    return int(width), int(height)


def parse(arguments: Optional[Sequence[str]]) -> Tuple[argparse.Namespace, Dict[str, Row]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with torch and diffusers")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=["torch"], help="default: torch")
    titles = sorted({name.partition(" ")[0] if name.startswith("auto ") else name for name in rows()})
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"rows that begin so: {', '.join(titles)}")
    parser.add_argument("--engine", default="auto", choices=["auto", "onednn", "inference", "eager"])
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="each row once more beside N busy processes")
    parser.add_argument("--size", type=int, default=128, help="latent height and width, and side of the small picture")
    parser.add_argument("--steps", type=int, default=100, help="of the documented example and the first picture")
    parser.add_argument("--rounds", type=int, help="processes a side; each row has its own default")
    parser.add_argument("--pictures", nargs="+", type=size, default=SIZES, metavar="WxH", help="of the rows auto")
    parser.add_argument("--picture-steps", nargs="+", type=int, default=[5, 20], metavar="N", help="of the rows auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="a picture of the ratios")
    args = parser.parse_args(arguments)
    every = rows(args.pictures, args.picture_steps)
    for title in args.only or ():
        if not any(name.startswith(title) for name in every):
            parser.error(f"--only {title!r}: no row begins so; there are {', '.join(titles)}")
    return args, {name: row for name, row in every.items() if args.only is None or name.startswith(tuple(args.only))}


def write_folders(needed: Iterable[str], scratch: Path) -> Dict[str, Path]:
    """The published model with random weights, as `Side.folder` tells."""
    needed = set(needed)
    import real_architecture

    from ppdiffusers import LDMSuperResolutionPipeline

    folders = {"": scratch}
    if needed != {""}:
        folders["community"] = real_architecture.write(scratch)
    if "safetensors" in needed:
        folders["safetensors"] = scratch / "safetensors"
        LDMSuperResolutionPipeline.from_pretrained(folders["community"]).save_pretrained(folders["safetensors"])
    if "diffusers" in needed:
        folders["diffusers"] = real_architecture.write_for_diffusers(folders["community"], scratch / "diffusers")
    return folders


def main(arguments: Optional[Sequence[str]] = None) -> int:
    args, chosen = parse(arguments)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # before paddle sets OMP_NUM_THREADS, which slows torch down
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from ppdiffusers.inference.engines import has_bfloat16

    sides = [side for row in chosen.values() for side in taking_part(row, args).values()]
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_folders([side.folder for side in sides], Path(scratch))
        table = run(chosen, folders, args, has_bfloat16(), environment)
    if args.plot:
        plot(table, args.plot)
    failed = failures(table)
    if failed:
        print(f"failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
