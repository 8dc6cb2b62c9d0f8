"""What a model was at one moment, to notice that it has been changed, and whether a program can stand for it.

Users hook layers, replace them, patch their methods, inject adapters, train, and set weights in place. All of that has
to have its effect on the next call. So before every call a compiled model is compared with its snapshot, which takes
some 0.2 ms for the 130 layers and 148 weights of a small U-Net.
"""

from __future__ import annotations

import itertools
from typing import Any, Dict, List, Optional

from paddle import nn

from ppdiffusers.models.weights import tensors_of, weights_state

_KNOWN = ("paddle", "ppdiffusers", "abc", "typing")  # packages whose layers do nothing but compute
_HOOKS = ("_forward_pre_hooks", "_forward_post_hooks")
# Attributes that Paddle itself changes while a layer runs or loads.
_CHANGING = ("_built", "_loaddict_holder", "_op_recorder", "_helper", "_full_name", "_init_in_dynamic_mode")


class Snapshot:
    """The layers and weights of `model` now."""

    def __init__(self, model: nn.Layer):
        self.layers: List[nn.Layer] = model.sublayers(include_self=True)
        self._model = model
        self._attributes = [vars(layer) for layer in self.layers]
        self._kept = [_copied(attributes) for attributes in self._attributes]
        self._types = list(map(type, self.layers))
        self._classes = {cls: dict(vars(cls)) for kind in set(self._types) for cls in _own_classes(kind)}
        self._members_then = self._members()
        self.tensors = tensors_of(model)
        self.weights = weights_state(model)

    def _members(self) -> List[int]:
        """Identities of all sub-layers, parameters and buffers."""
        containers = (
            attributes[name] for attributes in self._attributes for name in ("_sub_layers", "_parameters", "_buffers")
        )
        return list(map(id, itertools.chain.from_iterable(map(dict.values, containers))))

    def same_layers(self) -> bool:
        """Whether no layer, attribute, hook or class has changed since."""
        if self._members() != self._members_then or list(map(type, self.layers)) != self._types:
            return False
        if any(dict(vars(cls)) != kept for cls, kept in self._classes.items()):
            return False
        return all(map(self._same, range(len(self.layers))))

    def _same(self, i: int) -> bool:
        now, then = self._attributes[i], self._kept[i]
        try:
            if now == then:
                return True
            if {**now, **dict.fromkeys(_CHANGING)} == {**then, **dict.fromkeys(_CHANGING)}:
                self._kept[i] = _copied(now)
                return True
        except Exception:  # whatever comparing raises: arrays and tensors, which are others now
            pass
        return False

    def same_weights(self) -> bool:
        """Whether no weight or buffer has other values, another type or another place; asked where `same_layers`."""
        return weights_state(self._model) == self.weights

    def obstacle(self) -> Optional[str]:
        """Why no program can stand for these layers; None where one can.

        A program repeats what tensors went through when it was traced. That is all that the layers of paddle and of
        this package do. Hooks, patched methods and layers of other origin may do more: count, record, or act otherwise
        the next time.
        """
        for layer, attributes in zip(self.layers, self._attributes):
            name = type(layer).__name__
            if any(attributes[hooks] for hooks in _HOOKS):
                return f"a {name} has a hook"
            for key, value in attributes.items():
                if callable(value) and callable(getattr(type(layer), key, None)):
                    return f"{key} of a {name} is patched"
            if isinstance(layer, nn.Dropout) and layer.training and layer.p > 0:
                return "it is in training, with dropout"
        for cls, members in self._classes.items():
            if not is_known(cls.__module__):
                return f"it holds a {cls.__name__}, which is a layer of {cls.__module__}"
            for key, value in members.items():
                if callable(value) and not is_known(module_of(value) or "paddle"):
                    return f"{key} of the class {cls.__name__} is patched"
        return None


def is_known(module: str) -> bool:
    """Whether functions and classes of `module` do nothing but compute."""
    return module.partition(".")[0] in _KNOWN


def module_of(function: Any) -> str:
    """Where a function was written, whatever it says of itself: `functools.wraps` copies the name of another module."""
    written = getattr(function, "__globals__", {}).get("__name__")
    return written or getattr(function, "__module__", None) or ""


def _own_classes(kind: type) -> List[type]:
    """A layer's class and those that it inherits from, down to where all layers are alike."""
    return [cls for cls in kind.__mro__ if cls not in (nn.Layer, object)]


def _copied(attributes: Dict[str, Any]) -> Dict[str, Any]:
    """With copies of what a user may change in place."""
    copied = {key: list(value) if type(value) is list else value for key, value in attributes.items()}
    for name in _HOOKS:
        copied[name] = dict(attributes[name])
    return copied
