"""Inpainting (arXiv 2112.10752, section 4.5)."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import paddle

from ppdiffusers.images import pad_to_multiple
from ppdiffusers.masks import BLENDS, MaskedPicture, join, mask_pictures
from ppdiffusers.models import UNet2DModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline
from ppdiffusers.pipelines.results import DenoisingProgress, check_output_type, to_output
from ppdiffusers.pipelines.sampling import Run, StepCallback, beside, in_batches
from ppdiffusers.random import as_generators
from ppdiffusers.schedulers.scheduler import Scheduler


class LDMInpaintPipeline(LatentDiffusionPipeline):
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
        check_output_type(output_type)
        if blend not in BLENDS:
            raise ValueError(f"blend {blend!r} is not one of {', '.join(map(repr, BLENDS))}")
        inputs = mask_pictures(image, mask_image)
        # A picture where nothing is masked needs no model, unless its latents are asked for or given.
        all_of_them = output_type == "latent" or (latents is not None and any(item.mask.any() for item in inputs))
        painted = [i for i, item in enumerate(inputs) if all_of_them or item.mask.any()]
        generators = as_generators(generator, len(inputs))
        if isinstance(generators, list):
            generators = [generators[i] for i in painted]
        one_size = latents is not None or output_type == "latent"
        batches = in_batches([inputs[i] for i in painted], generators, one_size) if painted else []
        run = Run(self, num_inference_steps, eta, callback_on_step_end, len(batches))
        done: List[np.ndarray] = []
        denoised = paddle.zeros([0, self._latent_channels, 0, 0])
        for batch, streams in batches:
            condition = self._condition(batch)  # [B, C + 1, h, w]
            noise = self._noise(latents, [len(batch), self._latent_channels, *condition.shape[2:]], streams)
            denoised = yield from run.denoise(noise, beside(condition), streams)
            if output_type != "latent":
                height, width = batch[0].size
                decoded = self.decode_latents(denoised)[:, :height, :width]
                done += [join(item, pixels, blend) for item, pixels in zip(batch, decoded)]
        if output_type == "latent":
            images: Any = denoised
        else:  # with nothing masked, `join` takes no pixel of its second argument
            by_place = dict(zip(painted, done))
            images = [by_place[i] if i in by_place else join(item, item.picture.rgb) for i, item in enumerate(inputs)]
        yield run.done(denoised, to_output(images, output_type, return_dict, [item.picture.grey for item in inputs]))

    @paddle.no_grad()
    def _condition(self, batch: List[MaskedPicture]) -> paddle.Tensor:
        """As trained: the hole is black in [-1, 1], the mask is -1 or 1, of every block of pixels its first."""
        multiple = self.vae_scale_factor * self._unet_multiple
        mask = pad_to_multiple(np.stack([item.mask[..., None] for item in batch]), multiple, "edge")
        picture = pad_to_multiple(np.stack([item.picture.rgb for item in batch]), multiple, "edge")
        pixels = paddle.to_tensor(np.where(mask, np.float32(-1), picture).transpose(0, 3, 1, 2))
        vqvae = self._model("vqvae", "_to_latents", pixels.shape)
        latents = vqvae.encode(pixels.astype(vqvae.dtype))[0].astype("float32")
        coarse = mask[:, :: self.vae_scale_factor, :: self.vae_scale_factor].transpose(0, 3, 1, 2)
        return paddle.concat([latents, paddle.to_tensor(coarse.astype(np.float32) * 2 - 1)], axis=1)
