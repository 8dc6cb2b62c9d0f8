"""The checks of `gpu_check.py`: each a function of the device that returns what it found, or raises."""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
from typing import Any, Callable, Dict, List, Tuple, Union
from unittest import mock

import numpy as np
from gpu_check_subjects import (
    Skip,
    Transfers,
    compared,
    difference,
    evaluated,
    full_float32,
    gpu_only,
    made,
    needs_engine,
    on_cpu,
    ready,
    require,
    results,
    timed,
    transfers,
)

Check = Callable[[str], str]
Function = Callable[..., str]
CHECKS: List[Tuple[str, str, Check]] = []  # section, name, function


def check(section: str, names: Union[str, Dict[str, Tuple[Any, ...]]]) -> Callable[[Function], Function]:
    """Add a function to `CHECKS`, under one name, or under several, each with what it is given behind the device."""

    def add(function: Function) -> Function:
        for name, arguments in ({names: ()} if isinstance(names, str) else names).items():
            CHECKS.append((section, name, lambda device, given=arguments: function(device, *given)))
        return function

    return add


# Environment


@check("environment", "versions")
def versions(device: str) -> str:
    import numpy
    import paddle

    import ppdiffusers

    cuda, cudnn = paddle.version.cuda(), paddle.version.cudnn()
    build = f"CUDA {cuda}, cuDNN {cudnn}" if str(cuda) != "False" else "without CUDA"
    return (
        f"paddle {paddle.__version__} ({build}), ppdiffusers {ppdiffusers.__version__}, numpy {numpy.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )


@check("environment", "device")
def device_found(device: str) -> str:
    import paddle

    from ppdiffusers.inference import gpu
    from ppdiffusers.threads import get_num_threads

    if on_cpu(device):
        return f"CPU, {get_num_threads()} threads"
    number = int(device.partition(":")[2] or 0)
    gpu.require_gpu("fp32", device=number)
    paddle.set_device(device)
    require(float(paddle.ones([2]).sum()) == 2, "1 + 1 is not 2")
    found = paddle.device.cuda.get_device_properties(number)
    memory = found.total_memory / 2**30
    return f"{found.name}, compute capability {found.major}.{found.minor}, {memory:.0f} GiB"


@check("environment", "driver")
def driver(device: str) -> str:
    gpu_only(device)
    if shutil.which("nvidia-smi") is None:
        raise Skip("there is no nvidia-smi here")
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split("\n")
    return "; ".join(line for line in lines if line)


# Pipelines


@check(
    "pipelines",
    {
        "super-resolution, embedded model": ("super-resolution",),
        "text-to-image, random weights, guided": ("text-to-image",),
        "unconditional, random weights, a batch of two": ("unconditional",),
    },
)
def whole(device: str, name: str) -> str:
    pipeline, arguments, options = made(name, device, on_cpu(device))
    images = pipeline(*arguments, **options).images
    require(images[0].size[0] > 8, f"a picture of {images[0].size}")
    spread = max(high - low for low, high in images[0].getextrema())
    require(spread > 2, "a picture without contrast")
    width, height = images[0].size
    return f"{len(images)} of {width}x{height} in {options['num_inference_steps']} steps on {pipeline.device}"


@check("pipelines", "paddle's fused attention is what runs")
def fused_runs(device: str) -> str:
    """In self-attention, cross-attention and the decoder, on a GPU; on a CPU nowhere."""
    from ppdiffusers.layers import attention

    counted: Dict[str, int] = {}
    for name in ("text-to-image", "unconditional"):
        pipeline, arguments, options = made(name, device, on_cpu(device))
        with mock.patch.object(attention, "attend_fused", side_effect=attention.attend_fused) as fused:
            pipeline(*arguments, **options)
        counted[name] = fused.call_count
    wanted = all(counted.values()) if not on_cpu(device) else not any(counted.values())
    require(wanted, f"calls of it: {counted}")
    return "calls of it: " + ", ".join(f"{name} {count}" for name, count in counted.items())


@check(
    "pipelines",
    {
        "no host round trip, super-resolution": ("super-resolution", 0.0),
        "no host round trip, text-to-image": ("text-to-image", 0.0),
        "no host round trip, with noise at each step": ("unconditional", 1.0),
    },
)
def round_trips(device: str, name: str, eta: float) -> str:
    """Of the layers, with the scheduler."""
    import paddle

    with Transfers() as control:
        tensor = paddle.ones([])
        for read in (float, int, bool, np.asarray, lambda x: x.numpy(), lambda x: x.item(), lambda x: x.tolist()):
            read(tensor)
    require(sum(control.down.values()) == 7, f"the count itself is wrong: {dict(control.down)}")
    pipeline, arguments, options = made(name, device, on_cpu(device))
    counted, number = transfers(pipeline, *arguments, **options, eta=eta)
    require(not counted.down, f"in {number} steps: {dict(counted.down)}")
    return f"no read in {number} steps; {counted.up / number:g} small tensors from the host a step"


# Engines


@check(
    "engines",
    {
        "the layers, one by one": ("eager", "fp32", False),
        "Paddle Inference, fp32": ("inference", "fp32", False),
        "Paddle Inference, fp16": ("inference", "fp16", False),
        "Paddle Inference, bf16": ("inference", "bf16", False),
        "TensorRT, fp32": ("inference", "fp32", True),
        "TensorRT, fp16": ("inference", "fp16", True),
    },
)
def engine(device: str, kind: str, precision: str, tensorrt: bool) -> str:
    """The embedded U-Net and decoder, against their layers on the CPU."""
    import paddle

    from ppdiffusers.inference import compile_model
    from ppdiffusers.inference.engines import TOLERANCES, Setup

    needs_engine(device, kind, precision, tensorrt)
    side = 8 if on_cpu(device) else 32
    paddle.seed(0)
    inputs = {"unet": paddle.randn([1, 6, side, side]).numpy(), "vqvae": paddle.randn([1, 3, side, side]).numpy()}

    def outputs(where: str, **settings: Any) -> Tuple[Dict[str, Any], List[str]]:
        found, ran = {}, []
        for name, model in made("super-resolution", where, True)[0].components.items():
            if name not in inputs:
                continue
            compiled = compile_model(model, device=where, **settings) if settings else model
            call = (lambda x: compiled(x, 7)) if name == "unet" else compiled.decode  # noqa: B023
            with paddle.no_grad():
                found[name] = call(paddle.to_tensor(inputs[name])).sample.astype("float32").numpy()
            if settings:
                told = [text for text in compiled.describe().values() if "not called" not in text]
                ran += [f"{name}: {text}" for text in told]
        return found, ran

    with full_float32(device):
        settings = {"engine": kind, "precision": precision, "tensorrt": tensorrt} if kind != "eager" else {}
        got, ran = outputs(device, **settings)
        wanted, _ = outputs("cpu")
    worst = {name: difference(wanted[name], got[name]) for name in inputs}
    told = ", ".join(f"{name} off by {value:.1e}" for name, value in worst.items())
    if settings:
        number = None if on_cpu(device) else int(device.partition(":")[2] or 0)
        expected = str(Setup("inference", precision, gpu=number, tensorrt=tensorrt))
        require(all(text.endswith(expected) for text in ran), f"ran in {'; '.join(ran)}; {told}")
    require(max(worst.values()) <= TOLERANCES[precision][0], told)
    return told + (f"; ran in {expected}" if settings else "")


# Training


@check(
    "training",
    {
        "steps of the embedded U-Net's architecture": (False,),
        "the same in automatic mixed precision, fp16": (True,),
    },
)
def training(device: str, mixed: bool) -> str:
    """AdamW on one batch: the loss falls, every gradient is finite; the first step is that of the CPU."""
    import paddle

    from ppdiffusers import UNet2DModel

    if mixed:
        gpu_only(device)
    batch, side = (1, 8) if on_cpu(device) else (8, 32)
    draw = np.random.default_rng(0)
    arrays = [draw.standard_normal([batch, channels, side, side]).astype("float32") for channels in (6, 3)]
    config = made("super-resolution", "cpu", True)[0].unet.config

    def train(where: str, count: int, mixed: bool = False) -> Tuple[List[float], Any]:
        paddle.set_device("cpu")
        paddle.seed(0)
        model = UNet2DModel.from_config(config)  # from the CPU's generator, so that both begin alike
        paddle.set_device(where)
        model.to(device=where)
        model.train()
        optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
        scaler = paddle.amp.GradScaler(enable=mixed, init_loss_scaling=1024)
        x, y = map(paddle.to_tensor, arrays)
        losses, gradient = [], None
        for _ in range(count):
            with paddle.amp.auto_cast(enable=mixed, dtype="float16"):
                loss = ((model(x, 3).sample.astype("float32") - y) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            if gradient is None:
                gradient = np.concatenate([each.grad.astype("float32").numpy().ravel() for each in model.parameters()])
            scaler.step(optimizer)
            scaler.update()
            optimizer.clear_grad()
            losses.append(float(loss))
        return losses, gradient

    with full_float32(device):
        losses, gradient = train(device, 2 if on_cpu(device) else 5, mixed)
        (wanted, *_), cpu_gradient = train("cpu", 1)
    require(np.isfinite(gradient).all() and np.isfinite(losses).all(), f"not finite; losses {losses}")
    off = float(np.linalg.norm(gradient - cpu_gradient) / np.linalg.norm(cpu_gradient))
    told = f"losses {' '.join(f'{loss:.4f}' for loss in losses)}; first gradient off the CPU's by {off:.1e}"
    require(losses[-1] < losses[0], told)
    require(abs(losses[0] - wanted) < (1e-2 if mixed else 1e-4) and off < (5e-2 if mixed else 1e-3), told)
    return told


# Numerics


@check(
    "numerics",
    {
        "attention, float32": ("float32", 1e-5),
        "attention, float16": ("float16", 5e-3),
        "attention, bfloat16": ("bfloat16", 4e-2),
    },
)
def attention(device: str, dtype: str, bound: float) -> str:
    """paddle's operator against the layers' own blocks on the CPU in float32: self-attention, cross-attention over 77
    tokens, and the one wide head of an autoencoder, which flash attention does not take."""
    import paddle

    from ppdiffusers.layers.attention import attend, attend_fused

    if dtype != "float32":
        gpu_only(device)
    worst = {}
    for shapes in (((2, 8, 256, 40), 256), ((2, 8, 256, 40), 77), ((1, 1, 256, 512), 256)):
        (batch, heads, length, width), keys = shapes
        paddle.set_device("cpu")
        paddle.seed(0)
        given = [paddle.randn([batch, heads, count, width]) for count in (length, keys, keys)]
        given = [each.astype(dtype).astype("float32") for each in given]
        wanted = attend(*given).numpy()
        paddle.set_device(device)
        with full_float32(device), paddle.no_grad():
            # On a CPU the operator has only the layout to get wrong, on a GPU also its kernels.
            got = attend_fused(*(paddle.to_tensor(each.numpy()).astype(dtype) for each in given))
        worst[f"{length}x{keys} of {width}"] = difference(wanted, got.astype("float32").numpy())
    told = ", ".join(f"{name}: {value:.1e}" for name, value in worst.items())
    require(max(worst.values()) <= bound, told)
    return told


@check(
    "numerics",
    {
        "super-resolution, float32": ("super-resolution", True),
        "text-to-image, float32": ("text-to-image", True),
        "unconditional, float32": ("unconditional", True),
        "super-resolution, TF32 where paddle takes it": ("super-resolution", False),
    },
)
def against_cpu(device: str, name: str, full: bool) -> str:
    """Same seed. A latent near the border of two codes of a VQModel may change a spot of the picture by more."""
    if not full:
        gpu_only(device)
    with full_float32(device) if full else contextlib.nullcontext():
        got = results(name, device, on_cpu(device))
    wanted = results(name, "cpu", on_cpu(device))
    return compared(wanted, got, 1e-3 if full else 5e-2, 1e-3 if full else 5e-2)


@check(
    "numerics",
    {
        "super-resolution, fp16 weights to fp32": ("super-resolution",),
        "text-to-image, fp16 weights to fp32": ("text-to-image",),
    },
)
def half(device: str, name: str) -> str:
    """On the device. Later steps see the noise of earlier ones, so that bounds are wide."""
    return compared(*(results(name, device, on_cpu(device), dtype) for dtype in (None, "float16")), 0.1, 0.2)


# Speed


@check(
    "speed",
    {
        "embedded model, layers, fp32": ("eager", "fp32", False),
        "embedded model, layers, fp16 weights": ("eager", "fp16", False),
        "embedded model, Paddle Inference, fp32": ("inference", "fp32", False),
        "embedded model, Paddle Inference, fp16": ("inference", "fp16", False),
        "embedded model, TensorRT, fp16": ("inference", "fp16", True),
    },
)
def speed(device: str, kind: str, precision: str, tensorrt: bool) -> str:
    if kind == "eager" and precision == "fp16":
        gpu_only(device)
    needs_engine(device, kind, precision, tensorrt)
    side = 16 if on_cpu(device) else 128
    pipeline, _, _ = made("super-resolution", device, on_cpu(device))
    if kind == "eager" and precision == "fp16":
        pipeline.to("float16")
    if kind != "eager":
        pipeline.compile(kind, precision, device, tensorrt)
    return timed(pipeline, device, side)


@check(
    "speed",
    {
        "published architecture, layers, fp32": ("float32",),
        "published architecture, layers, fp16 weights": ("float16",),
    },
)
def published_speed(device: str, dtype: str) -> str:
    import paddle

    from ppdiffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel

    gpu_only(device)
    from real_architecture import UNET, VQVAE

    paddle.set_device("cpu")
    models = {"unet": UNet2DModel.from_config(UNET), "vqvae": VQModel.from_config(VQVAE)}
    pipeline = LDMSuperResolutionPipeline(**models, scheduler=DDIMScheduler(clip_sample=False))
    for model in models.values():
        evaluated(model)
    ready(pipeline, device).to(dtype)
    return timed(pipeline, device, 128)
