"""Programs on an NVIDIA GPU: Paddle Inference in fp32, fp16 or bf16, and TensorRT for what it takes of a program.

No GPU with paddle was at hand: what is refused is tested, and nothing here has run on one. The calls are those that
Paddle documents for its 3.x series (paddlepaddle.org.cn/inference/v3.0, "GPU TensorRT").
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import paddle

from ppdiffusers.inference.parts import Inputs, full_shape

PRECISIONS = ("fp32", "fp16", "bf16")
_POOL = 256  # MB of GPU memory that a predictor takes at its start; it takes more as it needs it


class Sizes(NamedTuple):
    """What a TensorRT engine is built for: up to these, and fastest for half of them.

    Attributes:
        batch: pictures at once, both halves of guidance counted.
        side: of what the program is given: latents for the U-Net and the decoder, pixels for the encoder.
        length: tokens of a text.
        multiple: what every side divides by, and the least there is.
    """

    batch: int = 2
    side: int = 128
    length: int = 77
    multiple: int = 8


def require_gpu(precision: str, tensorrt: bool = False, device: int = 0) -> None:
    """
    Raises:
        ValueError: a precision that GPUs do not have here, or a machine without what is asked for; names the remedy.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown on a GPU; use {', '.join(map(repr, PRECISIONS))}")
    if not paddle.is_compiled_with_cuda():
        raise ValueError("device 'gpu': this paddle is built without CUDA; install paddlepaddle-gpu")
    count = paddle.device.cuda.device_count()
    if device not in range(count):
        raise ValueError(f"device 'gpu:{device}': paddle sees {count} GPUs, counted from 0")
    if tensorrt and importlib.util.find_spec("paddle.tensorrt") is None:
        raise ValueError("tensorrt: this paddle is built without it; install TensorRT and a paddlepaddle-gpu 3 for it")


def configure(config: Any, precision: str, device: int = 0) -> None:
    """Let a `paddle.inference.Config` run on a GPU. Inputs and outputs stay float32, whatever `precision` is."""
    from paddle.inference import PrecisionType

    kinds = {"fp32": PrecisionType.Float32, "fp16": PrecisionType.Half, "bf16": PrecisionType.Bfloat16}
    config.enable_use_gpu(_POOL, device, kinds[precision])


def shapes(inputs: Inputs, sizes: Sizes) -> Dict[str, Tuple[List[int], List[int], List[int]]]:
    """The least, the usual and the largest shape of each input, for which TensorRT builds its engines."""
    half = max(1, sizes.side // 2 // sizes.multiple) * sizes.multiple
    least, usual = (1, sizes.multiple, 1), (max(1, sizes.batch // 2), half, max(1, sizes.length // 2))
    return {
        name: (full_shape(shape, *least), full_shape(shape, *usual), full_shape(shape, *sizes[:3]))
        for name, (shape, _) in inputs.items()
    }


def with_tensorrt(program: Path, inputs: Inputs, precision: str, folder: Path) -> Tuple[Path, Path]:
    """A program, beside its parameters (`.pdiparams`), with TensorRT engines for what that takes of it.

    Returns:
        Files of the new program and its parameters, in `folder`.
    """
    from paddle import tensorrt  # of paddlepaddle-gpu 3 alone

    described = [
        tensorrt.Input(
            min_input_shape=least, optim_input_shape=usual, max_input_shape=most,
            input_data_type=inputs[name][1], name=name,
        )
        for name, (least, usual, most) in shapes(inputs, Sizes()).items()
    ]  # fmt: skip
    target = folder / "tensorrt" / program.stem  # not over the program itself
    target.parent.mkdir()
    mode = getattr(tensorrt.PrecisionMode, precision.upper())
    tensorrt.convert(
        str(program), tensorrt.TensorRTConfig(inputs=described, precision_mode=mode, save_model_dir=str(target))
    )
    return target.with_suffix(".json"), target.with_suffix(".pdiparams")
