"""Pictures from text (arXiv 2112.10752, section 4.3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Iterator, List, Optional, Sequence, Union

import paddle

from ppdiffusers.models import AutoencoderKL, LDMBertModel, UNet2DConditionModel, VQModel
from ppdiffusers.pipelines.latent import LatentDiffusionPipeline, check_guidance
from ppdiffusers.pipelines.results import DenoisingProgress, check_count, check_output_type
from ppdiffusers.pipelines.sampling import Run, StepCallback, attending
from ppdiffusers.random import as_generators
from ppdiffusers.schedulers.scheduler import Scheduler
from ppdiffusers.tokenizer import tokenise

LONGEST_PROMPT = 1_000_000  # bytes; the model reads a few hundred
Prompts = Union[str, Sequence[str]]


class LDMTextToImagePipeline(LatentDiffusionPipeline):
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
        self._check_width("bert", bert, "d_model")

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
        check_output_type(output_type)
        check_count("num_images_per_prompt", num_images_per_prompt)
        size = self._size(height, width)
        prompts = _texts("prompt", prompt)
        check_guidance(guidance_scale)
        negatives = _negatives(negative_prompt, len(prompts))
        if guidance_scale == 1:
            negatives = []
        if guidance_scale == 1 and negative_prompt is not None:
            warnings.warn("guidance_scale 1 does not read negative_prompt; set it to 5 or so", stacklevel=2)
        generators = as_generators(generator, len(prompts) * num_images_per_prompt)
        run = Run(self, num_inference_steps, eta, callback_on_step_end)
        condition = self._encode(negatives + prompts).repeat_interleave(num_images_per_prompt, axis=0)
        noise = self._noise(latents, self._latent_shape(len(prompts) * num_images_per_prompt, size), generators)
        predict = attending(condition, guidance_scale if negatives else None)
        denoised = yield from run.denoise(noise, predict, generators)
        yield run.done(denoised, self._decode_to(denoised, size, output_type, return_dict))

    @paddle.no_grad()
    def _encode(self, inputs: List[str]) -> paddle.Tensor:
        ids = tokenise(self.tokenizer, inputs, self.bert.config.max_position_embeddings)
        tokens = paddle.to_tensor(ids)
        return self._model("bert", "_encode", tokens.shape)(tokens)[0]


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
