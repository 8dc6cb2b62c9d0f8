"""PSNR and LPIPS of a super-resolution model on held-out pictures, beside bicubic's.

    python scripts/evaluate_super_resolution.py DATA [--model NAME] [--steps 20] [--eta 0] [--sheet OUT.png]

DATA is what scripts/prepare_training_data.py wrote. Graphics: the held-out 3D emoji on white,
128 px, averaged down to 32. Photographs: central crops, 256 px, averaged down to 64. Both are
rounded to 8 bits before they are upscaled. LPIPS is arXiv 1801.03924's with AlexNet, and with VGG.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from ppdiffusers import DDIMScheduler, Generator, LDMSuperResolutionPipeline
from ppdiffusers.images import sheet, to_pil
from ppdiffusers.training.losses import LPIPS, psnr, to_tensor
from ppdiffusers.training.prepared import heldout_graphics, heldout_photographs, low_resolution


def resize(small: np.ndarray, size: int, method: int) -> np.ndarray:
    pictures = [to_pil((picture + 1) / 2).resize((size, size), method) for picture in small]
    return np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 127.5 - 1


def upscale(pipeline, small: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    results = []
    for start in range(0, len(small), 8):
        batch = list((small[start : start + 8] + 1) / 2)
        generators = [Generator(args.seed + start + i) for i in range(len(batch))]
        images = pipeline(
            batch, num_inference_steps=args.steps, eta=args.eta, generator=generators, output_type="np"
        ).images
        results.append(np.round(images * 255) / 127.5 - 1)
    return np.concatenate(results).astype(np.float32)


@paddle.no_grad()
def measure(name: str, result: np.ndarray, original: np.ndarray, metrics: dict) -> dict:
    row = {"method": name, "psnr": float(psnr(result, original).mean())}
    for net, lpips in metrics.items():
        parts = [slice(start, start + 8) for start in range(0, len(result), 8)]
        values = [lpips(to_tensor(result[part]), to_tensor(original[part])).numpy() for part in parts]
        row[f"lpips_{net}"] = float(np.concatenate(values).mean())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="ppdiffusers/ldm-super-resolution-4x-tiny", help="name or folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--spacing", help="timestep_spacing in place of the model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="use every n-th picture")
    parser.add_argument("--nets", nargs="*", default=["alex", "vgg"], help="networks of LPIPS")
    parser.add_argument("--sheet", type=Path, help="write sheets of six rows of nearest, bicubic, ours, original")
    parser.add_argument("--reconstruct", action="store_true", help="measure the autoencoder alone as well")
    args = parser.parse_args()
    pipeline = LDMSuperResolutionPipeline.from_pretrained(args.model)
    if args.spacing:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing=args.spacing)
    pipeline.set_progress_bar_config(disable=True)
    metrics = {net: LPIPS(args.data / f"lpips-{net}.npz", net) for net in args.nets}
    rows = []
    for kind, (_, original) in (
        ("graphics", heldout_graphics(args.data)),
        ("photographs", heldout_photographs(args.data)),
    ):
        original = original[:: args.every]
        small = low_resolution(original)
        started = time.time()
        ours = upscale(pipeline, small, args)
        seconds = time.time() - started
        bicubic = resize(small, original.shape[1], Image.BICUBIC)
        results = {"bicubic": bicubic, "ours": ours}
        if args.reconstruct:
            with paddle.no_grad():
                parts = [to_tensor(original[i : i + 8]) for i in range(0, len(original), 8)]
                decoded = [pipeline.decode_latents(pipeline.vqvae.encode(part).latents) for part in parts]
            results["autoencoder"] = np.concatenate(decoded) * 2 - 1
        for name, result in results.items():
            rows.append({"pictures": kind, "count": len(original), **measure(name, result, original, metrics)})
        rows[-1]["seconds"] = round(seconds, 1)
        if args.sheet:
            path = args.sheet.with_name(f"{args.sheet.stem}-{kind}{args.sheet.suffix}")
            nearest = resize(small, original.shape[1], Image.NEAREST)
            columns = {"nearest": nearest, "bicubic": bicubic, "ours": ours, "original": original}
            chosen = range(0, len(original), max(1, len(original) // 6))[:6]
            lines = [sheet([(n, to_pil((c[i] + 1) / 2)) for n, c in columns.items()]) for i in chosen]
            page = Image.new("RGB", (lines[0].width, sum(line.height for line in lines)), "white")
            for number, line in enumerate(lines):
                page.paste(line, (0, number * line.height))
            page.save(path)
    for row in rows:
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))


if __name__ == "__main__":
    main()
