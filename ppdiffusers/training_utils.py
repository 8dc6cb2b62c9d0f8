"""Helpers of training scripts, under the names of ppdiffusers 0.29 and diffusers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterable, Iterator, List, Mapping, Optional, Type, Union

import numpy as np
import paddle
from paddle import nn

from ppdiffusers.config import PathLike, read_json, write_json

Parameters = Union[nn.Layer, Iterable[paddle.Tensor]]


class EMAModel:
    """Exponential moving average of a model's weights: after each step, shadow += (1 - decay) (weights - shadow).

    The decay rises from 0 at the first step towards its highest value, so that the first weights are soon forgotten:
    by (1 + n) / (10 + n), or with `use_ema_warmup` by 1 - (1 + n / inv_gamma)^-power.

    Args:
        parameters: of the model, or the model.
        decay, min_decay: the decay's highest and lowest value.
        update_after_step: steps over which the shadow only follows the weights.
        use_ema_warmup, inv_gamma, power: the other rise.
        model_cls, model_config: class and config of the model, for `save_pretrained`.

    Raises:
        ValueError: a decay that is not in [0, 1].
    """

    # What `state_dict` holds beside the shadow; diffusers writes it into the config.json of a saved average.
    STATE: ClassVar[tuple] = (
        "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power",
    )  # fmt: skip
    STATE_FILE: ClassVar[str] = "ema.json"

    def __init__(
        self,
        parameters: Parameters,
        decay: float = 0.9999,
        min_decay: float = 0.0,
        update_after_step: int = 0,
        use_ema_warmup: bool = False,
        inv_gamma: float = 1.0,
        power: float = 2 / 3,
        model_cls: Optional[Type[Any]] = None,
        model_config: Optional[Mapping[str, Any]] = None,
    ):
        self.shadow_params: List[paddle.Tensor] = [value.detach().clone() for value in _parameters(parameters)]
        self.min_decay, self.update_after_step = min_decay, update_after_step
        self.use_ema_warmup, self.inv_gamma, self.power = use_ema_warmup, inv_gamma, power
        self.model_cls, self.model_config = model_cls, model_config
        self.optimization_step = 0
        self.cur_decay_value: Optional[float] = None  # of the last step
        self.temp_stored_params: Optional[List[paddle.Tensor]] = None
        self.decay = _checked_decay(decay)

    def get_decay(self, optimization_step: int) -> float:
        """The decay at a step, counted from 1."""
        step = max(0, optimization_step - self.update_after_step - 1)
        if step == 0:
            return 0.0
        if self.use_ema_warmup:
            value = 1 - (1 + step / self.inv_gamma) ** -self.power
        else:
            value = (1 + step) / (10 + step)
        return max(min(value, self.decay), self.min_decay)

    @paddle.no_grad()
    def step(self, parameters: Parameters) -> None:
        """Take the weights of one more step; those that are not trained are copied."""
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        for shadow, value in zip(self.shadow_params, self._as_many(parameters)):
            new = value.astype(shadow.dtype)
            if not value.stop_gradient and self.cur_decay_value > 0:
                new = shadow + (1 - self.cur_decay_value) * (new - shadow)
            paddle.assign(new, shadow)

    @paddle.no_grad()
    def copy_to(self, parameters: Parameters) -> None:
        """Give a model the averaged weights."""
        for shadow, value in zip(self.shadow_params, self._as_many(parameters)):
            paddle.assign(shadow.astype(value.dtype), value)

    def store(self, parameters: Parameters) -> None:
        """Keep a model's weights for `restore`."""
        self.temp_stored_params = [value.detach().clone() for value in self._as_many(parameters)]

    @paddle.no_grad()
    def restore(self, parameters: Parameters) -> None:
        """Give a model the weights that were stored.

        Raises:
            RuntimeError: there are none.
        """
        if self.temp_stored_params is None:
            raise RuntimeError("there are no stored weights to restore; call store first")
        for stored, value in zip(self.temp_stored_params, self._as_many(parameters)):
            paddle.assign(stored, value)
        self.temp_stored_params = None

    def to(self, device: Any = None, dtype: Any = None) -> None:
        """Move the averages to a device, or give them another type, or both."""
        for name in (device, dtype):
            if name is not None:
                self.shadow_params = [value.to(name) for value in self.shadow_params]

    def state_dict(self) -> Dict[str, Any]:
        """All of it, the averages as they are and not as copies."""
        return {**{name: getattr(self, name) for name in self.STATE}, "shadow_params": self.shadow_params}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called; what it lacks stays as it is.

        Raises:
            ValueError: a decay that is not in [0, 1], or averages of another number or shape.
        """
        decay = _checked_decay(state_dict.get("decay", self.decay))
        shadows = state_dict.get("shadow_params")
        if shadows is not None:
            shapes, wanted = ([list(value.shape) for value in values] for values in (shadows, self.shadow_params))
            if shapes != wanted:
                raise ValueError(
                    f"the state has averages of {len(shapes)} weights of other shapes; is it this model's?"
                )
            self.shadow_params = [paddle.to_tensor(value).clone() for value in shadows]
        for name in self.STATE:
            setattr(self, name, state_dict.get(name, getattr(self, name)))
        self.decay = decay

    def save_pretrained(self, path: PathLike) -> None:
        """Write the average as a model, and the rest of the state beside it.

        Raises:
            ValueError: no `model_cls` and `model_config`.
        """
        if self.model_cls is None or self.model_config is None:
            raise ValueError("to save an average as a model, make it with model_cls=... and model_config=model.config")
        model = self.model_cls.from_config(self.model_config)
        self.copy_to(model.parameters())
        model.save_pretrained(path)
        write_json(Path(path) / self.STATE_FILE, {name: getattr(self, name) for name in self.STATE})

    @classmethod
    def from_pretrained(cls, path: PathLike, model_cls: Type[Any]) -> EMAModel:
        """An average that `save_pretrained` wrote, or diffusers'.

        Raises:
            ConfigError, CheckpointError: as of the model.
        """
        from ppdiffusers.checkpoints import open_checkpoint
        from ppdiffusers.models.model import find_weights, load_checkpoint

        config = model_cls.load_config(path)
        state = {name: config.pop(name) for name in cls.STATE if name in config}
        if (Path(path) / cls.STATE_FILE).is_file():
            state.update(read_json(Path(path) / cls.STATE_FILE))
        model = model_cls.from_config(config)
        with open_checkpoint(find_weights(Path(path), model_cls._weight_files)) as checkpoint:
            load_checkpoint(model, checkpoint, "float32")
        average = cls(model.parameters(), model_cls=model_cls, model_config=model.config)
        average.load_state_dict(state)
        return average

    def _as_many(self, parameters: Parameters) -> List[paddle.Tensor]:
        values = _parameters(parameters)
        if len(values) != len(self.shadow_params):
            raise ValueError(f"{len(values)} weights for an average of {len(self.shadow_params)}; is it this model's?")
        return values


def _parameters(parameters: Parameters) -> List[paddle.Tensor]:
    return list(parameters.parameters() if isinstance(parameters, nn.Layer) else parameters)


def _checked_decay(decay: Any) -> float:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay {decay!r} is not between 0 and 1; 0.9999 is usual")
    return float(decay)


def set_seed(seed: Optional[int]) -> None:
    """Start Python's, numpy's and Paddle's generators at `seed`; None leaves them."""
    import random

    if seed is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        paddle.seed(seed)


def compute_snr(noise_scheduler: Any, timesteps: paddle.Tensor) -> paddle.Tensor:
    """Signal-to-noise ratio alpha_t^2 / sigma_t^2 at timesteps, float32, shaped as they are (arXiv 2303.09556)."""
    alphas_cumprod = noise_scheduler._alphas_cumprod  # 1 - alphas_cumprod needs the digits of float64
    ratios = paddle.to_tensor((alphas_cumprod / (1 - alphas_cumprod)).astype(np.float32), place=timesteps.place)
    return ratios[timesteps.flatten()].reshape(timesteps.shape)


def freeze_params(parameters: Parameters) -> None:
    """Take weights out of the training."""
    for value in _parameters(parameters):
        value.stop_gradient = True


def unfreeze_params(parameters: Parameters) -> None:
    """Put weights into the training."""
    for value in _parameters(parameters):
        value.stop_gradient = False


@paddle.no_grad()
def cast_training_params(model: Union[nn.Layer, List[nn.Layer]], dtype: Any = "float32") -> None:
    """Give the trained weights of a model, or of several, another type."""
    for each in model if isinstance(model, list) else [model]:
        for _, layer in each.named_sublayers(include_self=True):
            for name, value in list(layer._parameters.items()):
                if value is not None and not value.stop_gradient and value.dtype != dtype:
                    cast = layer.create_parameter(value.shape, dtype=dtype)
                    paddle.assign(value.astype(dtype), cast)
                    layer._parameters[name] = cast


def unwrap_model(model: nn.Layer) -> nn.Layer:
    """The model inside a `paddle.DataParallel`."""
    return model._layers if isinstance(model, paddle.DataParallel) else model


@contextlib.contextmanager
def main_process_first(desc: str = "work") -> Iterator[None]:
    """The first process of a distributed run goes ahead, and the others wait for it."""
    several = paddle.distributed.get_world_size() > 1
    first = paddle.distributed.get_rank() == 0
    if several and not first:
        paddle.distributed.barrier()
    try:
        yield
    finally:
        if several and first:
            paddle.distributed.barrier()
