"""Pictures from text (arXiv 2112.10752, section 4.3)."""

from __future__ import annotations

import functools
import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import paddle

from ppdiffusers.models import AutoencoderKL, LDMBertModel, UNet2DConditionModel, VQModel
from ppdiffusers.pipelines.pipeline import (
    DenoisingProgress,
    NoiseToImagePipeline,
    StepCallback,
    check_count,
    check_output_type,
    drain,
)
from ppdiffusers.schedulers.scheduler import Scheduler
from ppdiffusers.tokenizer import tokenise

LONGEST_PROMPT = 1_000_000  # bytes; the model reads a few hundred
Prompts = Union[str, Sequence[str]]


class LDMTextToImagePipeline(NoiseToImagePipeline):
    """Paint what a sentence says, by a latent diffusion model with classifier-free guidance (arXiv 2207.12598)."""

    _component_types = {
        "vqvae": (VQModel, AutoencoderKL),
        "bert": (LDMBertModel,),
        "tokenizer": (Callable,),
        "unet": (UNet2DConditionModel,),
        "scheduler": (Scheduler,),
    }

    bert: LDMBertModel
    tokenizer: Any
    unet: UNet2DConditionModel

    def __init__(
        self,
        vqvae: Union[VQModel, AutoencoderKL],
        bert: LDMBertModel,
        tokenizer: Any,
        unet: UNet2DConditionModel,
        scheduler: Scheduler,
    ):
        """
        Args:
            tokenizer: a `ppdiffusers.BertTokenizer`, or a tokenizer of paddlenlp or transformers.
        """
        super().__init__(vqvae=vqvae, bert=bert, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        if unet.config.cross_attention_dim != bert.config.d_model:
            raise ValueError(
                f"the unet reads a condition of width {unet.config.cross_attention_dim} (cross_attention_dim), and "
                f"the bert makes one of {bert.config.d_model} (d_model); take both from one model"
            )

    def __call__(
        self,
        prompt: Prompts,
        height: Optional[int] = None,
        width: Optional[int] = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        negative_prompt: Optional[Prompts] = None,
        num_images_per_prompt: int = 1,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Any:
        """Paint one or several prompts.

        Args:
            prompt: a text, or a list of them. Tokens beyond what the model reads (77) are cut with a warning.
            height, width: of the picture in pixels, multiples of `vae_scale_factor` (8); without them, the
                size that the unet was trained on.
            num_inference_steps: denoising steps.
            guidance_scale: how strongly the prompt counts; 1 is no guidance and half the work, 5 to 8 are usual.
            eta: 0 is deterministic DDIM, 1 as noisy as DDPM (arXiv 2010.02502); other schedulers have none.
            generator: a `ppdiffusers.Generator`, an int, a torch generator, or a list with one a
                picture. It fixes the picture at every eta. Without one, `paddle.seed` governs.
            latents: initial noise `[B, C, h, w]`, with unit variance; h and w are those of the picture
                divided by `vae_scale_factor`, rounded up to a multiple of `2 ** (levels of the unet - 1)`.
            output_type: "pil", "np" (`[B, H, W, C]` in [0, 1]), "pd" (`[B, C, H, W]` in [0, 1]),
                or "latent" (`[B, C, h, w]`, shaped as `latents`: neither decoded nor cropped).
            return_dict: False returns a tuple.
            negative_prompt: what guidance leads away from, a text for all prompts or a list with one for each;
                the empty text when not given.
            num_images_per_prompt: pictures of every prompt; those of one prompt are neighbours in the result.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": latents})`
                with step counted from 0; latents in the dict that it returns replace the current ones.

        Returns:
            `ImagePipelineOutput`, or a tuple of its fields.

        Raises:
            TypeError: a prompt that is no text.
            ValueError: other arguments out of range, named with the remedy.
            ImportError: the tokenizer needs paddlenlp, which is not installed.
        """
        run = self.stream(
            prompt, height, width, num_inference_steps, guidance_scale, eta, generator, latents, output_type,
            return_dict, negative_prompt, num_images_per_prompt, callback_on_step_end,
        )  # fmt: skip
        return drain(run)

    def stream(
        self,
        prompt: Prompts,
        height: Optional[int] = None,
        width: Optional[int] = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        generator: Any = None,
        latents: Optional[Any] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        negative_prompt: Optional[Prompts] = None,
        num_images_per_prompt: int = 1,
        callback_on_step_end: Optional[StepCallback] = None,
    ) -> Iterator[DenoisingProgress]:
        """As a call, but yields after every step; the last one carries the result as `output`.

        Leaving the loop cancels. `decode_latents(progress.latents)` is a preview.
        """
        check_output_type(output_type)
        check_count("num_images_per_prompt", num_images_per_prompt)
        size = self._size(height, width)
        prompts = _texts("prompt", prompt)
        if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, numbers.Real):
            raise TypeError(f"guidance_scale must be a number, not {guidance_scale!r}")
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale {guidance_scale} is not finite; 5 to 8 are usual")
        negatives = _negatives(negative_prompt, len(prompts))
        guided = guidance_scale != 1
        if not guided and negative_prompt is not None:
            warnings.warn("guidance_scale 1 does not read negative_prompt; set it to 5 or so", stacklevel=2)
        condition = self._condition(negatives + prompts if guided else prompts, num_images_per_prompt)
        predict = functools.partial(self._predict, condition, guidance_scale if guided else None)
        yield from self._generate(
            len(prompts) * num_images_per_prompt, size, predict, num_inference_steps, eta, generator, output_type,
            return_dict, latents, callback_on_step_end,
        )  # fmt: skip

    def _size(self, height: Optional[int], width: Optional[int]) -> Tuple[int, int]:
        if height is None or width is None:
            trained = self._trained_size()
            height, width = trained[0] if height is None else height, trained[1] if width is None else width
        factor = self.vae_scale_factor
        for name, side in (("height", height), ("width", width)):
            check_count(name, side)
            if side % factor:
                near = max(factor, side // factor * factor)
                raise ValueError(f"{name} {side} is not a multiple of {factor}; take {near} or {near + factor}")
        return height, width

    @paddle.no_grad()
    def _condition(self, texts: List[str], repeats: int) -> paddle.Tensor:
        """`[len(texts) * repeats, T, d_model]`."""
        ids = tokenise(self.tokenizer, texts, self.bert.config.max_position_embeddings)
        return self.bert(paddle.to_tensor(ids))[0].repeat_interleave(repeats, axis=0).astype(self.unet.dtype)

    def _predict(
        self, condition: paddle.Tensor, guidance_scale: Optional[float], latents: paddle.Tensor, timestep: float
    ) -> paddle.Tensor:
        """`condition` is `[2 * B, T, D]` with guidance, the negative half first, and `[B, T, D]` without."""
        latents = latents.astype(self.unet.dtype)
        if guidance_scale is None:
            return self.unet(latents, timestep, condition)[0]
        prediction = self.unet(paddle.concat([latents, latents]), timestep, condition)[0].astype("float32")
        negative, positive = prediction.chunk(2)
        return negative + guidance_scale * (positive - negative)


def _texts(name: str, value: Any) -> List[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        shown = type(value).__name__
        if isinstance(texts, (list, tuple)):
            shown += " with a " + next(type(text).__name__ for text in texts if not isinstance(text, str))
        raise TypeError(f"{name} must be a str or a list of str, not a {shown}")
    if not texts:
        raise ValueError(f"{name} is an empty list; give at least one text")
    for text in texts:
        size = len(text.encode("utf-8", "replace"))
        if size > LONGEST_PROMPT:
            raise ValueError(f"{name} has {size / 1e6:.1f} MB of text; a model reads a few hundred characters, cut it")
    return list(texts)


def _negatives(value: Optional[Prompts], count: int) -> List[str]:
    texts = _texts("negative_prompt", "" if value is None else value)
    if value is None or isinstance(value, str):
        return texts * count
    if len(texts) != count:
        raise ValueError(f"negative_prompt has {len(texts)} texts for {count} prompts; give one for each, or a str")
    return texts
