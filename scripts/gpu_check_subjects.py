"""What `gpu_check.py` checks: pipelines small enough for a CPU to try the script, larger on a GPU, and measures."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections import Counter
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple
from unittest import mock

import numpy as np

EMBEDDED = "ppdiffusers/ldm-super-resolution-4x-tiny"


class Skip(Exception):
    """A check that does not apply; the message says why."""


def require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def on_cpu(device: str) -> bool:
    return device == "cpu"


def gpu_only(device: str) -> None:
    if on_cpu(device):
        raise Skip("for GPUs only")


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def needs_engine(device: str, kind: str, precision: str, tensorrt: bool) -> None:
    """
    Raises:
        Skip: this paddle or device does not have it.
    """
    import paddle

    if kind != "eager" and not hasattr(paddle, "pir_utils"):
        raise Skip(f"programs are written by paddle 3, not by {paddle.__version__}")
    if precision != "fp32" or tensorrt:
        gpu_only(device)
    if tensorrt and not has_module("paddle.tensorrt"):
        raise Skip("this paddle is built without paddle.tensorrt")
    if tensorrt and not has_module("tensorrt"):
        raise Skip("TensorRT is not installed: pip install tensorrt")


def steps(small: bool) -> int:
    return 4 if small else 20


def picture(side: int) -> Any:
    """`[side, side, 3]` in [0, 1], with slopes and edges."""
    y, x = np.mgrid[:side, :side] / side
    return np.stack([x, y, (x * 4 % 1 > 0.5) * 0.8], axis=2).astype("float32")


def made(name: str, device: str, small: bool) -> Tuple[Any, Tuple[Any, ...], Dict[str, Any]]:
    """A pipeline with its weights on `device`, which are the same on every device, and arguments of its call."""
    import paddle

    paddle.set_device("cpu")  # whose generator draws the weights
    paddle.seed(0)
    pipeline, arguments, options = PIPELINES[name](small)
    options = {"num_inference_steps": steps(small), "generator": 0, **options}
    return ready(pipeline, device), arguments, options


def ready(pipeline: Any, device: str) -> Any:
    """On the device; really."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    for name, component in pipeline.components.items():
        for parameter in getattr(component, "parameters", list)():
            place = parameter.place
            require(
                place.is_cpu_place() if on_cpu(device) else place.is_gpu_place(), f"a weight of {name} is on {place}"
            )
    return pipeline


def super_resolution(small: bool) -> Any:
    from ppdiffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(EMBEDDED, engine="eager"), (picture(16 if small else 64),), {}


def unconditional(small: bool) -> Any:
    from ppdiffusers import DDIMScheduler, LDMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=8 if small else 32, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    models = map(evaluated, (vqvae(), unet))
    return LDMPipeline(*models, DDIMScheduler(clip_sample=False)), (2,), {}


def text_to_image(small: bool) -> Any:
    from ppdiffusers import DDIMScheduler, LDMBertModel, LDMTextToImagePipeline, UNet2DConditionModel

    bert = LDMBertModel(
        vocab_size=64, encoder_layers=2, d_model=32, encoder_ffn_dim=64, encoder_attention_heads=2, head_dim=16
    )
    unet = UNet2DConditionModel(
        sample_size=8 if small else 32, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
    )  # fmt: skip
    coder, bert, unet = map(evaluated, (vqvae(latent_channels=4), bert, unet))
    pipeline = LDMTextToImagePipeline(coder, bert, Letters(), unet, DDIMScheduler(clip_sample=False))
    return pipeline, ("a crab",), {"guidance_scale": 5.0}


PIPELINES: Dict[str, Callable[[bool], Any]] = {
    "super-resolution": super_resolution,
    "text-to-image": text_to_image,
    "unconditional": unconditional,
}


def vqvae(**config: int) -> Any:
    from ppdiffusers import VQModel

    two = {"block_out_channels": (32, 64), "layers_per_block": 1, "num_vq_embeddings": 64}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return VQModel(**two, **blocks, **config)


def evaluated(model: Any) -> Any:
    model.eval()
    return model


class Letters:
    """A tokenizer, called as those of paddlenlp and transformers are, that numbers letters."""

    def __call__(self, texts: Sequence[str], padding: str, max_length: int, truncation: bool) -> Dict[str, Any]:
        rows = [[1, *(5 + ord(letter) % 50 for letter in text[: max_length - 2]), 2] for text in texts]
        return {"input_ids": [(row + [0] * max_length)[:max_length] for row in rows]}


def results(name: str, device: str, small: bool, dtype: Optional[str] = None) -> Tuple[Any, Any]:
    """Latents and pictures of a pipeline on `device`, as float64 arrays; the pictures in levels of 0 to 255."""
    pipeline, arguments, options = made(name, device, small)
    if dtype is not None:
        pipeline.to(dtype)
    latents = pipeline(*arguments, **options, output_type="latent").images
    pictures = pipeline(*arguments, **options, output_type="np").images
    latents = np.asarray(latents.astype("float32").numpy(), np.float64)
    levels = np.round(np.asarray(pictures, np.float64) * 255)
    require(np.isfinite(latents).all() and np.isfinite(levels).all(), "not all values are finite")
    return latents, levels


@contextlib.contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Products and convolutions of a GPU in float32 and not in TF32, whose mantissa has 10 bits."""
    from paddle.base import core

    switches = [] if on_cpu(device) else ["cublas", "cudnn"]
    before = {name: getattr(core, f"get_{name}_switch")() for name in switches}
    for name in switches:
        getattr(core, f"set_{name}_switch")(False)
    try:
        yield
    finally:
        for name, value in before.items():
            getattr(core, f"set_{name}_switch")(value)


def difference(wanted: Any, got: Any) -> float:
    """Largest difference over the largest value."""
    wanted, got = (np.asarray(each, np.float64) for each in (wanted, got))
    require(wanted.shape == got.shape, f"shapes {wanted.shape} and {got.shape}")
    return float(np.abs(wanted - got).max() / np.abs(wanted).max())


def compared(wanted: Tuple[Any, Any], got: Tuple[Any, Any], bound: float, share: float) -> str:
    """
    Args:
        bound: of the latents, largest difference over largest value.
        share: of the 8-bit values, how many may differ by more than 2 levels.
    """

    latents = difference(wanted[0], got[0])
    levels = np.abs(wanted[1] - got[1])
    far = float((levels > 2).mean())
    told = f"latents off by {latents:.1e}, 8-bit values by {levels.max():.0f} at most, {far:.2%} by more than 2"
    require(latents <= bound and far <= share, told)
    return told


def wait(device: str) -> None:
    """Until the GPU has done all that was asked of it."""
    import paddle

    if not on_cpu(device):
        paddle.device.cuda.synchronize()


class Transfers:
    """Counts copies between the device and the host while it is entered.

    Attributes:
        down: reads of a tensor by the host, each of which waits for the GPU.
        up: tensors made from the host's values.
    """

    READS = ("numpy", "item", "tolist", "cpu", "__array__", "__float__", "__int__", "__bool__", "__index__")

    def __init__(self) -> None:
        self.down: Counter = Counter()
        self.up = 0
        self._inside = threading.local()  # one read may be made of others

    def __enter__(self) -> Transfers:
        import paddle

        self._patches = contextlib.ExitStack()
        for name in self.READS:
            self._patches.enter_context(mock.patch.object(paddle.Tensor, name, self._counted(name)))
        made = mock.patch.object(paddle, "to_tensor", side_effect=self._uploaded(paddle.to_tensor))
        self._patches.enter_context(made)
        return self

    def __exit__(self, *error: Any) -> None:
        self._patches.close()

    def _counted(self, name: str) -> Callable[..., Any]:
        import paddle

        original = getattr(paddle.Tensor, name)

        def read(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "read", False):
                return original(tensor, *args, **kwargs)
            self.down[name] += 1
            self._inside.read = True
            try:
                return original(tensor, *args, **kwargs)
            finally:
                self._inside.read = False

        return read

    def _uploaded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            self.up += 1
            return original(*args, **kwargs)

        return make


def transfers(pipeline: Any, *arguments: Any, **options: Any) -> Tuple[Transfers, int]:
    """What the steps between the first and the last copy, and their number."""
    stream = pipeline.stream(*arguments, **options)
    progress = next(stream)
    begun, counted = progress.step, Transfers()
    with counted:
        while progress.step < progress.total - 1:
            progress = next(stream)
    stream.close()
    return counted, progress.step - begun


def timed(pipeline: Any, device: str, side: int) -> str:
    """The second call, after one that warms up."""
    count = steps(on_cpu(device))
    small = picture(side)
    pipeline(small, num_inference_steps=count, generator=0)
    stream = pipeline.stream(small, num_inference_steps=count, generator=0, output_type="np")
    wait(device)
    begun, marks = time.perf_counter(), []
    for progress in stream:
        if progress.step in (1, count - 1) or progress.output is not None:
            wait(device)
            marks.append(time.perf_counter())
    whole = marks[-1] - begun
    step = (marks[1] - marks[0]) / (count - 2)
    memory = "" if on_cpu(device) else f", {_memory():.0f} MiB at most"
    return f"{side}x{side}: {step:.4f} s a step, {1 / whole:.2f} pictures a second in {count} steps{memory}"


def _memory() -> float:
    import paddle

    return paddle.device.cuda.max_memory_allocated() / 2**20
