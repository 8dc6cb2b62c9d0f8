"""What scripts/demo.sh runs: pictures of demo/ averaged down to a quarter and upscaled again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ppdiffusers import LDMSuperResolutionPipeline, open_image
from ppdiffusers.images import sheet, to_pil
from ppdiffusers.training.prepared import low_resolution

ROOT = Path(__file__).parents[1]
MODEL = "ppdiffusers/ldm-super-resolution-4x-tiny"


def main() -> None:
    out = ROOT / "demo-output"
    out.mkdir(exist_ok=True)
    pipeline = LDMSuperResolutionPipeline.from_pretrained(MODEL)
    lines = []
    for file in sorted((ROOT / "demo").glob("*.png")):
        original = open_image(file).convert("RGB")
        pixels = np.asarray(original).astype(np.float32) / 127.5 - 1
        small = to_pil((low_resolution(pixels) + 1) / 2)
        pipeline.set_progress_bar_config(desc=file.stem, unit="step", disable=None)
        result = pipeline(small, num_inference_steps=20, generator=0).images[0]
        result.save(out / f"{file.stem}-4x.png")
        print(f"{file.stem}: {small.width}x{small.height} -> {result.width}x{result.height}: {out / file.stem}-4x.png")
        scaled = {
            "nearest": small.resize(original.size, Image.NEAREST),
            "bicubic": small.resize(original.size, Image.BICUBIC),
            "ours": result,
            "original": original,
        }
        lines.append(sheet(list(scaled.items())))
    page = Image.new("RGB", (max(line.width for line in lines), sum(line.height for line in lines)), "white")
    for index, line in enumerate(lines):
        page.paste(line, (0, sum(above.height for above in lines[:index])))
    page.save(out / "sheet.png")
    print(f"side by side: {out / 'sheet.png'}")


if __name__ == "__main__":
    main()
