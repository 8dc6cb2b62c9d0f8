"""Pictures painted after a map of classes (arXiv 2112.10752, section 4.3.2)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import paddle
from PIL import Image

from ppdiffusers.images import ImageError, open_image, pad_to_multiple
from ppdiffusers.models import AutoencoderKL, SpatialRescaler, UNet2DModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline
from ppdiffusers.pipelines.results import DenoisingProgress, check_output_type, to_output
from ppdiffusers.pipelines.sampling import Run, StepCallback, beside, in_batches
from ppdiffusers.schedulers.scheduler import Scheduler


@dataclass
class LabelMap:
    """`labels`: `[H, W]`, the class of every pixel."""

    labels: np.ndarray

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width."""
        return self.labels.shape[0], self.labels.shape[1]


class LDMSemanticSynthesisPipeline(LatentDiffusionPipeline):
    """Paint a picture whose pixels show what a label map says.

    The U-Net sees the noisy latents and the map, which `rescaler` has made as small as they are.
    """

    _component_types = {
        "vqvae": (VQModel, AutoencoderKL),
        "rescaler": (SpatialRescaler,),
        "unet": (UNet2DModel,),
        "scheduler": (Scheduler,),
    }

    rescaler: SpatialRescaler

    def __init__(
        self,
        vqvae: Union[VQModel, AutoencoderKL],
        rescaler: SpatialRescaler,
        unet: UNet2DModel,
        scheduler: Scheduler,
    ):
        super().__init__(vqvae=vqvae, rescaler=rescaler, unet=unet, scheduler=scheduler)
        if 2**rescaler.config.n_stages != self.vae_scale_factor:
            raise ValueError(
                f"the rescaler makes a map {2**rescaler.config.n_stages} times smaller (n_stages "
                f"{rescaler.config.n_stages}), and the vqvae a picture {self.vae_scale_factor} times; "
                "take both from one model"
            )

    def _condition_channels(self) -> Dict[str, int]:
        return {"map": self.rescaler.config.out_channels}

    @property
    def num_classes(self) -> int:
        """Labels are 0 to one less."""
        return self.rescaler.config.in_channels

    def stream(
        self,
        segmentation: Any,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """Paint one or several maps; a picture is as large as its map, whatever its size.

        Args:
            segmentation: the class of every pixel, 0 to `num_classes` - 1: a PIL image of mode L, P or I (a
                palette's indices count, not its colours), a file of such a picture, an array or Paddle tensor of
                integers `[H, W]` or `[B, H, W]`, one-hot planes `[B, num_classes, H, W]` of any type, or a list of
                those.
            num_inference_steps: denoising steps.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the map divided by
                `vae_scale_factor`, rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                or "latent" (`[B, C, h, w]`, shaped as `latents`: neither decoded nor cropped).
            return_dict: False returns a tuple.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            ImageError: no label map, or a label that the model does not have.
            ValueError: other arguments out of range, named with the remedy.
        """
        check_output_type(output_type)
        maps = [LabelMap(labels) for labels in to_label_maps(segmentation, self.num_classes)]
        batches = in_batches(maps, generator, latents is not None or output_type == "latent")
        run = Run(self, num_inference_steps, eta, callback_on_step_end, len(batches))
        images: Any = []
        for batch, generators in batches:
            condition = self._condition(batch)  # [B, C, h, w]
            noise = self._noise(latents, [len(batch), self._latent_channels, *condition.shape[2:]], generators)
            denoised = yield from run.denoise(noise, beside(condition), generators)
            if output_type == "latent":
                images = denoised
            else:
                height, width = batch[0].size
                images += list(self.decode_latents(denoised)[:, :height, :width])
        yield run.done(denoised, to_output(images, output_type, return_dict))

    @paddle.no_grad()
    def _condition(self, batch: List[LabelMap]) -> paddle.Tensor:
        """The margin takes the classes of the map's border."""
        labels = pad_to_multiple(
            np.stack([item.labels[..., None] for item in batch]), self.vae_scale_factor * self._unet_multiple, "edge"
        )
        classes = np.arange(self.num_classes)[:, None, None]
        rescaled = []
        for item in labels[..., 0]:  # one by one: 182 planes of a 512x512 map are 190 MB
            planes = paddle.to_tensor((item == classes).astype(np.float32)[None])
            rescaled.append(self.rescaler(planes.astype(self.rescaler.dtype)))
        return paddle.concat(rescaled)


def to_label_maps(segmentation: Any, num_classes: int) -> List[np.ndarray]:
    """Label maps `[H, W]` of whatever a user calls one, or several; see `LDMSemanticSynthesisPipeline`.

    Raises:
        ImageError: anything else, a label outside 0 ... num_classes - 1, or no map at all.
    """
    if isinstance(segmentation, (list, tuple)):
        if not segmentation:
            raise ImageError("the list of maps is empty; give at least one")
        return [labels for item in segmentation for labels in to_label_maps(item, num_classes)]
    if isinstance(segmentation, (str, os.PathLike)):
        segmentation = open_image(segmentation)
    if isinstance(segmentation, Image.Image):
        if segmentation.mode not in ("1", "L", "P") and not segmentation.mode.startswith("I"):
            raise ImageError(
                f"a picture of mode {segmentation.mode} holds no labels; give one of mode L, P or I, "
                "or an array of integers"
            )
        segmentation = np.asarray(segmentation).astype(np.int64)
    elif type(segmentation).__module__.partition(".")[0] == "paddle":
        segmentation = segmentation.numpy()
    if not isinstance(segmentation, np.ndarray):
        raise ImageError(
            f"cannot use a {type(segmentation).__name__} as a label map; give a PIL image, a file name, an array or "
            "Paddle tensor of integers, or a list of them"
        )
    if segmentation.ndim == 4:
        segmentation = _from_one_hot(segmentation, num_classes)
    if segmentation.ndim not in (2, 3) or segmentation.size == 0:
        raise ImageError(
            f"an array of shape {list(segmentation.shape)} is no label map; use [H, W], [B, H, W] or one-hot "
            f"[B, {num_classes}, H, W]"
        )
    if segmentation.dtype.kind not in "iu":
        raise ImageError(f"labels are integers, not {segmentation.dtype}; round and convert them")
    for bad in (segmentation.min(), segmentation.max()):
        if not 0 <= bad < num_classes:
            raise ImageError(
                f"label {bad} is not one of the model's {num_classes} classes, 0 to {num_classes - 1}; change it in "
                "the map"
            )
    return [segmentation] if segmentation.ndim == 2 else list(segmentation)


def _from_one_hot(planes: np.ndarray, num_classes: int) -> np.ndarray:
    """`[B, H, W]` of `[B, num_classes, H, W]`."""
    if planes.shape[1] != num_classes:
        raise ImageError(f"one-hot planes of shape {list(planes.shape)}; this model has {num_classes} classes")
    if not (((planes == 0) | (planes == 1)).all() and (planes.astype(np.float32).sum(axis=1) == 1).all()):
        raise ImageError("planes that are not one-hot: every pixel must be 1 in one plane and 0 in all others")
    return planes.argmax(axis=1)
