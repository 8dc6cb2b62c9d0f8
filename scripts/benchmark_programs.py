"""What `benchmark.py` measures: rows of short programs, each of which is run in a process of its own.

A program is given `folder, size, runs, steps, engine` and `COMMON`; it leaves its seconds in the list `result`, may
leave its peak memory in `memory` (MB), and further facts in `more`.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Tuple

COMMON = """
import json, os, pathlib, re, sys, time, warnings
warnings.simplefilter("ignore")
folder, size, runs, steps, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def peak():
    return status("VmHWM")
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
def how(model):  # a model or a compiled one
    parts = model.describe() if hasattr(model, "describe") else {"all": "layers"}
    return "; ".join(f"{part}: {setup}" for part, setup in parts.items())
def how_all(pipeline):
    return "; ".join(f"{name} {how(model)}" for name, model in pipeline._compiled.items()) or "layers"
"""

# Calls of a model: `model`, `call` and `inputs` of ours, `net` and `inputs` of the peers. `first_s` passes until the
# first result is there, with compiling.
OURS_CALL = """
with paddle.no_grad():
    started = time.perf_counter()
    model = compile_model(model, engine, "{precision}"); call(*inputs).numpy()
    more["first_s"] = time.perf_counter() - started
    result = timed(lambda: call(*inputs).numpy())
memory = peak(); more["how"] = how(model)
"""
OURS_MODELS = {
    "unet": """
model = UNet2DModel.from_pretrained(folder, subfolder="unet")
inputs = [paddle.randn([1, 6, size, size]), 3]
call = lambda *tensors: model(*tensors).sample
""",
    "decode": """
model = VQModel.from_pretrained(folder, subfolder="vqvae")
inputs = [paddle.randn([1, 3, size, size])]
call = lambda *tensors: model.decode(*tensors).sample
""",
    "text": """
model = UNet2DConditionModel(**{text_unet}); model.eval()
inputs = [paddle.randn([2, 4, size // 4, size // 4]), 3, paddle.randn([2, 77, 1280])]
call = lambda *tensors: model(*tensors).sample
""",
}
PEER_MODELS = {
    "unet": """
from diffusers import UNet2DModel
net = Sample(UNet2DModel.from_pretrained(folder, subfolder="unet"))
inputs = [torch.randn(1, 6, size, size), torch.tensor(3)]
""",
    "decode": """
from diffusers import VQModel
model = VQModel.from_pretrained(folder, subfolder="vqvae")
model.forward = model.decode
net = Sample(model)
inputs = [torch.randn(1, 3, size, size)]
""",
    "text": """
from diffusers import UNet2DConditionModel
net = Sample(UNet2DConditionModel(**{text_unet}))
inputs = [torch.randn(2, 4, size // 4, size // 4), torch.tensor(3), torch.randn(2, 77, 1280)]
""",
}
TORCH = """
import torch
torch.set_grad_enabled(False)
class Sample(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model.eval()
    def forward(self, *inputs):
        return self.model(*inputs).sample
def ready(value, dtype, layout):
    if not isinstance(value, torch.nn.Module):
        dtype = dtype if value.is_floating_point() else value.dtype
        layout = layout if value.dim() == 4 else torch.contiguous_format
    return value.to(dtype).to(memory_format=layout)
"""
# Each takes `net`, `inputs`.
PEERS = {
    "torch": """
found = []
for layout in {layouts}:
    started = time.perf_counter()
    net, inputs = ready(net, {dtype}, layout), [ready(each, {dtype}, layout) for each in inputs]
    net(*inputs)
    more.setdefault("first_s", time.perf_counter() - started)
    found.append(timed(lambda: net(*inputs).float().numpy()))
result = min(found, key=sum); memory = peak()
""",
    # Compiled anew in the first process of a row; later ones find that in the cache, which is the row's own.
    "compile": """
import torch._inductor.config
torch._inductor.config.freezing = True
layout = torch.channels_last  # inductor lays convolutions out so by itself
net, inputs = ready(net, {dtype}, layout), [ready(each, {dtype}, layout) for each in inputs]
with torch.inference_mode():
    started = time.perf_counter()
    net = torch.compile(net); net(*inputs)
    more["first_s"] = time.perf_counter() - started
    net(*inputs)
    result = timed(lambda: net(*inputs).float().numpy())
memory = peak()
""",
    "openvino": """
import openvino
started = time.perf_counter()
converted = openvino.convert_model(net, example_input=tuple(inputs))
converted.reshape({{number: list(each.shape) for number, each in enumerate(inputs)}})
request = openvino.compile_model(
    converted, "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}", "PERFORMANCE_HINT": "LATENCY"}}
).create_infer_request()
inputs = [each.numpy() for each in inputs]
request.infer(inputs)
more["first_s"] = time.perf_counter() - started
result = timed(lambda: request.infer(inputs)[0]); memory = peak()
""",
}
LAYOUTS = {
    "fp32": "(torch.contiguous_format, torch.channels_last)",
    "fp32 decode": "(torch.contiguous_format,)",  # channels-last takes the decoder three times as long
    "bf16": "(torch.channels_last,)",
}
TEXT_UNET = """dict(
    sample_size=32, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    cross_attention_dim=1280, attention_head_dim=8,
)"""

PICTURE = """
import numpy, PIL.Image
picture = PIL.Image.fromarray(numpy.random.default_rng(0).integers(0, 255, [size, size, 3], dtype="uint8"))
s = time.perf_counter()
"""
OURS_PICTURE = f"""{PADDLE}{PICTURE}
pipeline = DiffusionPipeline.from_pretrained(folder, engine="{{engine}}")
pipeline(picture, num_inference_steps=steps, eta=1)
result = [time.perf_counter() - s]; memory = peak(); more["how"] = how_all(pipeline)
"""
PEER_PICTURE = f"""
import torch
from diffusers import LDMSuperResolutionPipeline
{PICTURE}
pipeline = LDMSuperResolutionPipeline.from_pretrained(folder)
pipeline(picture, num_inference_steps=steps, eta=1)
result = [time.perf_counter() - s]; memory = peak()
"""
LOAD = """
from {package} import LDMSuperResolutionPipeline
{warm}; before = peak(); s = time.perf_counter()
LDMSuperResolutionPipeline.from_pretrained(folder)
result = [time.perf_counter() - s]; memory = peak() - before
weights = [file for kind in ("pdparams", "safetensors") for file in pathlib.Path(folder).glob("*/*." + kind)]
more["of_weights"] = memory * 2**20 / sum(file.stat().st_size for file in weights)
"""
READ = """
import paddle
from ppdiffusers import UNet2DModel
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.models.model import load_checkpoint
file = pathlib.Path(folder) / "unet" / "model_state.pdparams"
with paddle.LazyGuard():
    model = UNet2DModel.from_config(UNet2DModel.load_config(file.parent))
paddle.ones([1]); before = peak(); s = time.perf_counter()
{read}
result = [time.perf_counter() - s]; memory = peak() - before
more["file_mb"] = file.stat().st_size / 2**20
"""
FEWER_STEPS = f"""{PADDLE}
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
    more[f"{{count}}_steps{{'' if interval == 1 else '_deep_cache'}}_s"] = seconds(count, interval)
result = [seconds(20)]
"""
# Resident after 20 and after 200 pictures of one compiled pipeline.
MEMORY = f"""{PADDLE}
import numpy
picture = numpy.random.default_rng(0).random([32, 32, 3], numpy.float32)
pipeline = DiffusionPipeline.from_pretrained("ppdiffusers/ldm-super-resolution-4x-tiny")
if engine != "eager": pipeline.compile(engine)
s, marks = time.perf_counter(), {{}}
for count in range(1, 201):
    pipeline(picture, num_inference_steps=2, generator=count)
    marks[count] = status("VmRSS")
result = [time.perf_counter() - s]; memory = peak()
more.update(rss_20_mb=marks[20], rss_200_mb=marks[200], growth=marks[200] / marks[20] - 1, how=how_all(pipeline))
"""
# Training steps, of ours and of torch: `model`, `loss(model)`, then steps.
TRAIN_UNET = """dict(
    sample_size=32, in_channels=6, out_channels=3, block_out_channels=(64, 96), layers_per_block=2,
    down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=8, add_attention=False,
)"""
TRAIN_CODER = """dict(
    in_channels=3, out_channels=3, block_out_channels=(16, 48, 96), layers_per_block=1, latent_channels=3,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, sample_size=128,
    num_vq_embeddings=8192, norm_num_groups=8, mid_block_add_attention=False,
)"""
TRAIN_PUBLISHED = """dict(
    sample_size=64, in_channels=6, out_channels=3, block_out_channels=(160, 320, 320, 640), layers_per_block=2,
    down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
    up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3, attention_head_dim=32,
)"""
TRAIN_MODELS = {  # the embedded models at the batches of their recipes, the published one at one picture
    "unet": f"""
model = UNet2DModel(**{TRAIN_UNET})
x, y = randn([16, 6, 32, 32]), randn([16, 3, 32, 32])
def loss(model): return ((model(x, 3).sample - y) ** 2).mean()
""",
    "published unet": f"""
model = UNet2DModel(**{TRAIN_PUBLISHED})
x, y = randn([1, 6, 64, 64]), randn([1, 3, 64, 64])
def loss(model): return ((model(x, 3).sample - y) ** 2).mean()
""",
    "autoencoder": f"""
model = VQModel(**{TRAIN_CODER})
x = randn([8, 3, 64, 64]).clip(-1, 1)
def loss(model):
    z = model.encode(x).latents
    y = model.decode(z, force_not_quantize=True).sample
    return (y - x).abs().mean() + 0.3 * lpips(y, x).mean()
""",
}
# With random weights. torch's is as `ppdiffusers.training.losses.LPIPS`.
OURS_LPIPS = """
import numpy, tempfile
from ppdiffusers.training.losses import LPIPS, _NETWORKS
arrays, number = {}, 0
for inner, outer, size, *_ in (each for each in _NETWORKS["alex"] if not isinstance(each, str)):
    weight = numpy.random.randn(outer, inner, size, size) / (inner * size**2) ** 0.5
    arrays[f"conv{number}.weight"] = weight.astype("f4")
    arrays[f"conv{number}.bias"] = numpy.zeros(outer, "f4")
    arrays[f"head{number}"] = numpy.full(outer, 1 / outer, "f4")
    number += 1
with tempfile.TemporaryDirectory() as place:
    numpy.savez(os.path.join(place, "lpips.npz"), **arrays)
    lpips = LPIPS(os.path.join(place, "lpips.npz"))
"""
PEER_LPIPS = """
class LPIPS(torch.nn.Module):
    def __init__(self):
        super().__init__()
        shapes = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
        self.convolutions = torch.nn.ModuleList([torch.nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in shapes])
        self.requires_grad_(False)
        self.shift = torch.tensor([-0.030, -0.088, -0.188]).reshape([1, 3, 1, 1])
        self.scale = torch.tensor([0.458, 0.448, 0.450]).reshape([1, 3, 1, 1])
    def features(self, x):
        x = (x - self.shift) / self.scale
        for number, convolution in enumerate(self.convolutions):
            if number in (1, 2): x = torch.nn.functional.max_pool2d(x, 3, 2)
            x = torch.nn.functional.relu(convolution(x))
            yield x / ((x * x).sum(1, keepdim=True).add(1e-20).sqrt() + 1e-10)
    def forward(self, a, b):
        return sum(((x - y) ** 2).mean([1, 2, 3]) for x, y in zip(self.features(a), self.features(b)))
lpips = LPIPS()
"""
OURS_TRAIN = """
from ppdiffusers.layers.basic import multiplying_in
model.train()
optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())
def step():
    with multiplying_in("{precision}"): found = loss(model)
    found.backward(); optimizer.step(); optimizer.clear_grad()
    return float(found)
step(); result = timed(step); memory = peak()
"""
PEER_TRAIN = """
torch.set_grad_enabled(True)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
def step():
    with torch.autocast("cpu", torch.bfloat16, enabled="{precision}" == "bf16"): found = loss(model)
    found.backward(); optimizer.step(); optimizer.zero_grad()
    return float(found)
found = []
for layout in (torch.contiguous_format, torch.channels_last):
    model = model.to(memory_format=layout); x = x.to(memory_format=layout)
    step(); found.append(timed(step))
result = min(found, key=sum); memory = peak()
"""
OWN_LAYERS = 'os.environ["PPDIFFUSERS_ONEDNN"] = "0"\n'  # paddle's
# A call of the published U-Net by its layers, and compiled, in one precision.
EAGER_CALL = """
from ppdiffusers.layers.basic import multiplying_in
with paddle.no_grad(), multiplying_in("{precision}"):
    call(*inputs)
    result = timed(lambda: call(*inputs).numpy())
memory = peak()
"""
# A whole command with the embedded model, its start counted. The picture is made before.
COMMAND = """
import resource, subprocess, tempfile, PIL.Image
root = os.environ["PYTHONPATH"]
with tempfile.TemporaryDirectory() as scratch:
    small, large = os.path.join(scratch, "small.png"), os.path.join(scratch, "large.png")
    with PIL.Image.open(os.path.join(root, "demo", "crab.png")) as picture:
        picture.convert("RGB").resize(({width}, {height}), PIL.Image.Resampling.BICUBIC).save(small)
    options = ["--steps", "{steps}", "--engine", "{engine}", "--seed", "0"]
    s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ppdiffusers", "upscale", small, "-o", large, *options], check=True,
                   stdout=subprocess.DEVNULL)
    result = [time.perf_counter() - s]
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
"""
# Pixels times steps up to which a command with the layers alone is waited for: beyond, it takes a minute and more and
# is far from the fastest.
EAGER_UP_TO = 128 * 128 * 20


class Side(NamedTuple):
    """One side of a comparison.

    Attributes:
        program: of this module's kind.
        folder: the model in the "community" layout (`.pdparams`), as "safetensors" (of `save_pretrained`), as
            "diffusers" saves it, or "" for programs that read none.
        peer: runs in the interpreter that has torch.
    """

    program: str
    folder: str = "community"
    peer: bool = False


class Row(NamedTuple):
    """A comparison of the first side with each of the others.

    Attributes:
        repeats: within one process.
        rounds: processes a side.
        bfloat16: needs a CPU that computes in it.
        note: printed with the row.
    """

    sides: Dict[str, Side]
    repeats: int = 1
    rounds: int = 5
    bfloat16: bool = False
    note: str = ""


def model_row(kind: str, precision: str, **options: int) -> Row:
    """One call of a model, against the peers of `PEERS`."""
    ours = OURS_MODELS[kind] + OURS_CALL.format(precision=precision)
    theirs = TORCH + PEER_MODELS[kind]
    blanks = {
        "dtype": {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[precision],
        "hint": {"fp32": "f32", "bf16": "bf16"}[precision],
        "layouts": LAYOUTS.get(f"{precision} {kind}", LAYOUTS[precision]),
    }
    folders = ("", "") if kind == "text" else ("community", "diffusers")
    sides = {"ours": Side(PADDLE + ours.replace("{text_unet}", TEXT_UNET), folders[0])}
    for name, program in PEERS.items():
        whole = theirs.replace("{text_unet}", TEXT_UNET) + program.format(**blanks)
        sides[name] = Side(whole, folders[1], peer=True)
    return Row(sides, bfloat16=precision == "bf16", **options)


def picture_row(folder: str) -> Row:
    ours = Side(OURS_PICTURE.replace("{engine}", "auto"), folder)
    return Row({"ours": ours, "torch": Side(PEER_PICTURE, "diffusers", peer=True)})


def load_row(folder: str) -> Row:
    ours = LOAD.format(package="ppdiffusers", warm="import paddle; paddle.ones([1])")
    theirs = LOAD.format(package="diffusers", warm="import torch; torch.ones(1)")
    return Row({"ours": Side(ours, folder), "torch": Side(theirs, "diffusers", peer=True)})


def command_row(width: int, height: int, steps: int) -> Row:
    engines = ["auto", "eager", "onednn"]
    note = ""
    if width * height * steps > EAGER_UP_TO:
        engines.remove("eager")
        note = "eager left out: at this size it takes a minute and more"
    blanks = {"{width}": width, "{height}": height, "{steps}": steps}
    sides = {}
    for engine in engines:
        program = COMMAND.replace("{engine}", engine)
        for blank, value in blanks.items():
            program = program.replace(blank, str(value))
        sides[engine] = Side(program, "")
    return Row(sides, note=note, rounds=3)


def training_row(kind: str, precision: str) -> Row:
    """Ours against torch in the better of its layouts, and against paddle's own layers."""
    body, coder = TRAIN_MODELS[kind], kind == "autoencoder"
    ours = f"randn = paddle.randn\n{OURS_LPIPS if coder else ''}{body}{OURS_TRAIN.replace('{precision}', precision)}"
    theirs = f"from diffusers import UNet2DModel, VQModel\nrandn = torch.randn\n{PEER_LPIPS if coder else ''}{body}"
    sides = {
        "ours": Side(PADDLE + ours, ""),
        "torch": Side(TORCH + theirs + PEER_TRAIN.replace("{precision}", precision), "", peer=True),
    }
    if precision == "fp32":  # in which alone paddle computes
        sides["paddle"] = Side(OWN_LAYERS + PADDLE + ours, "")
    return Row(sides, repeats=3, rounds=2, bfloat16=precision == "bf16")


def eager_row(precision: str) -> Row:
    """The layers of the published U-Net against the compiled one."""
    eager = OURS_MODELS["unet"] + EAGER_CALL.replace("{precision}", precision)
    compiled = OURS_MODELS["unet"] + OURS_CALL.format(precision=precision)
    sides = {"layers": Side(PADDLE + eager), "compiled": Side(PADDLE + compiled)}
    return Row(sides, repeats=3, rounds=2, bfloat16=precision == "bf16")


IMPORT = "import {0}; s = time.perf_counter()\n{1}from {2} import LDMSuperResolutionPipeline\n" + (
    "result = [time.perf_counter() - s]"
)
SIZES: List[Tuple[int, int]] = [(16, 16), (32, 32), (64, 48), (96, 72), (120, 80), (256, 256), (512, 512)]


def rows(sizes: Sequence[Tuple[int, int]] = SIZES, counts: Sequence[int] = (5, 20)) -> Dict[str, Row]:
    """All of them by name.

    Args:
        sizes, counts: widths and heights of pictures, and numbers of steps, of the rows "auto".
    """
    read = "with open_checkpoint(file) as checkpoint:\n    load_checkpoint(model, checkpoint, 'float32')"
    found = {
        "import": Row(
            {
                "ours": Side(IMPORT.format("paddle", "import ppdiffusers\n", "ppdiffusers"), ""),
                "torch": Side(IMPORT.format("torch", "", "diffusers"), "", peer=True),
            }
        ),
        "load pdparams": load_row("community"),
        "load safetensors": load_row("safetensors"),
        "read": Row(
            {
                "ours": Side(READ.format(read=read)),
                "paddle.load": Side(READ.format(read="loaded = paddle.load(str(file))")),
            }
        ),
        "unet step fp32": model_row("unet", "fp32", repeats=3, rounds=2),
        "unet step bf16": model_row("unet", "bf16", repeats=3, rounds=2),
        "decode fp32": model_row("decode", "fp32", repeats=2, rounds=3),
        "decode bf16": model_row("decode", "bf16", repeats=2, rounds=3),
        "text step fp32": model_row("text", "fp32", repeats=3, rounds=2),
        "text step bf16": model_row("text", "bf16", repeats=3, rounds=2),
        "documented example pdparams": picture_row("community"),
        "documented example safetensors": picture_row("safetensors"),
        "first picture": Row({name: Side(OURS_PICTURE.replace("{engine}", name)) for name in ("auto", "eager")}),
        "fewer steps": Row({"ours": Side(FEWER_STEPS)}, rounds=2),
        **{
            f"training step {kind} {precision}": training_row(kind, precision)
            for kind in TRAIN_MODELS
            for precision in ("fp32", "bf16")
        },
        "layers fp32": eager_row("fp32"),
        "layers bf16": eager_row("bf16"),
        "memory": Row({"ours": Side(MEMORY, "")}, rounds=1),
    }
    for width, height in sizes:
        for steps in counts:
            found[f"auto {width}x{height}, {steps} steps"] = command_row(width, height, steps)
    return found
