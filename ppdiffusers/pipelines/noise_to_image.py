"""Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Union

import numpy as np
import paddle

from ppdiffusers.models import AutoencoderKL, VQModel
from ppdiffusers.pipelines.pipeline import DiffusionPipeline, StepCallback
from ppdiffusers.pipelines.results import DenoisingProgress, ImagePipelineOutput, check_latents, to_output
from ppdiffusers.random import as_generators, randn_tensor


class NoiseToImagePipeline(DiffusionPipeline):
    """Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise."""

    vqvae: Union[AutoencoderKL, VQModel]
    unet: Any

    def __init__(self, **components: Any):
        super().__init__(**components)
        config = self.vqvae.config
        self._latent_channels = config.get("vq_embed_dim") or config.latent_channels
        taken, returned = self.unet.config.in_channels, self.unet.config.out_channels
        parts = {"latents": self._latent_channels, **self._condition_channels()}
        if taken != sum(parts.values()) or returned != self._latent_channels:
            wanted = " + ".join(f"{count} of {name}" for name, count in parts.items())
            raise ValueError(
                f"the unet takes {taken} channels and returns {returned}; "
                f"here it must take {wanted}, and return {self._latent_channels}"
            )

    def _condition_channels(self) -> Dict[str, int]:
        """What the unet sees beside the latents, and in how many channels."""
        return {}

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent, along one side."""
        return 2 ** (len(self.vqvae.config.block_out_channels) - 1)

    def _trained_size(self) -> Tuple[int, int]:
        """Height and width in pixels that the unet's config names."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("the unet's config has no sample_size; load the unet with one: from_pretrained(...)")
        height, width = size if isinstance(size, tuple) else (size, size)
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    def _generate(
        self,
        count: int,
        size: Tuple[int, int],
        predict: Callable[..., paddle.Tensor],
        num_inference_steps: int,
        eta: float,
        generator: Any,
        output_type: str,
        return_dict: bool,
        latents: Optional[Any],
        callback: Optional[StepCallback],
    ) -> Iterator[DenoisingProgress]:
        """The `stream` of `count` pictures of `size` (height, width), multiples of `vae_scale_factor`.

        The unet works on whole multiples of its coarsest level; the margin is cropped off all around.
        """
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        sides = [-(-side // (self.vae_scale_factor * multiple)) * multiple for side in size]
        shape = [count, self._latent_channels, *sides]
        streams = as_generators(generator, count)
        noise = randn_tensor(shape, streams) if latents is None else check_latents(latents, shape)
        self.scheduler.set_timesteps(num_inference_steps)
        finished, total = 0, len(self.scheduler.timesteps)  # some schedulers take extra steps
        with self._progress_bar(total) as bar:
            for timestep, current in self._denoise(noise, predict, num_inference_steps, eta, streams, callback):
                finished += 1
                bar.update()
                if finished < total:
                    yield DenoisingProgress(finished, total, timestep, current)
            if output_type == "latent":
                output: Any = ImagePipelineOutput(images=current) if return_dict else (current,)
            else:
                top, left = ((side * self.vae_scale_factor - n) // 2 for side, n in zip(sides, size))
                decoded = self.decode_latents(current)[:, top : top + size[0], left : left + size[1]]
                output = to_output(list(decoded), output_type, return_dict)
            yield DenoisingProgress(finished, total, timestep, current, output)

    @paddle.no_grad()
    def decode_latents(self, latents: paddle.Tensor) -> np.ndarray:
        """Pictures `[B, H, W, C]` in [0, 1], float32, of latents `[B, C, h, w]`.

        Only those of an `AutoencoderKL` are divided by its `scaling_factor`: a `VQModel` was trained on unscaled
        ones, and the factor that diffusers puts into its config by default would drive them out of its codebook.
        """
        if isinstance(self.vqvae, AutoencoderKL):
            latents = latents / self.vqvae.config.scaling_factor
        sample = self.vqvae.decode(latents.astype(self.vqvae.dtype))[0]
        return np.clip(sample.astype("float32").numpy().transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)
