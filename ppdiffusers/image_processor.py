"""Pictures to the tensors of models and back, under diffusers' names.

Pipelines here take and return pictures by themselves (`images.py`); this is for code that does it on its own.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
from PIL import Image, ImageFilter

from ppdiffusers.config import Configurable, register_to_config
from ppdiffusers.utils import PIL_INTERPOLATION, numpy_to_pil

PipelineImageInput = Union[
    Image.Image, np.ndarray, paddle.Tensor, List[Image.Image], List[np.ndarray], List[paddle.Tensor]
]


class VaeImageProcessor(Configurable):
    """Pictures to tensors `[B, C, H, W]` in [-1, 1], and back.

    Args:
        do_resize: bring height and width down to multiples of `vae_scale_factor`, or to what is asked for.
        vae_scale_factor: pixels a latent.
        vae_latent_channels: tensors of so many channels are latents, and left alone.
        resample: for PIL images: a name of `PIL_INTERPOLATION`. Tensors and arrays take the nearest pixel.
        do_normalize: [0, 1] to [-1, 1].
        do_binarize: then below 0.5 is 0, and 1 the rest.
        do_convert_rgb, do_convert_grayscale: the change of colours of PIL images.

    Raises:
        ValueError: both changes of colours, or an unknown `resample`.
    """

    config_name = "preprocessor_config.json"

    @register_to_config
    def __init__(
        self,
        do_resize: bool = True,
        vae_scale_factor: int = 8,
        vae_latent_channels: int = 4,
        resample: str = "lanczos",
        do_normalize: bool = True,
        do_binarize: bool = False,
        do_convert_rgb: bool = False,
        do_convert_grayscale: bool = False,
    ):
        if do_convert_rgb and do_convert_grayscale:
            raise ValueError("do_convert_rgb and do_convert_grayscale exclude each other; set one of them")
        if resample not in PIL_INTERPOLATION:
            raise ValueError(f"resample {resample!r} is not one of {', '.join(PIL_INTERPOLATION)}")

    numpy_to_pil: Callable[[np.ndarray], List[Image.Image]] = staticmethod(numpy_to_pil)

    @staticmethod
    def pil_to_numpy(images: Union[Image.Image, Sequence[Image.Image]]) -> np.ndarray:
        """Arrays `[B, H, W]` or `[B, H, W, C]` in [0, 1], float32."""
        several = [images] if isinstance(images, Image.Image) else images
        return np.stack([np.asarray(image, np.float32) / 255 for image in several])

    @staticmethod
    def numpy_to_pd(images: np.ndarray) -> paddle.Tensor:
        """`[B, H, W]` or `[B, H, W, C]` to `[B, C, H, W]`."""
        images = images[..., None] if images.ndim == 3 else images
        return paddle.to_tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    @staticmethod
    def pd_to_numpy(images: paddle.Tensor) -> np.ndarray:
        """`[B, C, H, W]` to `[B, H, W, C]`, float32."""
        return images.astype("float32").numpy().transpose(0, 2, 3, 1)

    numpy_to_pt, pt_to_numpy = numpy_to_pd, pd_to_numpy

    @staticmethod
    def normalize(images: Any) -> Any:
        """[0, 1] to [-1, 1]."""
        return 2.0 * images - 1.0

    @staticmethod
    def denormalize(images: Any) -> Any:
        """[-1, 1] to [0, 1], and what is outside to its ends."""
        return (images / 2 + 0.5).clip(0, 1)

    @staticmethod
    def convert_to_rgb(image: Image.Image) -> Image.Image:
        return image.convert("RGB")

    @staticmethod
    def convert_to_grayscale(image: Image.Image) -> Image.Image:
        return image.convert("L")

    @staticmethod
    def blur(image: Image.Image, blur_factor: int = 4) -> Image.Image:
        """By a Gaussian of that radius."""
        return image.filter(ImageFilter.GaussianBlur(blur_factor))

    @staticmethod
    def binarize(image: Any) -> Any:
        """1 where it is at least 0.5, else 0, of its own type."""
        return (image >= 0.5).astype(image.dtype)

    def get_default_height_width(
        self, image: Any, height: Optional[int] = None, width: Optional[int] = None
    ) -> Tuple[int, int]:
        """What is asked for, or the picture's own, rounded down to multiples of `vae_scale_factor`."""
        if isinstance(image, Image.Image):
            own = image.height, image.width
        elif isinstance(image, np.ndarray):
            own = image.shape[1], image.shape[2]
        else:
            own = image.shape[2], image.shape[3]
        factor = self.config.vae_scale_factor
        sides = (given or side for given, side in zip((height, width), own))
        height, width = (side - side % factor for side in sides)
        return height, width

    def resize(self, image: Any, height: int, width: int) -> Any:
        """A PIL image, or a tensor or array of several pictures, in another size."""
        if isinstance(image, Image.Image):
            return image.resize((width, height), resample=PIL_INTERPOLATION[self.config.resample])
        if isinstance(image, np.ndarray):
            return self.pd_to_numpy(self.resize(self.numpy_to_pd(image), height, width))
        return paddle.nn.functional.interpolate(image, size=[height, width])

    def preprocess(
        self, image: PipelineImageInput, height: Optional[int] = None, width: Optional[int] = None
    ) -> paddle.Tensor:
        """A tensor `[B, C, H, W]` of a PIL image, an array `[(B,) H, W, C]` or tensor `[(B,) C, H, W]` in [0, 1], or a
        list of one kind.

        Raises:
            ValueError: something else.
        """
        several: List[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
        first = several[0] if several else None
        if not isinstance(first, (Image.Image, np.ndarray, paddle.Tensor)) or any(
            isinstance(one, Image.Image) != isinstance(first, Image.Image) for one in several
        ):
            raise ValueError("give a PIL image, a numpy array, a Paddle tensor, or a list of one kind of them")
        config = self.config
        if isinstance(first, Image.Image):
            if config.do_resize:
                sides = self.get_default_height_width(first, height, width)
                several = [self.resize(one, *sides) for one in several]
            if config.do_convert_rgb or config.do_convert_grayscale:
                change = self.convert_to_rgb if config.do_convert_rgb else self.convert_to_grayscale
                several = [change(one) for one in several]
            tensor = self.numpy_to_pd(self.pil_to_numpy(several))
        else:
            if isinstance(first, np.ndarray):
                arrays = np.concatenate(several) if first.ndim == 4 else np.stack(several)
                tensor = self.numpy_to_pd(arrays)
            else:
                tensor = paddle.concat(several) if first.ndim == 4 else paddle.stack(several)
                if tensor.shape[1] == config.vae_latent_channels:
                    return tensor
            if config.do_resize:
                tensor = self.resize(tensor, *self.get_default_height_width(tensor, height, width))
        if config.do_normalize and not float(tensor.min()) < 0:  # below 0 it is normal already
            tensor = self.normalize(tensor)
        return self.binarize(tensor) if config.do_binarize else tensor

    def postprocess(
        self, image: paddle.Tensor, output_type: str = "pil", do_denormalize: Optional[Sequence[bool]] = None
    ) -> Any:
        """Of a tensor `[B, C, H, W]`: PIL images, arrays `[B, H, W, C]` ("np"), or the tensor ("pd", "pt", "latent").

        Args:
            do_denormalize: whether each picture is in [-1, 1]; as `do_normalize` of the config when not given.

        Raises:
            ValueError: another `output_type`.
        """
        if output_type not in ("pil", "np", "numpy", "pd", "pt", "latent"):
            raise ValueError(f"output_type {output_type!r} is not one of 'pil', 'np', 'pd', 'pt', 'latent'")
        if output_type == "latent":
            return image
        which = [self.config.do_normalize] * image.shape[0] if do_denormalize is None else do_denormalize
        image = paddle.stack([self.denormalize(one) if normal else one for one, normal in zip(image, which)])
        if output_type in ("pd", "pt"):
            return image
        arrays = self.pd_to_numpy(image)
        return self.numpy_to_pil(arrays) if output_type == "pil" else arrays
