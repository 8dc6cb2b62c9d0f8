"""What all schedulers share: the noise schedule, the timesteps of a run, adding noise, reading a prediction."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union

import numpy as np

from ppdiffusers.config import ConfigError, Configurable, PathLike
from ppdiffusers.outputs import Output
from ppdiffusers.random import Generator, Streams, randn_tensor
from ppdiffusers.schedulers.noise_schedule import make_betas, rescale_to_zero_terminal_snr, spaced_timesteps

if TYPE_CHECKING:
    import paddle

# A numpy array or a Paddle tensor: both have the operators that the formulas need.
Array = Any
Timestep = Union[int, float, np.integer, np.ndarray, "paddle.Tensor"]
Self = TypeVar("Self", bound="Scheduler")

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

# The config keys of the latent diffusion family (DDIM, DDPM, PNDM, LMS, Euler, ancestral Euler, multistep
# DPM-Solver). Each scheduler keeps those of the others, so that swapping there and back loses nothing.
FAMILY_CONFIG_KEYS = frozenset(
    """
    num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr
    prediction_type timestep_spacing steps_offset timestep_type interpolation_type
    clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value
    set_alpha_to_one variance_type skip_prk_steps
    use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas use_flow_sigmas
    sigma_min sigma_max final_sigmas_type flow_shift use_dynamic_shifting time_shift_type
    solver_order solver_type algorithm_type lower_order_final euler_at_final lambda_min_clipped
    """.split()
)
# Keys that say how the model was trained, with the value that every scheduler can do: one that does not
# have the key refuses another value, where it merely carries the options of other samplers.
MODEL_CONFIG_KEYS = {"rescale_betas_zero_snr": False, "use_flow_sigmas": False, "timestep_type": "discrete"}


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


class Scheduler(Configurable):
    """Base of the schedulers: how a trained model's predictions turn noise into a sample.

    A run is `set_timesteps(n)`, noise times `init_noise_sigma`, then for each `t` of `timesteps` the
    model on `scale_model_input(sample, t)` and `step(model_output, t, sample).prev_sample`.

    A subclass decorates its constructor with `register_to_config` and calls `_set_noise_schedule` there.

    Attributes:
        betas, alphas, alphas_cumprod: float64 numpy, `[num_train_timesteps]`.
        timesteps: numpy, from the noisiest down; all of them until `set_timesteps`. int64, but float32
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

    order: ClassVar[int] = 1
    init_noise_sigma: float = 1.0
    num_inference_steps: int | None = None
    timesteps: np.ndarray
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
        self.betas = betas
        self.alphas = 1 - betas
        self.alphas_cumprod = np.cumprod(self.alphas)
        self.timesteps = np.arange(total, dtype=np.int64)[::-1].copy()

    @classmethod
    def from_config(cls: type[Self], config: Mapping[str, Any] | PathLike, **overrides: Any) -> Self:
        """Build from a mapping, a JSON file, or another scheduler's `config`; keyword arguments win.

        Values that were given to the other scheduler are taken over, its class's own defaults are
        not. Options of its sampler that this one lacks are kept for the way back.

        Raises:
            ConfigError: a key that no scheduler of the family knows, or a value that says how the model
                was trained and that this scheduler cannot do.
        """
        if not isinstance(config, Mapping):
            config = cls.load_config(config)
        if "predict_epsilon" in config:  # the first releases' way to say prediction_type
            overrides = {"prediction_type": "epsilon" if config["predict_epsilon"] else "sample", **overrides}
            config = {key: value for key, value in config.items() if key != "predict_epsilon"}
        scheduler = super().from_config(config, **overrides)
        for key, common in MODEL_CONFIG_KEYS.items():
            value = scheduler.config.get(key, common)
            if value != common and key not in cls.config_keys():
                raise ConfigError(f"{cls.__name__} cannot do {key} {value!r}, which the model was trained with")
        return scheduler

    @classmethod
    def from_pretrained(cls: type[Self], folder: PathLike, subfolder: str | None = None) -> Self:
        """Build from `folder[/subfolder]/scheduler_config.json`, written for this class or a sister of it.

        Raises:
            ConfigError: no such file, not JSON, or an unknown key.
        """
        return cls.from_config(Path(folder) / (subfolder or "") / cls.config_name)

    def save_pretrained(self, folder: PathLike) -> None:
        """Write `folder/scheduler_config.json`; the folder is made where it is missing."""
        self.save_config(folder)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the timesteps of a run of `num_inference_steps` steps, before its first one.

        Raises:
            TypeError: not an integer.
            ValueError: less than one step, or more than the model was trained on; or a first timestep
                without any signal, where noise is all that an epsilon model could predict.
        """
        count = self._checked_steps(num_inference_steps)
        timesteps = spaced_timesteps(self.config.timestep_spacing, len(self), count, self.config.steps_offset)
        if self.config.prediction_type == "epsilon" and self.alphas_cumprod[timesteps[0]] == 0:
            raise ValueError(
                f"timestep {timesteps[0]} has no signal (rescale_betas_zero_snr): x_0 cannot be had from a predicted "
                "epsilon there; use a v_prediction model, or timestep_spacing 'leading' with fewer steps"
            )
        self._start_run(count, timesteps)

    def _checked_steps(self, num_inference_steps: Any) -> int:
        count = _step_count("num_inference_steps", num_inference_steps)
        if count > len(self):
            raise ValueError(
                f"num_inference_steps {count} is more than the {len(self)} that the model was trained on; take fewer"
            )
        return count

    def _start_run(self, count: int, timesteps: np.ndarray) -> None:
        self.timesteps = timesteps
        self.num_inference_steps = count
        self._position = {timestep: index for index, timestep in enumerate(timesteps.tolist())}
        self._next = None

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
        if self._next == len(self.timesteps):
            raise ValueError(f"timestep {value} comes after the last step; call set_timesteps before another run")
        expected = self.timesteps[self._next].item()
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
            timesteps: integers in 0 ... num_train_timesteps - 1, one for all or `[B]`.

        Raises:
            ValueError: a timestep outside the schedule, or another number of them.
        """
        x0, noise = widened(original_samples), widened(noise)
        signal, spread = self._signal_and_spread(timesteps, x0)
        return (signal * x0 + spread * noise).astype(original_samples.dtype)

    def get_velocity(self, sample: Array, noise: Array, timesteps: Timestep | Sequence[int]) -> Array:
        """What a v-prediction model is trained to return for x_0 = `sample` (arXiv 2202.00512, appendix D).

        Arguments and errors as `add_noise`.
        """
        x0, noise = widened(sample), widened(noise)
        signal, spread = self._signal_and_spread(timesteps, x0)
        return (signal * noise - spread * x0).astype(sample.dtype)

    def _signal_and_spread(self, timesteps: Any, like: Array) -> tuple[Array, Array]:
        """Factors of x_0 and of the noise at `timesteps`, shaped and typed to multiply `like`."""
        steps = np.asarray(timesteps)
        if steps.dtype.kind not in "iu":
            raise TypeError(f"timesteps are integers, not {steps.dtype}")
        if steps.size not in (1, like.shape[0]) or steps.ndim > 1:
            raise ValueError(f"got timesteps of shape {list(steps.shape)} for {like.shape[0]} samples; give one each")
        outside = steps[(steps < 0) | (steps >= len(self))]  # numpy would count negative ones from the end
        if outside.size:
            raise ValueError(f"timestep {outside.flat[0]} is not in 0 ... {len(self) - 1}")
        alphas_cumprod = self.alphas_cumprod[steps].reshape([-1] + [1] * (len(like.shape) - 1))
        return as_array_like(np.sqrt(alphas_cumprod), like), as_array_like(np.sqrt(1 - alphas_cumprod), like)


def signal_and_spread(sigma: float) -> tuple[float, float]:
    """Factors of x_0 and noise, squares adding up to 1, whose ratio is sigma."""
    signal = 1 / math.sqrt(1 + sigma * sigma)
    return signal, sigma * signal


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


def read_prediction(
    prediction_type: str, model_output: Array, sample: Array, signal: float, spread: float
) -> tuple[Array, Array]:
    """The predicted (x_0, epsilon) of x_t = signal * x_0 + spread * epsilon, whatever the model predicts.

    Args:
        prediction_type: `epsilon`, `sample` (x_0), or `v_prediction` (signal * epsilon - spread * x_0).
        sample: x_t.
        signal, spread: with signal**2 + spread**2 = 1; spread > 0, and for `epsilon` signal > 0.
    """
    if prediction_type == "epsilon":
        return (sample - spread * model_output) / signal, model_output
    if prediction_type == "sample":
        return model_output, (sample - signal * model_output) / spread
    return signal * sample - spread * model_output, signal * model_output + spread * sample


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


def require_running(generator: Streams) -> None:
    """Raises TypeError for a seed or a foreign generator: it would start anew and give every step the same noise."""
    streams = generator if isinstance(generator, (list, tuple)) else [generator]
    for stream in streams:
        if generator is not None and not isinstance(stream, Generator):
            raise TypeError(
                f"a step draws from a running ppdiffusers.Generator, not from {stream!r}; "
                "make it once, before the first step, with ppdiffusers.random.as_generators"
            )


def step_noise(sample: Array, generator: Streams) -> Array:
    """Noise for one step, shaped and typed as the sample; raises as `require_running`."""
    require_running(generator)
    if isinstance(sample, np.ndarray):
        return randn_tensor(sample.shape, generator).numpy().astype(sample.dtype)
    return randn_tensor(sample.shape, generator, sample.dtype)


def widened(array: Array) -> Array:
    """float16 and bfloat16 as float32: their last bits are too few for the formulas, and a CPU lacks some operators."""
    return array.astype("float32") if "float16" in str(array.dtype) else array


def as_array_like(values: np.ndarray, like: Array) -> Array:
    """float64 values as `like` is: numpy or Paddle, and its floating-point type."""
    if isinstance(like, np.ndarray):
        return values.astype(like.dtype)
    import paddle

    return paddle.to_tensor(values).astype(like.dtype)


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
