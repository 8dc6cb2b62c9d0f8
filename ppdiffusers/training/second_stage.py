"""The second stage: a U-Net learns to take noise out of latents (arXiv 2112.10752, sections 3.2 and 3.3)."""

from __future__ import annotations

import importlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdiffusers.models import AutoencoderKL
from ppdiffusers.pipelines.index import PIPELINES
from ppdiffusers.training.batches import Item
from ppdiffusers.training.components import (
    FIRST_STAGE,
    choose_trained,
    downscale_factor,
    latent_channels,
    make_components,
)
from ppdiffusers.training.conditions import CONDITIONS, Batch
from ppdiffusers.training.configuration import Configuration
from ppdiffusers.training.pictures import Sample

Figures = Dict[str, paddle.Tensor]


def pipeline_class(task: str) -> Any:
    """The pipeline that a task's models are for."""
    name = CONDITIONS[task].pipeline
    return getattr(importlib.import_module(PIPELINES[name]), name)


class Denoising(nn.Layer):
    """The loss: the squared error of the prediction, each picture weighted by its timestep.

    Called with a batch; returns the loss and what is logged. Its parameters are what learns.
    """

    def __init__(self, stage: SecondStage, trained: nn.LayerDict):
        super().__init__()
        self.trained = trained
        self._stage = [stage]  # in a list: the frozen models are no parameters of the loss

    def forward(self, batch: Batch) -> Tuple[paddle.Tensor, Figures]:
        stage = self._stage[0]
        latents = stage.latents(batch)
        noisy = stage.scheduler.add_noise(latents, batch["noise"], batch["timestep"])
        beside, attended = stage.condition.told(batch, stage.encode)
        if beside is not None:
            noisy = paddle.concat([noisy, beside], axis=1)
        context = [attended] if "UNet2DConditionModel" in type(stage.unet).__name__ else []
        prediction = stage.unet(noisy, batch["timestep"], *context).sample
        target = stage.target(latents, batch["noise"], batch["timestep"])
        errors = ((prediction.astype("float32") - target) ** 2).mean(axis=[1, 2, 3])  # [B]
        loss = errors.mean() if stage.weights is None else (errors * stage.weights[batch["timestep"]]).mean()
        return loss, {"loss": loss.detach()}


class SecondStage:
    """A task of `conditions`.

    Args:
        given: components to take as they are, in place of the configuration's.
        num_classes: that the annotations have.

    Raises:
        ConfigError, ValueError: models that are missing or do not fit each other.
    """

    def __init__(self, config: Configuration, given: Optional[Dict[str, Any]] = None, num_classes: int = 0):
        self.config = config
        kind = CONDITIONS[config.task]
        self._pipeline_class = pipeline_class(config.task)
        self.components, fresh = make_components(config, self._pipeline_class._component_types, given)
        values = {"num_object_classes": num_classes} if num_classes else {}
        self._values = {name: values[name] for name in self._pipeline_class._value_names if name in values}
        self.pipeline()  # raises where they do not fit
        self.first_stage, self.unet = self.components[FIRST_STAGE], self.components["unet"]
        self.scheduler = self.components["scheduler"]
        self.factor = downscale_factor(self.first_stage)
        self.multiple = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.condition = kind(config, self.components, self.factor, num_classes)
        learning = ["unet"]
        if kind.encoder is not None and (kind.encoder in fresh or kind.encoder != "bert"):
            learning.append(kind.encoder)
        self.trained = choose_trained(self.components, config.train or learning)
        self.objectives: Dict[str, nn.Layer] = {"denoising": Denoising(self, self.trained)}
        self.weights: Optional[paddle.Tensor] = None
        if config.diffusion.min_snr is not None:
            self.weights = paddle.to_tensor(self._min_snr(config.diffusion.min_snr), dtype="float32")

    def _min_snr(self, gamma: float) -> np.ndarray:
        """Weights `[T]` of the squared errors (arXiv 2303.09556, section 3.4)."""
        alphas = np.asarray(self.scheduler.alphas_cumprod, np.float64)
        snr = alphas / np.maximum(1 - alphas, 1e-20)
        clipped = np.minimum(snr, gamma)
        kind = self.scheduler.config.prediction_type
        weights: np.ndarray = {
            "sample": clipped, "epsilon": clipped / np.maximum(snr, 1e-20), "v_prediction": clipped / (snr + 1),
        }[kind]  # fmt: skip
        return weights

    def pipeline(self) -> Any:
        """Of the components as they are."""
        pipeline = self._pipeline_class(**self.components, **self._values)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        """All that is random about a picture is drawn here: its noise follows from the step and its place alone."""
        height, width = (side // self.factor for side in sample.pixels.shape[:2])
        if sample.moments is not None:
            height, width = sample.moments.shape[1:]
        shape = latent_channels(self.first_stage), height, width
        noise = random.standard_normal(shape, np.float32)
        if self.config.diffusion.offset_noise:
            noise += np.float32(self.config.diffusion.offset_noise) * random.standard_normal(
                (shape[0], 1, 1), np.float32
            )
        item: Item = {"noise": noise, "timestep": np.asarray(random.integers(len(self.scheduler)))}
        if isinstance(self.first_stage, AutoencoderKL):
            item["posterior"] = random.standard_normal(shape, np.float32)
        item.update(self.condition.item(sample, random))
        if sample.moments is not None:
            return {**item, "moments": sample.moments}
        return {**item, "pixels": np.ascontiguousarray(sample.pixels.transpose(2, 0, 1))}

    @paddle.no_grad()
    def latents(self, batch: Batch) -> paddle.Tensor:
        """`[B, C, h, w]`, of unit variance where the first stage is a KL one: a draw from its posterior."""
        return self._scaled(self.moments(batch), batch.get("posterior"))

    @paddle.no_grad()
    def moments(self, batch: Batch) -> paddle.Tensor:
        """What the encoder returns for the pixels, or what was kept of it."""
        if "moments" in batch:
            return batch["moments"]
        if isinstance(self.first_stage, AutoencoderKL):
            return self.first_stage.encode(batch["pixels"])[0].parameters
        return self.first_stage.encode(batch["pixels"])[0]

    def _scaled(self, moments: paddle.Tensor, noise: Optional[paddle.Tensor]) -> paddle.Tensor:
        if not isinstance(self.first_stage, AutoencoderKL):
            return moments
        mean, logvar = paddle.chunk(moments, 2, axis=1)
        if noise is not None:
            mean = mean + paddle.exp(0.5 * logvar.clip(-30.0, 20.0)) * noise
        return mean * self.first_stage.config.scaling_factor

    @paddle.no_grad()
    def encode(self, pixels: paddle.Tensor) -> paddle.Tensor:
        """Latents of pixels `[B, 3, H, W]`, without noise."""
        return self._scaled(self.moments({"pixels": pixels}), None)

    def target(self, latents: paddle.Tensor, noise: paddle.Tensor, timestep: paddle.Tensor) -> paddle.Tensor:
        """What the U-Net is to return."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        return latents if kind == "sample" else self.scheduler.get_velocity(latents, noise, timestep)

    @property
    def phase(self) -> str:
        """What the loss measures; losses of one phase are comparable."""
        return ""

    def active(self, step: int) -> List[str]:
        """The losses of a step."""
        return list(self.objectives)

    def before_step(self, step: int, batches: Any) -> List[str]:
        """Nothing here; names of weights that were set by other means than a step."""
        return []

    def after_step(self) -> None:
        """Nothing here."""

    def generate(self, samples: Sequence[Sample], seed: int = 0) -> np.ndarray:
        """Pictures `[B, H, W, 3]` in [-1, 1] that show what `samples` do."""
        pictures = self.pipeline()(
            **self.condition.arguments(samples), num_inference_steps=self.config.diffusion.sampling_steps,
            generator=[seed + i for i in range(len(samples))], output_type="np",
        ).images  # fmt: skip
        return np.stack([np.asarray(picture)[..., :3] for picture in pictures]).astype(np.float32) * 2 - 1

    def save(self, folder: Any) -> None:
        self.pipeline().save_pretrained(folder)
