"""Pictures from bounding boxes (arXiv 2112.10752, section 4.3.1)."""

from __future__ import annotations

from typing import Any, Iterator, List, Optional, Sequence, Union

import paddle

from ppdiffusers.layout import (
    FULL_CROP,
    TOKENS_PER_CROP,
    TOKENS_PER_OBJECT,
    Box,
    Layout,
    check_box,
    layout_tokens,
    read_layouts,
)
from ppdiffusers.models import AutoencoderKL, LDMBertModel, UNet2DConditionModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline, check_guidance
from ppdiffusers.pipelines.results import DenoisingProgress, check_count, check_output_type
from ppdiffusers.pipelines.sampling import Run, StepCallback, attending
from ppdiffusers.random import as_generators
from ppdiffusers.schedulers.scheduler import Scheduler


class LDMLayoutToImagePipeline(LatentDiffusionPipeline):
    """Paint a scene from the classes and the places of its objects."""

    _component_types = {
        "vqvae": (VQModel, AutoencoderKL),
        "layout_encoder": (LDMBertModel,),
        "unet": (UNet2DConditionModel,),
        "scheduler": (Scheduler,),
    }
    _value_names = ("num_object_classes",)

    layout_encoder: LDMBertModel

    def __init__(
        self,
        vqvae: Union[VQModel, AutoencoderKL],
        layout_encoder: LDMBertModel,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
        num_object_classes: Optional[int] = None,
    ):
        """
        Args:
            layout_encoder: reads layouts of `(max_position_embeddings - 2) / 3` objects, 30 in the published model.
            num_object_classes: classes of objects that the model was trained on. Needed for boxes with modifiers
                only (`group=True` and so on), and checked where it is given.
        """
        super().__init__(vqvae=vqvae, layout_encoder=layout_encoder, unet=unet, scheduler=scheduler)
        self._check_width("layout_encoder", layout_encoder, "d_model")
        if num_object_classes is not None:
            check_count("num_object_classes", num_object_classes)
        self.num_object_classes = num_object_classes
        positions = layout_encoder.config.max_position_embeddings
        self.max_objects, rest = divmod(positions - TOKENS_PER_CROP, TOKENS_PER_OBJECT)
        if rest or self.max_objects < 1:
            raise ValueError(
                f"the layout_encoder reads {positions} tokens (max_position_embeddings); a layout has "
                f"{TOKENS_PER_OBJECT} for each object and {TOKENS_PER_CROP} for the crop, 92 for the usual 30 objects"
            )

    def stream(
        self,
        boxes: Union[Layout, Sequence[Layout]],
        height: Optional[int] = None,
        width: Optional[int] = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        crop: Box = FULL_CROP,
        num_images_per_layout: int = 1,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """Paint one or several layouts.

        Args:
            boxes: a layout, or a list of them. A layout is a list of boxes, each a `LayoutBox` or the five numbers
                (class, left, top, right, bottom), the last four in [0, 1] of the scene's width and height.
            height, width: of the picture in pixels, multiples of `vae_scale_factor`; without them, the size that
                the unet was trained on.
            num_inference_steps: denoising steps.
            guidance_scale: how strongly the layout counts against one without objects. 1, no guidance, is what the
                published model is made for: its training had no empty layouts.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the picture
                divided by `vae_scale_factor`, rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                or "latent" (`[B, C, h, w]`, shaped as `latents`: neither decoded nor cropped).
            return_dict: False returns a tuple.
            crop: left, top, right, bottom of the part of the scene that the picture shows, all of it by default.
                Boxes outside are left out; those inside stay where they are in the scene.
            num_images_per_layout: pictures of every layout; those of one layout are neighbours in the result.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            TypeError: boxes that are none.
            ValueError: other arguments out of range, named with the remedy.
        """
        check_output_type(output_type)
        check_count("num_images_per_layout", num_images_per_layout)
        size = self._size(height, width)
        crop = check_box("crop", crop)
        vocab_size = self.layout_encoder.config.vocab_size

        def tokens(layout: Sequence[Any]) -> List[int]:
            return layout_tokens(layout, crop, vocab_size, self.max_objects, self.num_object_classes)

        positives = [tokens(layout) for layout in read_layouts(boxes)]
        check_guidance(guidance_scale)
        negatives = [] if guidance_scale == 1 else [tokens([])] * len(positives)
        generators = as_generators(generator, len(positives) * num_images_per_layout)
        run = Run(self, num_inference_steps, eta, callback_on_step_end)
        condition = self._encode(negatives + positives).repeat_interleave(num_images_per_layout, axis=0)
        noise = self._noise(latents, self._latent_shape(len(positives) * num_images_per_layout, size), generators)
        predict = attending(condition, guidance_scale if negatives else None)
        denoised = yield from run.denoise(noise, predict, generators)
        yield run.done(denoised, self._decode_to(denoised, size, output_type, return_dict))

    @paddle.no_grad()
    def _encode(self, inputs: List[List[int]]) -> paddle.Tensor:
        tokens = paddle.to_tensor(inputs, dtype="int64")
        return self._model("layout_encoder", "_encode", tokens.shape)(tokens)[0]
