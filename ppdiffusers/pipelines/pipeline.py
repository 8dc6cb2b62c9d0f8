"""Base of the pipelines: components from files and to files, engines, devices, progress."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Sequence, Tuple, Type, TypeVar

import paddle

from ppdiffusers.checkpoints.errors import shorten
from ppdiffusers.config import ConfigError, FrozenConfig, PathLike, read_json, write_json
from ppdiffusers.consistency import INDEX_KEY as CONSISTENCY_KEY
from ppdiffusers.models.model import Model, asked_dtype, model_folder
from ppdiffusers.pipelines.index import INDEX_FILE, PIPELINES, component_class
from ppdiffusers.pipelines.results import DenoisingProgress, check_count
from ppdiffusers.pipelines.tiling import Windows
from ppdiffusers.quality import DEFAULT, INDEX_KEY, QUALITIES, Quality, read_qualities
from ppdiffusers.schedulers.scheduler import Scheduler
from ppdiffusers.version import __version__

Self = TypeVar("Self", bound="DiffusionPipeline")

logger = logging.getLogger("ppdiffusers")


class DiffusionPipeline:
    """Models and a scheduler that work together; the base of every pipeline.

    `DiffusionPipeline.from_pretrained` builds the class that the folder's `model_index.json` names. A subclass has one
    method `stream`, a generator of `DenoisingProgress`; the call has the same arguments and returns what the last
    progress carries. Calls and streams change nothing in the pipeline or its components, so that any number of them
    may run at once, in any threads.
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
        self._engine = "auto", "auto", "cpu", False  # arguments of `compile`
        self._compiled: Dict[str, Any] = {}  # beside the components, by their names
        self._deep_cache: Optional[Tuple[int, int]] = None  # interval and branch
        self._qualities: Optional[Dict[str, Quality]] = None  # that the model recommends
        self._consistency = 0  # rounds that it recommends, see `ppdiffusers.consistency`
        self._replaced: Tuple[Any, Any] = None, None  # the scheduler of `set_quality`, and the one that it is made from

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "stream" in vars(cls):
            cls.__call__ = _call_of(cls.stream)  # type: ignore[method-assign]

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[DenoisingProgress]:
        """As a call, but yields after every step; the last one carries the result as `output`.

        Leaving the loop cancels. `decode_latents(progress.latents)` is a preview.
        """
        raise NotImplementedError(f"{type(self).__name__} has no stream of its own")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no stream of its own")

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
        if self._consistency:
            index[CONSISTENCY_KEY] = self._consistency
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
            engine: "auto" compiles the models on a CPU for calls whose work is worth it; see `compile`.
            precision: of compiled models, as of `compile`.
            options: components and values that replace the folder's (`scheduler=...`); `torch_dtype` and `dtype`,
                other libraries' names of `paddle_dtype`; `disable_mmap`, of the models; and `cache_dir`, `endpoint`,
                `local_files_only`, `progress` of `model_zoo.download`.

        Raises:
            ConfigError: a broken or foreign `model_index.json`, or an unknown option.
            ExportError (a ValueError): a damaged exported folder, one of another paddle, or engine "eager" for one.
            model_zoo.ModelZooError: an unknown name, or a download that failed.
        """
        from ppdiffusers.inference.engines import setups
        from ppdiffusers.inference.exported import Exported, is_exported

        if engine != "eager":
            setups(engine, precision)  # raises before anything is read
        loading = {
            "paddle_dtype": asked_dtype(paddle_dtype, options),
            "disable_mmap": options.pop("disable_mmap", False),
        }
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
                components[name] = exported.load(name, kind, engine, precision, loading["paddle_dtype"])
                continue
            components[name] = kind.from_pretrained(
                folder, subfolder=name, **(loading if issubclass(kind, Model) else {})
            )
        pipeline = pipeline_class(**components)
        pipeline._qualities = read_qualities(index.get(INDEX_KEY), folder / INDEX_FILE)
        pipeline._consistency = index.get(CONSISTENCY_KEY, 0)
        pipeline._engine = engine, precision, "cpu", False
        return pipeline

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
        for name, component in self.components.items():
            if not hasattr(component, "save_pretrained"):
                raise ConfigError(
                    f"the {name}, a {type(component).__name__}, cannot be saved: it has no save_pretrained"
                )
            if hasattr(component, "require_layers"):  # raises, if there are none to save
                component.require_layers()
        for name, component in self.components.items():
            if isinstance(component, Model):
                component.save_pretrained(folder / name, safe_serialization, paddle_dtype)
            else:
                component.save_pretrained(folder / name)
                if not any((folder / name).glob("*")):
                    raise ConfigError(f"the {name}, a {type(component).__name__}, saved nothing; use one that does")
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

    def to(self: Self, *args: Any, device: Any = None, dtype: Any = None) -> Self:
        """Move the models to a device, or give them another type, or both, as in `to("gpu:1")` and `to("float16")`.

        Args:
            device: "cpu", "gpu", "gpu:1" (torch's "cuda" and "cuda:1" mean the same), or a place of paddle's. A GPU
                that this paddle is not built for is a warning, and everything stays where it is.
            dtype: "float32", "float16", "bfloat16", or paddle's, numpy's or torch's name of it.

        Raises:
            TypeError, ValueError: neither, or a GPU that this machine does not have.
        """
        from ppdiffusers.pipelines.devices import read_to

        device, dtype = read_to(args, device, dtype)
        for component in self.components.values():
            if hasattr(component, "require_layers"):  # raises, if there are none to move
                component.to(device=device, dtype=dtype)
        if device is not None:
            paddle.set_device(device)
            self._compute_on(device)
        for component in self.components.values():
            if isinstance(component, Model):
                component.to(device=device, dtype=dtype)
        return self

    def _compute_on(self, device: str) -> None:
        """Programs follow the layers to a device; those of oneDNN, which has none of GPUs, give way to the layers."""
        engine, precision, before, _ = self._engine
        if before == device or engine == "eager" or (before == "cpu" and engine == "auto"):
            return
        if device == "cpu":
            self.compile(engine, "auto" if precision == "fp16" else precision)
        elif engine == "inference" or before != "cpu":
            self.compile("inference", precision, device)
        else:
            logger.warning("the engine %r has no kernels for %s, where the layers run now", engine, device)
            self.compile("auto")

    @property
    def device(self) -> Any:
        """Where the models are: a place of paddle's."""
        return next(iter(self.components["unet"].parameters())).place

    @property
    def dtype(self) -> Any:
        """Type of the U-Net's weights."""
        return self.components["unet"].dtype

    def compile(
        self: Self, engine: str = "auto", precision: str = "auto", device: str = "cpu", tensorrt: bool = False
    ) -> Self:
        """Run the models as compiled programs, which are made when they are first needed; see `compile_model`.

        The models themselves stay as they are: compiled ones are kept beside them.

        Args:
            engine: "auto" decides call by call: what takes the layers longer than compiling is compiled, for oneDNN's
                kernels or else for Paddle Inference. "onednn" and "inference" compile everything, "eager" nothing.
            precision: "auto" (bf16 where the CPU has it), "fp32" or "bf16"; on a GPU also "fp16".
            device, tensorrt: as of `compile_model`.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: an unknown engine or precision, or one that this machine does not have.
        """
        from ppdiffusers.inference.engines import setups

        if engine != "eager":
            setups(engine, precision, device, tensorrt)  # raises
        for name, component in self.components.items():
            if hasattr(component, "with_engine"):  # programs already
                setattr(self, name, component.with_engine(engine, precision, device, tensorrt))
        self._engine = engine, precision, device, tensorrt
        self._compiled = {}
        return self

    def _model(self, name: str, method: str, shape: Sequence[int], times: int = 1) -> Any:
        """What runs the component `name` in this call: the model itself, or one compiled from it.

        Args:
            method, shape, times: the work: a part of the model, of `ppdiffusers.inference.parts`, how large its input
                is, and how often it will run. With engine "auto" they alone decide, so that equal calls are equal.
        """
        from ppdiffusers.inference import compile_model, worth_compiling

        component = self.components[name]
        engine, _, device, _ = self._engine
        if engine == "eager" or hasattr(component, "with_engine"):
            return component
        if engine == "auto" and device == "cpu" and not worth_compiling(component, method, shape, times):
            return component
        compiled = self._compiled.get(name)
        if compiled is None or compiled.model is not component:  # two threads may make one each; both are right
            compiled = self._compiled[name] = compile_model(component, *self._engine)
        return compiled

    def _denoiser(self, shape: Sequence[int], steps: int) -> Any:
        """What runs the U-Net in one run of so many steps, on latents of `shape`."""
        from ppdiffusers.inference import DeepCache

        interval, branch = self._cache_interval, (self._deep_cache or (1, 0))[1]
        unet = self._model("unet", "_network", shape, -(-steps // interval))
        return unet if interval == 1 else DeepCache(unet, interval, branch)

    @property
    def _cache_interval(self) -> int:
        return self._deep_cache[0] if self._deep_cache else 1

    def _windows(self, name: str, shape: Sequence[int]) -> Optional[Windows]:
        """How the component `name` computes a map of `shape`; None: at once."""
        return None

    def _smaller_windows(self, name: str, shape: Sequence[int], windows: Optional[Windows]) -> Optional[Windows]:
        """What to try where memory does not suffice for these; None: nothing."""
        return None

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
        from ppdiffusers.inference.deep_cache import check_branch
        from ppdiffusers.inference.exported import ExportedModel

        unet = self.components["unet"]
        check_branch(unet, cache_branch_id)
        if cache_interval > 1 and isinstance(unet, ExportedModel):
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

    def __repr__(self) -> str:
        parts = "".join(f"\n  {name}: {type(part).__name__}" for name, part in self.components.items())
        return f"{type(self).__name__}({parts}\n)"


def _call_of(stream: Callable[..., Iterator[DenoisingProgress]]) -> Callable[..., Any]:
    """The call that goes with a `stream`: no progress but the last is kept."""

    @functools.wraps(stream)
    def __call__(self: DiffusionPipeline, *args: Any, **kwargs: Any) -> Any:
        output = None
        for progress in stream(self, *args, **kwargs):
            output = progress.output
        return output

    __call__.__name__, __call__.__qualname__ = "__call__", stream.__qualname__.replace("stream", "__call__")
    __call__.__annotations__ = {**stream.__annotations__, "return": Any}
    return __call__
