"""The recipes of ppdiffusers.training.recipes, run by torch and diffusers (an environment of its own).

    python scripts/train_reference_torch.py autoencoder DATA OUT [--steps N]
    python scripts/train_reference_torch.py decoder DATA OUT --vqvae FOLDER [--steps N]
    python scripts/train_reference_torch.py super-resolution DATA OUT --vqvae FOLDER [--steps N]

The same crops, losses and schedules as scripts/train_autoencoder.py and
scripts/train_super_resolution.py, about five times faster on a CPU. OUT gets `checkpoint.pt` (a
run started again goes on from it), `log.jsonl`, and the averaged model in diffusers' format, which
`ppdiffusers` opens as it is.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel, VQModel

from ppdiffusers.training.data import Crops, heldout_graphics, low_resolution
from ppdiffusers.training.recipes import AutoencoderRecipe, SuperResolutionRecipe, learning_rate_at


class AlexLpips(torch.nn.Module):
    """LPIPS with AlexNet (arXiv 1801.03924); weights as prepared in `lpips-alex.npz`."""

    def __init__(self, file: Path):
        super().__init__()
        weights = {name: torch.from_numpy(value) for name, value in np.load(file).items()}
        self.convolutions = [(weights[f"conv{i}.weight"], weights[f"conv{i}.bias"]) for i in range(5)]
        self.heads = [weights[f"head{i}"].reshape(1, -1, 1, 1) for i in range(5)]
        self.shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
        self.scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)

    def features(self, x):
        x = (x - self.shift) / self.scale
        for i, (weight, bias) in enumerate(self.convolutions):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, weight, bias, stride=4 if i == 0 else 1, padding=(2, 2, 1, 1, 1)[i]))
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    def forward(self, a, b):
        pairs = zip(self.features(a), self.features(b), self.heads)
        return sum((((x - y).square()) * head).sum(1).mean((1, 2)) for x, y, head in pairs)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    return tensor.to(memory_format=torch.channels_last)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over pictures, of values in [-1, 1] clipped and rounded to 8 bits."""
    levels = [((x.float().clamp(-1, 1) + 1) * 127.5).round() for x in (a, b)]
    mse = (levels[0] - levels[1]).square().mean((1, 2, 3))
    return float((10 * torch.log10(255**2 / mse)).mean())


def kmeans(points: torch.Tensor, count: int, iterations: int = 15) -> torch.Tensor:
    """Lloyd's algorithm from random points; an empty cluster restarts at a random point."""
    generator = torch.Generator().manual_seed(0)
    centres = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(iterations):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in points.split(16384)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        empty = sizes == 0
        centres = sums / sizes.clamp(min=1)[:, None]
        centres[empty] = points[torch.randint(len(points), (int(empty.sum()),), generator=generator)]
    return centres


class Run:
    """Model, its moving average, optimiser, checkpoint and log of one training."""

    def __init__(self, out: Path, model, parameters, recipe):
        self.out, self.model, self.recipe = out, model, recipe
        out.mkdir(parents=True, exist_ok=True)
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.parameters = list(parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=1e-4)
        self.step, self.seconds, self.extra, self.losses = 0, 0.0, {}, []
        if (out / "checkpoint.pt").exists():
            state = torch.load(out / "checkpoint.pt", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.extra = state["step"], state["seconds"], state["extra"]
        else:
            model.save_pretrained(out / "initial")  # for the Paddle scripts' --init: the same curve from the same point
        self.started = time.time() - self.seconds

    def update(self, loss, **logged):
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, recipe.learning_rate, recipe.warmup_steps, recipe.steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        decay = min(recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = [pair for pair in zip(self.ema.parameters(), self.model.parameters()) if pair[1].requires_grad]
            torch._foreach_mul_([average for average, _ in pairs], decay)
            torch._foreach_add_([average for average, _ in pairs], [value for _, value in pairs], alpha=1 - decay)
        self.losses.append(
            {"loss": float(loss.detach()), **{name: float(value.detach()) for name, value in logged.items()}}
        )

    def log(self, **figures):
        means = {name: float(np.mean([row[name] for row in self.losses])) for name in self.losses[0]}
        self.losses = []
        row = {"step": self.step, "seconds": round(time.time() - self.started, 1), **means, **figures}
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}), flush=True)

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": time.time() - self.started,
            "extra": self.extra,
        }
        torch.save(state, self.out / "checkpoint.pt.part")
        os.replace(self.out / "checkpoint.pt.part", self.out / "checkpoint.pt")
        self.ema.save_pretrained(self.out / "model")


def quantize(vqvae, z):
    """Nearest code of each latent: codes, and their losses; gradients pass straight through."""
    flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
    codebook = vqvae.quantize.embedding.weight
    with torch.no_grad():
        nearest = torch.cdist(flat, codebook).argmin(1)
    codes = codebook[nearest].reshape(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
    return z + (codes - z).detach(), F.mse_loss(codes, z.detach()), F.mse_loss(z, codes.detach())


def train_autoencoder(args, recipe: AutoencoderRecipe, decoder_only: bool) -> None:
    torch.manual_seed(recipe.seed)
    if args.vqvae:
        vqvae = VQModel.from_pretrained(args.vqvae).to(memory_format=torch.channels_last)
    else:
        vqvae = VQModel(**recipe.model).to(memory_format=torch.channels_last)
    vqvae.requires_grad_(True)
    if decoder_only:
        for part in (vqvae.encoder, vqvae.quant_conv, vqvae.quantize):
            part.requires_grad_(False)
    run = Run(args.out, vqvae, (p for p in vqvae.parameters() if p.requires_grad), recipe)
    crops = Crops(args.data, "train", recipe.crop_size, seed=recipe.seed)
    lpips = AlexLpips(args.data / "lpips-alex.npz")
    heldout = to_tensor(heldout_graphics(args.data)[1][::8])
    noise_source = torch.Generator()
    while run.step < recipe.steps:
        pictures = crops.batch(run.step, recipe.batch_size)
        small, x = to_tensor(low_resolution(pictures)), to_tensor(pictures)
        noise_source.manual_seed(run.step)
        quantized = decoder_only or run.step >= recipe.continuous_fraction * recipe.steps
        if quantized and not decoder_only and "codebook" not in run.extra:
            with torch.no_grad():
                batches = (to_tensor(crops.batch(10**6 + i, recipe.batch_size)) for i in range(60))
                latents = torch.cat([vqvae.encode(b).latents.permute(0, 2, 3, 1).reshape(-1, 3) for b in batches])
                vqvae.quantize.embedding.weight.copy_(kmeans(latents, vqvae.config.num_vq_embeddings))
                run.ema.quantize.embedding.weight.copy_(vqvae.quantize.embedding.weight)
            run.extra["codebook"] = run.step
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not decoder_only):
                z = vqvae.encode(x).latents.float()
            if decoder_only:
                # What the sampler hands over is off by a little: learn to decode that too.
                spread = torch.rand(len(z), 1, 1, 1, generator=noise_source) * recipe.latent_noise
                latents, codebook_loss, commitment = quantize(
                    vqvae, z + spread * torch.randn(z.shape, generator=noise_source)
                )
            elif quantized:
                latents, codebook_loss, commitment = quantize(vqvae, z)
            else:
                spread = torch.rand(len(z), 1, 1, 1, generator=noise_source) * recipe.latent_noise
                latents = z + spread * torch.randn(z.shape, generator=noise_source)
                codebook_loss = commitment = torch.zeros(())
            y = vqvae.decode(latents, force_not_quantize=True).sample
            perceptual = lpips(y, x).mean()
        y, anchor = y.float(), F.mse_loss(z, small)
        pixel = F.l1_loss(y, x)
        loss = pixel + recipe.perceptual_weight * perceptual
        if not decoder_only:
            loss = loss + recipe.anchor_weight * anchor
            loss = loss + recipe.codebook_weight * codebook_loss + recipe.commitment_weight * commitment
        run.update(loss, pixel=pixel, perceptual=perceptual, anchor=anchor, codebook=codebook_loss)
        if run.step % args.log_every == 0 or run.step == recipe.steps:
            with torch.no_grad():
                z = run.ema.encode(heldout).latents
                y = run.ema.decode(z, force_not_quantize=not quantized).sample
                run.log(heldout_psnr=psnr(y, heldout), heldout_lpips=float(lpips(y, heldout).mean()))
            run.save()


def train_super_resolution(args, recipe: SuperResolutionRecipe) -> None:
    torch.manual_seed(recipe.seed)
    vqvae = VQModel.from_pretrained(args.vqvae).to(memory_format=torch.channels_last).requires_grad_(False)
    unet = UNet2DModel(**recipe.model).to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(**recipe.scheduler)
    run = Run(args.out, unet, unet.parameters(), recipe)
    crops = Crops(args.data, "train", recipe.crop_size, seed=recipe.seed)
    lpips = AlexLpips(args.data / "lpips-alex.npz")
    heldout = heldout_graphics(args.data)[1][::8]
    heldout, heldout_small = to_tensor(heldout), to_tensor(low_resolution(heldout))
    random = torch.Generator()
    while run.step < recipe.steps:
        random.manual_seed(run.step)
        pictures = crops.batch(run.step, recipe.batch_size)
        small = to_tensor(low_resolution(pictures))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents = vqvae.encode(to_tensor(pictures)).latents.float()
        noise = torch.randn(latents.shape, generator=random)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),), generator=random)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = unet(torch.cat([noisy, small], 1), timesteps).sample
        run.update(F.mse_loss(prediction.float(), target))
        if run.step % args.log_every == 0 or run.step == recipe.steps:
            with torch.no_grad():
                z = torch.randn(heldout_small.shape, generator=random)
                scheduler.set_timesteps(20)
                for t in scheduler.timesteps:
                    z = scheduler.step(run.ema(torch.cat([z, heldout_small], 1), t).sample, t, z).prev_sample
                y = vqvae.decode(z).sample
                run.log(heldout_psnr=psnr(y, heldout), heldout_lpips=float(lpips(y, heldout).mean()))
            run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("autoencoder", "decoder", "super-resolution"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vqvae", type=Path, help="folder of the trained first stage")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--log-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = SuperResolutionRecipe() if args.stage == "super-resolution" else AutoencoderRecipe()
    given = {name: getattr(args, name) for name in ("steps", "learning_rate") if getattr(args, name) is not None}
    recipe = dataclasses.replace(recipe, **given)
    if args.stage == "super-resolution":
        train_super_resolution(args, recipe)
    else:
        train_autoencoder(args, recipe, decoder_only=args.stage == "decoder")


if __name__ == "__main__":
    main()
