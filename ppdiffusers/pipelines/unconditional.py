"""Pictures from noise alone (arXiv 2112.10752, section 4.1)."""

from __future__ import annotations

from typing import Any, Iterator, Optional, Union

from ppdiffusers.models import AutoencoderKL, UNet2DModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline
from ppdiffusers.pipelines.results import DenoisingProgress, check_count, check_output_type
from ppdiffusers.pipelines.sampling import Run, StepCallback, unconditioned
from ppdiffusers.random import as_generators
from ppdiffusers.schedulers.scheduler import Scheduler


class LDMPipeline(LatentDiffusionPipeline):
    """Draw pictures of what a latent diffusion model was trained on."""

    _component_types = {"vqvae": (VQModel, AutoencoderKL), "unet": (UNet2DModel,), "scheduler": (Scheduler,)}

    unet: UNet2DModel

    def __init__(self, vqvae: Union[VQModel, AutoencoderKL], unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(vqvae=vqvae, unet=unet, scheduler=scheduler)

    def stream(
        self,
        batch_size: int = 1,
        generator: Any = None,
        eta: float = 0.0,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
        latents: Optional[Any] = None,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """Draw pictures of the size that the unet was trained on (its `sample_size`).

        Args:
            batch_size: pictures to make.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            num_inference_steps: denoising steps.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                or "latent" (`[B, C, h, w]`, not decoded).
            return_dict: False returns a tuple.
            latents: initial noise `[B, C, h, w]` of unit variance, h and w being `sample_size`.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            ValueError: arguments out of range, named with the remedy.
        """
        check_output_type(output_type)
        check_count("batch_size", batch_size)
        size = self._size()
        generators = as_generators(generator, batch_size)
        run = Run(self, num_inference_steps, eta, callback_on_step_end)
        noise = self._noise(latents, self._latent_shape(batch_size, size), generators)
        denoised = yield from run.denoise(noise, unconditioned(), generators)
        yield run.done(denoised, self._decode_to(denoised, size, output_type, return_dict))
