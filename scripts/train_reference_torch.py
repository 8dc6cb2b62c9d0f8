"""The configurations of the embedded models, run by torch and diffusers (an environment of its own).

    python scripts/train_reference_torch.py configs/embedded-autoencoder.json OUT [--set KEY=VALUE ...]
    python scripts/train_reference_torch.py configs/embedded-decoder.json OUT [--set KEY=VALUE ...]
    python scripts/train_reference_torch.py configs/embedded-super-resolution.json OUT [--set KEY=VALUE ...]

The same batches, noise, losses and schedules as `ppdiffusers train`. OUT gets `checkpoint.pt` (a run started again
goes on from it), `log.jsonl`, and the averaged model in diffusers' format, which `ppdiffusers` opens as it is.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel, VQModel

from ppdiffusers.training.batches import Batches, open_sources
from ppdiffusers.training.configuration import Configuration, learning_rate_at, read_configuration
from ppdiffusers.training.degradations import degrade
from ppdiffusers.training.prepared import heldout_graphics, low_resolution


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


def batches_of(config: Configuration, steps: int = 0) -> Batches:
    """As `ppdiffusers train` makes them for a first stage of factor 4, or a second with so many timesteps."""

    def item(sample, random):
        pixels = np.ascontiguousarray(sample.pixels.transpose(2, 0, 1))
        shape = 3, pixels.shape[1] // 4, pixels.shape[2] // 4
        noise = random.standard_normal(shape, np.float32)
        if not steps:
            return {"pixels": pixels, "noise": noise, "spread": random.random((1, 1, 1), np.float32)}
        timestep = np.int64(random.integers(steps))
        small = degrade(sample.pixels, 4, config.data.degradation, random).transpose(2, 0, 1)
        return {"pixels": pixels, "noise": noise, "timestep": timestep, "small": np.ascontiguousarray(small)}

    return Batches(open_sources(config, ())[0], item, config.batch_size, config.seed)


def heldout_of(config: Configuration):
    """Pictures of prepared data, or None of a folder's."""
    if not (Path(config.data.path) / "index.json").is_file():
        return None
    return to_tensor(heldout_graphics(config.data.path)[1][::8])


def tensors(batch: dict) -> dict:
    return {name: torch.from_numpy(value) for name, value in batch.items()}


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
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
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
            group["lr"] = learning_rate_at(
                self.step, recipe.learning_rate, recipe.warmup_steps, recipe.steps, recipe.schedule
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
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
        names = self.losses[0] if self.losses else ()
        means = {name: float(np.mean([row[name] for row in self.losses])) for name in names}
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


def reconstruct(vqvae, z, quantized: bool):
    return vqvae.decode(z, force_not_quantize=not quantized).sample


def train_autoencoder(args, config: Configuration) -> None:
    torch.manual_seed(config.seed)
    weights, start = config.reconstruction, config.models["vqvae"]
    if isinstance(start, str):
        vqvae = VQModel.from_pretrained(start)
    else:
        vqvae = VQModel(**{name: value for name, value in start.items() if name[0] != "_"})
    vqvae = vqvae.to(memory_format=torch.channels_last).requires_grad_(True)
    decoder_only = config.train is not None
    if decoder_only:
        for part in (vqvae.encoder, vqvae.quant_conv, vqvae.quantize):
            part.requires_grad_(False)
    run = Run(args.out, vqvae, (p for p in vqvae.parameters() if p.requires_grad), config)
    batches = batches_of(config)
    lpips = AlexLpips(Path(config.lpips)) if config.lpips and weights.perceptual else None
    heldout = heldout_of(config)
    while run.step < config.steps:
        batch = tensors(batches.batch(run.step))
        x, offset = batch["pixels"], weights.latent_noise * batch["spread"] * batch["noise"]
        quantized = decoder_only or run.step >= weights.continuous * config.steps
        if quantized and not decoder_only and weights.continuous and "codebook" not in run.extra:
            with torch.no_grad():
                pixels = (torch.from_numpy(batches.batch(10**9 + i)["pixels"]) for i in range(60))
                latents = torch.cat([vqvae.encode(b).latents.permute(0, 2, 3, 1).reshape(-1, 3) for b in pixels])
                vqvae.quantize.embedding.weight.copy_(kmeans(latents, vqvae.config.num_vq_embeddings))
                run.ema.quantize.embedding.weight.copy_(vqvae.quantize.embedding.weight)
            run.extra["codebook"] = run.step
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            with torch.set_grad_enabled(not decoder_only):
                z = vqvae.encode(x).latents.float()
            codebook_loss = commitment = torch.zeros(())
            if decoder_only:
                latents, _, _ = quantize(vqvae, z + offset)
            elif quantized:
                latents, codebook_loss, commitment = quantize(vqvae, z)
            else:
                latents = z + offset
            y = vqvae.decode(latents, force_not_quantize=True).sample
            perceptual = torch.zeros(()) if lpips is None else lpips(y, x).mean()
        y, anchor = y.float(), F.mse_loss(z, F.avg_pool2d(x, 4))
        pixel = F.l1_loss(y, x)
        loss = pixel + weights.perceptual * perceptual
        if not decoder_only:
            loss = loss + weights.anchor * anchor
            loss = loss + weights.codebook * codebook_loss + weights.commitment * commitment
        run.update(loss, pixel=pixel, perceptual=perceptual, anchor=anchor, codebook=codebook_loss)
        if run.step % config.log_every == 0 or run.step == config.steps:
            run.log()
        if run.step % config.validate_every == 0 or run.step == config.steps:
            if heldout is not None:
                with torch.no_grad():
                    y = reconstruct(run.ema, run.ema.encode(heldout).latents, quantized)
                    run.log(heldout_psnr=psnr(y, heldout), heldout_lpips=float(lpips(y, heldout).mean()))
            run.save()


def train_super_resolution(args, config: Configuration) -> None:
    torch.manual_seed(config.seed)
    vqvae = VQModel.from_pretrained(config.models["vqvae"]).to(memory_format=torch.channels_last).requires_grad_(False)
    unet = UNet2DModel(**config.models["unet"]).to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(**config.models["scheduler"])
    run = Run(args.out, unet, unet.parameters(), config)
    batches = batches_of(config, len(scheduler))
    lpips = AlexLpips(Path(config.lpips)) if config.lpips else None
    heldout = heldout_of(config)
    while run.step < config.steps:
        batch = tensors(batches.batch(run.step))
        noise, timesteps = batch["noise"], batch["timestep"]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            latents = vqvae.encode(batch["pixels"]).latents.float()
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            prediction = unet(torch.cat([noisy, batch["small"]], 1), timesteps).sample
        run.update(F.mse_loss(prediction.float(), target))
        if run.step % config.log_every == 0 or run.step == config.steps:
            run.log()
        if run.step % config.validate_every == 0 or run.step == config.steps:
            if heldout is not None:
                measure_super_resolution(run, vqvae, scheduler, lpips, heldout, config)
            run.save()


@torch.no_grad()
def measure_super_resolution(run, vqvae, scheduler, lpips, heldout, config: Configuration) -> None:
    small = to_tensor(low_resolution(heldout.permute(0, 2, 3, 1).numpy()))
    z = torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(config.diffusion.sampling_steps)
    for t in scheduler.timesteps:
        z = scheduler.step(run.ema(torch.cat([z, small], 1), t).sample, t, z).prev_sample
    y = vqvae.decode(z).sample
    run.log(heldout_psnr=psnr(y, heldout), heldout_lpips=float(lpips(y, heldout).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", dest="changes", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = read_configuration(args.config, args.changes)
    {"vq": train_autoencoder, "super-resolution": train_super_resolution}[config.task](args, config)


if __name__ == "__main__":
    main()
