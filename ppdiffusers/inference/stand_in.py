"""Objects that are called like a model, and do some of its work in another way."""

from __future__ import annotations

import functools
from typing import Any, Callable, Mapping

import paddle

from ppdiffusers.inference.snapshot import is_known, module_of
from ppdiffusers.models.half_precision import runs_in_half
from ppdiffusers.models.model import Model


class StandIn:
    """Called like `model`, with its config and whatever else it has, but with `_replaced` in place of some methods.

    The model itself is not touched, and an instance counts as one of its class.
    """

    def __init__(self, model: Any):
        self.model = model

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # what isinstance asks
        return type(self.model)

    def _replaced(self) -> Mapping[str, Callable[..., Any]]:
        """Methods of the model, by name, and what runs instead."""
        raise NotImplementedError

    def require_layers(self) -> None:
        """Raises, for one whose layers are not there."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__getattr__("forward")(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "model":
            raise AttributeError(name)
        if name in self._replaced():
            return self._replaced()[name]
        function = _entry(type(self.model), name)
        if function is None:
            return getattr(self.model, name)
        return functools.partial(self._enter, name, function)

    def _enter(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`model.name(...)`, by its class's own function unless gradients are asked for or it is a user's."""
        model = self.model
        hooked = name == "forward" and (model._forward_pre_hooks or model._forward_post_hooks)
        own = name not in vars(model) and is_known(module_of(function))
        if hooked or not own or _asks_for_gradients(*args, *kwargs.values()):
            return (model if name == "forward" else getattr(model, name))(*args, **kwargs)
        with paddle.no_grad():
            function = getattr(function, "__wrapped__", function)  # by `runs_in_half`
            return runs_in_half(functools.partial(self._run, function))(model, *args, **kwargs)

    def _run(self, function: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
        """A method of the model's class on this object, or on one around `model`, the same in float32."""
        stand_in = self
        if model is not self.model:
            stand_in = object.__new__(type(self))
            vars(stand_in).update(vars(self), model=model)
        return function(stand_in, *args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"


def _entry(kind: type, name: str) -> Any:
    """The function of a public method that a class of models has beyond those of all models, as `decode`."""
    if name.startswith("_"):
        return None
    for cls in kind.__mro__[: kind.__mro__.index(Model)] if issubclass(kind, Model) else ():
        if name in vars(cls):
            return vars(cls)[name] if callable(vars(cls)[name]) else None
    return None


def _asks_for_gradients(*values: Any) -> bool:
    return paddle.is_grad_enabled() and any(isinstance(x, paddle.Tensor) and not x.stop_gradient for x in values)
