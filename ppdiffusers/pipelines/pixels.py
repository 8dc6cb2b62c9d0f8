"""Pictures from noise alone by models of pixels, without an autoencoder (arXiv 2006.11239, 2010.02502, 2202.09778)."""

from __future__ import annotations

from typing import Any, Iterator, Optional

import numpy as np

from ppdiffusers.models import UNet2DModel
from ppdiffusers.pipelines.pipeline import DiffusionPipeline
from ppdiffusers.pipelines.results import DenoisingProgress, check_count, check_output_type, to_output
from ppdiffusers.pipelines.sampling import Run, StepCallback, unconditioned
from ppdiffusers.random import as_generators, randn_tensor
from ppdiffusers.schedulers import DDIMScheduler, PNDMScheduler
from ppdiffusers.schedulers.scheduler import Scheduler


class PixelPipeline(DiffusionPipeline):
    """Base of the pipelines whose `unet` works on pixels: draw what it was trained on, in its `sample_size`."""

    _component_types = {"unet": (UNet2DModel,), "scheduler": (Scheduler,)}
    vae_scale_factor = 1

    unet: UNet2DModel

    def __init__(self, unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(unet=unet, scheduler=scheduler)

    def _draw(
        self,
        batch_size: int,
        generator: Any,
        num_inference_steps: int,
        output_type: str,
        return_dict: bool,
        callback_on_step_end: Optional[StepCallback],
        eta: float = 0.0,
        **step_options: Any,
    ) -> Iterator[DenoisingProgress]:
        check_output_type(output_type)
        check_count("batch_size", batch_size)
        side = self.unet.config.sample_size
        if side is None:
            raise ValueError("the unet's config has no sample_size; load the unet with one: from_pretrained(...)")
        shape = [batch_size, self.unet.config.in_channels, *(side if isinstance(side, tuple) else (side, side))]
        generators = as_generators(generator, batch_size)
        run = Run(self, num_inference_steps, eta, callback_on_step_end, step_options=step_options)
        made = yield from run.denoise(randn_tensor(shape, generators), unconditioned(), generators)
        pixels = made if output_type == "latent" else list(_pixels(made))
        greys = [shape[1] == 1] * batch_size
        yield run.done(made, to_output(pixels, output_type, return_dict, greys))


def _pixels(sample: Any) -> np.ndarray:
    """`[B, H, W, C]` in [0, 1] of `[B, C, H, W]` in [-1, 1]."""
    return np.clip(sample.astype("float32").numpy().transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)


class DDPMPipeline(PixelPipeline):
    """Draw pictures by a model of pixels, with any scheduler."""

    def stream(
        self,
        batch_size: int = 1,
        generator: Any = None,
        num_inference_steps: int = 1000,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """Draw pictures of the size that the unet was trained on.

        Args:
            batch_size: pictures to make.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a picture.
            num_inference_steps: denoising steps.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]), or "latent"
                (`[B, C, H, W]` in [-1, 1]).
            return_dict: False returns a tuple.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": sample})`.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            ValueError: arguments out of range, named with the remedy.
        """
        yield from self._draw(
            batch_size, generator, num_inference_steps, output_type, return_dict, callback_on_step_end
        )


class DDIMPipeline(PixelPipeline):
    """Draw pictures by a model of pixels and DDIM, which another scheduler is turned into."""

    def __init__(self, unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(unet, scheduler)
        if not isinstance(scheduler, DDIMScheduler):
            self.scheduler = DDIMScheduler.from_config(scheduler.config)

    def stream(
        self,
        batch_size: int = 1,
        generator: Any = None,
        eta: float = 0.0,
        num_inference_steps: int = 50,
        use_clipped_model_output: Optional[bool] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """As of `DDPMPipeline`, with DDIM's options.

        Args:
            eta: 0 is deterministic, 1 as noisy as DDPM.
            use_clipped_model_output: derive epsilon anew from the clipped x_0 at every step.
        """
        yield from self._draw(
            batch_size, generator, num_inference_steps, output_type, return_dict, callback_on_step_end, eta,
            use_clipped_model_output=bool(use_clipped_model_output),
        )  # fmt: skip


class PNDMPipeline(PixelPipeline):
    """Draw pictures by a model of pixels and PNDM, which another scheduler is turned into."""

    def __init__(self, unet: UNet2DModel, scheduler: Scheduler):
        super().__init__(unet, scheduler)
        if not isinstance(scheduler, PNDMScheduler):
            self.scheduler = PNDMScheduler.from_config(scheduler.config)

    def stream(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """As of `DDPMPipeline`."""
        yield from self._draw(
            batch_size, generator, num_inference_steps, output_type, return_dict, callback_on_step_end
        )
