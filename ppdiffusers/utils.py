"""Helpers under the names that code for ppdiffusers 0.29 and diffusers imports from `utils`."""

from __future__ import annotations

import importlib.util
import io
import logging as _logging
import os
import warnings
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Union

import numpy as np
from PIL import Image, ImageOps

from ppdiffusers.aliases import answer_to
from ppdiffusers.models.model import PICKLED_WEIGHTS as PADDLE_WEIGHTS_NAME
from ppdiffusers.models.model import SAFE_WEIGHTS as PADDLE_SAFETENSORS_WEIGHTS_NAME
from ppdiffusers.outputs import Output as BaseOutput
from ppdiffusers.random import randn_tensor
from ppdiffusers.version import __version__

__all__ = [
    "CONFIG_NAME",
    "PADDLE_SAFETENSORS_WEIGHTS_NAME",
    "PADDLE_WEIGHTS_NAME",
    "PIL_INTERPOLATION",
    "TORCH_SAFETENSORS_WEIGHTS_NAME",
    "TORCH_WEIGHTS_NAME",
    "BaseOutput",
    "check_min_version",
    "deprecate",
    "enable_full_determinism",
    "export_to_gif",
    "floats_tensor",
    "get_logger",
    "image_grid",
    "load_image",
    "load_numpy",
    "logger",
    "make_image_grid",
    "numpy_to_pil",
    "pd_to_pil",
    "pt_to_pil",
    "randn_tensor",
]

CONFIG_NAME = "config.json"
TORCH_SAFETENSORS_WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
TORCH_WEIGHTS_NAME = "diffusion_pytorch_model.bin"
PIL_INTERPOLATION = {
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
PATIENCE = 60  # seconds that an address may be silent
logger = _logging.getLogger("ppdiffusers")
DEBUG, INFO, WARNING, ERROR = _logging.DEBUG, _logging.INFO, _logging.WARNING, _logging.ERROR


def get_logger(name: Optional[str] = None) -> _logging.Logger:
    """Python's logger of that name; without one, the package's."""
    return _logging.getLogger(name or "ppdiffusers")


def set_verbosity(level: int) -> None:
    """Show messages of the package from this level of Python's `logging` on."""
    logger.setLevel(level)


def set_verbosity_info() -> None:
    set_verbosity(INFO)


def set_verbosity_error() -> None:
    set_verbosity(ERROR)


def load_image(
    image: Union[str, os.PathLike[str], Image.Image],
    convert_method: Optional[Callable[[Image.Image], Image.Image]] = None,
) -> Image.Image:
    """A picture of a file, of an http(s) address, or as it is: upright, in RGB.

    Args:
        convert_method: what is done to it instead of the change to RGB.

    Raises:
        ValueError: neither a file nor an address, or no picture there.
        requests.RequestException: the address does not answer, or not with a file.
    """
    if not isinstance(image, Image.Image):
        name = os.fspath(image)
        if name.startswith(("http://", "https://")):
            import requests

            answer = requests.get(name, timeout=PATIENCE)
            answer.raise_for_status()
            source: Any = io.BytesIO(answer.content)
        elif Path(name).is_file():
            source = name
        else:
            raise ValueError(f"{name} is neither a file nor an http(s) address; give one of them, or a PIL image")
        try:
            image = Image.open(source)
        except OSError as error:
            raise ValueError(f"{name} holds no picture ({error})") from None
    upright = ImageOps.exif_transpose(image)
    return upright.convert("RGB") if convert_method is None else convert_method(upright)


def make_image_grid(images: Sequence[Image.Image], rows: int, cols: int, resize: Optional[int] = None) -> Image.Image:
    """Pictures of one size side by side, row by row.

    Args:
        resize: width and height that each is brought to.

    Raises:
        ValueError: another number of pictures than rows times cols.
    """
    if len(images) != rows * cols:
        raise ValueError(f"{len(images)} pictures do not fill {rows} rows of {cols}")
    images = [image.resize((resize, resize)) for image in images] if resize else list(images)
    width, height = images[0].size
    grid = Image.new("RGB", size=(cols * width, rows * height))
    for index, image in enumerate(images):
        grid.paste(image, box=(index % cols * width, index // cols * height))
    return grid


image_grid = make_image_grid


def numpy_to_pil(images: np.ndarray) -> List[Image.Image]:
    """Of arrays `[B, H, W, C]` or `[H, W, C]` in [0, 1]."""
    from ppdiffusers.images import to_pil

    images = images[None] if images.ndim == 3 else images
    return [to_pil(np.asarray(image, np.float32), image.shape[-1] == 1) for image in images]


def pd_to_pil(images: Any) -> List[Image.Image]:
    """Of tensors `[B, C, H, W]` in [-1, 1]."""
    return numpy_to_pil((images / 2 + 0.5).clip(0, 1).transpose([0, 2, 3, 1]).astype("float32").numpy())


pt_to_pil = pd_to_pil


def export_to_gif(images: Sequence[Image.Image], output_gif_path: Optional[str] = None, fps: int = 10) -> str:
    """Write pictures as an endless animation; returns where."""
    import tempfile

    if output_gif_path is None:
        handle, output_gif_path = tempfile.mkstemp(suffix=".gif")
        os.close(handle)
    first, *rest = images
    first.save(output_gif_path, save_all=True, append_images=rest, duration=1000 // fps, loop=0)
    return output_gif_path


def load_numpy(arry: Union[str, np.ndarray], local_path: Optional[str] = None) -> np.ndarray:
    """An array of a `.npy` file or of its http(s) address, or as it is."""
    if isinstance(arry, np.ndarray):
        return arry
    if arry.startswith(("http://", "https://")):
        import requests

        answer = requests.get(arry, timeout=PATIENCE)
        answer.raise_for_status()
        return np.load(io.BytesIO(answer.content))
    return np.load(Path(local_path or "") / arry)


def floats_tensor(shape: Sequence[int], scale: float = 1.0, rng: Any = None, name: Optional[str] = None) -> Any:
    """A float32 tensor of numbers in [0, scale) by Python's `random.Random`."""
    import random

    import paddle

    source = rng or random.Random()
    values = [source.random() * scale for _ in range(int(np.prod(shape)))]
    return paddle.to_tensor(np.array(values, np.float32).reshape(shape))


def enable_full_determinism(seed: int = 0) -> None:
    """Start every generator at `seed`, and have Paddle choose deterministic kernels."""
    import paddle

    from ppdiffusers.training_utils import set_seed

    set_seed(seed)
    if paddle.is_compiled_with_cuda():
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})


def deprecate(*args: Any, take_from: Any = None, standard_warn: bool = True, stacklevel: int = 2) -> Any:
    """Warn of names (attribute, version in which it goes, message), and take them out of a dict of arguments."""
    values = []
    for attribute, version, message in [args] if not isinstance(args[0], tuple) else args:
        if isinstance(take_from, dict):
            if attribute not in take_from:
                continue
            values.append(take_from.pop(attribute))
        text = f"`{attribute}` is deprecated and will be removed in version {version}. " if standard_warn else ""
        warnings.warn(text + message, FutureWarning, stacklevel=stacklevel)
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def check_min_version(min_version: str) -> None:
    """Code for other releases asks for theirs; this package's own numbers say nothing about it, so it passes."""
    logger.debug("check_min_version(%r) passes: this is release %s of another package", min_version, __version__)


def replace_example_docstring(example_docstring: str) -> Callable[[Any], Any]:
    """A decorator that leaves a function as it is."""
    return lambda function: function


def __getattr__(name: str) -> Any:
    """`is_X_available` of any package X."""
    if name.startswith("is_") and name.endswith("_available"):
        package = {"onnx": "onnxruntime", "ppxformers": "", "safetensors": "safetensors"}.get(name[3:-10], name[3:-10])
        return lambda: bool(package) and importlib.util.find_spec(package) is not None
    raise AttributeError(f"module 'ppdiffusers.utils' has no attribute {name!r}; it has {', '.join(__all__)}")


answer_to(
    __name__, "paddle_utils", "torch_utils", "testing_utils", "import_utils", "pil_utils", "loading_utils", "outputs",
    "constants", "deprecation_utils", "doc_utils", "export_utils", "logging",
)  # fmt: skip
