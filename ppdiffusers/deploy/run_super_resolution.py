"""Upscale a picture with an exported super-resolution pipeline: paddle, numpy and pillow are all that it needs.

    python run_super_resolution.py FOLDER IN.png OUT.png --steps 20 --seed 1

FOLDER is what `ppdiffusers export MODEL FOLDER` wrote. A seed gives the picture that it gives in ppdiffusers and in
diffusers. The file can be copied anywhere, and imported: see `SuperResolution`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import secrets
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import paddle
from paddle import inference
from PIL import Image, ImageOps, UnidentifiedImageError

FORMAT = 1
WEIGHTS = "diffusion_paddle_model.safetensors"  # that no program holds
# Largest difference, and its root mean square, that a program may have from its example, over the scale of that.
TOLERANCES = {"fp32": (1e-4, 1e-4), "bf16": (0.2, 0.03)}
BLOCK = 16  # normals are drawn in blocks of this many


class RunError(Exception):
    """What cannot be run; the message says why, and what to do."""


def read_json(file: Path) -> Dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{file} does not exist; give the folder of an exported pipeline") from None
    except ValueError as error:
        raise RunError(f"{file} is no JSON ({error}); copy the folder again") from None
    if not isinstance(value, dict):
        raise RunError(f"{file} holds a JSON {type(value).__name__}, not an object; copy the folder again")
    return value


def read_manifest(folder: Path, verify: bool = False) -> Dict[str, Any]:
    """`deployment.json`, all files that it names being as long as they were; `verify` compares digests too."""
    manifest = read_json(folder / "deployment.json")
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{folder} has the format {manifest.get('format')!r}, and {FORMAT} is read here; export it again"
        )
    if manifest["pipeline"] != "LDMSuperResolutionPipeline":
        raise RunError(f"{folder} holds a {manifest['pipeline']}; only a LDMSuperResolutionPipeline is run here")
    minor = manifest["paddle"].split(".")[:2]
    if paddle.__version__.split(".")[:2] != minor:
        raise RunError(
            f"{folder} was exported by paddle {manifest['paddle']}, whose programs this {paddle.__version__} does not "
            f"read; install paddlepaddle=={'.'.join(minor)}.*"
        )
    for name, wanted in manifest["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != wanted["size"]:
            raise RunError(f"{file} is missing or has another size than was exported; copy the folder again")
        if verify and sha256(file) != wanted["sha256"]:
            raise RunError(f"{file} is not what was exported: its sha256 differs; copy the folder again")
    return manifest


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_safetensors(file: Path) -> Dict[str, np.ndarray]:
    """The float32 arrays of a file: eight bytes with the length of a JSON header, the header, the data."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise RunError(f"{file} holds {name} as {entry['dtype']}; exported files hold float32: export it again")
        begin, end = (start + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return arrays


class Part:
    """A program in Paddle Inference, in the first way of running it that gives what its example says.

    Args:
        entry: of the manifest.
        precision: "auto" (bf16 where the CPU has it), "bf16" or "fp32".
    """

    def __init__(self, folder: Path, entry: Dict[str, Any], precision: str, threads: int):
        with np.load(folder / entry["example"]) as arrays:
            example = dict(arrays)
        wanted = example.pop("result").astype(np.float64)
        program, parameters = str(folder / entry["program"]), str(folder / entry["parameters"])
        fast = precision != "fp32" and paddle.base.core.supports_bfloat16_fast_performance()
        if precision == "bf16" and not fast:
            raise RunError("precision bf16: this CPU has no bfloat16 arithmetic; use fp32 or auto")
        ways = ([("bf16", True)] if fast else []) + [("fp32", True), ("fp32", False)]
        problems = []
        for kind, onednn in ways:
            try:
                self._start(program, parameters, kind, onednn, threads)
                got = self(**example)
            except Exception as error:  # paddle raises its own; the next way may do
                problems.append(f"{kind}: {str(error).strip().splitlines()[-1]}")
                continue
            difference = np.abs(wanted - got)
            worst = difference.max() / np.abs(wanted).max()
            rms = math.sqrt((difference**2).mean() / (wanted**2).mean())
            if worst <= TOLERANCES[kind][0] and rms <= TOLERANCES[kind][1]:
                return
            problems.append(f"{kind}: wrong by {worst:.1g}")
        raise RunError(f"{program} does not run here ({'; '.join(problems)}); run the model in ppdiffusers")

    def _start(self, program: str, parameters: str, precision: str, onednn: bool, threads: int) -> None:
        config = inference.Config(program, parameters)
        config.disable_gpu()
        config.disable_glog_info()
        config.enable_new_ir(True)
        config.enable_new_executor(True)
        config.set_cpu_math_library_num_threads(threads)
        config.delete_pass("inplace_pass")  # with oneDNN, a sine overwrites what a cosine reads too (paddle 3.3)
        if not onednn:
            config.disable_mkldnn()
        elif precision == "bf16":
            config.enable_mkldnn_bfloat16()
        self._predictor = inference.create_predictor(config)
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, **arrays: np.ndarray) -> np.ndarray:
        for name, array in arrays.items():
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return self._output.copy_to_cpu()


class TimeEmbedding:
    """Sinusoids of the timestep and two linear layers, as in `UNet2DModel`."""

    def __init__(self, config: Dict[str, Any], weights: Dict[str, np.ndarray]):
        if config["time_embedding_type"] != "positional":
            raise RunError(f"time_embedding_type {config['time_embedding_type']!r} is not computed here")
        if config["class_embed_type"] is not None or config["num_class_embeds"] is not None:
            raise RunError("the unet knows classes, and nothing here tells which; run it in ppdiffusers")
        half = config["block_out_channels"][0] // 2
        exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(10_000) / (half - config["freq_shift"]))
        self._frequencies = np.exp(exponents)
        self._cosines_first = config["flip_sin_to_cos"]
        names = [f"time_embedding.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
        self._layers = [weights[name] for name in names]

    def __call__(self, timestep: int) -> np.ndarray:
        """`[1, width]`"""
        angles = np.float32(timestep) * self._frequencies
        waves = (np.cos(angles), np.sin(angles)) if self._cosines_first else (np.sin(angles), np.cos(angles))
        weight_1, bias_1, weight_2, bias_2 = self._layers
        hidden = np.concatenate(waves)[None] @ weight_1 + bias_1
        return (hidden / (1 + np.exp(-hidden))) @ weight_2 + bias_2


def quantise(latents: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The nearest of `codes` `[K, C]` in place of each vector of `latents` `[B, C, h, w]`."""
    batch, channels, height, width = latents.shape
    flat = latents.transpose(0, 2, 3, 1).reshape(-1, channels)
    half_norms = 0.5 * (codes * codes).sum(axis=1)
    block = max(1, (1 << 24) // len(codes))
    parts = [np.argmin(half_norms - flat[i : i + block] @ codes.T, axis=1) for i in range(0, len(flat), block)]
    return codes[np.concatenate(parts)].reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


class DDIM:
    """arXiv 2010.02502, for every schedule, spacing and prediction type that a `DDIMScheduler` may have.

    Attributes:
        steps: timestep, its alpha and the next one's (`alphas_cumprod`), from the noisiest down.
    """

    def __init__(self, config: Dict[str, Any], count: int):
        if config["_class_name"] != "DDIMScheduler":
            raise RunError(
                f"the scheduler is a {config['_class_name']}, and DDIM runs here: export with a DDIMScheduler"
            )
        if config["thresholding"]:
            raise RunError("thresholding is not computed here; export with a scheduler without it")
        self._config = config
        total = config["num_train_timesteps"]
        if not 1 <= count <= total:
            raise RunError(f"{count} steps are not possible; take 1 ... {total}")
        alphas = np.cumprod(1 - self._betas(total))
        timesteps = self._timesteps(total, count)
        if config["prediction_type"] == "epsilon" and alphas[timesteps[0]] == 0:
            raise RunError("the first timestep is pure noise, of which an epsilon model makes nothing; see trailing")
        last = 1.0 if config["set_alpha_to_one"] else float(alphas[0])
        chosen = alphas[timesteps].tolist()
        self.steps: List[Tuple[int, float, float]] = list(zip(timesteps.tolist(), chosen, [*chosen[1:], last]))

    def _betas(self, total: int) -> np.ndarray:
        config = self._config
        start, end, schedule = config["beta_start"], config["beta_end"], config["beta_schedule"]
        if config["trained_betas"] is not None:
            betas = np.asarray(config["trained_betas"], np.float64)
        elif schedule == "linear":
            betas = np.linspace(start, end, total)
        elif schedule == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, total) ** 2
        elif schedule == "sigmoid":
            betas = start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, total)))
        elif schedule == "squaredcos_cap_v2":
            curve = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
        else:
            raise RunError(f"beta_schedule {schedule!r} is unknown here")
        if config["rescale_betas_zero_snr"]:  # arXiv 2305.08891, algorithm 1
            roots = np.sqrt(np.cumprod(1 - betas))
            curve = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
            betas = 1 - np.concatenate([curve[:1], curve[1:] / curve[:-1]])
        return betas

    def _timesteps(self, total: int, count: int) -> np.ndarray:
        spacing = self._config["timestep_spacing"]
        if spacing == "linspace":
            rising = np.linspace(0, total - 1, count).round()
        elif spacing == "trailing":
            rising = (np.arange(1, count + 1) * total / count).round() - 1
        elif spacing == "leading":
            rising = np.arange(count) * (total // count) + self._config["steps_offset"]
        else:
            raise RunError(f"timestep_spacing {spacing!r} is unknown here")
        if rising[0] < 0 or rising[-1] >= total:
            raise RunError(f"{count} steps with steps_offset lead out of 0 ... {total - 1}; take fewer")
        return rising[::-1].astype(np.int64)

    def step(
        self, prediction: np.ndarray, x: np.ndarray, alpha: float, following: float, eta: float, normals: Normals
    ) -> np.ndarray:
        """From x_t to the next (equations 12 and 16); `normals` are drawn from where eta is not 0."""
        signal, spread = math.sqrt(alpha), math.sqrt(1 - alpha)
        kind = self._config["prediction_type"]
        if kind == "epsilon":
            x0, epsilon = (x - spread * prediction) / signal, prediction
        elif kind == "sample":
            x0, epsilon = prediction, (x - signal * prediction) / spread
        elif kind == "v_prediction":
            x0, epsilon = signal * x - spread * prediction, signal * prediction + spread * x
        else:
            raise RunError(f"prediction_type {kind!r} is unknown here")
        if self._config["clip_sample"]:
            x0 = x0.clip(-self._config["clip_sample_range"], self._config["clip_sample_range"])
        sigma = eta * math.sqrt((1 - following) / (1 - alpha)) * math.sqrt(1 - alpha / following)
        x = math.sqrt(following) * x0 + math.sqrt(max(1 - following - sigma**2, 0.0)) * epsilon
        return x + sigma * normals(x.shape) if eta > 0 else x


class Normals:
    """Standard normals as torch draws them on a CPU from a seed: MT19937, and Box-Muller in blocks of 16."""

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)

    def __call__(self, shape: Tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape)
        if size < BLOCK:
            raise RunError(
                f"noise of {size} values is too little for this generator; give --noise, or a larger picture"
            )
        whole = size - size % BLOCK
        values = np.empty(size, np.float32)
        values[:whole] = self._blocks(size)[:whole]
        if whole < size:
            values[-BLOCK:] = self._blocks(BLOCK)
        return values.reshape(shape)

    def _blocks(self, size: int) -> np.ndarray:
        words = self._words.randint(0, 2**32, size=size, dtype=np.uint32)[: size - size % BLOCK]
        uniforms = (words & 0xFFFFFF).astype(np.float32).reshape(-1, 2, BLOCK // 2) * np.float32(2**-24)
        radius = np.sqrt(-2 * np.log1p(-uniforms[:, 0].astype(np.float64)))
        angle = (np.float32(2 * math.pi) * uniforms[:, 1]).astype(np.float64)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32).reshape(-1)


class SuperResolution:
    """An exported `LDMSuperResolutionPipeline`.

    Args:
        folder: the exported folder.
        precision: "auto" (bf16 where the CPU has it), "bf16" or "fp32"; the one chosen at export when None.
        threads: all CPUs that this process may use when None.
        verify: compare the digests of all files first.

    Raises:
        RunError: the folder is damaged, of another paddle, or of a model with what is not computed here.
    """

    def __init__(
        self, folder: Path, precision: Optional[str] = None, threads: Optional[int] = None, verify: bool = False
    ):
        try:
            self._open(folder, read_manifest(folder, verify), precision, threads or cpus())
        except KeyError as error:
            raise RunError(f"{folder} lacks {error} in a manifest, config or weights; export it again") from None
        except (AttributeError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{folder} holds a damaged file ({type(error).__name__}: {error}); copy it again") from None

    def _open(self, folder: Path, manifest: Dict[str, Any], precision: Optional[str], threads: int) -> None:
        self._scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        self._unet, self._vqvae = (read_json(folder / name / "config.json") for name in ("unet", "vqvae"))
        self._rounds = int(read_json(folder / "model_index.json").get("_consistency", 0))
        left = {name: read_safetensors(folder / name / WEIGHTS) for name in ("unet", "vqvae")}
        self._embed = TimeEmbedding(self._unet, left["unet"])
        self._codes = left["vqvae"]["quantize.embedding.weight"]
        chosen = precision or manifest["precision"]
        if precision is None and chosen == "bf16" and not paddle.base.core.supports_bfloat16_fast_performance():
            chosen = "fp32"
        self._network, self._to_pixels = (
            Part(folder, manifest["components"][component]["parts"][part], chosen, threads)
            for component, part in (("unet", "network"), ("vqvae", "to_pixels"))
        )

    def __call__(
        self, picture: np.ndarray, steps: int, seed: int, eta: float = 0.0, noise: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """Upscale one picture.

        Args:
            picture: `[H, W, 3]`, float32 in [0, 1].
            seed: of the noise.
            eta: 0 is deterministic, 1 as noisy as DDPM.
            noise: what to start from instead, `[1, C, h, w]`, h and w being H and W rounded up to what the unet takes.

        Returns:
            `[factor * H, factor * W, 3]`, float32 in [0, 1].
        """
        height, width = picture.shape[:2]
        if min(height, width) < 2:
            raise RunError(f"a picture of {width}x{height} pixels has no structure to upscale; give at least 2x2")
        if not 0 <= eta <= 1:
            raise RunError(f"eta {eta} is not between 0 and 1")
        multiple = 2 ** (len(self._unet["block_out_channels"]) - 1)
        padding = ((0, -height % multiple), (0, -width % multiple), (0, 0))
        condition = np.pad(picture * 2 - 1, padding, mode="symmetric").transpose(2, 0, 1)[None]
        scheduler, normals = DDIM(self._scheduler, steps), Normals(seed)
        shape = (1, self._codes.shape[1], *condition.shape[2:])
        latents = normals(shape) if noise is None else np.asarray(noise, np.float32)
        if not np.isfinite(latents).all():
            raise RunError("the noise holds NaN or infinite values; give finite ones")
        if latents.shape != shape:
            raise RunError(f"the noise has the shape {list(latents.shape)}, and this picture needs {list(shape)}")
        for timestep, alpha, following in scheduler.steps:
            sample = np.concatenate([latents, condition], axis=1)
            sample = 2 * sample - 1 if self._unet["center_input_sample"] else sample
            prediction = self._network(sample=sample, temb=self._embed(timestep))
            latents = scheduler.step(prediction, latents, alpha, following, eta, normals)
        pixels = self._to_pixels(latents=quantise(latents, self._codes))[0].transpose(1, 2, 0)
        factor = 2 ** (len(self._vqvae["block_out_channels"]) - 1)
        pixels = np.clip(pixels[: factor * height, : factor * width] / 2 + 0.5, 0, 1)
        return consistent(pixels, picture, factor, self._rounds)


def enlarged(values: np.ndarray, factor: int, kind: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    size = factor * values.shape[1], factor * values.shape[0]
    planes = (np.ascontiguousarray(values[..., i], np.float32) for i in range(values.shape[2]))
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, kind)) for plane in planes], axis=-1)


def consistent(pixels: np.ndarray, low: np.ndarray, factor: int, rounds: int) -> np.ndarray:
    """Pixels that averaged down are `low`, and smooth where it is a plane (iterative back-projection)."""
    if not rounds:
        return pixels
    height, width = low.shape[:2]
    padded = np.pad(low, ((1, 1), (1, 1), (0, 0)), mode="reflect", reflect_type="odd")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    near = np.pad(np.abs(low - (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9).max(-1), 2, mode="edge")
    near = np.max([near[y : y + height, x : x + width] for y in range(5) for x in range(5)], axis=0)
    detail = np.clip((near * 255 - 1) / 3, 0, 1)[..., None]
    smooth = np.clip(1 - enlarged(detail, factor, Image.Resampling.BILINEAR), 0, 1)
    pixels = pixels + smooth * (enlarged(low, factor) - pixels)
    for _ in range(rounds):
        lack = low - pixels.reshape(height, factor, width, factor, -1).mean((1, 3))
        pixels = np.clip(pixels + enlarged(lack, factor), 0, 1)
    return pixels


def cpus() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_picture(file: Path) -> Tuple[np.ndarray, bool]:
    """`[H, W, 3]` in [0, 1], and whether the picture is grey."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
    except (OSError, UnidentifiedImageError) as error:
        raise RunError(f"{file} is no picture that can be read ({error})") from None
    if image.mode not in ("1", "L", "P", "RGB") or "transparency" in image.info:
        raise RunError(f"{file} is transparent or not 8-bit RGB or grey (mode {image.mode}); convert it to RGB first")
    return np.asarray(image.convert("RGB"), np.float32) / 255, image.mode in ("1", "L")


def check_output(file: Path) -> None:
    """Before the work: raises RunError where `write_picture` could not."""
    if Image.registered_extensions().get(file.suffix.lower()) not in Image.SAVE:
        raise RunError(f"{file} is no file name of a picture format; end it in .png")
    if not file.absolute().parent.is_dir():
        raise RunError(f"{file.parent} is no folder; make it, or name another file")


def write_picture(pixels: np.ndarray, grey: bool, file: Path) -> None:
    pixels = pixels.mean(axis=-1) if grey else pixels
    image = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    part = file.with_name(f".{file.stem}.part{file.suffix}")
    try:
        image.save(part)
        os.replace(part, file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be written ({error})") from None
    finally:
        part.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="exported pipeline")
    parser.add_argument("input", type=Path, metavar="IN", help="a picture, 8-bit RGB or grey")
    parser.add_argument("output", type=Path, metavar="OUT", help="the larger one")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument("--eta", type=float, default=0.0, metavar="E", help="0 deterministic (default) to 1 as DDPM")
    parser.add_argument("--seed", type=int, metavar="S", help="fixes the result; drawn and printed when not given")
    parser.add_argument("--noise", type=Path, metavar="NPY", help="start from this array [1, C, h, w] instead")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="default: the one chosen at export")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all CPUs that this process may use")
    parser.add_argument("--verify", action="store_true", help="compare the digests of all files first")
    args = parser.parse_args()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    try:
        if args.threads is not None and args.threads < 1:
            raise RunError(f"{args.threads} threads are not possible; give 1 or more")
        check_output(args.output)
        picture, grey = read_picture(args.input)
        noise = None if args.noise is None else np.load(args.noise, allow_pickle=False)
        run = SuperResolution(args.folder, args.precision, args.threads, args.verify)
        result = run(picture, args.steps, seed, args.eta, noise)
        write_picture(result, grey, args.output)
    except (RunError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (height, width), (taller, wider) = picture.shape[:2], result.shape[:2]
    print(f"{args.output}: {width}x{height} -> {wider}x{taller}, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
