"""Models whose heavy work runs as compiled programs, beside the models, which stay whole."""

from __future__ import annotations

import collections
import functools
import logging
import re
import threading
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
from paddle import nn

from ppdiffusers import onednn
from ppdiffusers.inference import engines, plans
from ppdiffusers.inference.engines import NoEngine, Runner, Setup
from ppdiffusers.inference.parts import Inputs, Part, parts_of
from ppdiffusers.inference.programs import Program, as_float32, trace
from ppdiffusers.inference.snapshot import Snapshot
from ppdiffusers.inference.stand_in import StandIn
from ppdiffusers.models.model import Model
from ppdiffusers.models.weights import give_back_pages
from ppdiffusers.threads import use_threads

logger = logging.getLogger("ppdiffusers")

_GIVEN_BACK_AT_ONCE = 1 << 26  # bytes of mapped weights


def compile_model(
    model: Any, engine: str = "auto", precision: str = "auto", device: str = "cpu", tensorrt: bool = False
) -> Any:
    """An object that is called like `model` and runs its heavy parts as programs, compiled when first called.

    The model stays what it is, and whatever is changed in it has its effect on the next call: new weights are taken
    over, new layers of paddle or of this package are compiled anew; with hooks, patched methods or layers of other
    origin, which a program could not repeat, the layers run. So they do where the input asks for a gradient; gradients
    of the weights are had from the model alone.

    Every program is compared with the layers before it is used. One that differs too much, or does not run here, gives
    way to the next slower one, in the end to the layers; that is told in the log.

    Args:
        engine: "auto" (kernels of oneDNN where they run, else Paddle Inference), "onednn", "inference", or "eager",
            which returns the model.
        precision: "auto" (bf16 where the CPU has it), "fp32" or "bf16"; on a GPU also "fp16", which is "auto" there.
            Inputs and outputs are float32 in any case.
        device: "cpu", or "gpu" or "gpu:1" for Paddle Inference. No GPU was at hand: nothing has been run on one.
        tensorrt: on a GPU, TensorRT for what it takes of a program.

    Raises:
        ValueError: an unknown engine or precision, or one that this machine does not have.
    """
    if isinstance(model, StandIn):
        return model.with_engine(engine, precision, device, tensorrt)
    if engine == "eager":
        return model
    return CompiledModel(model, engine, precision, device, tensorrt)


class CompiledModel(StandIn):
    """See `compile_model`.

    Attributes:
        model: the layers.
    """

    def __init__(
        self, model: Model, engine: str = "auto", precision: str = "auto", device: str = "cpu", tensorrt: bool = False
    ):
        super().__init__(model)
        self._settings = engine, precision, device, tensorrt
        self._ways = engines.setups(*self._settings)
        self._parts = {method: CompiledPart(self, part) for method, part in parts_of(model).items()}
        self._others: Dict[str, CompiledPart] = {}
        self._moment: Optional[_Moment] = None
        self._lock = threading.RLock()

    def with_engine(self, *settings: Any) -> Any:
        """Of the same model, with other arguments of `compile_model`."""
        return compile_model(self.model, *settings)

    def __reduce__(self) -> Any:  # copies have a copy of the model
        return compile_model, (self.model, *self._settings)

    def _replaced(self) -> Mapping[str, Callable[..., Any]]:
        return self._parts

    def part(self, part: Part) -> CompiledPart:
        """Another part of the model's work than those that are compiled by themselves; `part.name` tells it apart."""
        with self._lock:
            return self._others.setdefault(part.name, CompiledPart(self, part))

    def describe(self) -> Dict[str, str]:
        """By part, what the latest call ran in: an engine, or the layers and why."""
        parts = [*self._parts.values(), *self._others.values()]
        return {part.part.name: str(part.setup or f"layers ({part.reason or 'not called yet'})") for part in parts}

    def _now(self) -> _Moment:
        """What has been compiled of the model as it is now."""
        with self._lock:
            moment = self._moment
            if moment is None or not moment.snapshot.same_layers():
                self._moment = moment = _Moment(self.model, self._ways, {})
            elif not moment.snapshot.same_weights():
                self._moment = moment = _Moment(self.model, self._ways, moment.programs)
            return moment

    def _runner(self, part: Part) -> Runner:
        """Raises NoEngine where no program can stand for `part`."""
        return self._now().runner(part)

    def _without_engine(self, part: Part, tensors: Sequence[paddle.Tensor], reason: NoEngine) -> Any:
        use_threads()
        return part.by_layers(self.model, *tensors)


class CompiledPart:
    """A part of a compiled model's work. Called with its tensors, it returns what the layers would.

    Attributes:
        setup: what the latest call ran in; None for the layers, or before the first call.
        reason: why the layers ran.
    """

    def __init__(self, owner: CompiledModel, part: Part):
        self.owner, self.part = owner, part
        self.setup: Optional[Setup] = None
        self.reason: Optional[str] = None

    def __call__(self, *tensors: paddle.Tensor) -> Any:
        try:
            runner = self.owner._runner(self.part)
            results = engines.on_tensors(runner, self.part.inputs, tensors)
        except NoEngine as error:
            self.setup, self.reason = None, str(error)
            return self.owner._without_engine(self.part, tensors, error)
        self.setup, self.reason = runner.setup, None
        return results


class _Moment:
    """What is compiled of a model as long as nobody changes it.

    Args:
        programs: of parts, by name; these hold for other weights too.
    """

    def __init__(self, model: Model, ways: List[Setup], programs: Dict[str, Union[Program, NoEngine]]):
        self.model, self.ways, self.programs = model, ways, programs
        self.snapshot = Snapshot(model)
        self.reason = self.snapshot.obstacle()  # why no part can be compiled
        if self.reason is not None:
            logger.info("%s runs its layers: %s", type(model).__name__, self.reason)
        self._runners: Dict[str, Runner] = {}
        self._weights: Dict[str, plans.Weights] = {}  # by precision
        self._lock = threading.RLock()

    def runner(self, part: Part) -> Runner:
        if self.reason is not None:
            raise NoEngine(self.reason)
        with self._lock:
            if part.name not in self._runners:
                name, program = f"{type(self.model).__name__}.{part.name}", self._program(part)
                self._runners[part.name] = Runner(
                    name,
                    self.ways,
                    lambda setup: self._start(setup, program, part.inputs),
                    lambda: layers_on_examples(self.model, part),
                )
            return self._runners[part.name]

    def _program(self, part: Part) -> Program:
        if part.name not in self.programs:
            try:
                self.programs[part.name] = trace(self.model, part)
            except Exception as error:  # whatever tracing raises, an old paddle for one: the layers do without
                reason = self.programs[part.name] = NoEngine(f"it cannot be traced: {engines.last_line(error)}")
                logger.warning("%s.%s runs its layers: %s", type(self.model).__name__, part.name, reason)
        program = self.programs[part.name]
        if isinstance(program, NoEngine):
            raise program
        return program

    def _start(self, setup: Setup, program: Program, inputs: Inputs) -> Any:
        """An engine with the model's weights, of which it makes its own copy."""
        use_threads()
        if setup.engine == "onednn":
            return engines.OneDNNEngine(program.ir, self._prepared(setup.precision))
        return engines.start_inference(program.save, setup, inputs)

    def _prepared(self, precision: str) -> plans.Weights:
        """The weights of all parts, each laid out for the kernels when one needs it."""
        if precision not in self._weights:
            tensors = {tensor.name: tensor for tensor in self.snapshot.tensors}
            self._weights[precision] = plans.Weights(
                {name: functools.partial(as_float32, tensor) for name, tensor in tensors.items()},
                onednn.FP32 if precision == "fp32" else onednn.BF16,
                _give_back(tensors),
            )
        return self._weights[precision]


def _give_back(tensors: Dict[str, paddle.Tensor]) -> Callable[[str], None]:
    """What is told the names of weights that kernels have copies of; it gives back their mapped pages now and then."""
    waiting: List[paddle.Tensor] = []

    def released(name: str) -> None:
        waiting.append(tensors[name])
        if sum(tensor.size * tensor.element_size() for tensor in waiting) > _GIVEN_BACK_AT_ONCE:
            give_back_pages(waiting)
            waiting.clear()

    return released


def layers_on_examples(model: Any, part: Part) -> Tuple[Dict[str, np.ndarray], engines.Arrays]:
    """Small inputs of a part, and what the layers make of them, as float32 arrays."""
    use_threads()
    arrays = engines.example_arrays(part.inputs, model.downsampling_factor)
    with paddle.no_grad():
        results = part.by_layers(model, *map(paddle.to_tensor, arrays.values()))
    several = results if isinstance(results, tuple) else (results,)
    return arrays, engines.one_or_all([each.astype("float32").numpy() for each in several])


# Multiplications that the layers need as long for as compiling takes and the program then needs for them: once, for a
# trace and a comparison on small examples, and for laying out each weight as the kernels want it. Found with the
# embedded model in bfloat16, on two cores that were not idle: layers that run by oneDNN too win up to 64x48 pixels in
# 20 steps, and programs at 96x72. Programs of float32 gain less, and the choice costs little either way.
_CODER = (1e10, 450.0)
WORTH_COMPILING = {
    "_network": (4e10, 1000.0),
    "_to_pixels": _CODER,
    "_to_latents": _CODER,
    "_to_moments": _CODER,
}


def worth_compiling(model: Any, method: str, shape: Sequence[int], times: int = 1) -> bool:
    """Whether the layers take longer for `model.method` on a map of `shape`, so many times, than compiling does.

    A count of multiplications decides and not a clock, so that the same call always takes the same way.
    """
    if paddle.get_device() != "cpu" or method not in WORTH_COMPILING:
        return False
    batch, _, height, width = shape
    weights = _weights_by_level(model, method)
    once, a_weight = WORTH_COMPILING[method]
    a_pixel = sum(count / 4.0**level for level, count in weights.items())
    return times * batch * height * width * a_pixel > once + a_weight * sum(weights.values())


def _weights_by_level(model: nn.Layer, method: str) -> Dict[int, int]:
    """How many weights of convolutions and linear layers multiply at a level, counted from that of the input: each does
    so once a pixel there, of which there are a quarter as many a level deeper. Attention itself is left out."""
    last = len(model.config.block_out_channels) - 1
    parts = {"_network": ("",), "_to_pixels": ("decoder.", "post_quant_conv.")}.get(method, ("encoder.", "quant_conv."))
    input_level = last if method == "_to_pixels" else 0
    found: Dict[int, int] = collections.defaultdict(int)
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or not name.startswith(parts):
            continue
        block = re.search(r"(down|up)_blocks\.(\d+)", name)
        if block is not None:
            level = int(block[2]) if block[1] == "down" else last - int(block[2])
        else:
            level = last if re.search(r"mid_block|quant_conv|decoder\.conv_in", name) else 0
        found[level - input_level] += weight.size
    return found
