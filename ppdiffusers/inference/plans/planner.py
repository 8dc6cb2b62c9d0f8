"""Paddle's programs as plans for oneDNN.

A value of the program is a numpy array where it depends on shapes only, otherwise a `Tensor`, or one of the forms in
`values`. `operators` and `folding` say what each operator does to them.
"""

from __future__ import annotations

import collections
import logging
from dataclasses import replace
from math import prod
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, cast

import numpy as np

from ppdiffusers.inference.plans.folding import FOLDED
from ppdiffusers.inference.plans.operators import OPERATORS, scores
from ppdiffusers.inference.plans.plan import Arena, Plan, Post, Step, Steps, Tensor, Together, enough_memory
from ppdiffusers.inference.plans.values import Doubled, Parameter, UnsupportedOperator, Weights, is_constant
from ppdiffusers.onednn import kernels
from ppdiffusers.onednn.library import SRC, SRC_1, WEIGHTS, Descriptor, NotEnoughMemory
from ppdiffusers.threads import use_threads

logger = logging.getLogger("ppdiffusers")

# Scores of attention that are held at once: 128 MB in float32, and less where that cannot be had.
SCORES_AT_ONCE = (1 << 25, 1 << 22, 1 << 19)


def make_plan(program: Any, weights: Weights, shapes: Mapping[str, Tuple[int, ...]], arena: Arena) -> Plan:
    """The plan of `program` (PIR) for inputs of these shapes. Attention is cut into smaller blocks if it has to be.

    Raises:
        UnsupportedOperator: names it.
        NotEnoughMemory: says how much is wanted; nothing is kept then.
        OneDNNError: oneDNN has no kernel for something.
    """
    operators = _vectors_first(list(program.global_block().ops))
    attempts: List[Planner] = []  # kept until the end: the next one uses the weights that were prepared
    at_once = SCORES_AT_ONCE[0]
    use_threads()
    with weights.lock, enough_memory():
        while True:
            planner = Planner(weights, shapes, operators, at_once)
            attempts.append(planner)
            for op in operators:
                planner.translate(op)
            try:
                return Plan(planner.steps, planner.inputs, planner.outputs, arena)
            except NotEnoughMemory as error:
                at_once = next((fewer for fewer in SCORES_AT_ONCE if fewer < planner.scores_held), 0)
                if not at_once:
                    raise
                logger.info("%s; attention is computed in smaller blocks", error)


def _vectors_first(operators: List[Any]) -> List[Any]:
    """In an order in which what depends on no map or sequence is there when a kernel could take it in."""
    late: Set[int] = set()
    order: Tuple[List[Any], List[Any]] = ([], [])
    for op in operators:
        is_late = any(value.initialized() and value.hash() in late for value in op.operands_source())
        is_late = is_late or _name(op) == "fetch" or (_name(op) == "data" and len(op.attrs()["shape"]) > 2)
        late.update(value.hash() for value in op.results() if is_late)
        order[is_late].append(op)
    return order[0] + order[1]


class Planner:
    def __init__(
        self, weights: Weights, shapes: Mapping[str, Tuple[int, ...]], operators: Sequence[Any], scores_at_once: int
    ):
        self.weights, self.shapes = weights, shapes
        self.dtype, self.scores_at_once = weights.dtype, scores_at_once
        self.scores_held = 0  # at once, in fact
        self.steps = Steps()
        self.inputs: Dict[str, Tensor] = {}
        self.outputs: List[Tensor] = []
        self.values: Dict[int, Any] = {}
        self.readers: Dict[int, List[str]] = collections.defaultdict(list)  # names of operators, by value
        for op in operators:
            name = _name(op)
            for value in op.operands_source():
                if value.initialized() and name != "shape64":
                    self.readers[value.hash()].append(name)
        # Scores of attention are products that only a softmax reads, and of it only a product.
        after = {op.operands_source()[0].hash(): op.result(0).hash() for op in operators if _name(op) == "softmax"}
        self.scores = {
            value
            for value, weights in after.items()
            if self.readers[value] == ["softmax"] and self.readers[weights] == ["matmul"]
        }

    def translate(self, op: Any) -> None:
        name = self.steps.operator = _name(op)
        operands = op.operands_source()  # those left out are not initialised
        sources = [self._source(value) if value.initialized() else None for value in operands]
        results = [value.hash() for value in op.results()]
        constant = all(is_constant(each) for each in sources) and name in FOLDED
        translate = FOLDED[name] if constant else OPERATORS.get(name)
        if translate is None:
            raise UnsupportedOperator(f"oneDNN plans are not made of {op.name()}")
        attrs = op.attrs()
        if name == "parameter":
            attrs["shape"] = op.result(0).shape
        if name == "matmul" and results[0] in self.scores and isinstance(sources[1], Tensor):
            made: Any = scores(self, attrs, *sources)
        else:
            made = translate(self, attrs, *sources)
        for result, value in zip(results, made if isinstance(made, tuple) else (made,)):
            self.values[result] = value

    def _source(self, value: Any) -> Any:
        found = self.values[value.hash()]
        if isinstance(found, Tensor) and len(self.readers[value.hash()]) > 1:
            return replace(found, step=None)
        return found

    # Forms of values

    def tensor(self, value: Any, dtype: Optional[int] = None) -> Tensor:
        """As something that lies in memory, of `dtype` if one is given."""
        if isinstance(value, Doubled):
            value = self._doubled(value.source)
        elif isinstance(value, Parameter):
            value = self.steps.constant(self.weights.vector(value))
        elif is_constant(value):
            value = self.steps.constant(np.asarray(value))
        if not isinstance(value, Tensor):
            raise UnsupportedOperator(f"a {type(value).__name__.lower()} tensor is read by an operator that cannot")
        value = self._repeated(value) if value.repeated else value
        return value if dtype is None or value.dtype == dtype else self.copy(value, dtype)

    def copy(self, source: Tensor, dtype: Optional[int] = None, order: Optional[Sequence[int]] = None) -> Tensor:
        """Dense, of another type or in another order of axes."""
        result = self.steps.allocate(source.shape, dtype or source.dtype, order)
        return self.copy_into(source, result)

    def copy_into(self, source: Tensor, result: Tensor) -> Tensor:
        kernel = kernels.reorder(source.descriptor, result.descriptor)
        return self.steps.add_kernel(kernel, [(SRC, source)], result)

    def laid_out(self, value: Any) -> Tensor:
        """A map as convolutions read it: channels last, and of their type."""
        source = self.tensor(value)
        wanted = self.steps.allocate(source.shape, self.dtype)
        if source.dtype == self.dtype and source.lies_as(wanted.strides):
            return source
        return self.copy_into(source, wanted)

    def dense(self, value: Any) -> Tensor:
        source = self.tensor(value)
        return source if source.dense else self.copy(source)

    def _doubled(self, source: Tensor) -> Tensor:
        batch, channels, height, width = source.shape
        result = self.steps.allocate((batch, channels, 2 * height, 2 * width), source.dtype)
        b, c, y, x = result.strides
        for row in range(2):
            for column in range(2):
                self.copy_into(source, result.view(source.shape, (b, c, 2 * y, 2 * x), row * y + column * x))
        return result

    def _repeated(self, source: Tensor) -> Tensor:
        result = self.steps.allocate(source.shape, source.dtype, range(len(source.shape)))
        return self.steps.add_host(lambda arena: np.copyto(result.array(arena), source.array(arena)), [source], result)

    def like(self, source: Tensor) -> Tensor:
        """Room for the results of something done to each element."""
        return self.steps.allocate(source.shape, source.dtype, source.order)

    # What many operators are made of

    def apply(self, value: Any, algorithm: int, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
        """A function of each element; what its parameters are depends on it, see `kernels`."""
        source = self.tensor(value)
        if source.step is not None and source.step.join(algorithm, alpha, beta):
            return source
        source = self.dense(source)
        result = self.like(source)
        a, b = source.descriptor, result.descriptor
        return self.steps.add(lambda post: kernels.eltwise(algorithm, alpha, beta, a, b, post), [(SRC, source)], result)

    def combine(self, algorithm: int, x: Any, y: Any) -> Tensor:
        """x and y element by element, one of which may be a number or have axes of one element."""
        swaps = algorithm in (kernels.ADD, kernels.MUL)
        for full, other in [(x, y), (y, x)] if swaps else [(x, y)]:
            if is_constant(other) and other.size == 1 and not is_constant(full):
                return self.apply(full, *_linear(algorithm, float(other.reshape(()))))
        x, y = self.tensor(x), self.tensor(y)
        shape = np.broadcast_shapes(x.shape, y.shape)
        for full, other in [(x, y), (y, x)] if swaps else [(x, y)]:
            if full.shape == shape and full.step is not None:
                operand = _aligned(other, full)
                if operand is not None and full.step.join(algorithm, 0.0, 0.0, operand):
                    return full
        if x.shape != shape and swaps:
            x, y = y, x
        if x.shape != shape:
            raise UnsupportedOperator(f"tensors of the shapes {list(x.shape)} and {list(y.shape)} are combined")
        x = self.dense(x)
        y = y.reshaped((1,) * (len(shape) - len(y.shape)) + y.shape) or y
        return self.binary(algorithm, x, y, self.like(x))

    def binary(self, algorithm: int, x: Tensor, y: Tensor, result: Tensor, plus: Optional[Tensor] = None) -> Tensor:
        """Picture by picture where y has numbers for each, for which oneDNN has no fast kernel."""
        if y.shape[0] > 1 and prod(y.shape[2:]) == 1:
            steps = []
            for i in range(x.shape[0]):
                one, two, three = (each.part(0, i, i + 1) for each in (x, y, result))
                made = self.binary(algorithm, one, two, three, None if plus is None else plus.part(0, i, i + 1))
                steps.append(cast(Step, made.step))
            return replace(result, step=Together(steps, result))
        a, b, c = x.descriptor, y.descriptor, result.descriptor
        arguments = [(SRC, x), (SRC_1, y)]
        post: List[Post] = [] if plus is None else [(kernels.ADD, 0.0, 0.0, plus)]
        return self.steps.add(lambda each: kernels.binary(algorithm, a, b, c, each), arguments, result, post)

    def weighted(
        self,
        name: str,
        form: Callable[[np.ndarray], np.ndarray],
        shape: Sequence[int],
        dtype: int,
        kernel: Callable[..., Any],
        source: Tensor,
        result: Tensor,
    ) -> Tensor:
        """A convolution or linear layer, whose kernel says how the `form` of its weights should lie."""
        a, b = source.descriptor, result.descriptor
        layout = kernel(a, Descriptor(shape, dtype), b, ()).weights
        prepared = self.weights.prepared(name, form, layout)
        arguments = [(SRC, source), (WEIGHTS, prepared)]
        return self.steps.add(lambda post: kernel(a, layout, b, post), arguments, result)


def _name(op: Any) -> str:
    return op.name().split(".")[-1].rstrip("_")


def _linear(algorithm: int, number: float) -> Tuple[int, float, float]:
    """The same with a number, as alpha * x + beta."""
    alpha = {kernels.MUL: number, kernels.DIV: 1 / number if number else 0.0}.get(algorithm, 1.0)
    beta = {kernels.ADD: number, kernels.SUB: -number}.get(algorithm, 0.0)
    return kernels.LINEAR, alpha, beta


def _aligned(other: Tensor, view: Tensor) -> Optional[Tensor]:
    """`other`, which is combined with `view`, as it is combined with what the step of `view` writes; None if it cannot.

    The step may write the same memory under another shape.
    """
    assert view.step is not None
    written = view.step.result
    if other.shape == view.shape and other.lies_as(view.strides):
        return other.view(written.shape, written.strides)
    varying = [axis - len(other.shape) for axis, size in enumerate(other.shape) if size != 1]
    if not varying:
        return other.reshaped((1,) * len(written.shape))
    if len(varying) == 1 and view.strides[varying[0]] == 1 and view.shape[varying[0]] == other.shape[varying[0]]:
        fast = [axis for axis, (n, stride) in enumerate(zip(written.shape, written.strides)) if stride == 1 and n != 1]
        if len(fast) == 1 and written.shape[fast[0]] == other.shape[varying[0]]:
            shape = [1] * len(written.shape)
            shape[fast[0]] = other.shape[varying[0]]
            return other.reshaped(shape)
    if written.shape == view.shape and written.lies_as(view.strides):
        return other.reshaped((1,) * (len(view.shape) - len(other.shape)) + other.shape)
    return None
