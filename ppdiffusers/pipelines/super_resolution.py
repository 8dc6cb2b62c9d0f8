"""4x super-resolution (arXiv 2112.10752, section 4.4)."""

from __future__ import annotations

import copy
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import paddle

from ppdiffusers.consistency import check_rounds, make_consistent
from ppdiffusers.images import ImageError, Picture, pad_to_multiple, to_pictures
from ppdiffusers.models import UNet2DModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline, cropped
from ppdiffusers.pipelines.results import DenoisingProgress, check_count, check_output_type, to_output
from ppdiffusers.pipelines.sampling import Run, StepCallback, beside, in_batches
from ppdiffusers.schedulers.scheduler import Scheduler


class LDMSuperResolutionPipeline(LatentDiffusionPipeline):
    """Upscale pictures by a latent diffusion model that is conditioned on the low-resolution picture.

    The latents have the height and width of the low-resolution picture, and the U-Net sees both
    side by side; the decoder turns the denoised latents into the picture, 4x as large for f = 4.
    """

    _component_types = {"vqvae": (VQModel,), "unet": (UNet2DModel,), "scheduler": (Scheduler,)}

    vqvae: VQModel

    def __init__(self, vqvae: VQModel, unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(vqvae=vqvae, unet=unet, scheduler=scheduler)

    def _condition_channels(self) -> Dict[str, int]:
        return {"picture": self.vqvae.config.in_channels}

    @property
    def upscale_factor(self) -> int:
        """Output pixels an input pixel, along one side."""
        return self.vae_scale_factor

    def stream(
        self,
        image: Any = None,
        batch_size: int = 1,
        num_inference_steps: int = 100,
        eta: float = 0.0,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        latents: Optional[Any] = None,
        callback_on_step_end: Optional[StepCallback] = None,
        consistency: Optional[int] = None,
    ) -> Iterator[DenoisingProgress]:
        """Upscale one or several pictures of any size; the result is exactly `upscale_factor` times as large.

        Args:
            image: a PIL image, an array, a Paddle tensor, or a list of them; see
                `ppdiffusers.images.to_pictures` for ranges and shapes. Grey pictures come back grey,
                and transparency is upscaled too.
            batch_size: pictures to make; with one input, as many variations of it.
            num_inference_steps: denoising steps.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                "latent" (`[B, C, h, w]`, not decoded), or "rows": an iterator for each picture, which decodes it while
                it runs, in bands `[rows, W, C]` in [0, 1] from the top; that takes one picture at a time.
            return_dict: False returns a tuple.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the picture,
                rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.
            consistency: rounds in which the result is brought to the colours of the input, see
                `ppdiffusers.consistency`; 0 leaves it as it was decoded, which is diffusers' result. None takes what
                `model_index.json` recommends (`_consistency`), else 0.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            ImageError: not a picture, or one of fewer than 2 pixels a side.
            ValueError: other arguments out of range, named with the remedy.
        """
        if output_type != "rows":
            check_output_type(output_type)
        consistency = self._consistency if consistency is None else consistency
        check_rounds(consistency)
        pictures = self._pictures(image, batch_size)
        if output_type == "rows" and len(pictures) > 1:
            raise ValueError(f"output_type 'rows' takes one picture, not {len(pictures)}; call once for each")
        batches = in_batches(pictures, generator, latents is not None or output_type == "latent")
        run = Run(self, num_inference_steps, eta, callback_on_step_end, len(batches))
        images: Any = []
        for batch, generators in batches:
            condition = self._condition(batch)  # [R, C, h, w]
            noise = self._noise(latents, [len(batch), self._latent_channels, *condition.shape[2:]], generators)
            # The alpha of a picture starts from the picture's own noise: their edges agree.
            rows = [i for i, picture in enumerate(batch) if picture.is_transparent]
            if rows:
                noise = paddle.concat([noise, noise[rows]])
                generators = (
                    generators + copy.deepcopy([generators[i] for i in rows])
                    if isinstance(generators, list)
                    else generators
                )
            denoised = yield from run.denoise(noise, beside(condition), generators)
            if output_type == "latent":
                images = denoised[: len(pictures)]
            else:
                images += self._assembled(batch, denoised, consistency, output_type == "rows")
        greys = [picture.grey for picture in pictures]
        yield run.done(denoised, to_output(images, output_type, return_dict, greys))

    def _pictures(self, image: Any, batch_size: int) -> List[Picture]:
        if image is None:
            raise ImageError("no picture given: pass image=")
        pictures = to_pictures(image)
        check_count("batch_size", batch_size)
        if len(pictures) == 1:
            pictures = pictures * batch_size
        elif batch_size not in (1, len(pictures)):
            raise ValueError(f"batch_size {batch_size} does not go with {len(pictures)} pictures; leave it out")
        for picture in pictures:
            if min(picture.size) < 2:
                height, width = picture.size
                raise ImageError(f"a picture of {width}x{height} pixels has no structure to upscale; give at least 2x2")
        return pictures

    def _condition(self, batch: List[Picture]) -> paddle.Tensor:
        padded = pad_to_multiple(_planes(batch), self._unet_multiple)
        return paddle.to_tensor(np.ascontiguousarray(padded.transpose(0, 3, 1, 2)))

    def _assembled(self, batch: List[Picture], latents: paddle.Tensor, consistency: int, rows: bool) -> List[Any]:
        """Each picture, whole or in bands: without the margin, true to what it was, and with its alpha."""
        height, width = (self.upscale_factor * side for side in batch[0].size)
        decoded = make_consistent(
            cropped(self._decoded(latents), height, width), _planes(batch) / 2 + np.float32(0.5), consistency
        )
        if rows:
            return [(_with_alphas(batch, band)[0] for band in decoded)]
        pictures: List[np.ndarray] = []
        done = 0
        for band in decoded:
            for i, part in enumerate(_with_alphas(batch, band)):
                if done == 0:
                    pictures.append(np.empty((height, *part.shape[1:]), np.float32))
                pictures[i][done : done + len(part)] = part
            done += band.shape[1]
        return pictures


def _planes(batch: List[Picture]) -> np.ndarray:
    """`[R, H, W, 3]` in [-1, 1]: colours, and after them the alphas that are not opaque everywhere."""
    alphas = [np.asarray(picture.alpha)[..., None] * 2 - 1 for picture in batch if picture.is_transparent]
    return np.stack([picture.rgb for picture in batch] + [np.repeat(alpha, 3, axis=-1) for alpha in alphas])


def _with_alphas(batch: List[Picture], decoded: np.ndarray) -> List[np.ndarray]:
    """`[R, h, W, 3]` as made of `_planes`, or rows of it: each picture with the alpha that it had."""
    pictures = list(decoded[: len(batch)])
    transparent = [i for i, picture in enumerate(batch) if picture.is_transparent]
    alphas = dict(zip(transparent, decoded[len(batch) :].mean(axis=-1, keepdims=True)))
    for i, picture in enumerate(batch):
        if picture.alpha is not None:
            alpha = alphas.get(i, np.ones((*decoded.shape[1:3], 1), np.float32))
            pictures[i] = np.concatenate([pictures[i], alpha], axis=-1)
    return pictures
