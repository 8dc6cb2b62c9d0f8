"""Speed and memory of the real super-resolution architecture with random weights, side by side with a peer.

    python scripts/benchmark.py [--peer-python PYTHON] [--size 128] [--runs 5] [--json OUT.json]

Measures, each in a process of its own: importing the package beyond its framework, loading the
645 MB folder, one U-Net step, and decoding. With --peer-python (an interpreter that has torch and
diffusers) every measurement alternates between the two, and the ratios of the medians are ours / peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

COMMON = """
import json, re, sys, time
folder, size, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def timed(call):
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds
"""

OURS = {
    "import": "import paddle; s = time.perf_counter(); import ppdiffusers; "
    "from ppdiffusers import LDMSuperResolutionPipeline; result = [time.perf_counter() - s]",
    "load": """
import paddle, ppdiffusers
from ppdiffusers import LDMSuperResolutionPipeline
paddle.ones([1]); before = peak(); s = time.perf_counter()
LDMSuperResolutionPipeline.from_pretrained(folder)
result = [time.perf_counter() - s]; memory = peak() - before
""",
    "unet step": """
import os, paddle
paddle.base.core.set_num_threads(os.cpu_count())
from ppdiffusers import UNet2DModel
model = UNet2DModel.from_pretrained(folder, subfolder="unet"); x = paddle.randn([1, 6, size, size])
with paddle.no_grad():
    model(x, 3); result = timed(lambda: model(x, 3).sample.numpy())
memory = peak()
""",
    "decode": """
import os, paddle
paddle.base.core.set_num_threads(os.cpu_count())
from ppdiffusers import VQModel
model = VQModel.from_pretrained(folder, subfolder="vqvae"); x = paddle.randn([1, 3, size, size])
with paddle.no_grad():
    result = timed(lambda: model.decode(x).sample.numpy())
memory = peak()
""",
}
PEER = {
    "import": "import torch; s = time.perf_counter(); from diffusers import LDMSuperResolutionPipeline; "
    "result = [time.perf_counter() - s]",
    "load": """
import torch
from diffusers import LDMSuperResolutionPipeline
torch.ones(1); before = peak(); s = time.perf_counter()
LDMSuperResolutionPipeline.from_pretrained(folder)
result = [time.perf_counter() - s]; memory = peak() - before
""",
    "unet step": """
import torch
from diffusers import UNet2DModel
model = UNet2DModel.from_pretrained(folder, subfolder="unet"); x = torch.randn(1, 6, size, size)
with torch.no_grad():
    model(x, 3); result = timed(lambda: model(x, 3).sample.numpy())
memory = peak()
""",
    "decode": """
import torch
from diffusers import VQModel
model = VQModel.from_pretrained(folder, subfolder="vqvae"); x = torch.randn(1, 3, size, size)
with torch.no_grad():
    result = timed(lambda: model.decode(x).sample.numpy())
memory = peak()
""",
}
IN_PROCESS = ("unet step", "decode")  # repeated within one process; the others take one process a run


def measure(python: str, code: str, folder: Path, size: int, runs: int) -> dict:
    program = COMMON + "memory = None\n" + code + "\nprint(json.dumps({'seconds': result, 'memory': memory}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-c", program, str(folder), str(size), str(runs)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with torch and diffusers")
    parser.add_argument("--size", type=int, default=128, help="latent height and width")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(OURS), default=list(OURS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import real_architecture

    with tempfile.TemporaryDirectory() as scratch:
        ours = real_architecture.write(Path(scratch))
        sides = {"ours": (sys.executable, OURS, ours)}
        if args.peer_python:
            theirs = real_architecture.write_for_diffusers(ours, Path(scratch) / "peer")
            sides["peer"] = (args.peer_python, PEER, theirs)
        table = []
        for name in args.only:
            rounds, repeats = (1, args.runs) if name in IN_PROCESS else (args.runs, 1)
            seconds = {side: [] for side in sides}
            memory = {side: None for side in sides}
            for _ in range(rounds):
                for side, (python, programs, folder) in sides.items():
                    result = measure(python, programs[name], folder, args.size, repeats)
                    seconds[side] += result["seconds"]
                    memory[side] = result["memory"]
            row = {"what": name, **{f"{side}_s": statistics.median(values) for side, values in seconds.items()}}
            row.update({f"{side}_mb": value for side, value in memory.items() if value is not None})
            if "peer" in sides:
                row["ratio"] = row["ours_s"] / row["peer_s"]
            table.append(row)
            print("  ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{v:<10}" for k, v in row.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
