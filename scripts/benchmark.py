"""Speed and memory side by side with torch + diffusers, on the published architectures with random weights.

    python scripts/benchmark.py [--peer-python PYTHON] [--only ROW ...] [--engine auto|onednn|inference|eager]
                                [--size 128] [--steps 100] [--json OUT.json] [--plot OUT.png]

Every measurement runs in a process of its own, and the two sides take turns. With --peer-python (an interpreter that
has torch and diffusers) the ratio is that of the medians, ours / peer's. torch's float32 is the better of its two
memory layouts, its bfloat16 is channels-last. Peak memory is of the whole process. Rows without a peer's program have
another one of ours as their peer: `read` paddle.load, `first picture` the layers as they are.
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
from typing import Any, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).parents[1]

COMMON = """
import json, os, re, sys, time, warnings
warnings.simplefilter("ignore")
folder, size, runs, steps, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def timed(call):
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds
memory, more = None, {}
"""
PADDLE = """
import paddle
from ppdiffusers import DiffusionPipeline, UNet2DConditionModel, UNet2DModel, VQModel
from ppdiffusers.inference import compile_model
from ppdiffusers.threads import use_threads
use_threads()
def how(model):
    return "; ".join(f"{part}: {setup}" for part, setup in model.describe().items()) if hasattr(model, "describe") else ""
"""
TORCH = """
import torch
torch.set_grad_enabled(False)
def ready(model, dtype, layout):
    return model.to(dtype).to(memory_format=layout)
"""

OURS_UNET = """
model = UNet2DModel.from_pretrained(folder, subfolder="unet"); x = paddle.randn([1, 6, size, size])
with paddle.no_grad():
    model = compile_model(model, engine, "{precision}"); model(x, 3)
    result = timed(lambda: model(x, 3).sample.numpy())
memory = peak(); more["how"] = how(model)
"""
OURS_DECODE = """
model = VQModel.from_pretrained(folder, subfolder="vqvae"); x = paddle.randn([1, 3, size, size])
with paddle.no_grad():
    model = compile_model(model, engine, "{precision}"); model.decode(paddle.randn([1, 3, 8, 8]))
    result = timed(lambda: model.decode(x).sample.numpy())
memory = peak(); more["how"] = how(model)
"""
PEER_UNET = """
from diffusers import UNet2DModel
model = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
found = []
for dtype, layout in {layouts}:
    model = ready(model, dtype, layout); x = torch.randn(1, 6, size, size).to(dtype).to(memory_format=layout)
    model(x, 3); found.append(timed(lambda: model(x, 3).sample.float().numpy()))
result = min(found, key=sum); memory = peak()
"""
PEER_DECODE = """
from diffusers import VQModel
model = VQModel.from_pretrained(folder, subfolder="vqvae").eval()
found = []
for dtype, layout in {layouts}:
    model = ready(model, dtype, layout); x = torch.randn(1, 3, size, size).to(dtype).to(memory_format=layout)
    found.append(timed(lambda: model.decode(x).sample.float().numpy()))
result = min(found, key=sum); memory = peak()
"""
FLOAT32 = "((torch.float32, torch.contiguous_format), (torch.float32, torch.channels_last))"
PLAIN = "((torch.float32, torch.contiguous_format),)"  # channels-last takes the decoder three times as long
BFLOAT16 = "((torch.bfloat16, torch.channels_last),)"

TEXT_UNET = """dict(
    sample_size=32, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=1280, attention_head_dim=8,
)"""
OURS_TEXT = f"""
model = UNet2DConditionModel(**{TEXT_UNET})
model.eval(); x, condition = paddle.randn([2, 4, 32, 32]), paddle.randn([2, 77, 1280])
with paddle.no_grad():
    model = compile_model(model, engine, "{{precision}}"); model(x, 3, condition)
    result = timed(lambda: model(x, 3, condition).sample.numpy())
memory = peak(); more["how"] = how(model)
"""
PEER_TEXT = f"""
from diffusers import UNet2DConditionModel
model = UNet2DConditionModel(**{TEXT_UNET}).eval()
found = []
for dtype, layout in {{layouts}}:
    model = ready(model, dtype, layout); condition = torch.randn(2, 77, 1280).to(dtype)
    x = torch.randn(2, 4, 32, 32).to(dtype).to(memory_format=layout)
    model(x, 3, condition); found.append(timed(lambda: model(x, 3, condition).sample.float().numpy()))
result = min(found, key=sum); memory = peak()
"""

OURS_PICTURE = """
import numpy, PIL.Image
picture = PIL.Image.fromarray(numpy.random.default_rng(0).integers(0, 255, [size, size, 3], dtype="uint8"))
s = time.perf_counter()
pipeline = DiffusionPipeline.from_pretrained(folder, engine="{engine}")
pipeline(picture, num_inference_steps=steps, eta=1)
result = [time.perf_counter() - s]; memory = peak()
more["how"] = {name: how(model) for name, model in pipeline._compiled.items()}
"""
# Of the embedded super-resolution model.
TRAIN_UNET = """dict(
    sample_size=32, in_channels=6, out_channels=3, block_out_channels=(64, 96), layers_per_block=2,
    down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=8, add_attention=False,
)"""


class Row(NamedTuple):
    ours: str
    peer: Optional[str] = None
    peer_is_ours: bool = False  # the peer's program runs in this interpreter
    repeats: int = 1  # within one process
    rounds: int = 5  # processes


def pair(ours: str, peer: str, precision: str, **options: Any) -> Row:
    """A row whose programs are the same but for the type that they compute in."""
    layouts = BFLOAT16 if precision == "bf16" else PLAIN if "decode" in peer else FLOAT32
    return Row(
        PADDLE + ours.replace("{precision}", precision), TORCH + peer.replace("{layouts}", layouts), False, **options
    )


ROWS: Dict[str, Row] = {
    "import": Row(
        "import paddle; s = time.perf_counter(); import ppdiffusers\n"
        "from ppdiffusers import LDMSuperResolutionPipeline; result = [time.perf_counter() - s]",
        "import torch; s = time.perf_counter(); from diffusers import LDMSuperResolutionPipeline\n"
        "result = [time.perf_counter() - s]",
    ),
    "load": Row(
        """
import paddle, ppdiffusers
from ppdiffusers import LDMSuperResolutionPipeline
paddle.ones([1]); before = peak(); s = time.perf_counter()
LDMSuperResolutionPipeline.from_pretrained(folder)
result = [time.perf_counter() - s]; memory = peak() - before
""",
        """
import torch
from diffusers import LDMSuperResolutionPipeline
torch.ones(1); before = peak(); s = time.perf_counter()
LDMSuperResolutionPipeline.from_pretrained(folder)
result = [time.perf_counter() - s]; memory = peak() - before
""",
    ),
    "read": Row(
        """
import pathlib, paddle
from ppdiffusers import UNet2DModel
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.models.model import load_checkpoint
file = pathlib.Path(folder) / "unet" / "model_state.pdparams"
with paddle.LazyGuard():
    model = UNet2DModel.from_config(UNet2DModel.load_config(file.parent))
paddle.ones([1]); before = peak(); s = time.perf_counter()
with open_checkpoint(file) as checkpoint:
    load_checkpoint(model, checkpoint, "float32")
result = [time.perf_counter() - s]; memory = peak() - before
more["file_mb"] = file.stat().st_size / 2**20
""",
        """
import paddle
paddle.ones([1]); before = peak(); s = time.perf_counter()
loaded = paddle.load(folder + "/unet/model_state.pdparams")
result = [time.perf_counter() - s]; memory = peak() - before
""",
        peer_is_ours=True,
    ),
    "unet step fp32": pair(OURS_UNET, PEER_UNET, "fp32", repeats=3, rounds=2),
    "unet step bf16": pair(OURS_UNET, PEER_UNET, "bf16", repeats=3, rounds=2),
    "decode fp32": pair(OURS_DECODE, PEER_DECODE, "fp32", repeats=2, rounds=3),
    "decode bf16": pair(OURS_DECODE, PEER_DECODE, "bf16", repeats=2, rounds=3),
    "text step fp32": pair(OURS_TEXT, PEER_TEXT, "fp32", repeats=3, rounds=2),
    "text step bf16": pair(OURS_TEXT, PEER_TEXT, "bf16", repeats=3, rounds=2),
    "documented example": Row(
        PADDLE + OURS_PICTURE.replace("{engine}", "auto"),
        """
import numpy, PIL.Image, torch
from diffusers import LDMSuperResolutionPipeline
picture = PIL.Image.fromarray(numpy.random.default_rng(0).integers(0, 255, [size, size, 3], dtype="uint8"))
s = time.perf_counter()
pipeline = LDMSuperResolutionPipeline.from_pretrained(folder)
pipeline(picture, num_inference_steps=steps, eta=1)
result = [time.perf_counter() - s]; memory = peak()
""",
    ),
    "first picture": Row(
        PADDLE + OURS_PICTURE.replace("{engine}", "auto"),
        PADDLE + OURS_PICTURE.replace("{engine}", "eager"),
        peer_is_ours=True,
    ),
    "fewer steps": Row(  # of a compiled pipeline
        PADDLE
        + """
import numpy
picture = numpy.random.default_rng(0).random([size, size, 3], numpy.float32)
pipeline = DiffusionPipeline.from_pretrained(folder)
if engine != "eager": pipeline.compile(engine)
def seconds(count, interval=1):
    pipeline.enable_deep_cache(interval)
    started = time.perf_counter()
    pipeline(picture, num_inference_steps=count, generator=0)
    return time.perf_counter() - started
more["first_call_s"], more["second_call_s"] = seconds(1), seconds(1)
seconds(3, 3)
for count, interval in ((5, 1), (10, 1), (20, 3)):
    more[f"{count}_steps{'' if interval == 1 else '_deep_cache'}_s"] = seconds(count, interval)
result = [seconds(20)]
""",
        rounds=2,
    ),
    "training step": Row(
        PADDLE
        + f"""
model = UNet2DModel(**{TRAIN_UNET}); model.train()
optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
x, y = paddle.randn([16, 6, 32, 32]), paddle.randn([16, 3, 32, 32])
def step():
    loss = ((model(x, 3).sample - y) ** 2).mean(); loss.backward(); optimizer.step(); optimizer.clear_grad()
    return float(loss)
step(); result = timed(step); memory = peak()
""",
        TORCH
        + f"""
from diffusers import UNet2DModel
torch.set_grad_enabled(True)
model = UNet2DModel(**{TRAIN_UNET}).train()
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
x, y = torch.randn(16, 6, 32, 32), torch.randn(16, 3, 32, 32)
def step():
    loss = ((model(x, 3).sample - y) ** 2).mean(); loss.backward(); optimizer.step(); optimizer.zero_grad()
    return float(loss)
step(); result = timed(step); memory = peak()
""",
        repeats=5,
        rounds=2,
    ),
    "memory": Row(  # resident after 20 and after 200 pictures of one compiled pipeline
        PADDLE
        + """
def resident():
    return int(re.search(r"VmRSS:\\\\s+(\\\\d+)", open("/proc/self/status").read())[1]) / 1024
import numpy
picture = numpy.random.default_rng(0).random([32, 32, 3], numpy.float32)
pipeline = DiffusionPipeline.from_pretrained("ppdiffusers/ldm-super-resolution-4x-tiny")
if engine != "eager": pipeline.compile(engine)
s, marks = time.perf_counter(), {}
for count in range(1, 201):
    pipeline(picture, num_inference_steps=2, generator=count)
    marks[count] = resident()
result = [time.perf_counter() - s]; memory = peak()
more.update(rss_20_mb=marks[20], rss_200_mb=marks[200], growth=marks[200] / marks[20] - 1, how={name: how(model) for name, model in pipeline._compiled.items()})
""".replace("\\\\", "\\"),
        rounds=1,
    ),
}


def measure(python: str, program: str, folder: Path, repeats: int, args: argparse.Namespace) -> Dict[str, Any]:
    code = f"{COMMON}{program}\nprint(json.dumps({{'seconds': result, 'memory': memory, 'more': more}}))"
    command = [python, "-c", code, folder, args.size, repeats, args.steps, args.engine]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)  # which importing paddle has set here: it would slow torch down
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"a measurement failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, folders: Dict[str, Path], args: argparse.Namespace) -> Dict[str, Any]:
    """One row of the table: medians of the seconds, largest memory, ratios ours / peer's."""
    row = ROWS[name]
    sides = {"ours": (sys.executable, row.ours, folders["ours"])}
    if row.peer is not None and row.peer_is_ours:
        sides["peer"] = (sys.executable, row.peer, folders["ours"])
    elif row.peer is not None and args.peer_python:
        sides["peer"] = (args.peer_python, row.peer, folders["peer"])
    seconds: Dict[str, List[float]] = {side: [] for side in sides}
    memory: Dict[str, List[float]] = {side: [] for side in sides}
    result: Dict[str, Any] = {"what": name}
    for _ in range(args.rounds or row.rounds):
        for side, (python, program, folder) in sides.items():
            found = measure(python, program, folder, row.repeats, args)
            seconds[side] += found["seconds"]
            memory[side] += [found["memory"]] if found["memory"] is not None else []
            if side == "ours":
                result.update(found["more"])
    for side in sides:
        result[f"{side}_s"] = statistics.median(seconds[side])
        result[f"{side}_min_s"] = min(seconds[side])
        if memory[side]:
            result[f"{side}_mb"] = max(memory[side])
    if "peer" in sides:
        result["ratio"] = result["ours_s"] / result["peer_s"]
        if memory["ours"] and memory["peer"]:
            result["memory_ratio"] = result["ours_mb"] / result["peer_mb"]
    result["runs"] = len(seconds["ours"])
    return result


def plot(table: List[Dict[str, Any]], file: Path) -> None:
    """A bar a row: our time as a part of the peer's; bars end at twice that, their numbers do not."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [row for row in table if "ratio" in row]
    longest = min(2.0, max([1.25, *(row["ratio"] for row in rows)]))
    left, width, height = 190, 520, 34
    image = Image.new("RGB", (left + width + 90, height * len(rows) + 50), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    one = left + width / longest
    for i, row in enumerate(rows):
        top = 10 + i * height
        colour = "#2f7d4f" if row["ratio"] <= 1 else "#b5532c"
        end = left + width * min(row["ratio"], longest) / longest
        draw.rectangle([left, top, end, top + height - 12], fill=colour)
        draw.text((10, top + 5), row["what"], fill="black", font=font)
        draw.text((end + 6, top + 5), f"{row['ratio']:.2f}", fill="black", font=font)
    bottom = 10 + height * len(rows)
    draw.line([one, 6, one, bottom], fill="black")
    draw.text((one - 60, bottom + 8), "1.00 = the peer's time", fill="black", font=font)
    image.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with torch and diffusers")
    parser.add_argument(
        "--only", nargs="*", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--engine", default="auto", choices=["auto", "onednn", "inference", "eager"])
    parser.add_argument("--size", type=int, default=128, help="latent height and width, and side of the small picture")
    parser.add_argument("--steps", type=int, default=100, help="of the documented example and the first picture")
    parser.add_argument("--rounds", type=int, help="processes a side; each row has its own default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="a picture of the ratios")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import real_architecture

    with tempfile.TemporaryDirectory() as scratch:
        folders = {"ours": real_architecture.write(Path(scratch))}
        if args.peer_python:
            folders["peer"] = real_architecture.write_for_diffusers(folders["ours"], Path(scratch) / "peer")
        table = []
        for name in args.only:
            table.append(compare(name, folders, args))
            shown = (
                f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in table[-1].items() if k != "what"
            )
            print("  ".join(shown), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")
    if args.plot:
        plot(table, args.plot)


if __name__ == "__main__":
    main()
