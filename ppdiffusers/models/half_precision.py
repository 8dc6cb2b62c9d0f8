"""Models with float16 or bfloat16 weights on a CPU, where paddle computes in neither: they compute in float32.

paddle 3.3 can store, cast, concatenate and look up half-precision tensors on a CPU. It has no convolution, product,
norm, softmax or activation of them there, and cannot even add two. So a model whose weights are half stays as it is,
half its size, and while it runs each layer sees its weights in float32, one layer's at a time. Results are float32:
a caller could do nothing with others.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections import UserDict
from typing import Any, Callable, Dict, TypeVar

import paddle
from paddle import nn

from ppdiffusers.models.weights import tensors_of

HALF = (paddle.float16, paddle.bfloat16)
Layer = TypeVar("Layer", bound=nn.Layer)


def runs_in_half(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of what is called on a model: half-precision weights and arguments on a CPU become float32 for it."""

    @functools.wraps(method)
    def run(self: nn.Layer, *args: Any, **kwargs: Any) -> Any:
        if not paddle.in_dynamic_mode():  # traced: the types are the tracer's business
            return method(self, *args, **kwargs)
        args, kwargs = tuple(map(_upcast, args)), {key: _upcast(value) for key, value in kwargs.items()}
        dtype = next((tensor.dtype for tensor in tensors_of(self) if _is_half_on_cpu(tensor)), None)
        if dtype is None:
            return method(self, *args, **kwargs)
        name = str(dtype).rpartition(".")[2]
        _tell()
        try:
            return method(in_float32(self), *args, **kwargs)
        except (RuntimeError, ValueError) as error:
            if name not in str(error):
                raise
            raise TypeError(
                f"something in this {type(self).__name__} keeps hold of {name} weights, in which paddle does not "
                "compute on a CPU: a replaced forward, for one; convert the model with .to(dtype='float32')"
            ) from error

    return run


def _is_half_on_cpu(value: Any) -> bool:
    return isinstance(value, paddle.Tensor) and value.dtype in HALF and value.place.is_cpu_place()


def _upcast(value: Any) -> Any:
    return value.astype("float32") if _is_half_on_cpu(value) else value


def in_float32(layer: Layer, cast: Callable[[Any], Any] = _upcast) -> Layer:
    """A layer that computes what `layer` does, with its half-precision weights in float32; `layer` is left alone.

    It shares all that `layer` has: attributes, hooks, float32 weights. Weights in half precision are cast when a
    sub-layer asks for them, so that gradients reach the originals and no second copy of the model is in memory. For
    one call: what is changed in `layer` later is not seen, and attributes that a hook sets are set here only.
    """
    twins: Dict[int, nn.Layer] = {}

    def twin_of(original: nn.Layer) -> nn.Layer:
        if id(original) not in twins:
            twin = twins[id(original)] = object.__new__(type(original))
            content = twin.__dict__
            content.update(original.__dict__)
            for kind in ("_parameters", "_buffers"):
                if any(tensor is not None and tensor.dtype in HALF for tensor in content[kind].values()):
                    content[kind] = _Cast(content[kind], cast)
            layers = content["_sub_layers"].items()
            content["_sub_layers"] = type(content["_sub_layers"])(
                (name, None if child is None else twin_of(child)) for name, child in layers
            )
        return twins[id(original)]

    whole = twin_of(layer)
    for twin in twins.values():
        for name, value in tuple(twin.__dict__.items()):  # a forward that was replaced in one layer only
            if isinstance(value, types.MethodType) and id(value.__self__) in twins:
                twin.__dict__[name] = types.MethodType(value.__func__, twins[id(value.__self__)])
    return whole  # type: ignore[return-value]


class _Cast(UserDict):
    """Tensors by name, which are cast when they are asked for."""

    def __init__(self, tensors: Any, cast: Callable[[Any], Any]):
        self._cast = cast
        super().__init__(tensors)

    def __getitem__(self, name: str) -> Any:
        return self._cast(self.data[name])


@functools.cache  # once a process
def _tell() -> None:
    warnings.warn(
        "paddle computes in neither float16 nor bfloat16 on a CPU: models with such weights keep them, compute in "
        "float32 and return float32",
        stacklevel=3,
    )
