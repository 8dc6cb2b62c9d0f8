"""Train the second stage: a U-Net on the latents of a frozen VQModel (recipes.SuperResolutionRecipe says how).

    python scripts/train_super_resolution.py DATA OUT --vqvae FOLDER [--steps N]

DATA is what scripts/prepare_training_data.py wrote, FOLDER the first stage's. A run started again
goes on from its last checkpoint. OUT/model is the averaged U-Net; OUT/pipeline the finished pipeline.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F

from ppdiffusers import DDIMScheduler, Generator, LDMSuperResolutionPipeline, UNet2DModel, VQModel
from ppdiffusers.training.data import Crops, heldout_graphics, low_resolution, to_tensor
from ppdiffusers.training.losses import LPIPS, psnr
from ppdiffusers.training.recipes import SuperResolutionRecipe
from ppdiffusers.training.run import Run


def train(args: argparse.Namespace, recipe: SuperResolutionRecipe) -> None:
    paddle.seed(recipe.seed)
    vqvae = VQModel.from_pretrained(args.vqvae)
    unet = UNet2DModel.from_pretrained(args.init) if args.init else UNet2DModel(**recipe.model)
    unet.train()
    scheduler = DDIMScheduler(**recipe.scheduler)
    run = Run(args.out, unet, recipe)
    crops = Crops(args.data, "train", recipe.crop_size, seed=recipe.seed)
    lpips = LPIPS(args.data / "lpips-alex.npz")
    heldout = heldout_graphics(args.data)[1][::8]
    heldout_small = (low_resolution(heldout) + 1) / 2

    while not run.finished:
        pictures = crops.batch(run.step, recipe.batch_size)
        small = to_tensor(low_resolution(pictures))
        with paddle.no_grad():
            latents = vqvae.encode(to_tensor(pictures)).latents
        noise = paddle.to_tensor(Generator(run.step).randn(latents.shape))
        random = np.random.default_rng([recipe.seed, run.step, 2])
        timesteps = random.integers(scheduler.config.num_train_timesteps, size=len(pictures))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        prediction = unet(paddle.concat([noisy, small], axis=1), paddle.to_tensor(timesteps)).sample
        run.update(F.mse_loss(prediction, target))

        if run.step % args.log_every == 0 or run.finished:

            def upscale(unet: UNet2DModel) -> np.ndarray:
                pipeline = LDMSuperResolutionPipeline(vqvae, unet, scheduler)
                return pipeline(list(heldout_small), num_inference_steps=20, generator=0, output_type="np").images

            y = run.averaged(upscale) * 2 - 1
            distance = float(lpips(to_tensor(y), to_tensor(heldout)).mean())
            run.log(heldout_psnr=float(psnr(y, heldout).mean()), heldout_lpips=distance)
            run.save()

    averaged = UNet2DModel.from_pretrained(args.out / "model")
    LDMSuperResolutionPipeline(vqvae, averaged, scheduler).save_pretrained(args.out / "pipeline")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vqvae", type=Path, required=True, help="folder of the trained first stage")
    parser.add_argument("--init", type=Path, help="folder of a UNet2DModel to start from")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--log-every", type=int, default=250)
    args = parser.parse_args()
    given = {name: getattr(args, name) for name in ("steps", "learning_rate") if getattr(args, name) is not None}
    train(args, dataclasses.replace(SuperResolutionRecipe(), **given))


if __name__ == "__main__":
    main()
