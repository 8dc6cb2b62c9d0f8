"""Put a trained first and second stage into the package as its embedded model, in half precision.

    python scripts/pack_embedded_model.py --vqvae FOLDER --unet FOLDER

Writes the pipeline's folders into model_zoo/builtin/ppdiffusers/ldm-super-resolution-4x-tiny, and the sizes and hashes
of what lies there into its `model.json`; the rest of that and the model card (README.md) are written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from model_zoo.pack import pin
from ppdiffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel
from ppdiffusers.training.configuration import read_configuration

FOLDER = Path(__file__).parents[1] / "model_zoo/builtin/ppdiffusers/ldm-super-resolution-4x-tiny"
CONFIGURATION = Path(__file__).parents[1] / "configs/embedded-super-resolution.json"
LIMIT = 8_000_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vqvae", type=Path, required=True)
    parser.add_argument("--unet", type=Path, required=True)
    args = parser.parse_args()
    scheduler = DDIMScheduler(**read_configuration(CONFIGURATION).models["scheduler"])
    vqvae, unet = VQModel.from_pretrained(args.vqvae), UNet2DModel.from_pretrained(args.unet)
    LDMSuperResolutionPipeline(vqvae, unet, scheduler).save_pretrained(FOLDER, paddle_dtype="float16")
    size = sum(file.stat().st_size for file in FOLDER.rglob("*.safetensors"))
    print(f"{FOLDER}: {size:,} bytes of weights")
    pin("ppdiffusers/ldm-super-resolution-4x-tiny", FOLDER)
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
