"""What a training run is made of: one JSON file, read into dataclasses, with settings that a caller changes.

    {"task": "super-resolution", "data": {"path": "pictures", "size": 64}, "models": {...}, "steps": 8000}

`Configuration` and the classes that it holds are the reference of the keys. A key that none of them has is an error.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from ppdiffusers.config import ConfigError, PathLike, read_json

FIRST_STAGES = ("vq", "kl")
TASKS = (
    *FIRST_STAGES,
    *("super-resolution", "text-to-image", "unconditional", "class-conditional"),
    *("inpainting", "semantic-synthesis", "layout-to-image"),
)


@dataclass
class Data:
    """Pictures and what is said of them. Paths of annotations are relative to `path`."""

    path: str = ""  # a folder, searched to any depth; or what scripts/prepare_training_data.py wrote
    validation: Optional[str] = None  # another such folder
    held_out: float = 0.0  # else this share of `path`, chosen by the hash of the file's name
    size: int = 256  # of a crop, in pixels; with buckets, its area is the square of it
    crop: str = "random"  # or "centre": what is left of the resized picture
    zoom: Tuple[float, float] = (1.0, 1.0)  # the shorter side is resized to `size` times something between
    flip: bool = True
    buckets: int = 0  # this many aspect ratios between 1:2 and 2:1; 0: square crops
    smallest: Optional[int] = None  # shorter sides below are skipped; half of `size` when not given
    captions: Optional[str] = None  # .jsonl, .csv, or "txt" beside the pictures; what is there when not given
    drop: float = 0.1  # the share of prompts, classes or layouts that are left empty, for guidance
    masks: Optional[str] = None  # a folder with a mask for each picture, under its name; drawn when not given
    labels: Optional[str] = None  # a folder with a label map for each picture, under its name
    boxes: Optional[str] = None  # a COCO file
    mix: Optional[Dict[str, float]] = None  # of prepared data: the probability of each source
    degradation: str = "area"  # of the low-resolution picture: the mean of blocks, or "bsrgan" (arXiv 2103.14006)
    cache_latents: bool = False  # encode every picture once, and its mirror image, before the first step
    workers: int = 2  # processes that prepare pictures


@dataclass
class Reconstruction:
    """The loss of a first stage (arXiv 2112.10752, section 3.1; 2012.09841, section 3.1)."""

    pixel: str = "l1"  # or "l2"
    perceptual: float = 1.0  # weight of LPIPS, which needs `lpips`
    kl: float = 1e-6  # weight; nats a picture, as in the paper's code, where pixels are summed too
    codebook: float = 1.0
    commitment: float = 0.25
    discriminator: float = 0.0  # weight; 0: none
    discriminator_start: int = 50_001  # step
    discriminator_layers: int = 3
    discriminator_learning_rate: Optional[float] = None  # as the autoencoder's
    restart_codes: int = 0  # codes that no latent took for so many steps become latents; 0: never
    anchor: float = 0.0  # weight of the squared distance of latents to the picture as small as they are
    latent_noise: float = 0.0  # largest deviation of the noise on latents that are not quantised
    continuous: float = 0.0  # share of the steps that do not quantise; k-means over latents then sets the codebook


@dataclass
class Diffusion:
    """The loss of a second stage."""

    min_snr: Optional[float] = None  # gamma of arXiv 2303.09556; 5 is usual
    offset_noise: float = 0.0  # deviation of the noise that all pixels of a channel share; 0.1 is usual
    sampling_steps: int = 20  # of validation
    guidance_scale: float = 1.0  # of validation


@dataclass
class Configuration:
    """A training run.

    `models` names the components of the task's pipeline: a folder or zoo name to load, or a config to build, of which
    `scheduler` says what is predicted (`prediction_type`). Those of `train` learn; by default all but a first stage
    that was loaded, and a text encoder that was.
    """

    task: str = ""
    about: str = ""  # for the reader
    data: Data = field(default_factory=Data)
    models: Dict[str, Any] = field(default_factory=dict)
    init: Optional[str] = None  # a pipeline's folder or name: whatever `models` does not name is taken from it
    train: Optional[List[str]] = None  # names of components, or of parts of them such as "vqvae.decoder"
    initialisation: str = "torch"  # or "compvis", which begins residual branches of U-Nets at zero
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    diffusion: Diffusion = field(default_factory=Diffusion)
    lpips: Optional[str] = None  # lpips-vgg.npz or lpips-alex.npz of scripts/fetch_training_data.sh
    steps: int = 100_000
    batch_size: int = 16  # pictures a step, of all devices together
    micro_batch: Optional[int] = None  # pictures that a device takes at once; the step's share when not given
    learning_rate: float = 1e-4
    warmup_steps: int = 200
    schedule: str = "constant"  # after the warm-up; or "cosine", down to 2 %
    betas: Tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    clip_norm: Optional[float] = 1.0
    ema_decay: float = 0.9999  # reached by (1 + step) / (10 + step)
    seed: int = 0
    precision: str = "fp32"  # or "bf16", by paddle.amp
    recompute: bool = False  # blocks are computed twice and not kept
    shard: Optional[str] = None  # "os" or "os_g": optimiser states, and gradients, spread over the devices
    log_every: int = 50  # steps
    save_every: int = 1000
    validate_every: int = 1000
    validation_pictures: int = 64
    keep: int = 3  # checkpoints, beside the best
    visualdl: bool = False

    @property
    def is_first_stage(self) -> bool:
        return self.task in FIRST_STAGES


def read_configuration(file: PathLike, changes: Sequence[str] = ()) -> Configuration:
    """The configuration in a JSON file, with changes such as `data.size=128`; a value is JSON, or else text.

    Raises:
        ConfigError: no such file, no JSON, an unknown key, or a value that cannot be.
    """
    values = read_json(file)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r} is no change; write KEY=VALUE, such as data.size=128")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        inner, *rest = values, *key.split(".")
        for name in rest[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{change!r}: {name} of {file} is {inner!r}, which has no keys")
        inner[rest[-1]] = value
    return configuration(values, str(file))


def configuration(values: Dict[str, Any], source: str = "the configuration") -> Configuration:
    """Checked; errors as `read_configuration`, which name `source`."""
    made = _build(Configuration, values, source, "")
    _check(made, source)
    return made


def plain(config: Configuration) -> Dict[str, Any]:
    """As JSON has it."""
    values: Dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def _build(kind: Any, values: Any, source: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix[:-1]} of {source} is {values!r}; write an object with keys")
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else f"; it may have {', '.join(hints)}"
            raise ConfigError(f"{source} has the unknown key {prefix}{key}{hint}")
    return kind(**{key: _value(hints[key], value, source, prefix + key) for key, value in values.items()})


def _value(hint: Any, value: Any, source: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, f"{key}.")
    options = typing.get_args(hint) if typing.get_origin(hint) is Union else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if option is Any or (option is type(None) and value is None):
            return value
        if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(typing.get_args(option)):
            return tuple(_value(item, part, source, key) for item, part in zip(typing.get_args(option), value))
        if origin is list and isinstance(value, list) and all(isinstance(part, str) for part in value):
            return value
        if origin is float and type(value) in (int, float):
            return float(value)
        if origin in (int, str, bool, dict) and type(value) is origin:
            return value
    wanted = " or ".join(
        "null" if option is type(None) else getattr(option, "__name__", str(option)) for option in options
    )
    raise ConfigError(f"{key} of {source} is {value!r}; it must be {wanted}")


def _check(config: Configuration, source: str) -> None:
    def refuse(key: str, value: Any, wanted: str) -> None:
        raise ConfigError(f"{key} of {source} is {value!r}; {wanted}")

    for key, value, known in (
        ("task", config.task, TASKS),
        ("data.crop", config.data.crop, ("random", "centre")),
        ("data.degradation", config.data.degradation, ("area", "bsrgan")),
        ("reconstruction.pixel", config.reconstruction.pixel, ("l1", "l2")),
        ("initialisation", config.initialisation, ("torch", "compvis")),
        ("schedule", config.schedule, ("constant", "cosine")),
        ("precision", config.precision, ("fp32", "bf16")),
        ("shard", config.shard, (None, "os", "os_g")),
    ):
        if value not in known:
            refuse(key, value, f"use one of {', '.join(map(str, known))}")
    values = vars(config)
    for name in ("steps", "batch_size", "log_every", "save_every", "validate_every", "keep", "learning_rate"):
        if values[name] <= 0:
            refuse(name, values[name], "it must be more than 0")
    if config.data.size < 1 or config.data.workers < 0:
        refuse("data", (config.data.size, config.data.workers), "size is from 1 on, and workers from 0")
    for name, share in (("data.drop", config.data.drop), ("data.held_out", config.data.held_out)):
        if not 0 <= share < 1:
            refuse(name, share, "it must be from 0 to less than 1")
    if not 0 < config.data.zoom[0] <= config.data.zoom[1] or config.data.zoom[0] < 1:
        refuse("data.zoom", config.data.zoom, "give two numbers from 1 on, the smaller first")
    if config.data.cache_latents and (config.is_first_stage or config.task in ("super-resolution", "inpainting")):
        refuse("data.cache_latents", True, f"{config.task} needs the pixels; set it to false")
    if config.data.cache_latents and (config.data.crop, config.data.zoom, config.data.buckets) != ("centre", (1, 1), 0):
        refuse("data.cache_latents", True, 'latents are of one crop a picture; set data.crop to "centre", no zoom')
    if not config.data.path:
        refuse("data.path", config.data.path, "name the folder of your pictures: data.path=FOLDER")


def learning_rate_at(step: int, peak: float, warmup_steps: int, steps: int, schedule: str = "cosine") -> float:
    """Linear warm-up; then constant, or half a cosine down to 2 % of the peak."""
    import math

    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def resolved(path: Optional[str], base: Union[str, Path]) -> Optional[Path]:
    """A path that is relative to `base`."""
    return None if path is None else Path(base) / path
