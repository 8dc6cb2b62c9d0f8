"""Train the toy that the tests of prompts and guidance run on: four prompts, 32x32 pixels, 0.6 MB.

    python scripts/train_toy_text_model.py RUNS OUT [--autoencoder-steps N] [--steps N]

RUNS keeps the checkpoints; a run started again goes on from its last one. OUT becomes the folder of a
`LDMTextToImagePipeline` in half precision, and OUT/class_embedder the condition of a
`LDMClassConditionalPipeline` that shares its vqvae and unet. tests/pipelines/toy was made by the default
arguments, in about 15 minutes.

A fifth of the captions are wrong, as captions of the web are: a model that has learned such data paints
something else than it was told now and then, and classifier-free guidance (arXiv 2207.12598) mends it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdiffusers import (
    AutoencoderKL,
    BertTokenizer,
    ClassEmbedder,
    DDIMScheduler,
    Generator,
    LDMBertModel,
    LDMTextToImagePipeline,
    UNet2DConditionModel,
)
from ppdiffusers.training.run import Run

SIZE = 32  # pixels
COLOURS = {"red": (0.85, 0.2, 0.2), "blue": (0.2, 0.3, 0.9)}
SHAPES = ("circle", "cross")
PROMPTS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]  # a prompt's place is its class number
NO_CLASS = len(PROMPTS)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *SHAPES]
TOKENS = 4  # [CLS] red circle [SEP]

PICTURES = 8192
WRONG_CAPTIONS = 0.2
DROPPED_CAPTIONS = 0.15  # read as the empty text and as no class, for classifier-free guidance
KL_WEIGHT = 1e-6

AUTOENCODER: Dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (8, 16, 16),  # f = 4: latents are 4x8x8
    "norm_num_groups": 4,
    "sample_size": SIZE,
    "mid_block_add_attention": False,
}
BERT: Dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "max_position_embeddings": TOKENS,
    "encoder_layers": 1,
    "encoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "head_dim": 16,
    "d_model": 32,
    "dropout": 0.0,
}
UNET: Dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (20, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": BERT["d_model"],
    "attention_head_dim": 4,
}
SCHEDULER: Dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",  # what the condition decides is learned much sooner than with epsilon
    "timestep_spacing": "trailing",  # begins at pure noise, so that few steps are enough
}


class Words:
    """What a `BertTokenizer` with this vocabulary makes of texts of whole words, without paddlenlp."""

    def __init__(self, vocabulary: Sequence[str]):
        self.numbers = {token: number for number, token in enumerate(vocabulary)}

    def __call__(self, texts: Sequence[str], max_length: int = TOKENS, **options: Any) -> Dict[str, List[List[int]]]:
        rows = [["[CLS]", *text.lower().split()[: max_length - 2], "[SEP]"] for text in texts]
        padded = [row + ["[PAD]"] * (max_length - len(row)) for row in rows]
        return {"input_ids": [[self.numbers.get(word, self.numbers["[UNK]"]) for word in row] for row in padded]}


def draw(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Pictures `[B, 3, 32, 32]` in [-1, 1]: one shape each, anywhere, before a slanting grey gradient."""

    def uniform(low: float, high: float, channels: int = 1) -> np.ndarray:
        return random.uniform(low, high, (len(classes), channels, 1, 1))

    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    dy, dx, radius = abs(y - uniform(12, SIZE - 12)), abs(x - uniform(12, SIZE - 12)), uniform(7, 10)
    circle = radius - np.hypot(dy, dx)  # how far inside, in pixels
    length = radius * np.sqrt(0.45 * np.pi)  # the cross has the circle's area: size tells nothing
    cross = np.minimum(length - np.maximum(dy, dx), length / 3 - np.minimum(dy, dx))
    is_cross = (classes % len(SHAPES) == 1)[:, None, None, None]
    inside = np.clip(np.where(is_cross, cross, circle) + 0.5, 0, 1)
    colour = np.array(list(COLOURS.values()))[classes // len(SHAPES)][:, :, None, None] + uniform(-0.08, 0.08, 3)
    angle = uniform(0, 2 * np.pi)
    slope = ((x / SIZE - 0.5) * np.cos(angle) + (y / SIZE - 0.5) * np.sin(angle)) * uniform(0, 0.4)
    painted = inside * colour + (1 - inside) * (uniform(0.35, 0.75) + slope)
    return (2 * np.clip(painted, 0, 1) - 1).astype(np.float32)


def pictures(seed: int, count: int) -> Tuple[paddle.Tensor, np.ndarray]:
    """Pictures `[count, 3, 32, 32]` in [-1, 1] and their classes `[count]`."""
    random = np.random.default_rng(seed)
    classes = random.integers(len(PROMPTS), size=count)
    return paddle.to_tensor(draw(classes, random)), classes


def captions(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The classes that are said of pictures of `classes`: some of them wrong, some `NO_CLASS`."""
    others = (classes + random.integers(1, len(PROMPTS), size=len(classes))) % len(PROMPTS)
    said = np.where(random.random(len(classes)) < WRONG_CAPTIONS, others, classes)
    return np.where(random.random(len(classes)) < DROPPED_CAPTIONS, NO_CLASS, said)


def train_autoencoder(out: Path, steps: int) -> AutoencoderKL:
    """L1 with a light KL term; `scaling_factor` then brings the latents to unit variance."""
    model = AutoencoderKL(**AUTOENCODER)
    run = Run(out, model, SimpleNamespace(steps=steps, learning_rate=4e-3, warmup_steps=50, ema_decay=0.99))
    while not run.finished:
        x, _ = pictures(run.step, 16)
        posterior = model.encode(x).latent_dist
        pixel = F.l1_loss(model.decode(posterior.sample(Generator(run.step))).sample, x)
        run.update(pixel + KL_WEIGHT * posterior.kl().mean(), pixel=pixel)
        if run.step % 250 == 0 or run.finished:
            run.log()
            run.save()
    trained = AutoencoderKL.from_pretrained(out / "model")
    with paddle.no_grad():
        spread = float(trained.encode(pictures(steps, 256)[0]).latent_dist.mean.std())
    return AutoencoderKL.from_pretrained(out / "model", scaling_factor=round(1 / spread, 4))


class Denoiser(nn.Layer):
    """The U-Net and its two conditions, text and class, trained as one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = Words(VOCABULARY)
        self.unet = UNet2DConditionModel(**UNET)
        self.bert = LDMBertModel(**BERT)
        self.class_embedder = ClassEmbedder(len(PROMPTS) + 1, BERT["d_model"], unconditional_class=NO_CLASS)
        self.class_embedder.embedding.weight.set_value(paddle.randn([len(PROMPTS) + 1, BERT["d_model"]]))

    def condition(self, said: np.ndarray) -> paddle.Tensor:
        """`[B, TOKENS, d_model]`, of texts for one half and of classes for the other.

        Attention to a token that is repeated is attention to that token.
        """
        texts, half = [*PROMPTS, ""], len(said) // 2
        ids = self.words([texts[i] for i in said[:half]])["input_ids"]
        classes = self.class_embedder(paddle.to_tensor(said[half:])).tile([1, TOKENS, 1])
        return paddle.concat([self.bert(paddle.to_tensor(ids))[0], classes])

    def save_pretrained(self, folder: Path) -> None:
        for name, part in self.named_children():
            part.save_pretrained(folder / name)


def train_denoiser(out: Path, steps: int, vqvae: AutoencoderKL, scheduler: DDIMScheduler) -> None:
    """Mean squared error of v (arXiv 2202.00512) on the latents of `PICTURES` pictures, encoded once."""
    model = Denoiser()
    run = Run(out, model, SimpleNamespace(steps=steps, learning_rate=3e-3, warmup_steps=100, ema_decay=0.998))
    parts = [pictures(10**6 + i, 256) for i in range(PICTURES // 256)]
    classes = np.concatenate([part[1] for part in parts])
    with paddle.no_grad():
        encoded = [vqvae.encode(x).latent_dist.sample(Generator(i)) for i, (x, _) in enumerate(parts)]
        data = paddle.concat(encoded) * vqvae.config.scaling_factor
    while not run.finished:
        random = np.random.default_rng([run.step, 1])
        chosen = random.integers(len(classes), size=64)
        latents, condition = data[paddle.to_tensor(chosen)], model.condition(captions(classes[chosen], random))
        noise = paddle.to_tensor(Generator(run.step).randn(latents.shape))
        timesteps = random.integers(len(scheduler), size=len(chosen))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        run.update(F.mse_loss(model.unet(noisy, paddle.to_tensor(timesteps), condition).sample, target))
        if run.step % 250 == 0 or run.finished:
            run.log()
            run.save()


def main(arguments: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--autoencoder-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args(arguments)
    paddle.seed(0)
    scheduler = DDIMScheduler(**SCHEDULER)
    vqvae = train_autoencoder(args.runs / "autoencoder", args.autoencoder_steps)
    train_denoiser(args.runs / "denoiser", args.steps, vqvae, scheduler)

    trained = args.runs / "denoiser" / "model"
    unet = UNet2DConditionModel.from_pretrained(trained, subfolder="unet")
    bert = LDMBertModel.from_pretrained(trained, subfolder="bert")
    vocabulary = args.out / "tokenizer" / "vocab.txt"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    pipeline = LDMTextToImagePipeline(vqvae, bert, BertTokenizer(vocabulary.parent), unet, scheduler)
    pipeline.save_pretrained(args.out, paddle_dtype="float16")
    classes = ClassEmbedder.from_pretrained(trained, subfolder="class_embedder")
    classes.save_pretrained(args.out / "class_embedder", paddle_dtype="float16")


if __name__ == "__main__":
    main()
