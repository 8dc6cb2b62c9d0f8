"""Base of the pipelines: components from files, devices, progress."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import warnings
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, List, Optional, Sequence, Tuple, Type, TypeVar, Union

import numpy as np
import paddle
from PIL import Image

from ppdiffusers.checkpoints.errors import shorten
from ppdiffusers.config import ConfigError, FrozenConfig, PathLike, read_json, write_json
from ppdiffusers.models import AutoencoderKL, VQModel
from ppdiffusers.models.model import Model, model_folder
from ppdiffusers.models.unet import DeepCache
from ppdiffusers.outputs import Output
from ppdiffusers.pipelines.quality import DEFAULT, INDEX_KEY, QUALITIES, Quality, read_qualities
from ppdiffusers.random import as_generators, randn_tensor
from ppdiffusers.schedulers.scheduler import Scheduler
from ppdiffusers.threads import use_threads
from ppdiffusers.version import __version__

Self = TypeVar("Self", bound="DiffusionPipeline")

logger = logging.getLogger("ppdiffusers")

INDEX_FILE = "model_index.json"

# callback(pipeline, step from 0, timestep, {"latents": ...}); what it returns may replace the latents.
StepCallback = Callable[["DiffusionPipeline", int, float, Dict[str, paddle.Tensor]], Optional[Dict[str, Any]]]

# What a model_index.json may name, and where it is here. Nothing else is ever imported for one.
_LIBRARIES = ("ppdiffusers", "diffusers", "latent_diffusion", "paddlenlp.transformers", "transformers")
_COMPONENTS = {
    "AutoencoderKL": "ppdiffusers.models",
    "BertTokenizer": "ppdiffusers.tokenizer",
    "BertTokenizerFast": "ppdiffusers.tokenizer",
    "ClassEmbedder": "ppdiffusers.models",
    "LDMBertModel": "ppdiffusers.models",
    "SpatialRescaler": "ppdiffusers.models",
    "UNet2DConditionModel": "ppdiffusers.models",
    "UNet2DModel": "ppdiffusers.models",
    "VQModel": "ppdiffusers.models",
    "DDIMScheduler": "ppdiffusers.schedulers",
    "DDPMScheduler": "ppdiffusers.schedulers",
    "DPMSolverMultistepScheduler": "ppdiffusers.schedulers",
    "EulerAncestralDiscreteScheduler": "ppdiffusers.schedulers",
    "EulerDiscreteScheduler": "ppdiffusers.schedulers",
    "LMSDiscreteScheduler": "ppdiffusers.schedulers",
    "PNDMScheduler": "ppdiffusers.schedulers",
}
_PIPELINES = {
    "LDMClassConditionalPipeline": "ppdiffusers.pipelines.class_conditional",
    "LDMInpaintPipeline": "ppdiffusers.pipelines.inpaint",
    "LDMLayoutToImagePipeline": "ppdiffusers.pipelines.layout_to_image",
    "LDMPipeline": "ppdiffusers.pipelines.unconditional",
    "LDMSemanticSynthesisPipeline": "ppdiffusers.pipelines.semantic_synthesis",
    "LDMSuperResolutionPipeline": "ppdiffusers.pipelines.super_resolution",
    "LDMTextToImagePipeline": "ppdiffusers.pipelines.text_to_image",
}


@dataclasses.dataclass
class ImagePipelineOutput(Output):
    """`images`: a list of PIL images, or an array `[B, H, W, C]` in [0, 1] (a list of them where sizes differ)."""

    images: Union[List[Image.Image], np.ndarray, List[np.ndarray], paddle.Tensor, List[paddle.Tensor]]


@dataclasses.dataclass
class DenoisingProgress:
    """Where a running pipeline is, after step `step` (counted from 1) of `total`.

    `latents` are the current ones, `[B, C, h, w]`. `output` is None until the last step, which
    carries the pipeline's result.
    """

    step: int
    total: int
    timestep: float
    latents: paddle.Tensor
    output: Any = None


class DiffusionPipeline:
    """Models and a scheduler that work together; the base of every pipeline.

    `DiffusionPipeline.from_pretrained` builds the class that the folder's `model_index.json` names.
    """

    _component_types: ClassVar[Dict[str, tuple]] = {}  # set by subclasses, in their constructor's order
    _value_names: ClassVar[Tuple[str, ...]] = ()  # further arguments of a constructor: plain values, None by default

    scheduler: Scheduler

    def __init__(self, **components: Any):
        for name, component in components.items():
            expected = self._component_types[name]
            if not isinstance(component, expected):
                names = " or ".join(kind.__name__ for kind in expected)
                raise TypeError(f"{type(self).__name__} needs a {names} as {name}, not a {type(component).__name__}")
            setattr(self, name, component)
        self._progress_bar_config: Dict[str, Any] = {}
        self._engine, self._precision = "auto", "auto"
        self._deep_cache: Optional[Tuple[int, int]] = None  # interval and branch
        self._qualities: Optional[Dict[str, Quality]] = None  # that the model recommends
        self._replaced: Tuple[Any, Any] = None, None  # the scheduler of `set_quality`, and the one that it is made from

    @property
    def components(self) -> Dict[str, Any]:
        """Name to model or scheduler: `OtherPipeline(**pipe.components)` shares them."""
        return {name: getattr(self, name) for name in self._component_types}

    @property
    def config(self) -> FrozenConfig:
        """What `model_index.json` says."""
        index: Dict[str, Any] = {"_class_name": type(self).__name__, "_ppdiffusers_version": __version__}
        for name, component in self.components.items():
            index[name] = ["ppdiffusers", type(component).__name__]
        index.update({name: getattr(self, name) for name in self._value_names})
        if self._qualities is not None:
            index[INDEX_KEY] = {name: dataclasses.asdict(quality) for name, quality in self._qualities.items()}
        return FrozenConfig(index)

    @classmethod
    def from_pretrained(
        cls: Type[Self],
        name_or_path: PathLike,
        paddle_dtype: Any = None,
        engine: str = "auto",
        precision: str = "auto",
        **options: Any,
    ) -> Self:
        """Load a saved pipeline.

        Args:
            name_or_path: a folder with a `model_index.json`, ours or diffusers', a folder that `export` wrote, or
                the name of a model that `model_zoo` knows (which is downloaded first where it is not cached).
            paddle_dtype: type of the models' parameters in memory; float32 when not given.
            engine: "auto" compiles the models on a CPU, at the first call whose work is worth it; "eager" never does;
                "inference" and "openvino" are as of `compile`, at once.
            precision: of compiled models, as of `compile`.
            options: components and values that replace the folder's (`scheduler=...`), and `cache_dir`,
                `endpoint`, `local_files_only`, `progress` of `model_zoo.download`.

        Raises:
            ConfigError: a broken or foreign `model_index.json`, or an unknown option.
            ExportError (a ValueError): a damaged exported folder, one of another paddle, or engine "eager" for one.
            model_zoo.ModelZooError: an unknown name, or a download that failed.
        """
        from ppdiffusers.inference.exported import Exported, is_exported

        folder = model_folder(name_or_path, options)
        index = read_json(folder / INDEX_FILE)
        pipeline_class = cls._class_for(index, folder)
        names, values = list(pipeline_class._component_types), pipeline_class._value_names
        unknown = [key for key in options if key not in names and key not in values]
        if unknown:
            raise ConfigError(
                f"{pipeline_class.__name__}.from_pretrained does not know {', '.join(map(repr, unknown))}; "
                f"it takes paddle_dtype, download options, and {', '.join([*names, *values])}"
            )
        exported = Exported(folder) if is_exported(folder) else None
        components = {**{name: index[name] for name in values if name in index}, **options}
        for name in names:
            if name in components:
                continue
            if name not in index:
                raise ConfigError(f"{folder / INDEX_FILE} names no {name}; pass one: from_pretrained(..., {name}=...)")
            kind = _component_class(index[name], folder)
            if exported is not None and exported.holds(name):
                components[name] = exported.load(name, kind, engine, precision, paddle_dtype)
                continue
            extra = {"paddle_dtype": paddle_dtype} if issubclass(kind, Model) else {}
            components[name] = kind.from_pretrained(folder, subfolder=name, **extra)
        pipeline = pipeline_class(**components)
        pipeline._qualities = read_qualities(index.get(INDEX_KEY), folder / INDEX_FILE)
        if engine in ("auto", "eager"):
            pipeline._engine, pipeline._precision = engine, precision
            return pipeline
        return pipeline.compile(engine, precision)

    @classmethod
    def _class_for(cls: Type[Self], index: Dict[str, Any], folder: Path) -> Type[Self]:
        name = index.get("_class_name")
        if not isinstance(name, str) or name not in _PIPELINES:
            known = ", ".join(_PIPELINES)
            raise ConfigError(
                f"{folder / INDEX_FILE} is of a {shorten(repr(name))}, which ppdiffusers does not have; it has {known}"
            )
        found = getattr(importlib.import_module(_PIPELINES[name]), name)
        if not issubclass(found, cls):
            raise ConfigError(
                f"{folder} holds a {name}, not a {cls.__name__}; load it with DiffusionPipeline or {name}"
            )
        return found

    def save_pretrained(self, folder: PathLike, safe_serialization: bool = True, paddle_dtype: Any = None) -> None:
        """Write every component into its sub-folder, and `model_index.json` last.

        Args:
            safe_serialization, paddle_dtype: of the models, see `Model.save_pretrained`.
        """
        folder = Path(folder)
        for component in self.components.values():
            if isinstance(component, Model) and component._exported is not None:
                component._use_layers()  # raises: there are none to save
        for name, component in self.components.items():
            if isinstance(component, Model):
                component.save_pretrained(folder / name, safe_serialization, paddle_dtype)
            else:
                component.save_pretrained(folder / name)
        write_json(folder / INDEX_FILE, self.config)

    def export(self, folder: PathLike, precision: str = "auto", force: bool = False) -> None:
        """Write programs and parameters for deployment, instead of layers, and a manifest of them.

        `from_pretrained(folder)` is this pipeline again, with the same paddle (3.3 does not read programs of 3.2), and
        `scripts/deploy` runs such folders without this package. The folder appears when it is whole and every program
        has run, and given what the layers give.

        Args:
            folder: a folder that is not there yet.
            precision: what the programs run in where the loader does not say: "auto" (bf16 where its CPU has it),
                "fp32" or "bf16". The files hold float32 in any case.
            force: replace an exported pipeline at `folder`.

        Raises:
            ExportError (a ValueError): the folder exists, models that are not float32 or were loaded from an exported
                folder, or a paddle before 3.0.
        """
        from ppdiffusers.inference.export import export

        export(self, folder, INDEX_FILE, precision, force)

    def to(self: Self, device: str) -> Self:
        """Move the models: "cpu", "gpu", "gpu:1"; torch's "cuda" and "cuda:1" mean the same.

        A GPU that this paddle cannot use is a warning, and everything stays where it is.
        """
        device = str(device).replace("cuda", "gpu")
        if device.startswith("gpu") and not paddle.is_compiled_with_cuda():
            warnings.warn(
                f"this paddle is built without CUDA, so .to({device!r}) stays on the CPU; install paddlepaddle-gpu",
                stacklevel=2,
            )
            return self
        paddle.set_device(device)
        for component in self.components.values():
            if isinstance(component, Model):
                component.to(device)
        return self

    def compile(self: Self, engine: str = "auto", precision: str = "auto") -> Self:
        """Run the models as compiled programs, which are made when they are first needed; see `compile_model`.

        Args:
            engine: "auto" (OpenVINO if it is installed, else Paddle Inference), "inference", "openvino"; "eager" undoes
                everything, and keeps the pipeline from compiling by itself.
            precision: "auto" (bf16 where the CPU has it), "fp32" or "bf16".

        Returns:
            The pipeline itself.

        Raises:
            ValueError: an unknown engine or precision, or one that this machine does not have.
        """
        from ppdiffusers.inference import compile_model

        for component in self.components.values():
            if isinstance(component, Model):
                compile_model(component, engine, precision)
        self._engine, self._precision = engine, precision
        return self

    def _compile_if_worth_it(self, shape: Sequence[int], steps: int) -> None:
        """Compile U-Net and decoder before a call whose steps would take the layers long, on a CPU."""
        from ppdiffusers.inference import compile_model, worth_compiling

        parts = self.components
        models = [model for model in (parts["unet"], parts["vqvae"]) if model._restore is None]
        if self._engine != "auto" or not models or not worth_compiling(parts["unet"], shape, steps):
            return
        logger.warning("compiling the models for this CPU, which takes seconds; engine='eager' runs them as they are")
        for model in models:
            compile_model(model, "auto", self._precision)

    def set_quality(self, quality: str) -> int:
        """Choose scheduler, spacing and reuse of deep features, as the model recommends or else as usual.

            steps = pipeline.set_quality("fast")
            pipeline(..., num_inference_steps=steps)

        Args:
            quality: "fast", "balanced" or "best".

        Returns:
            The number of steps that goes with them.

        Raises:
            ValueError: another quality.
            ConfigError: the model's recommendation cannot be followed.
        """
        if quality not in QUALITIES:
            raise ValueError(f"quality {quality!r} is not one of {', '.join(map(repr, QUALITIES))}")
        chosen = (self._qualities or DEFAULT)[quality]
        made, own = self._replaced
        own = own if self.scheduler is made else self.scheduler
        scheduler = chosen.scheduler_like(own)
        self.enable_deep_cache(chosen.cache_interval, chosen.cache_branch_id)
        self.scheduler, self._replaced = scheduler, (scheduler, own)
        return chosen.steps

    def enable_deep_cache(self, cache_interval: int = 3, cache_branch_id: int = 0) -> None:
        """Run the whole U-Net at every `cache_interval`-th step only (DeepCache, arXiv 2312.00858).

        The steps between compute the outermost layers anew, and take the deep features of the step before. That is
        faster, and nearly as good where steps are many; 1 changes nothing. Pictures that are in the making keep theirs.

        Args:
            cache_interval: steps for which deep features serve; 2 to 5 are usual.
            cache_branch_id: the skip connection within which layers are computed at every step: 0 is the outermost
                and fastest, higher ones cost more and lose less.

        Raises:
            ValueError: an interval below 1, or a branch that the U-Net does not have.
        """
        check_count("cache_interval", cache_interval)
        self.components["unet"].check_branch(cache_branch_id)
        self._deep_cache = cache_interval, cache_branch_id

    def disable_deep_cache(self) -> None:
        """Run the whole U-Net at every step, as always without `enable_deep_cache`."""
        self._deep_cache = None

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of `tqdm` for every later call, e.g. `disable=True`; without any, a bar on a terminal only."""
        self._progress_bar_config = options

    def _progress_bar(self, total: int) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=total, **{"disable": None, **self._progress_bar_config})

    def _step_arguments(self, eta: float, generator: Any) -> Dict[str, Any]:
        """The arguments that this scheduler's `step` has. `eta` means something to DDIM only."""
        accepted = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in accepted:
            warnings.warn(f"{type(self.scheduler).__name__} has no eta: {eta} is ignored", stacklevel=4)
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in accepted}

    def _denoise(
        self,
        noise: paddle.Tensor,
        predict: Callable[..., paddle.Tensor],
        num_inference_steps: int,
        eta: float,
        stream: Any,
        callback: Optional[StepCallback],
    ) -> Iterator[Tuple[float, paddle.Tensor]]:
        """The loop of every pipeline: timestep and latents after every step.

        `predict(latents, timestep, **options)` is the model on latents that the scheduler has scaled; conditions
        are its own business, and no scheduler ever scales them. The options are for the U-Net.
        """
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        arguments = self._step_arguments(eta, stream)
        use_threads()
        interval, branch = self._deep_cache or (1, 0)
        self._compile_if_worth_it(noise.shape, -(-num_inference_steps // interval))
        options = {} if interval == 1 else {"deep_cache": DeepCache(interval, branch)}  # lives as long as this loop
        latents = noise * scheduler.init_noise_sigma
        for index, timestep in enumerate(scheduler.timesteps.tolist()):
            with paddle.no_grad():
                prediction = predict(scheduler.scale_model_input(latents, timestep), timestep, **options)
                prediction = prediction.astype("float32")
                latents = scheduler.step(prediction, timestep, latents, **arguments).prev_sample
            if callback is not None:
                changed = callback(self, index, timestep, {"latents": latents})
                latents = (changed or {}).get("latents", latents)
            yield timestep, latents

    def __repr__(self) -> str:
        parts = "".join(f"\n  {name}: {type(part).__name__}" for name, part in self.components.items())
        return f"{type(self).__name__}({parts}\n)"


class NoiseToImagePipeline(DiffusionPipeline):
    """Base of the pipelines whose `vqvae` decodes what their `unet` makes of noise."""

    vqvae: Union[AutoencoderKL, VQModel]
    unet: Any

    def __init__(self, **components: Any):
        super().__init__(**components)
        config = self.vqvae.config
        self._latent_channels = config.get("vq_embed_dim") or config.latent_channels
        taken, returned = self.unet.config.in_channels, self.unet.config.out_channels
        parts = {"latents": self._latent_channels, **self._condition_channels()}
        if taken != sum(parts.values()) or returned != self._latent_channels:
            wanted = " + ".join(f"{count} of {name}" for name, count in parts.items())
            raise ValueError(
                f"the unet takes {taken} channels and returns {returned}; "
                f"here it must take {wanted}, and return {self._latent_channels}"
            )

    def _condition_channels(self) -> Dict[str, int]:
        """What the unet sees beside the latents, and in how many channels."""
        return {}

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent, along one side."""
        return 2 ** (len(self.vqvae.config.block_out_channels) - 1)

    def _trained_size(self) -> Tuple[int, int]:
        """Height and width in pixels that the unet's config names."""
        size = self.unet.config.sample_size
        if size is None:
            raise ValueError("the unet's config has no sample_size; load the unet with one: from_pretrained(...)")
        height, width = size if isinstance(size, tuple) else (size, size)
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    def _generate(
        self,
        count: int,
        size: Tuple[int, int],
        predict: Callable[..., paddle.Tensor],
        num_inference_steps: int,
        eta: float,
        generator: Any,
        output_type: str,
        return_dict: bool,
        latents: Optional[Any],
        callback: Optional[StepCallback],
    ) -> Iterator[DenoisingProgress]:
        """The `stream` of `count` pictures of `size` (height, width), multiples of `vae_scale_factor`.

        The unet works on whole multiples of its coarsest level; the margin is cropped off all around.
        """
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        sides = [-(-side // (self.vae_scale_factor * multiple)) * multiple for side in size]
        shape = [count, self._latent_channels, *sides]
        streams = as_generators(generator, count)
        noise = randn_tensor(shape, streams) if latents is None else check_latents(latents, shape)
        self.scheduler.set_timesteps(num_inference_steps)
        finished, total = 0, len(self.scheduler.timesteps)  # some schedulers take extra steps
        with self._progress_bar(total) as bar:
            for timestep, current in self._denoise(noise, predict, num_inference_steps, eta, streams, callback):
                finished += 1
                bar.update()
                if finished < total:
                    yield DenoisingProgress(finished, total, timestep, current)
            if output_type == "latent":
                output: Any = ImagePipelineOutput(images=current) if return_dict else (current,)
            else:
                top, left = ((side * self.vae_scale_factor - n) // 2 for side, n in zip(sides, size))
                decoded = self.decode_latents(current)[:, top : top + size[0], left : left + size[1]]
                output = to_output(list(decoded), output_type, return_dict)
            yield DenoisingProgress(finished, total, timestep, current, output)

    @paddle.no_grad()
    def decode_latents(self, latents: paddle.Tensor) -> np.ndarray:
        """Pictures `[B, H, W, C]` in [0, 1], float32, of latents `[B, C, h, w]`.

        Only those of an `AutoencoderKL` are divided by its `scaling_factor`: a `VQModel` was trained on unscaled
        ones, and the factor that diffusers puts into its config by default would drive them out of its codebook.
        """
        if isinstance(self.vqvae, AutoencoderKL):
            latents = latents / self.vqvae.config.scaling_factor
        sample = self.vqvae.decode(latents.astype(self.vqvae.dtype))[0]
        return np.clip(sample.astype("float32").numpy().transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)


def drain(run: Iterator[DenoisingProgress]) -> Any:
    """What the last step of a `stream` carries; no earlier step is kept."""
    output = None
    for progress in run:
        output = progress.output
    return output


def check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive int, not {value!r}")


def _component_class(entry: Any, folder: Path) -> Type[Any]:
    """Our class for a `["library", "ClassName"]` of a `model_index.json`."""
    library, name = entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (None, entry)
    if library not in _LIBRARIES or not isinstance(name, str) or name not in _COMPONENTS:
        raise ConfigError(
            f"{folder / INDEX_FILE} asks for {shorten(repr(name))} of {shorten(repr(library))}, which is not loaded: "
            f"ppdiffusers knows {', '.join(_COMPONENTS)} of {', '.join(_LIBRARIES)}"
        )
    return getattr(importlib.import_module(_COMPONENTS[name]), name)


def check_latents(latents: Any, shape: List[int]) -> paddle.Tensor:
    """Latents that a user handed in, as float32.

    Raises:
        TypeError: no array of numbers.
        ValueError: another shape, NaN or infinite values.
    """
    tensor = latents
    if not isinstance(tensor, paddle.Tensor):
        try:
            tensor = paddle.to_tensor(np.asarray(latents, dtype=np.float32))
        except (TypeError, ValueError):
            raise TypeError(f"latents must be an array of numbers {shape}, not a {type(latents).__name__}") from None
    if list(tensor.shape) != shape:
        raise ValueError(f"latents have shape {list(tensor.shape)}; this call needs {shape}")
    tensor = tensor.astype("float32")
    if not bool(paddle.isfinite(tensor).all()):
        raise ValueError("latents hold NaN or infinite values; give finite noise, or leave latents out")
    return tensor


def to_output(images: List[np.ndarray], output_type: str, return_dict: bool, greys: Optional[List[bool]] = None) -> Any:
    """`[H, W, C]` arrays in [0, 1] as the caller wants them."""
    from ppdiffusers.images import to_pil

    result: Any
    if output_type == "pil":
        result = [to_pil(image, grey) for image, grey in zip(images, greys or [False] * len(images))]
    else:
        if output_type == "pd":
            images = [image.transpose(2, 0, 1) for image in images]
        same = len({image.shape for image in images}) == 1
        result = np.stack(images) if same else images
        if output_type == "pd":
            result = paddle.to_tensor(result) if same else [paddle.to_tensor(image) for image in images]
    return ImagePipelineOutput(images=result) if return_dict else (result,)


OUTPUT_TYPES = ("pil", "np", "pd", "latent")


def check_output_type(output_type: str) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type {output_type!r} is not one of {', '.join(map(repr, OUTPUT_TYPES))}")
