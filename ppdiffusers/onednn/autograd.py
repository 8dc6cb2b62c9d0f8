"""Results of kernels as parts of Paddle's graph of gradients.

Not by `paddle.autograd.PyLayer`: in paddle 3.3 a second `backward` through one (`retain_graph=True`) ends the process,
and `paddle.grad` for some of its inputs raises. Here an edge of the graph is an operator of paddle on tensors of one
element, and a hook on it puts the gradient in, computed where one is asked for. Hooks, retained graphs, partial and
second gradients are as with paddle's own operators.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple, Optional, Sequence

import paddle
from paddle import _C_ops

from ppdiffusers.onednn.library import OneDNNError


class Backward:
    """How the gradients of a result's inputs come from its own.

    Attributes:
        needed: inputs whose values are read in the backward pass, and must be those of the forward pass.
    """

    needed: Sequence[paddle.Tensor] = ()

    def gradient(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        """Of an input, by kernels."""
        raise NotImplementedError

    def differentiable(self, number: int, gradient: paddle.Tensor) -> paddle.Tensor:
        """The same by operators of paddle, of which gradients can be had."""
        raise NotImplementedError


def attach(result: paddle.Tensor, inputs: Sequence[Optional[paddle.Tensor]], backward: Backward) -> paddle.Tensor:
    """`result` with edges to those inputs that take gradients. They are contiguous and float32."""
    wanted = [number for number, each in enumerate(inputs) if each is not None and not each.stop_gradient]
    if not wanted or not paddle.is_grad_enabled():
        return result
    node = _Node(backward, len(wanted))
    one = _one()
    edges = []
    for number in wanted:
        edge = _C_ops.reshape(inputs[number], [-1])
        edge.get_tensor()._share_data_with(one.get_tensor())
        edge.register_hook(functools.partial(node.give, number))
        edges.append(edge)
    joined = edges[0]
    for edge in edges[1:]:
        joined = _C_ops.add(joined, edge)
    if len(edges) == 1:
        joined = _C_ops.reshape(joined, [1])
    joined.get_tensor()._share_data_with(result.get_tensor())
    joined.register_hook(node.arrive)
    return _C_ops.reshape(joined, result.shape)  # one more, whose hooks are the caller's


class _Node:
    def __init__(self, backward: Backward, wanted: int):
        self._backward: Optional[Backward] = backward
        self._versions = [each.inplace_version for each in backward.needed]
        self._wanted = wanted
        self._gradient: Optional[paddle.Tensor] = None
        self._call = _Call(True, True)
        self._left = 0

    def arrive(self, gradient: paddle.Tensor) -> paddle.Tensor:
        """The result's gradient; what goes on along the edges is of no meaning."""
        if self._backward is None:
            raise RuntimeError(
                "backward goes through a graph for the second time, whose tensors were freed by the first; "
                "give retain_graph=True to that one"
            )
        for tensor, version in zip(self._backward.needed, self._versions):
            if tensor.inplace_version != version:
                raise RuntimeError(
                    f"a tensor of the shape {list(tensor.shape)}, whose values the backward pass needs, has been "
                    "changed in place since the forward pass; change a copy of it"
                )
        self._gradient, self._call, self._left = gradient.contiguous(), _call(), self._wanted
        return _one()

    def give(self, number: int, _: paddle.Tensor) -> paddle.Tensor:
        assert self._backward is not None and self._gradient is not None
        if self._call.differentiable:
            found = self._backward.differentiable(number, self._gradient)
        else:
            with paddle.no_grad():
                try:
                    found = self._backward.gradient(number, self._gradient)
                except OneDNNError:  # no fast kernel for this part of it
                    found = self._backward.differentiable(number, self._gradient)
        self._left -= 1
        if not self._left:
            self._gradient = None
            if not self._call.retained:
                self._backward = None
        return found


class _Call(NamedTuple):
    retained: bool
    differentiable: bool


def _call() -> _Call:
    """How the backward pass was asked for that has called a hook, whose caller this is called by.

    Paddle does not tell hooks, but the arguments are variables of its function that runs the pass. If that is not
    found, all is kept, and gradients are made of paddle's operators: right in any case.
    """
    frame: Any = sys._getframe(2)
    for _ in range(2):
        if frame is None or "retain_graph" in frame.f_code.co_varnames:
            break
        frame = frame.f_back
    if frame is None or not str(frame.f_globals.get("__name__")).startswith("paddle."):
        return _Call(True, True)
    values = frame.f_locals
    if "retain_graph" not in values:
        return _Call(True, True)
    return _Call(bool(values["retain_graph"]), bool(values.get("create_graph", False)))


@functools.cache
def _one() -> paddle.Tensor:
    with paddle.no_grad():
        return paddle.ones([1])
