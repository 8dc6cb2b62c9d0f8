"""What all schedulers share: the noise schedule, the timesteps of a run, adding noise, reading a prediction."""

from __future__ import annotations

import copy
import importlib
import math
import operator
import types
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union

import numpy as np

from ppdiffusers.arguments import take_loading_options
from ppdiffusers.config import ConfigError, Configurable, FrozenConfig, PathLike
from ppdiffusers.outputs import Output
from ppdiffusers.random import Streams, as_generators, randn_tensor
from ppdiffusers.schedulers.noise_schedule import make_betas, rescale_to_zero_terminal_snr, spaced_timesteps

if TYPE_CHECKING:
    import paddle

# A numpy array or a Paddle tensor: both have the operators that the formulas need.
Array = Any
Timestep = Union[int, float, np.integer, np.ndarray, "paddle.Tensor"]
Self = TypeVar("Self", bound="Scheduler")

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

# The config keys of all schedulers here. Each keeps those of the others, so that swapping there and back loses nothing.
FAMILY_CONFIG_KEYS = frozenset(
    """
    num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr
    prediction_type timestep_spacing steps_offset timestep_type interpolation_type
    clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value
    set_alpha_to_one variance_type skip_prk_steps
    use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas use_flow_sigmas
    sigma_min sigma_max final_sigmas_type flow_shift use_dynamic_shifting time_shift_type
    solver_order solver_type algorithm_type lower_order_final euler_at_final lambda_min_clipped
    predict_x0 disable_corrector solver_p shift_terminal original_inference_steps timestep_scaling
    """.split()
)
# Keys that say how the model was trained, with the value that every scheduler can do: one that does not
# have the key refuses another value, where it merely carries the options of other samplers.
MODEL_CONFIG_KEYS = {"rescale_betas_zero_snr": False, "use_flow_sigmas": False, "timestep_type": "discrete"}
# Values of one key that name a method of one scheduler and not of its sisters: those take their own default.
METHODS = {
    "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
}


@dataclass
class SchedulerOutput(Output):
    """One step's result.

    Attributes:
        prev_sample: the sample at the next timestep, `[B, ...]`.
        pred_original_sample: the predicted x_0, clipped as the config says, `[B, ...]`; None where a
            scheduler has none.
    """

    prev_sample: Array
    pred_original_sample: Array | None = None


class Table:
    """An attribute that shows the float64 or int64 numpy array `_name` of a scheduler as a tensor of Paddle.

    The scheduler computes with the array. See `HostTensor` for what the tensor is like.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.array = name, f"_{name}"

    def __get__(self, scheduler: Any, owner: type) -> Any:
        if scheduler is None:
            return self
        array = getattr(scheduler, self.array)
        source, tensor = scheduler._tensors.get(self.name, (None, None))
        if source is not array:  # arrays are replaced, never written into
            from ppdiffusers.schedulers.host_tensor import HostTensor, place_of

            place = place_of(scheduler._device) if self.name == "timesteps" else None
            tensor = HostTensor(array, "float32" if array.dtype == np.float64 else str(array.dtype), place)
            scheduler._tensors[self.name] = array, tensor
        return tensor

    def __set__(self, scheduler: Any, values: Any) -> None:
        """Takes what is there already, on another device perhaps; of `timesteps` any part, or others."""
        array = getattr(scheduler, self.array)
        new = np.asarray(values)
        if self.name == "timesteps" and scheduler.num_inference_steps and not set(new.tolist()) - set(array.tolist()):
            scheduler._tensors[self.name] = array, values
        elif self.name == "timesteps":
            scheduler.set_timesteps(timesteps=new)
        elif new.shape == array.shape and np.allclose(new, array, rtol=1e-5):
            scheduler._tensors[self.name] = array, values
        else:
            raise AttributeError(
                f"{self.name} follow from the config; build another scheduler: "
                f"{type(scheduler).__name__}.from_config(scheduler.config, trained_betas=...)"
            )


class Scheduler(Configurable):
    """Base of the schedulers: how a trained model's predictions turn noise into a sample.

    A run is `set_timesteps(n)`, noise times `init_noise_sigma`, then for each `t` of `timesteps` the
    model on `scale_model_input(sample, t)` and `step(model_output, t, sample).prev_sample`.

    A subclass decorates its constructor with `register_to_config` and calls `_set_noise_schedule` there.

    Attributes:
        betas, alphas, alphas_cumprod: float32, `[num_train_timesteps]`.
        timesteps: from the noisiest down; all of them until `set_timesteps`. int64, but float32
            where a scheduler goes between the training's timesteps.
        num_inference_steps: None until `set_timesteps`.
        init_noise_sigma: standard deviation of the noise that a run starts from.
        order: model calls a step.
    """

    config_name = "scheduler_config.json"
    _foreign_config_keys = FAMILY_CONFIG_KEYS
    _legacy_config_keys = {
        "tensor_format": "chose between numpy and torch arrays in the first releases of diffusers",
        "timestep_values": "from the first releases of diffusers; the timesteps follow from timestep_spacing",
    }

    _methods: ClassVar[Mapping[str, Sequence[str]]] = {}  # which of `METHODS` are this scheduler's

    order: ClassVar[int] = 1
    init_noise_sigma: float = 1.0
    num_inference_steps: int | None = None
    betas: Any = Table()
    alphas: Any = Table()
    alphas_cumprod: Any = Table()
    timesteps: Any = Table()
    _betas: np.ndarray
    _alphas: np.ndarray
    _alphas_cumprod: np.ndarray
    _timesteps: np.ndarray
    _device: Any = None  # of `timesteps`
    _next: int | None = None  # where a run of a scheduler that remembers goes on; None before its first step

    def _set_noise_schedule(self) -> None:
        """betas, alphas and alphas_cumprod from the config's keys, and the whole of it as timesteps."""
        config = self.config
        total = _step_count("num_train_timesteps", config.num_train_timesteps)
        betas = make_betas(config.beta_schedule, config.beta_start, config.beta_end, total, config.trained_betas)
        if config.trained_betas is not None:  # an array is neither frozen nor JSON
            values = tuple(float(beta) for beta in config.trained_betas)
            self._config = config._updated({"trained_betas": values})
        if config.get("rescale_betas_zero_snr", False):
            betas = rescale_to_zero_terminal_snr(betas)
        self._betas = betas
        self._alphas = 1 - betas
        self._alphas_cumprod = np.cumprod(self._alphas)
        self._timesteps = np.arange(total, dtype=np.int64)[::-1]
        self._tensors: dict[str, tuple[np.ndarray, Any]] = {}  # what `Table` has made, and of what

    @classmethod
    def from_config(cls: type[Self], config: Mapping[str, Any] | PathLike, **overrides: Any) -> Self:
        """Build from a mapping, a JSON file, or another scheduler's `config`; keyword arguments win.

        Values that were given to the other scheduler are taken over, its class's own defaults are
        not. Options of its sampler that this one lacks are kept for the way back, but for the names of
        methods that share a key (`METHODS`): for those of another scheduler this one takes its own default.

        Raises:
            ConfigError: a key that no scheduler of the family knows, or a value that says how the model
                was trained and that this scheduler cannot do.
        """
        values: Mapping[str, Any] = config if isinstance(config, Mapping) else cls.load_config(config)
        if "predict_epsilon" in values:  # the first releases' way to say prediction_type
            overrides = {"prediction_type": "epsilon" if values["predict_epsilon"] else "sample", **overrides}
            values = {key: value for key, value in values.items() if key != "predict_epsilon"}
        for key, methods in METHODS.items():
            own = cls._methods.get(key, methods)
            if values.get(key) in methods and values[key] not in own and key not in overrides:
                values = FrozenConfig(dict(values), getattr(values, "_defaults", ()))._without(key)
        scheduler = super().from_config(values, **overrides)
        for key, common in MODEL_CONFIG_KEYS.items():
            value = scheduler.config.get(key, common)
            if value != common and key not in cls.config_keys():
                raise ConfigError(f"{cls.__name__} cannot do {key} {value!r}, which the model was trained with")
        return scheduler

    @classmethod
    def from_pretrained(cls: type[Self], name_or_path: PathLike, subfolder: str | None = None, **options: Any) -> Self:
        """Build from `scheduler_config.json`, written for this class or a sister of it.

        Args:
            name_or_path: a folder, or the name of a model that `model_zoo` knows.
            subfolder: the component, "scheduler" as a rule.
            options: `cache_dir`, `endpoint`, `local_files_only`, `progress` of `model_zoo.download`; anything else is
                a config key and wins over the file's value.

        Raises:
            ConfigError: no such file, not JSON, or an unknown key.
            model_zoo.ModelZooError: an unknown name, or a download that failed.
        """
        import model_zoo

        take_loading_options(options)
        names = ("cache_dir", "endpoint", "local_files_only", "progress")
        download = {name: options.pop(name) for name in names if name in options}
        folder = Path(name_or_path)  # a folder need not look like one to the zoo
        if not folder.exists():
            folder = model_zoo.resolve(name_or_path, **download)
        return cls.from_config(folder / (subfolder or "") / cls.config_name, **options)

    def save_pretrained(self, folder: PathLike) -> None:
        """Write `folder/scheduler_config.json`; the folder is made where it is missing."""
        self.save_config(folder)

    def copy(self: Self) -> Self:
        """A scheduler of the same config and state that goes on by itself: one for each of several runs at once.

        Shared are the config, the tables of the noise schedule, and all arrays, tensors and other objects that
        attributes hold: a step replaces those of its state and never writes into them. Lists, dicts and sets are
        copied, one level deep, and methods that were set on this object are bound to the copy. That holds for
        the attributes of subclasses too; one whose steps write into other objects extends this method.
        """
        twin = copy.copy(self)
        for name, value in list(vars(twin).items()):
            if isinstance(value, (MutableSequence, MutableMapping, MutableSet)):
                vars(twin)[name] = copy.copy(value)
            elif isinstance(value, types.MethodType) and value.__self__ is self:
                vars(twin)[name] = types.MethodType(value.__func__, twin)
        return twin

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def __getattr__(self, name: str) -> Any:
        """Options by their names, as in releases of diffusers before there was `config`."""
        if not name.startswith("_") and name in self._config:
            return self._config[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    @property
    def compatibles(self) -> list[type[Scheduler]]:
        """The classes that can be built from this one's config."""
        family = importlib.import_module("ppdiffusers.schedulers")
        classes = (
            getattr(family, name) for name in family.__all__ if name.endswith("Scheduler") and name != "Scheduler"
        )
        return list(classes)

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Sequence[float] | None = None
    ) -> None:
        """Choose the timesteps of a run, before its first step, and forget the run before.

        Args:
            num_inference_steps: how many, spaced as the config says.
            device: where the tensor `timesteps` is to be; the current device when not given.
            timesteps: the timesteps themselves, from the noisiest down, instead of a number.

        Raises:
            TypeError: not an integer.
            ValueError: both or none of them, less than one step, more than the model was trained on, or
                timesteps out of order; a first timestep without any signal, where noise is all that an epsilon
                model could predict.
        """
        self._device = device
        if timesteps is None:
            self._begin(self._spaced(self._checked_steps(num_inference_steps)))
        else:
            self._begin(self._checked_timesteps(num_inference_steps, timesteps))

    def _spaced(self, count: int) -> np.ndarray:
        """So many timesteps as the config spaces them."""
        return spaced_timesteps(self.config.timestep_spacing, len(self), count, self.config.steps_offset)

    def _begin(self, timesteps: np.ndarray) -> None:
        """Make the schedule of a run with these timesteps."""
        if self.config.prediction_type == "epsilon" and self._alphas_cumprod[timesteps[0]] == 0:
            raise ValueError(
                f"timestep {timesteps[0]} has no signal (rescale_betas_zero_snr): x_0 cannot be had from a predicted "
                "epsilon there; use a v_prediction model, or timestep_spacing 'leading' with fewer steps"
            )
        self._start_run(len(timesteps), timesteps)

    def _checked_steps(self, num_inference_steps: Any) -> int:
        count = _step_count("num_inference_steps", num_inference_steps)
        if count > len(self):
            raise ValueError(
                f"num_inference_steps {count} is more than the {len(self)} that the model was trained on; take fewer"
            )
        return count

    def _checked_timesteps(self, num_inference_steps: Any, given: Any) -> np.ndarray:
        """Timesteps that a caller chose: int64 if all are whole."""
        timesteps = falling("timesteps", given, num_inference_steps)
        if timesteps[-1] < 0 or timesteps[0] > len(self) - 1:
            raise ValueError(
                f"timesteps from {timesteps[0]:g} to {timesteps[-1]:g} leave the training's, {len(self) - 1} to 0"
            )
        if not np.all(timesteps == np.round(timesteps)):
            raise ValueError(f"timesteps of {type(self).__name__} are whole numbers, not {timesteps.tolist()}")
        return timesteps.astype(np.int64)

    def _start_run(self, count: int, timesteps: np.ndarray) -> None:
        self._timesteps = timesteps
        self.num_inference_steps = count
        self._position = {timestep: index for index, timestep in enumerate(timesteps.tolist())}
        self._next = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at `timesteps[begin_index]`; a run may also just begin there, without being told.

        Raises:
            ValueError: `set_timesteps` was not called, or there is no such place.
        """
        if self.num_inference_steps is None or not 0 <= begin_index < len(self._timesteps):
            raise ValueError(f"begin_index {begin_index} is no place in the timesteps; call set_timesteps first")
        self._next = int(begin_index)

    def index_for_timestep(self, timestep: Timestep) -> int:
        """`position`, by diffusers' name."""
        return self.position(timestep)

    def position(self, timestep: Timestep) -> int:
        """Where in `timesteps` a timestep stands: an integer, or an array or tensor that holds one.

        Raises:
            ValueError: it is none of them, or `set_timesteps` was not called.
        """
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps(num_inference_steps) before the first step")
        value = plain_number(timestep)
        if value not in self._position:
            raise ValueError(
                f"timestep {value} is not in this schedule of {self.num_inference_steps} steps; "
                "take the timesteps from scheduler.timesteps"
            )
        return self._position[value]

    def _in_order(self, timestep: Timestep) -> int:
        """`position`, for schedulers that remember earlier steps: a run begins anywhere, then follows `timesteps`.

        The caller sets `_next` once its step is done.

        Raises:
            ValueError: a timestep that is not the next one, or as `position`.
        """
        if self.num_inference_steps is None or self._next is None:
            return self.position(timestep)
        value = plain_number(timestep)
        if self._next == len(self._timesteps):
            raise ValueError(f"timestep {value} comes after the last step; call set_timesteps before another run")
        expected = self._timesteps[self._next].item()
        if value != expected:
            raise ValueError(
                f"timestep {value} is out of order: the next one is {expected}, and {type(self).__name__} "
                "builds on the steps before; call set_timesteps before another run"
            )
        return self._next

    def step(self, model_output: Array, timestep: Timestep, sample: Array, *args: Any, **kwargs: Any) -> Any:
        """From the sample at `timestep` to that at the next one; each scheduler has its own options.

        Returns:
            An output with `prev_sample`, or with `return_dict=False` a tuple that starts with it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step of its own")

    def scale_model_input(self, sample: Array, timestep: Timestep | None = None) -> Array:
        """The model's input for a sample at `timestep`: the sample itself, unless a scheduler says otherwise.

        Only the noisy latents go through here, never what they are conditioned on.
        """
        return sample

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Timestep | Sequence[int]) -> Array:
        """x_t of x_0 (arXiv 2006.11239, equation 4).

        Args:
            original_samples, noise: `[B, ...]`, numpy or Paddle.
            timesteps: integers in 0 ... num_train_timesteps - 1, one for all or `[B]`. A tensor on a GPU stays
                there; where nothing waits for its values, one outside the schedule makes its sample NaN.

        Raises:
            ValueError: a timestep outside the schedule, or another number of them.
        """
        x0, noise = upcast(original_samples), upcast(noise)
        alpha_t, sigma_t = self._alpha_t_and_sigma_t(timesteps, x0)
        return (alpha_t * x0 + sigma_t * noise).astype(original_samples.dtype)

    def get_velocity(self, sample: Array, noise: Array, timesteps: Timestep | Sequence[int]) -> Array:
        """What a v-prediction model is trained to return for x_0 = `sample` (arXiv 2202.00512, appendix D).

        Arguments and errors as `add_noise`.
        """
        x0, noise = upcast(sample), upcast(noise)
        alpha_t, sigma_t = self._alpha_t_and_sigma_t(timesteps, x0)
        return (alpha_t * noise - sigma_t * x0).astype(sample.dtype)

    def _alpha_t_and_sigma_t(self, timesteps: Any, like: Array) -> tuple[Array, Array]:
        """alpha_t and sigma_t at `timesteps`, shaped and typed to multiply `like`."""
        library: Any = np
        if is_on_host(timesteps) or is_on_host(like):
            timesteps = np.asarray(timesteps)
        else:
            import paddle

            library = paddle
        if len(timesteps.shape) > 1 or math.prod(timesteps.shape) not in (1, like.shape[0]):
            shape = list(timesteps.shape)
            raise ValueError(f"got timesteps of shape {shape} for {like.shape[0]} samples; give one each")
        timesteps = timesteps.reshape([-1])
        alpha_t, sigma_t = self._factors(timesteps, library)
        if library is np and np.isnan(sigma_t).any():
            raise ValueError(self._missing_timestep(timesteps[np.isnan(sigma_t)][0]))
        shape = [-1] + [1] * (len(like.shape) - 1)
        alpha_t, sigma_t = (beside(factor.reshape(shape), like).astype(like.dtype) for factor in (alpha_t, sigma_t))
        return alpha_t, sigma_t

    def _factors(self, timesteps: Array, library: Any) -> tuple[Array, Array]:
        """alpha_t and sigma_t, float64, at timesteps `[n]`, arrays of `library`; NaN where there is none."""
        if "int" not in str(timesteps.dtype):
            raise TypeError(f"timesteps are integers, not {timesteps.dtype}")
        alpha_prod_t = entries(self._alphas_cumprod, timesteps)
        return library.sqrt(alpha_prod_t), library.sqrt(1 - alpha_prod_t)

    def _missing_timestep(self, timestep: Any) -> str:
        return f"timestep {timestep} is not in 0 ... {len(self) - 1}"


SchedulerMixin = Scheduler  # diffusers' name


class KarrasDiffusionSchedulers(Enum):
    """Names by which diffusers' pipelines say what schedulers they take."""

    DDIMScheduler = 1
    DDPMScheduler = 2
    PNDMScheduler = 3
    LMSDiscreteScheduler = 4
    EulerDiscreteScheduler = 5
    HeunDiscreteScheduler = 6
    EulerAncestralDiscreteScheduler = 7
    DPMSolverMultistepScheduler = 8
    DPMSolverSinglestepScheduler = 9
    UniPCMultistepScheduler = 13
    DEISMultistepScheduler = 14


def sigma_to_alpha_sigma_t(sigma: float) -> tuple[float, float]:
    """(alpha_t, sigma_t), squares adding up to 1, whose ratio sigma_t / alpha_t is sigma."""
    alpha_t = 1 / math.sqrt(1 + sigma * sigma)
    return alpha_t, sigma * alpha_t


def require_same_shape(sample: Array, **arrays: Array | None) -> None:
    """Raises ValueError, with the name, for an array (None is passed over) that is not shaped as the sample."""
    for name, array in arrays.items():
        if array is not None and list(array.shape) != list(sample.shape):
            raise ValueError(f"{name} has shape {list(array.shape)}, sample {list(sample.shape)}; they must agree")


def require_thresholding(thresholding: bool, ratio: float, max_value: float) -> None:
    """Raises ValueError for options that `threshold_dynamically` cannot take."""
    if thresholding and not 0 <= ratio <= 1:
        raise ValueError(f"dynamic_thresholding_ratio {ratio} is not between 0 and 1")
    if thresholding and not max_value >= 1:
        raise ValueError(f"sample_max_value {max_value} is less than 1, the least bound of thresholding")


def predicted_x0_and_epsilon(
    prediction_type: str, model_output: Array, sample: Array, alpha_t: float, sigma_t: float
) -> tuple[Array, Array]:
    """The predicted (x_0, epsilon) of x_t = alpha_t * x_0 + sigma_t * epsilon, whatever the model predicts.

    Args:
        prediction_type: `epsilon`, `sample` (x_0), or `v_prediction` (alpha_t * epsilon - sigma_t * x_0).
        sample: x_t.
        alpha_t, sigma_t: with alpha_t**2 + sigma_t**2 = 1; sigma_t > 0, and for `epsilon` alpha_t > 0.
    """
    if prediction_type == "epsilon":
        return (sample - sigma_t * model_output) / alpha_t, model_output
    if prediction_type == "sample":
        return model_output, (sample - alpha_t * model_output) / sigma_t
    return alpha_t * sample - sigma_t * model_output, alpha_t * model_output + sigma_t * sample


def threshold_dynamically(x0: Array, ratio: float, max_value: float) -> Array:
    """Dynamic thresholding of each image by itself (arXiv 2205.11487, section 2.3).

    s is the `ratio` quantile of |x_0|, at least 1 and at most `max_value`; x_0 is clipped to [-s, s] and divided by s.
    """
    library: Any = np
    if not isinstance(x0, np.ndarray):
        import paddle

        library = paddle
    flat = x0.reshape([x0.shape[0], -1])  # [B, N]
    ordered = library.sort(library.abs(flat), axis=1)
    place = ratio * (ordered.shape[1] - 1)
    low, high = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
    bound = (low + (place - math.floor(place)) * (high - low)).clip(1.0, max_value).reshape([-1, 1])
    return (library.maximum(library.minimum(flat, bound), -bound) / bound).reshape(x0.shape)


def require_running(generator: Any) -> None:
    """Raises TypeError for an int, which would give every step the same noise, and what `as_generators` raises."""
    streams = generator if isinstance(generator, (list, tuple)) else [generator]
    for stream in streams:
        if hasattr(stream, "__index__"):
            raise TypeError(
                f"a step draws from a running generator, not from {stream!r}; "
                "make it once, before the first step: ppdiffusers.Generator(seed), or ppdiffusers.random.as_generators"
            )
    as_generators(generator, len(streams))


def step_noise(sample: Array, generator: Streams) -> Array:
    """Noise for one step, shaped and typed as the sample; raises as `require_running`."""
    require_running(generator)
    if isinstance(sample, np.ndarray):
        return randn_tensor(sample.shape, generator).numpy().astype(sample.dtype)
    return randn_tensor(sample.shape, generator, sample.dtype)


def upcast(array: Array) -> Array:
    """float16 and bfloat16 as float32: their last bits are too few for the formulas, and a CPU lacks some operators."""
    return array.astype("float32") if "float16" in str(array.dtype) else array


def is_on_host(array: Any) -> bool:
    """Whether its values can be read without waiting for a GPU."""
    return not hasattr(array, "place") or array.place.is_cpu_place()


def beside(values: Array, like: Array) -> Array:
    """numpy's values as an array of the library and on the device of `like`."""
    if isinstance(like, np.ndarray) or not isinstance(values, np.ndarray):
        return values
    import paddle

    return paddle.to_tensor(values, place=like.place)


def entries(table: np.ndarray, index: Array) -> Array:
    """The entries of a float64 `table` at an integer `index` `[n]`, where that is; NaN for one that is out of range."""
    index, end = index.astype("int64"), len(table)
    inside = ((index >= 0) & (index < end)).astype("int64")
    return beside(np.append(table, math.nan), index)[(index - end) * inside + end]


def plain_number(timestep: Timestep) -> int | float:
    """A timestep as Python's int or float, whatever holds it."""
    return timestep.item() if hasattr(timestep, "item") else timestep  # type: ignore[return-value]


def _step_count(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer, not {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} {count} is less than 1; take at least one")
    return count


def falling(name: str, given: Any, num_inference_steps: Any = None) -> np.ndarray:
    """A list, array or tensor of numbers, each less than the one before, as float64 `[n]`.

    Raises:
        ValueError: they are something else, or a number of steps was given beside them.
    """
    if num_inference_steps is not None:
        raise ValueError(f"num_inference_steps {num_inference_steps} and {name} were both given; give one of them")
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.all(values[1:] < values[:-1]):
        raise ValueError(f"{name} are numbers, each less than the one before, not {values.tolist()}")
    return values
