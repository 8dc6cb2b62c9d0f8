"""Inpainting (arXiv 2112.10752, section 4.5)."""

from __future__ import annotations

import functools
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import paddle

from ppdiffusers.images import pad_to_multiple
from ppdiffusers.masks import BLENDS, MaskedPicture, join, mask_pictures
from ppdiffusers.models import UNet2DModel, VQModel
from ppdiffusers.pipelines.concatenation import ConcatenationPipeline
from ppdiffusers.pipelines.pipeline import StepCallback
from ppdiffusers.pipelines.results import DenoisingProgress, check_output_type, drain, to_output
from ppdiffusers.random import as_generators
from ppdiffusers.schedulers.scheduler import Scheduler


class LDMInpaintPipeline(ConcatenationPipeline):
    """Paint the masked part of pictures anew, by a latent diffusion model that sees the rest.

    The U-Net sees the noisy latents, the latents of the picture without its masked part, and the mask, in this
    order. What is not masked comes back untouched.
    """

    _component_types = {"vqvae": (VQModel,), "unet": (UNet2DModel,), "scheduler": (Scheduler,)}

    vqvae: VQModel

    def __init__(self, vqvae: VQModel, unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(vqvae=vqvae, unet=unet, scheduler=scheduler)

    def _condition_channels(self) -> Dict[str, int]:
        return {"masked picture": self._latent_channels, "mask": 1}

    def __call__(
        self,
        image: Any,
        mask_image: Any,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Optional[StepCallback] = None,
        blend: str = "seamless",
    ) -> Any:
        """Paint one or several pictures of any size.

        Args:
            image: a PIL image, an array, a Paddle tensor, or a list of them; see
                `ppdiffusers.images.to_pictures` for ranges and shapes.
            mask_image: as large as the picture, white where to paint: a PIL image, an array, a Paddle tensor, or a
                list of them; see `ppdiffusers.masks.to_masks`. One mask serves all pictures, and one picture is
                painted once for every mask.
            num_inference_steps: denoising steps.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the picture divided by
                `vae_scale_factor`, rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                or "latent" (`[B, C, h, w]`, shaped as `latents`: neither decoded nor joined with the picture).
            return_dict: False returns a tuple.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.
            blend: "seamless" brings what is painted to the colours around it; "paste" takes it as it was decoded,
                as the paper's authors do, and shows where the mask ends.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields. Pixels outside the mask are the given ones: equal in 8
            bits, and equal floats in "np" and "pd". Where nothing is masked, nothing is computed. Grey pictures
            come back grey; alpha is kept, and under the mask continued from around it.

        Raises:
            ImageError: not a picture or not a mask, or sizes that differ.
            ValueError: other arguments out of range, named with the remedy.
        """
        run = self.stream(
            image, mask_image, num_inference_steps, eta, generator, latents, output_type, return_dict,
            callback_on_step_end, blend,
        )  # fmt: skip
        return drain(run)

    def stream(
        self,
        image: Any,
        mask_image: Any,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Optional[StepCallback] = None,
        blend: str = "seamless",
    ) -> Iterator[DenoisingProgress]:
        """As a call, but yields after every step; the last one carries the result as `output`.

        Leaving the loop cancels. `decode_latents(progress.latents)` is a preview.
        """
        check_output_type(output_type)
        if blend not in BLENDS:
            raise ValueError(f"blend {blend!r} is not one of {', '.join(map(repr, BLENDS))}")
        inputs = mask_pictures(image, mask_image)
        # A picture where nothing is masked needs no model, unless its latents are asked for or given.
        all_of_them = output_type == "latent" or (latents is not None and any(item.mask.any() for item in inputs))
        painted = [i for i, item in enumerate(inputs) if all_of_them or item.mask.any()]
        streams = as_generators(generator, len(inputs))
        if isinstance(streams, list):
            streams = [streams[i] for i in painted]
        assemble = functools.partial(self._assemble, blend)
        finish = functools.partial(self._finish, inputs, painted, output_type, return_dict)
        if painted:
            yield from self._generate_batches(
                [inputs[i] for i in painted], assemble, finish, num_inference_steps, eta, streams, output_type,
                return_dict, latents, callback_on_step_end,
            )  # fmt: skip
        else:
            self.scheduler.set_timesteps(num_inference_steps)  # an error even here
            yield DenoisingProgress(0, 0, 0.0, paddle.zeros([0, self._latent_channels, 0, 0]), finish([]))

    def _condition(self, batch: List[MaskedPicture]) -> paddle.Tensor:
        """As trained: the hole is black in [-1, 1], the mask is -1 or 1, of every block of pixels its first."""
        multiple = self.vae_scale_factor * self._unet_multiple
        mask = pad_to_multiple(np.stack([item.mask[..., None] for item in batch]), multiple, "edge")
        picture = pad_to_multiple(np.stack([item.picture.rgb for item in batch]), multiple, "edge")
        pixels = paddle.to_tensor(np.where(mask, np.float32(-1), picture).transpose(0, 3, 1, 2))
        latents = self.vqvae.encode(pixels.astype(self.vqvae.dtype))[0].astype("float32")
        coarse = mask[:, :: self.vae_scale_factor, :: self.vae_scale_factor].transpose(0, 3, 1, 2)
        return paddle.concat([latents, paddle.to_tensor(coarse.astype(np.float32) * 2 - 1)], axis=1)

    @staticmethod
    def _assemble(blend: str, batch: List[MaskedPicture], decoded: np.ndarray) -> List[np.ndarray]:
        height, width = batch[0].size
        return [join(item, painted[:height, :width], blend) for item, painted in zip(batch, decoded)]

    @staticmethod
    def _finish(
        inputs: List[MaskedPicture], painted: List[int], output_type: str, return_dict: bool, pictures: List[np.ndarray]
    ) -> Any:
        done = dict(zip(painted, pictures))
        # With nothing masked, `join` takes no pixel of its second argument.
        results = [done[i] if i in done else join(item, item.picture.rgb) for i, item in enumerate(inputs)]
        return to_output(results, output_type, return_dict, [item.picture.grey for item in inputs])
