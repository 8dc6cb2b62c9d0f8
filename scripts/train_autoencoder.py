"""Train the first stage: a VQModel with f=4 (ppdiffusers.training.recipes.AutoencoderRecipe says how).

    python scripts/train_autoencoder.py DATA OUT [--steps N]
    python scripts/train_autoencoder.py DATA OUT --decoder-of FOLDER [--steps N]

DATA is what scripts/prepare_training_data.py wrote. A run started again goes on from its last
checkpoint. The second form goes on training the decoder alone, with encoder and codebook frozen,
on latents that are off by a little, as a sampler's are. OUT/model is the averaged model.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F

from ppdiffusers import VQModel
from ppdiffusers.training.codebook import kmeans
from ppdiffusers.training.data import Crops, heldout_graphics, low_resolution, to_tensor
from ppdiffusers.training.losses import LPIPS, psnr
from ppdiffusers.training.recipes import AutoencoderRecipe
from ppdiffusers.training.run import Run


def latent_noise(shape: list, highest: float, step: int) -> paddle.Tensor:
    """Normal noise whose standard deviation is drawn for each picture from [0, highest]."""
    random = np.random.default_rng([step, 1])
    spread = random.uniform(0, highest, size=(shape[0], 1, 1, 1))
    return paddle.to_tensor((spread * random.standard_normal(shape)).astype(np.float32))


def set_codebook(model: VQModel, crops: Crops, batch_size: int) -> None:
    """k-means over the latents of 60 batches that training does not reach."""
    with paddle.no_grad():
        batches = (to_tensor(crops.batch(10**6 + i, batch_size)) for i in range(60))
        latents = [model.encode(x).latents.transpose([0, 2, 3, 1]).reshape([-1, 3]) for x in batches]
        model.quantize.embedding.weight.set_value(kmeans(paddle.concat(latents), model.config.num_vq_embeddings))


def train(args: argparse.Namespace, recipe: AutoencoderRecipe) -> None:
    paddle.seed(recipe.seed)
    decoder_only = args.decoder_of is not None
    start = args.decoder_of or args.init
    model = VQModel.from_pretrained(start) if start else VQModel(**recipe.model)
    model.train()
    frozen = (model.encoder, model.quant_conv, model.quantize) if decoder_only else ()
    for part in frozen:
        for parameter in part.parameters():
            parameter.stop_gradient = True
    trainable = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    run = Run(args.out, model, recipe, trainable)
    crops = Crops(args.data, "train", recipe.crop_size, seed=recipe.seed)
    lpips = LPIPS(args.data / "lpips-alex.npz")
    heldout = to_tensor(heldout_graphics(args.data)[1][::8])

    while not run.finished:
        pictures = crops.batch(run.step, recipe.batch_size)
        small, x = to_tensor(low_resolution(pictures)), to_tensor(pictures)
        quantized = decoder_only or run.step >= recipe.continuous_fraction * recipe.steps
        if quantized and not decoder_only and "codebook" not in run.extra:
            set_codebook(model, crops, recipe.batch_size)
            run.reset_average("quantize.embedding.weight")
            run.extra["codebook"] = run.step

        z = model.encode(x).latents
        codebook_loss = commitment = paddle.zeros([])
        latents = z if quantized and not decoder_only else z + latent_noise(z.shape, recipe.latent_noise, run.step)
        if quantized:
            codes = model.quantize.lookup(model.quantize.nearest(latents))
            codebook_loss, commitment = F.mse_loss(codes, latents.detach()), F.mse_loss(latents, codes.detach())
            latents = latents + (codes - latents).detach()
        y = model.decode(latents, force_not_quantize=True).sample

        pixel, perceptual, anchor = F.l1_loss(y, x), lpips(y, x).mean(), F.mse_loss(z, small)
        loss = pixel + recipe.perceptual_weight * perceptual
        if not decoder_only:
            loss = loss + recipe.anchor_weight * anchor
            loss = loss + recipe.codebook_weight * codebook_loss + recipe.commitment_weight * commitment
        run.update(loss, pixel=pixel, perceptual=perceptual, anchor=anchor, codebook=codebook_loss)

        if run.step % args.log_every == 0 or run.finished:

            def reconstruct(model: VQModel, quantized: bool = quantized) -> paddle.Tensor:
                return model.decode(model.encode(heldout).latents, force_not_quantize=not quantized).sample

            y = run.averaged(reconstruct)
            figures = {"heldout_psnr": float(psnr(y.numpy(), heldout.numpy()).mean())}
            run.log(**figures, heldout_lpips=float(lpips(y, heldout).mean()))
            run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--init", type=Path, help="folder of a VQModel to start from")
    parser.add_argument("--decoder-of", type=Path, help="folder of a trained VQModel whose decoder is to go on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--log-every", type=int, default=250)
    args = parser.parse_args()
    given = {name: getattr(args, name) for name in ("steps", "learning_rate") if getattr(args, name) is not None}
    train(args, dataclasses.replace(AutoencoderRecipe(), **given))


if __name__ == "__main__":
    main()
