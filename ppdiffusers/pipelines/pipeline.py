"""Base of the pipelines: components from files, devices, progress."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import warnings
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Sequence, Tuple, Type, TypeVar

import paddle

from ppdiffusers.checkpoints.errors import shorten
from ppdiffusers.config import ConfigError, FrozenConfig, PathLike, read_json, write_json
from ppdiffusers.models.model import Model, model_folder
from ppdiffusers.models.unet import DeepCache
from ppdiffusers.pipelines.index import INDEX_FILE, PIPELINES, component_class
from ppdiffusers.pipelines.results import check_count
from ppdiffusers.quality import DEFAULT, INDEX_KEY, QUALITIES, Quality, read_qualities
from ppdiffusers.schedulers.scheduler import Scheduler
from ppdiffusers.threads import use_threads
from ppdiffusers.version import __version__

Self = TypeVar("Self", bound="DiffusionPipeline")

logger = logging.getLogger("ppdiffusers")

# callback(pipeline, step from 0, timestep, {"latents": ...}); what it returns may replace the latents.
StepCallback = Callable[["DiffusionPipeline", int, float, Dict[str, paddle.Tensor]], Optional[Dict[str, Any]]]


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
        self._engine: Tuple[Any, ...] = ("auto",)  # arguments of `compile`
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
                "onednn" and "inference" are as of `compile`, at once.
            precision: of compiled models, as of `compile`.
            options: components and values that replace the folder's (`scheduler=...`), and `cache_dir`,
                `endpoint`, `local_files_only`, `progress` of `model_zoo.download`.

        Raises:
            ConfigError: a broken or foreign `model_index.json`, or an unknown option.
            ExportError (a ValueError): a damaged exported folder, one of another paddle, or engine "eager" for one.
            model_zoo.ModelZooError: an unknown name, or a download that failed.
        """
        from ppdiffusers.inference.engines import setups
        from ppdiffusers.inference.exported import Exported, is_exported

        if engine != "eager":
            setups(engine, precision)  # raises before anything is read
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
            kind = component_class(index[name], folder)
            if exported is not None and exported.holds(name):
                components[name] = exported.load(name, kind, engine, precision, paddle_dtype)
                continue
            extra = {"paddle_dtype": paddle_dtype} if issubclass(kind, Model) else {}
            components[name] = kind.from_pretrained(folder, subfolder=name, **extra)
        pipeline = pipeline_class(**components)
        pipeline._qualities = read_qualities(index.get(INDEX_KEY), folder / INDEX_FILE)
        if engine in ("auto", "eager"):
            pipeline._engine = engine, precision
            return pipeline
        return pipeline.compile(engine, precision)

    @classmethod
    def _class_for(cls: Type[Self], index: Dict[str, Any], folder: Path) -> Type[Self]:
        name = index.get("_class_name")
        if not isinstance(name, str) or name not in PIPELINES:
            known = ", ".join(PIPELINES)
            raise ConfigError(
                f"{folder / INDEX_FILE} is of a {shorten(repr(name))}, which ppdiffusers does not have; it has {known}"
            )
        found = getattr(importlib.import_module(PIPELINES[name]), name)
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
            exported = isinstance(component, Model) and component._exported is not None
            if isinstance(component, Model) and not (exported and device == "cpu"):  # where exported programs run
                component.to(device)
        return self

    def compile(
        self: Self, engine: str = "auto", precision: str = "auto", device: str = "cpu", tensorrt: bool = False
    ) -> Self:
        """Run the models as compiled programs, which are made when they are first needed; see `compile_model`.

        A model that went back to its layers since, to be saved for one, is compiled again by the next call.

        Args:
            engine: "auto" (oneDNN's kernels, else Paddle Inference), "onednn", "inference"; "eager" undoes
                everything, and keeps the pipeline from compiling by itself.
            precision: "auto" (bf16 where the CPU has it), "fp32" or "bf16"; on a GPU also "fp16".
            device, tensorrt: as of `compile_model`.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: an unknown engine or precision, or one that this machine does not have.
        """
        from ppdiffusers.inference import compile_model

        for component in self.components.values():
            if isinstance(component, Model):
                compile_model(component, engine, precision, device, tensorrt)
        self._engine = engine, precision, device, tensorrt
        return self

    def _compile_again(self, shape: Sequence[int], steps: int) -> None:
        """Before a call, compile U-Net and decoder where `compile` asked for it, or where the steps would take the
        layers long on a CPU. Not those that are being trained."""
        from ppdiffusers.inference import compile_model, worth_compiling

        unet = self.components["unet"]
        models = [model for model in (unet, self.components["vqvae"]) if model._restore is None and not model.training]
        if self._engine[0] == "eager" or not models:
            return
        if self._engine[0] == "auto":
            if not worth_compiling(unet, shape, steps):
                return
            logger.warning("compiling the models for this CPU takes seconds; engine='eager' runs them as they are")
        for model in models:
            compile_model(model, *self._engine)

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
            ValueError: an interval below 1, a branch that the U-Net does not have, or a U-Net of an exported folder.
        """
        check_count("cache_interval", cache_interval)
        unet = self.components["unet"]
        unet.check_branch(cache_branch_id)
        if cache_interval > 1 and unet._exported is not None:
            raise ValueError(
                f"cache_interval {cache_interval}: an exported U-Net runs whole; load the pipeline that was exported"
            )
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
        self._compile_again(noise.shape, -(-num_inference_steps // interval))
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
