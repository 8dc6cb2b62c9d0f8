"""The first stage: an autoencoder whose latents are quantised, or near the normal distribution.

Arxiv 2112.10752, section 3.1, with the losses of its code (2012.09841, section 3.1).
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers.config import ConfigError
from ppdiffusers.models import AutoencoderKL, VQModel
from ppdiffusers.training.batches import Item
from ppdiffusers.training.codebook import kmeans
from ppdiffusers.training.components import (
    FIRST_STAGE,
    FIRST_STAGE_CLASSES,
    choose_trained,
    downscale_factor,
    latent_channels,
    make_components,
)
from ppdiffusers.training.configuration import Configuration, Reconstruction
from ppdiffusers.training.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from ppdiffusers.training.losses import open_lpips
from ppdiffusers.training.pictures import Sample

Batch = Dict[str, paddle.Tensor]
_CODEBOOK = "vqvae.quantize.embedding.weight"
_KMEANS_BATCHES = 60
_SCALE_BATCHES = 16  # of which the deviation of latents is measured


class Autoencoding(nn.Layer):
    """The autoencoder's loss; leaves what it made of the pictures in the batch, for the discriminator."""

    def __init__(self, stage: FirstStage, trained: nn.LayerDict):
        super().__init__()
        self.trained = trained
        self._stage = [stage]  # in a list, as the discriminator and LPIPS are no parts of it
        if isinstance(stage.model, VQModel):
            codes = [stage.model.config.num_vq_embeddings]
            self.register_buffer("idle", paddle.zeros(codes))  # steps since each code was taken
            self.register_buffer("taken", paddle.zeros(codes), persistable=False)  # in this step, by this process

    def forward(self, batch: Batch) -> Tuple[paddle.Tensor, Dict[str, paddle.Tensor]]:
        stage, weights = self._stage[0], self._stage[0].config.reconstruction
        x = batch["pixels"]
        latents, z, latent_loss, figures = self._bottleneck(batch)
        y = stage.decode(latents)
        batch["made"], batch["latents"] = y.detach(), z.detach()
        pixel = F.l1_loss(y, x) if weights.pixel == "l1" else F.mse_loss(y, x)
        loss = pixel
        figures = {"pixel": pixel, **figures}
        if stage.lpips is not None:
            figures["perceptual"] = stage.lpips(y, x).mean()
            loss = loss + weights.perceptual * figures["perceptual"]
        if self.training and "discriminator" in stage.active(
            stage.step
        ):  # not in validation, which is to be comparable
            adversarial = -stage.judge(y).mean()
            factor = adaptive_weight(loss, adversarial, stage.model.decoder.conv_out.weight)
            figures["adversarial"] = adversarial
            loss = loss + weights.discriminator * factor * adversarial
        loss = loss + latent_loss
        if weights.anchor:
            figures["anchor"] = F.mse_loss(z, F.avg_pool2d(x, stage.factor, stage.factor))
            loss = loss + weights.anchor * figures["anchor"]
        return loss, {"loss": loss.detach(), **{name: value.detach() for name, value in figures.items()}}

    def _bottleneck(self, batch: Batch) -> Tuple[paddle.Tensor, paddle.Tensor, Any, Dict[str, paddle.Tensor]]:
        """What is decoded, the latents before that, the loss of both, and figures."""
        stage, weights, x = self._stage[0], self._stage[0].config.reconstruction, batch["pixels"]
        if isinstance(stage.model, AutoencoderKL):
            posterior = stage.model.encode(x).latent_dist
            kl = posterior.kl().mean()  # nats a picture
            drawn = posterior.mean + posterior.std * batch["noise"]
            # The paper's code sums pixels, here they are averaged: so is what is added.
            return drawn, posterior.mean, weights.kl * kl / math.prod(x.shape[1:]), {"kl": kl}
        z = stage.model.encode(x).latents
        noisy = z + weights.latent_noise * batch["spread"] * batch["noise"] if weights.latent_noise else z
        if not stage.quantised(stage.step):
            return noisy, z, 0.0, {}
        z = noisy if stage.decoder_only else z  # what a sampler hands over is off by a little
        numbers = stage.model.quantize.nearest(z)
        codes = stage.model.quantize.lookup(numbers)
        if self.training:
            with paddle.no_grad():
                flat = numbers.reshape([-1, 1])
                paddle.assign(paddle.scatter_nd_add(self.taken, flat, paddle.ones([flat.shape[0]])), self.taken)
        codebook, commitment = F.mse_loss(codes, z.detach()), F.mse_loss(z, codes.detach())
        loss = 0.0 if stage.decoder_only else weights.codebook * codebook + weights.commitment * commitment
        recent = (self.idle < stage.config.log_every).astype("float32").mean()
        return z + (codes - z).detach(), z, loss, {"codebook": codebook, "codes_used": recent}


class Discriminating(nn.Layer):
    """The discriminator's loss, on a batch that `Autoencoding` has seen."""

    def __init__(self, discriminator: PatchDiscriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, batch: Batch) -> Tuple[paddle.Tensor, Dict[str, paddle.Tensor]]:
        loss = hinge_loss(self.discriminator(batch["pixels"]), self.discriminator(batch["made"]))
        return loss, {"discriminator": loss.detach()}


class FirstStage:
    """The tasks "vq" and "kl".

    Raises:
        ConfigError, ValueError: a model or LPIPS weights that are missing or do not fit.
    """

    def __init__(self, config: Configuration, given: Optional[Dict[str, Any]] = None, num_classes: int = 0):
        self.config, self.step = config, 0
        kind = FIRST_STAGE_CLASSES[config.task]
        self.components, _ = make_components(config, {FIRST_STAGE: (kind,)}, given)
        self.model = self.components[FIRST_STAGE]
        self.factor = self.multiple = downscale_factor(self.model)
        if config.reconstruction.anchor and latent_channels(self.model) != self.model.config.in_channels:
            raise ConfigError("reconstruction.anchor needs latents with as many channels as the pictures")
        self.trained = choose_trained(self.components, config.train or [FIRST_STAGE])
        encoder = list(self.model.encoder.parameters())
        self.decoder_only = all(parameter.stop_gradient for parameter in encoder)
        self.lpips = open_lpips(config.lpips) if config.lpips else None
        if config.reconstruction.perceptual and self.lpips is None:
            raise ConfigError(
                "reconstruction.perceptual needs the weights of LPIPS: name them, lpips=data/prepared/lpips-vgg.npz "
                "(bash scripts/fetch_training_data.sh data), or set it to 0"
            )
        if not config.reconstruction.perceptual:
            self.lpips = None
        self.objectives: Dict[str, nn.Layer] = {"autoencoder": Autoencoding(self, self.trained)}
        weights: Reconstruction = config.reconstruction
        if weights.discriminator:
            paddle.seed(config.seed)
            judge = PatchDiscriminator(self.model.config.out_channels, weights.discriminator_layers)
            self.objectives["discriminator"] = Discriminating(judge)

    def active(self, step: int) -> List[str]:
        """The losses of a step."""
        judged = step >= self.config.reconstruction.discriminator_start
        return [name for name in self.objectives if name != "discriminator" or judged]

    def judge(self, pictures: paddle.Tensor) -> paddle.Tensor:
        """Logits, through which gradients reach the pictures and not the discriminator."""
        discriminator = self.objectives["discriminator"].discriminator
        for parameter in discriminator.parameters():
            parameter.stop_gradient = True
        logits = discriminator(pictures)
        for parameter in discriminator.parameters():
            parameter.stop_gradient = False
        return logits

    def quantised(self, step: int) -> bool:
        if not isinstance(self.model, VQModel):
            return False
        return self.decoder_only or step >= self.config.reconstruction.continuous * self.config.steps

    @property
    def phase(self) -> str:
        """What the loss measures; losses of one phase are comparable."""
        return "quantised" if self.quantised(self.step) else ""

    def item(self, sample: Sample, random: np.random.Generator) -> Item:
        height, width = (side // self.factor for side in sample.pixels.shape[:2])
        return {
            "pixels": np.ascontiguousarray(sample.pixels.transpose(2, 0, 1)),
            "noise": random.standard_normal((latent_channels(self.model), height, width), np.float32),
            "spread": random.random((1, 1, 1), np.float32),
        }

    def decode(self, latents: paddle.Tensor) -> paddle.Tensor:
        """Pixels of latents that are quantised if they are to be."""
        options = {"force_not_quantize": True} if isinstance(self.model, VQModel) else {}
        return self.model.decode(latents, **options).sample

    @paddle.no_grad()
    def before_step(self, step: int, batches: Any) -> List[str]:
        """Set the codebook when quantisation begins, and restart codes that no latent took for long."""
        self.step, weights = step, self.config.reconstruction
        if not isinstance(self.model, VQModel) or self.decoder_only:
            return []
        codebook = self.model.quantize.embedding.weight
        if weights.continuous and step == math.ceil(weights.continuous * self.config.steps):
            pixels = (batches.batch(10**9 + i)["pixels"] for i in range(_KMEANS_BATCHES))
            latents = [_flat(self.model.encode(paddle.to_tensor(x)).latents) for x in pixels]
            codebook.set_value(kmeans(paddle.concat(latents), codebook.shape[0]))
            return [_CODEBOOK]
        every = weights.restart_codes
        if every and step and step % every == 0 and self.quantised(step):
            return self._restart(step, batches)
        return []

    @paddle.no_grad()
    def after_step(self) -> None:
        """Count the codes that no process took."""
        if not isinstance(self.model, VQModel) or not self.quantised(self.step):
            return
        counts = self.objectives["autoencoder"]
        if paddle.distributed.get_world_size() > 1:
            paddle.distributed.all_reduce(counts.taken)
        paddle.assign((counts.idle + 1) * (counts.taken == 0).astype("float32"), counts.idle)
        paddle.assign(paddle.zeros_like(counts.taken), counts.taken)

    def _restart(self, step: int, batches: Any) -> List[str]:
        idle = self.objectives["autoencoder"].idle
        ages = idle.numpy()
        dead = np.flatnonzero(ages >= self.config.reconstruction.restart_codes)
        if not len(dead):
            return []
        latents = _flat(self.model.encode(paddle.to_tensor(batches.batch(10**9 + step)["pixels"])).latents).numpy()
        codebook = self.model.quantize.embedding.weight
        values = codebook.numpy()
        values[dead] = latents[np.random.default_rng([self.config.seed, step]).integers(len(latents), size=len(dead))]
        ages[dead] = 0
        codebook.set_value(values)
        idle.set_value(ages)
        return [_CODEBOOK]

    @paddle.no_grad()
    def generate(self, samples: Sequence[Sample], seed: int = 0) -> np.ndarray:
        """What comes back of pictures, `[B, H, W, 3]` in [-1, 1]."""
        pixels = paddle.to_tensor(np.stack([sample.pixels.transpose(2, 0, 1) for sample in samples]))
        if isinstance(self.model, AutoencoderKL):
            made = self.model.decode(self.model.encode(pixels).latent_dist.mode()).sample
        else:
            made = self.model.decode(self.model.encode(pixels).latents, not self.quantised(self.step)).sample
        return np.clip(made.numpy().transpose(0, 2, 3, 1), -1, 1)

    @paddle.no_grad()
    def latent_deviation(self, batches: Any) -> float:
        """Standard deviation of latents over a few batches: what `scaling_factor` is one over."""
        found = []
        for step in range(_SCALE_BATCHES):
            batch = batches.batch(2 * 10**9 + step)
            x = paddle.to_tensor(batch["pixels"])
            if isinstance(self.model, AutoencoderKL):
                posterior = self.model.encode(x).latent_dist
                found.append((posterior.mean + posterior.std * paddle.to_tensor(batch["noise"])).flatten())
            else:
                found.append(self.model.encode(x).latents.flatten())
        return float(paddle.concat(found).std())

    def save(self, folder: Any, batches: Any = None) -> None:
        """Write the model; for a KL one, with the scale that its latents have."""
        if isinstance(self.model, AutoencoderKL) and batches is not None:
            scale = round(1 / max(self.latent_deviation(batches), 1e-6), 5)
            self.model._config = self.model.config._updated({"scaling_factor": scale})
        self.model.save_pretrained(folder)


def _flat(latents: paddle.Tensor) -> paddle.Tensor:
    """`[N, C]` of `[B, C, h, w]`."""
    return latents.transpose([0, 2, 3, 1]).reshape([-1, latents.shape[1]])
