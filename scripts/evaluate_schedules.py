"""What fewer denoising steps cost a super-resolution model: PSNR, LPIPS and seconds of many schedules.

    python scripts/evaluate_schedules.py DATA [--model NAME] [--pictures 44] [--schedules ddim:20 dpm:10:2] [--json OUT]

DATA is what scripts/prepare_training_data.py wrote; the pictures are its held-out graphics or photographs, as in
scripts/evaluate_super_resolution.py. A schedule is SCHEDULER:STEPS[:INTERVAL[:BRANCH]]: the model's own settings under
another scheduler, and with an INTERVAL the reuse of deep features (`enable_deep_cache`). Every schedule starts from the
same noise and is compared with the original and with what the model's own scheduler makes in 100 steps. Schedules take
turns on each batch, and the seconds a picture are those of the fastest batch: other work on the machine counts least.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
from evaluate_super_resolution import measure

import ppdiffusers
from ppdiffusers import Generator, LDMSuperResolutionPipeline
from ppdiffusers.training.losses import LPIPS
from ppdiffusers.training.prepared import heldout_graphics, heldout_photographs, low_resolution

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "dpm": ("DPMSolverMultistepScheduler", {}),  # DPM-Solver++ (2M)
    "dpm-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
}
REFERENCE = "ddim:100"
BATCH = 4
PLAIN = ["ddim:50", "ddim:20", "ddim:10", "ddim:5", "ddim:3", "ddim:2", "ddim:1"]
PLAIN += ["dpm:20", "dpm:10", "dpm:5", "dpm:3", "dpm-karras:10", "euler:10", "euler:5", "lms:10"]
DEFAULT = [
    schedule
    for plain in [REFERENCE, *PLAIN]
    for schedule in [plain, *([f"{plain}:2", f"{plain}:3"] if int(plain.split(":")[1]) >= 10 else [])]
]


def schedule_name(text: str) -> str:
    """A schedule as it is, before an hour's work; raises for what is none."""
    name, *numbers = text.split(":")
    if name not in SCHEDULERS or not 1 <= len(numbers) <= 3 or not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no SCHEDULER:STEPS[:INTERVAL[:BRANCH]] of {', '.join(SCHEDULERS)}"
        )
    return text


def upscale(pipeline: LDMSuperResolutionPipeline, schedule: str, small: np.ndarray, first: int) -> np.ndarray:
    """Pictures in [-1, 1], rounded to 8 bits; `first` is the seed of the first one's noise."""
    name, steps, *cache = schedule.split(":")
    kind, config = SCHEDULERS[name]
    pipeline.scheduler = getattr(ppdiffusers, kind).from_config(pipeline.scheduler.config, **config)
    pipeline.disable_deep_cache()
    if cache:
        pipeline.enable_deep_cache(*map(int, cache))
    generators = [Generator(first + i) for i in range(len(small))]
    pictures = list((small + 1) / 2)
    images = pipeline(pictures, num_inference_steps=int(steps), generator=generators, output_type="np").images
    return (np.round(images * 255) / 127.5 - 1).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="ppdiffusers/ldm-super-resolution-4x-tiny", help="name or folder")
    parser.add_argument("--engine", default="eager", help="as of from_pretrained (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="of another engine (default: %(default)s)")
    parser.add_argument("--photographs", action="store_true", help="instead of graphics")
    parser.add_argument("--pictures", type=int, default=44, help="spread over the held-out ones")
    parser.add_argument("--schedules", nargs="*", type=schedule_name, default=DEFAULT)
    parser.add_argument("--json", type=Path, help="write the table here as well")
    args = parser.parse_args()
    pipeline = LDMSuperResolutionPipeline.from_pretrained(args.model, engine=args.engine, precision=args.precision)
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline.scheduler
    lpips = {"alex": LPIPS(args.data / "lpips-alex.npz", "alex")}
    _, originals = (heldout_photographs if args.photographs else heldout_graphics)(args.data)
    originals = originals[np.linspace(0, len(originals) - 1, args.pictures).round().astype(int)]
    small = low_resolution(originals)

    schedules = list(dict.fromkeys([REFERENCE, *args.schedules]))
    results: Dict[str, List[np.ndarray]] = {schedule: [] for schedule in schedules}
    seconds = dict.fromkeys(schedules, float("inf"))
    for start in range(0, len(small), BATCH):
        batch = small[start : start + BATCH]
        for schedule in schedules:
            pipeline.scheduler = own
            started = time.perf_counter()
            results[schedule].append(upscale(pipeline, schedule, batch, start))
            seconds[schedule] = min(seconds[schedule], (time.perf_counter() - started) / len(batch))
    reference = np.concatenate(results[REFERENCE])
    table = []
    print("schedule            PSNR  LPIPS | to the reference: PSNR  LPIPS | seconds a picture")
    for schedule in schedules:
        pictures = np.concatenate(results[schedule])
        row = {**measure(schedule, pictures, originals, lpips), "seconds": seconds[schedule]}
        row["same"] = {} if schedule == REFERENCE else measure("", pictures, reference, lpips)
        table.append(row)
        near = "{psnr:22.2f}  {lpips_alex:.4f}".format(**row["same"]) if row["same"] else " " * 30
        print(f"{schedule:17s} {row['psnr']:6.2f} {row['lpips_alex']:.4f} | {near} | {row['seconds']:.3f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"pictures": len(small), "schedules": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
