"""Pictures of given classes (arXiv 2112.10752, section 4.3.1)."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Iterator, List, Optional, Sequence, Union

import paddle

from ppdiffusers.models import AutoencoderKL, ClassEmbedder, UNet2DConditionModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline, check_guidance
from ppdiffusers.pipelines.results import DenoisingProgress, check_count, check_output_type
from ppdiffusers.pipelines.sampling import Run, StepCallback, attending
from ppdiffusers.random import as_generators
from ppdiffusers.schedulers.scheduler import Scheduler

GUIDANCE = 1.5  # arXiv 2112.10752, table 3
Labels = Union[int, Sequence[int]]


class LDMClassConditionalPipeline(LatentDiffusionPipeline):
    """Draw pictures of classes by their numbers, with classifier-free guidance (arXiv 2207.12598)."""

    _component_types = {
        "vqvae": (VQModel, AutoencoderKL),
        "class_embedder": (ClassEmbedder,),
        "unet": (UNet2DConditionModel,),
        "scheduler": (Scheduler,),
    }

    class_embedder: ClassEmbedder

    def __init__(
        self,
        vqvae: Union[VQModel, AutoencoderKL],
        class_embedder: ClassEmbedder,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
    ):
        super().__init__(vqvae=vqvae, class_embedder=class_embedder, unet=unet, scheduler=scheduler)
        self._check_width("class_embedder", class_embedder, "embed_dim")

    @property
    def default_guidance_scale(self) -> float:
        """The paper's 1.5 where training knew an `unconditional_class`, else 1: no guidance."""
        return 1.0 if self.class_embedder.config.unconditional_class is None else GUIDANCE

    def stream(
        self,
        class_labels: Labels,
        height: Optional[int] = None,
        width: Optional[int] = None,
        num_inference_steps: int = 50,
        guidance_scale: Optional[float] = None,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        unconditional_class: Optional[int] = None,
        num_images_per_class: int = 1,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """Draw one or several classes.

        Args:
            class_labels: a class number, or a list of them: 0 ... 999 of ImageNet for the published models.
            height, width: of the picture in pixels, multiples of `vae_scale_factor`; without them, the size that
                the unet was trained on.
            num_inference_steps: denoising steps.
            guidance_scale: how strongly the class counts; 1 is no guidance and half the work, 1.5 the paper's best,
                3 to 5 make pictures more typical and less varied. `default_guidance_scale` when not given.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the picture
                divided by `vae_scale_factor`, rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                or "latent" (`[B, C, h, w]`, shaped as `latents`: neither decoded nor cropped).
            return_dict: False returns a tuple.
            unconditional_class: what guidance leads away from, a class number; the `class_embedder`'s
                `unconditional_class`, which stands for no class, when not given.
            num_images_per_class: pictures of every class number; those of one number are neighbours in the result.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            TypeError: a class that is no integer.
            ValueError: other arguments out of range, named with the remedy.
        """
        check_output_type(output_type)
        check_count("num_images_per_class", num_images_per_class)
        size = self._size(height, width)
        classes = self.checked_classes("class_labels", class_labels)
        scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        check_guidance(scale)
        unconditional = self._unconditional(unconditional_class, scale)
        negatives = [] if unconditional is None else [unconditional] * len(classes)
        generators = as_generators(generator, len(classes) * num_images_per_class)
        run = Run(self, num_inference_steps, eta, callback_on_step_end)
        condition = self._encode(negatives + classes).repeat_interleave(num_images_per_class, axis=0)
        noise = self._noise(latents, self._latent_shape(len(classes) * num_images_per_class, size), generators)
        predict = attending(condition, scale if negatives else None)
        denoised = yield from run.denoise(noise, predict, generators)
        yield run.done(denoised, self._decode_to(denoised, size, output_type, return_dict))

    def checked_classes(self, name: str, value: Any) -> List[int]:
        """The class numbers in `value`, one or several; errors call it `name`.

        Raises:
            TypeError: no integers.
            ValueError: none, or one that the model does not have.
        """
        value = value.tolist() if hasattr(value, "tolist") else value  # of numpy or paddle
        labels = list(value) if isinstance(value, (list, tuple)) else [value]
        if not labels:
            raise ValueError(f"{name} is an empty list; give at least one class number")
        count = self.class_embedder.config.num_classes
        for label in labels:
            if isinstance(label, bool) or not isinstance(label, numbers.Integral):
                raise TypeError(f"{name} must be a class number or a list of them, not {label!r}")
            if label not in range(count):
                raise ValueError(f"{name}: this model has the classes 0 ... {count - 1}, and no {label}")
        return [int(label) for label in labels]

    def _unconditional(self, given: Optional[int], guidance_scale: float) -> Optional[int]:
        """The class that guidance leads away from; None without guidance."""
        if given is not None:
            (given,) = self.checked_classes("unconditional_class", [given])
        if guidance_scale == 1:
            if given is not None:
                warnings.warn("guidance_scale 1 does not read unconditional_class; set it to 1.5 or so", stacklevel=3)
            return None
        unconditional = self.class_embedder.config.unconditional_class if given is None else given
        if unconditional is None:
            raise ValueError(
                f"guidance_scale {guidance_scale} leads away from a class that stands for none, and this model was "
                "trained without one: take guidance_scale=1, or name a class to avoid as unconditional_class"
            )
        return unconditional

    @paddle.no_grad()
    def _encode(self, inputs: List[int]) -> paddle.Tensor:
        return self.class_embedder(paddle.to_tensor(inputs, dtype="int64"))
