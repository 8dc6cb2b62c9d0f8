"""What users write for a device and a type."""

from __future__ import annotations

import warnings
from typing import Any, Optional, Tuple

import paddle

from ppdiffusers.models.model import dtype_name


def read_to(args: Tuple[Any, ...], device: Any, dtype: Any) -> Tuple[Optional[str], Optional[str]]:
    """Device and type of the arguments of a `to`, each in any place.

    Raises:
        TypeError, ValueError: none of both, or a GPU that this machine does not have.
    """
    for argument in args:
        if argument is None:
            continue
        name = _dtype(argument)
        if name is not None and dtype is None:
            dtype = name
        elif name is None and device is None:
            device = argument
        else:
            raise TypeError(f"to() takes one device and one type; {argument!r} is one more")
    return (None if device is None else read_device(device)), (None if dtype is None else dtype_name(dtype))


def _dtype(value: Any) -> Optional[str]:
    try:
        return dtype_name(value)
    except ValueError:
        return None


def read_device(device: Any) -> Optional[str]:
    """ "cpu" or "gpu:N" as `paddle.set_device` takes them; None, with a warning, for a GPU in a paddle without CUDA.

    Raises:
        ValueError: neither, or a GPU that this machine does not have.
    """
    if hasattr(device, "is_cpu_place"):
        name = "cpu" if device.is_cpu_place() else f"gpu:{device.gpu_device_id()}"
    elif hasattr(device, "get_device_id"):  # paddle.CUDAPlace
        name = f"gpu:{device.get_device_id()}"
    elif isinstance(device, paddle.CPUPlace):
        name = "cpu"
    else:
        name = str(device).replace("cuda", "gpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "gpu") or (number and (kind == "cpu" or not number.isdigit())):
        raise ValueError(f"{device!r} is neither a device nor a type; use 'cpu', 'gpu', 'gpu:1', 'float32', 'float16'")
    if kind == "cpu":
        return "cpu"
    if not paddle.is_compiled_with_cuda():
        warnings.warn(
            f"this paddle is built without CUDA, so .to({device!r}) stays on the CPU; install paddlepaddle-gpu",
            stacklevel=4,
        )
        return None
    count = paddle.device.cuda.device_count()
    if int(number or 0) >= count:
        raise ValueError(f"device {device!r}: paddle sees {count} GPUs, counted from 0")
    return f"gpu:{int(number or 0)}"
