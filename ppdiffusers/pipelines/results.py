"""What goes into a pipeline and what comes out of it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, Iterator, List, Optional, Union

import numpy as np
import paddle
from PIL import Image

from ppdiffusers.outputs import Output


@dataclasses.dataclass
class ImagePipelineOutput(Output):
    """`images`: a list of PIL images, or an array `[B, H, W, C]` in [0, 1] (a list of them where sizes differ)."""

    images: Union[List[Image.Image], np.ndarray, List[np.ndarray], paddle.Tensor, List[paddle.Tensor]]


@dataclasses.dataclass
class DenoisingProgress:
    """Where a running pipeline is, after step `step` (counted from 1) of `total`.

    `latents` are the current ones, `[B, C, h, w]`. `output` is None until the last step, which
    carries the pipeline's result.
    """

    step: int
    total: int
    timestep: float
    latents: paddle.Tensor
    output: Any = None


@contextlib.contextmanager
def memory_for(latents: paddle.Tensor, pixels: int) -> Iterator[None]:
    """Turns what paddle says where memory is short into one sentence.

    Args:
        pixels: of the picture, for a latent, along one side.

    Raises:
        MemoryError: there is not enough for these latents.
    """
    try:
        yield
    except MemoryError:
        count, _, height, width = latents.shape
        raise MemoryError(
            f"memory does not suffice for {count} picture{'s' if count > 1 else ''} of {pixels * width}x"
            f"{pixels * height} pixels (latents {width}x{height}); make smaller ones, or fewer at once"
        ) from None


def check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive int, not {value!r}")


def check_latents(latents: Any, shape: List[int]) -> paddle.Tensor:
    """Latents that a user handed in, as float32.

    Raises:
        TypeError: no array of numbers.
        ValueError: another shape, NaN or infinite values.
    """
    tensor = latents
    if not isinstance(tensor, paddle.Tensor):
        try:
            tensor = paddle.to_tensor(np.asarray(latents, dtype=np.float32))
        except (TypeError, ValueError):
            raise TypeError(f"latents must be an array of numbers {shape}, not a {type(latents).__name__}") from None
    if list(tensor.shape) != shape:
        raise ValueError(f"latents have shape {list(tensor.shape)}; this call needs {shape}")
    tensor = tensor.astype("float32")
    if not bool(paddle.isfinite(tensor).all()):
        raise ValueError("latents hold NaN or infinite values; give finite noise, or leave latents out")
    return tensor


def to_output(images: Any, output_type: str, return_dict: bool, greys: Optional[List[bool]] = None) -> Any:
    """`[H, W, C]` arrays in [0, 1], or latents, as the caller wants them."""
    from ppdiffusers.images import to_pil

    result: Any
    if output_type in ("latent", "rows"):
        result = images
    elif output_type == "pil":
        result = [to_pil(image, grey) for image, grey in zip(images, greys or [False] * len(images))]
    else:
        if output_type == "pd":
            images = [image.transpose(2, 0, 1) for image in images]
        same = len({image.shape for image in images}) == 1
        result = np.stack(images) if same else images
        if output_type == "pd":
            result = paddle.to_tensor(result) if same else [paddle.to_tensor(image) for image in images]
    return ImagePipelineOutput(images=result) if return_dict else (result,)


OUTPUT_TYPES = ("pil", "np", "pd", "latent")


def check_output_type(output_type: str) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type {output_type!r} is not one of {', '.join(map(repr, OUTPUT_TYPES))}")
