"""4x super-resolution (arXiv 2112.10752, section 4.4)."""

from __future__ import annotations

import copy
import functools
from typing import Any, Iterator, List, Optional

import numpy as np
import paddle

from ppdiffusers.images import ImageError, Picture, pad_to_multiple, to_pictures
from ppdiffusers.models import UNet2DModel, VQModel
from ppdiffusers.pipelines.pipeline import (
    DenoisingProgress,
    DiffusionPipeline,
    ImagePipelineOutput,
    StepCallback,
    check_count,
    check_latents,
    check_output_type,
    drain,
    to_output,
)
from ppdiffusers.random import as_generators, randn_tensor
from ppdiffusers.schedulers.scheduler import Scheduler


class LDMSuperResolutionPipeline(DiffusionPipeline):
    """Upscale pictures by a latent diffusion model that is conditioned on the low-resolution picture.

    The latents have the height and width of the low-resolution picture, and the U-Net sees both
    side by side; the decoder turns the denoised latents into the picture, 4x as large for f = 4.
    """

    _component_types = {"vqvae": (VQModel,), "unet": (UNet2DModel,), "scheduler": (Scheduler,)}

    vqvae: VQModel
    unet: UNet2DModel
    scheduler: Scheduler

    def __init__(self, vqvae: VQModel, unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(vqvae=vqvae, unet=unet, scheduler=scheduler)
        channels = vqvae.config.vq_embed_dim or vqvae.config.latent_channels
        if unet.config.in_channels != channels + vqvae.config.in_channels or unet.config.out_channels != channels:
            raise ValueError(
                f"the unet takes {unet.config.in_channels} channels and returns {unet.config.out_channels}; "
                f"with this vqvae it must take {channels} of latents + {vqvae.config.in_channels} of picture "
                f"and return {channels}"
            )
        self._latent_channels = channels

    @property
    def upscale_factor(self) -> int:
        """Output pixels an input pixel, along one side."""
        return 2 ** (len(self.vqvae.config.block_out_channels) - 1)

    def __call__(
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
    ) -> Any:
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
                or "latent" (`[B, C, h, w]`, not decoded).
            return_dict: False returns a tuple.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the picture,
                rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            ImageError: not a picture, or one of fewer than 2 pixels a side.
            ValueError: other arguments out of range, named with the remedy.
        """
        run = self.stream(
            image, batch_size, num_inference_steps, eta, generator, output_type, return_dict, latents,
            callback_on_step_end,
        )  # fmt: skip
        return drain(run)

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
    ) -> Iterator[DenoisingProgress]:
        """As a call, but yields after every step; the last one carries the result as `output`.

        Leaving the loop cancels. `decode_latents(progress.latents)` is a preview.
        """
        check_output_type(output_type)
        pictures = self._pictures(image, batch_size)
        same_size = len({picture.size for picture in pictures}) == 1
        if not same_size and (latents is not None or output_type == "latent"):
            raise ValueError("latents go with pictures of one size; these differ: upscale them one by one")
        # Norms see a whole feature map, so pictures of different sizes cannot be padded to one batch.
        batches = [pictures] if same_size else [[picture] for picture in pictures]
        generators = as_generators(generator, len(pictures))
        streams = [generators[i : i + 1] if isinstance(generators, list) else generators for i in range(len(pictures))]
        if same_size:
            streams = [generators]

        self.scheduler.set_timesteps(num_inference_steps)
        finished, total = 0, len(batches) * len(self.scheduler.timesteps)  # some schedulers take extra steps
        upscaled: List[np.ndarray] = []
        with self._progress_bar(total) as bar:
            for batch, stream in zip(batches, streams):
                transparent = [i for i, picture in enumerate(batch) if picture.is_transparent]
                condition = self._condition(
                    [picture.rgb for picture in batch] + [np.asarray(batch[i].alpha) for i in transparent]
                )
                noise = self._noise(condition, len(batch), latents, stream)
                if transparent:  # the alpha of a picture starts from the picture's own noise: their edges agree
                    noise = paddle.concat([noise, noise[transparent]])
                    if isinstance(stream, list):
                        stream = stream + [copy.deepcopy(stream[i]) for i in transparent]
                predict = functools.partial(self._predict, condition)
                steps = self._denoise(noise, predict, num_inference_steps, eta, stream, callback_on_step_end)
                for timestep, current in steps:
                    finished += 1
                    bar.update()
                    if finished < total:
                        yield DenoisingProgress(finished, total, timestep, current)
                if output_type != "latent":
                    upscaled += self._assemble(batch, transparent, self.decode_latents(current))
            if output_type == "latent":
                result = current[: len(pictures)]
                output = ImagePipelineOutput(images=result) if return_dict else (result,)
            else:
                output = to_output(upscaled, output_type, return_dict, [picture.grey for picture in pictures])
            yield DenoisingProgress(finished, total, timestep, current, output)

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

    def _condition(self, planes: List[np.ndarray]) -> paddle.Tensor:
        """Colours `[H, W, 3]` in [-1, 1] and alphas `[H, W]` in [0, 1], padded: `[B, 3, h, w]`."""
        values = [x if x.ndim == 3 else np.repeat(x[..., None] * 2 - 1, 3, axis=-1) for x in planes]
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        padded = pad_to_multiple(np.stack(values), multiple)
        return paddle.to_tensor(np.ascontiguousarray(padded.transpose(0, 3, 1, 2)))

    def _noise(self, condition: paddle.Tensor, count: int, latents: Any, stream: Any) -> paddle.Tensor:
        shape = [count, self._latent_channels, *condition.shape[2:]]
        return randn_tensor(shape, stream) if latents is None else check_latents(latents, shape)

    def _predict(self, condition: paddle.Tensor, latents: paddle.Tensor, timestep: float) -> paddle.Tensor:
        sample = paddle.concat([latents, condition], axis=1).astype(self.unet.dtype)
        return self.unet(sample, timestep)[0]

    @paddle.no_grad()
    def decode_latents(self, latents: paddle.Tensor) -> np.ndarray:
        """Pictures `[B, H, W, 3]` in [0, 1], float32, of latents `[B, C, h, w]`."""
        sample = self.vqvae.decode(latents.astype(self.vqvae.dtype))[0]
        return np.clip(sample.astype("float32").numpy().transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)

    def _assemble(self, batch: List[Picture], transparent: List[int], decoded: np.ndarray) -> List[np.ndarray]:
        """Crop the padding off, and put alphas back where they belong."""
        height, width = (self.upscale_factor * side for side in batch[0].size)
        decoded = decoded[:, :height, :width]
        pictures = list(decoded[: len(batch)])
        alphas = {i: alpha.mean(axis=-1, keepdims=True) for i, alpha in zip(transparent, decoded[len(batch) :])}
        for i, picture in enumerate(batch):
            if picture.alpha is not None:
                alpha = alphas.get(i, np.ones((height, width, 1), np.float32))
                pictures[i] = np.concatenate([pictures[i], alpha], axis=-1)
        return pictures
