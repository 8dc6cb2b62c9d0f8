"""Models whose heavy parts run as compiled programs. They stay what they are: same class, same config, same calls."""

from __future__ import annotations

import functools
import logging
import operator
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, MutableMapping, Optional, Sequence, Set, Union

import numpy as np
import paddle
from paddle import nn

from ppdiffusers.checkpoints import CheckpointError
from ppdiffusers.inference.engines import Arrays, Setup, relative_error, setups, start
from ppdiffusers.inference.onednn import OneDNNError
from ppdiffusers.inference.programs import Inputs, cached_program
from ppdiffusers.inference.verdicts import Verdicts, weight_files
from ppdiffusers.models.model import Model
from ppdiffusers.threads import use_threads

logger = logging.getLogger("ppdiffusers")

# Largest difference, and its root mean square, that a program may have from the layers, over the scale of the result.
TOLERANCES = {"fp32": (1e-4, 1e-4), "bf16": (0.2, 0.03), "fp16": (0.03, 0.005)}
# Multiplications of a call from which its U-Net is compiled. Two cores take the layers some ten seconds for these,
# and a compiled U-Net half of that or less, with compiling included.
WORTH_COMPILING = 4e11
_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH = 5  # of a sequence
_compiling = threading.RLock()  # tracing switches the whole process to static graphs


def compile_model(
    model: Model, engine: str = "auto", precision: str = "auto", device: str = "cpu", tensorrt: bool = False
) -> Model:
    """Let programs run the heavy parts of `model`, each compiled when it is first called.

    Every program is compared with the layers that it replaces before it is used. One that differs too much, or does
    not run here, gives way to the next slower way, in the end to the layers themselves; that is told in the log.

    The layers that a program replaces are given up if files hold their weights: they are read again where they are
    needed, by `save_pretrained` for one. A model that was trained, changed or built in memory keeps them.

    Args:
        engine: "auto" (kernels of oneDNN where they run, else Paddle Inference), "onednn", "inference", or "eager",
            which undoes everything.
        precision: "auto" (bf16 where the CPU has it), "fp32" or "bf16"; on a GPU also "fp16", which is "auto" there.
            Inputs and outputs are float32 in any case.
        device: "cpu", or "gpu" or "gpu:1" for Paddle Inference. No GPU was at hand: nothing has been run on one.
        tensorrt: on a GPU, TensorRT for what it takes of a program.

    Returns:
        The model itself, in evaluation mode; one without heavy parts as it was.

    Raises:
        ValueError: an unknown engine or precision, or one that this machine does not have.
    """
    if model._exported is not None:
        model._exported(engine, precision, device, tensorrt)
        return model
    if engine == "eager":
        restore(model)
        return model
    ways = setups(engine, precision, device, tensorrt)
    programs = model._programs()
    if not programs:
        return model
    restore(model)
    model.eval()
    for method, inputs in programs.items():
        object.__setattr__(model, method, CompiledPart(model, method, inputs, ways))
    object.__setattr__(model, "_restore", functools.partial(restore, model))
    return model


def restore(model: Model) -> None:
    """Make `model` run its layers again, which are read from the files that they came from.

    Raises:
        CheckpointError: these files have changed or are gone; nothing has happened then.
    """
    if model._restore is None:
        return
    parts = [model.__dict__[method] for method in model._programs()]
    _bring_back(model, parts)
    for method in model._programs():
        del model.__dict__[method]
    object.__setattr__(model, "_restore", None)


def _bring_back(model: Model, parts: List[CompiledPart]) -> None:
    """The layers that `parts` have given up, in the places that they had."""
    given_up = {name: layer for part in parts for name, layer in part.given_up.items()}
    if None in given_up.values():
        fresh = _read_again(model, [part.read_from for part in parts if None in part.given_up.values()])
        for part in parts:
            for name, weight in part.in_use.items():
                path, _, last = name.rpartition(".")
                operator.attrgetter(path)(fresh)._parameters[last] = weight
        given_up = {name: getattr(fresh, name) if layer is None else layer for name, layer in given_up.items()}
    for name, layer in given_up.items():
        setattr(model, name, layer)
    for name in parts[0].order:
        if name in model._sub_layers:
            model._sub_layers.move_to_end(name)
    for part in parts:
        part.given_up.clear()


def _read_again(model: Model, files: List[Any]) -> Model:
    assert model._source is not None  # or its layers would have been kept
    folder, dtype = model._source
    if any(each != weight_files(folder, dtype) for each in files):
        raise CheckpointError(
            f"the weights of this {type(model).__name__} are in {folder}, whose files have changed or gone since it "
            "was compiled; put them back, or load the model anew"
        )
    return type(model).from_pretrained(folder, paddle_dtype=dtype, **model.config)


def worth_compiling(unet: Model, shape: Sequence[int], steps: int) -> bool:
    """Whether running `unet` on latents of `shape` so many times takes its layers longer than compiling does.

    A count of multiplications decides and not a clock, so that the same call always takes the same way.
    """
    if paddle.get_device() != "cpu" or not unet._programs():
        return False
    batch, _, height, width = shape
    return steps * batch * height * width * _multiplications_a_pixel(unet) > WORTH_COMPILING


def _multiplications_a_pixel(unet: Model) -> float:
    """Of the convolutions and linear layers: each weight once a pixel of its level. Attention itself is left out."""
    last = len(unet.config.block_out_channels) - 1
    total = 0.0
    for name, parameter in nn.Layer.state_dict(unet).items():
        part, _, rest = name.partition(".")
        level = 0
        if part == "mid_block":
            level = last
        elif part in ("down_blocks", "up_blocks"):
            number = int(rest.partition(".")[0])
            level = number if part == "down_blocks" else last - number
        if parameter.ndim > 1:
            total += parameter.size / 4**level
    return total


class CompiledPart:
    """`model.method`, as a program. Called with the same tensors, it returns the same tensor, or tuple of them.

    Attributes:
        setup: how it runs; None before the first call, and where it runs the layers.
        seconds: what compiling took, checks included.
        given_up: layers that the program stands for, by name; None for one that can be read again.
        read_from: what these are read from, as of `weight_files`; None where files do not hold them.
        in_use: weights among them that somebody else has too, an optimizer maybe.
        order: of the model's layers.
    """

    def __init__(self, model: Model, method: str, inputs: Inputs, ways: List[Setup]):
        self.model, self.method, self.inputs, self.ways = model, method, inputs, ways
        self.setup: Optional[Setup] = None
        self.seconds = 0.0
        self.given_up: Dict[str, Optional[nn.Layer]] = {}
        self.read_from: Optional[List[Any]] = None
        self.in_use: MutableMapping[str, Any] = weakref.WeakValueDictionary()
        self.order = list(model._sub_layers)
        self._siblings: Dict[str, Dict[str, CompiledPart]] = {}
        self._run: Any = None
        self._lock = threading.RLock()  # an engine has one set of inputs and outputs

    def __call__(self, *arguments: Any) -> Any:
        with self._lock:
            if self._run is None:
                self.compile()
            return self._run(*arguments) if self.setup is None else self._run_program(arguments)

    def _run_program(self, arguments: Sequence[Any]) -> Any:
        arrays = {
            name: value.astype(each[1]).numpy()
            for (name, each), value in zip(self.inputs.items(), arguments)
            if not isinstance(each, int)  # which the program was made for
        }
        try:
            results = self._run(arrays)
        except OneDNNError as error:  # there is no kernel for tensors of this size, or no room
            assert self.setup is not None
            logger.warning("%s does not run in %s: %s", type(self.model).__name__, self.setup, error)
            restore(self.model)
            compile_model(self.model, "inference", self.setup.precision)
            return getattr(self.model, self.method)(*arguments)
        return tuple(map(paddle.to_tensor, results)) if isinstance(results, tuple) else paddle.to_tensor(results)

    def siblings(self, programs: Dict[str, Inputs]) -> Dict[str, CompiledPart]:
        """Other methods that run the same layers, each with its inputs: compiled in the same ways, all at once."""
        key = repr(programs)
        with self._lock:
            if key not in self._siblings:
                made = {name: CompiledPart(self.model, name, inputs, self.ways) for name, inputs in programs.items()}
                self._compile(list(made.values()))
                self._siblings[key] = made
            return self._siblings[key]

    def compile(self) -> None:
        """Choose the fastest way that computes what the layers compute."""
        self._compile([self])

    def _compile(self, parts: List[CompiledPart]) -> None:
        """Compile `parts`, this one or siblings, and give up the layers that none of the family runs any more."""
        with _compiling:
            use_threads()
            _bring_back(self.model, [self])
            files = None if self.model._source is None else weight_files(*self.model._source)
            self.read_from = files if self.model._files_hold_weights() else None
            undo = self.model._restore
            object.__setattr__(self.model, "_restore", None)  # tracing asks for the layers, which are all there
            try:
                read = {name for part in parts for name in part._choose(self.read_from)}
            finally:
                object.__setattr__(self.model, "_restore", undo)
            family = [self, *parts, *(part for made in self._siblings.values() for part in made.values())]
            if not any(part.setup is None and part._run is not None for part in family):
                self._give_up_layers(read)

    def _choose(self, files: Optional[List[Any]]) -> List[str]:
        """Set `setup` and `_run`; the names of the weights that the program has a copy of."""
        started = time.perf_counter()
        layers = functools.partial(getattr(type(self.model), self.method), self.model)
        name = f"{type(self.model).__name__}.{self.method.strip('_')}"
        try:
            program = cached_program(self.model, self.method, self.inputs)
            examples = self._examples()
            self._first_right(
                name,
                lambda setup: start(setup, self.model, program, self.inputs),
                examples,
                lambda: self._wanted(layers, examples),
                Verdicts(program, files),
            )
            if self.setup is None:
                logger.warning("%s runs its layers: no engine computes the same", name)
        except Exception as error:  # whatever tracing raises, an old paddle or a full disk: the layers do without
            logger.warning("%s runs its layers: %s", name, _last_line(error))
        if self.setup is None:
            self._run = layers
            return []
        self.seconds = time.perf_counter() - started
        logger.info("%s runs in %s; compiled in %.1f s", name, self.setup, self.seconds)
        return list(program.parameters.values())

    def _first_right(
        self,
        name: str,
        begin: Callable[[Setup], Any],
        examples: Dict[str, np.ndarray],
        wanted: Callable[[], Arrays],
        verdicts: Union[Verdicts, Set[Setup]],
    ) -> List[str]:
        """Set `setup` and `_run` to the first way that is right; what was wrong with those before it.

        Args:
            begin: gives the engine of a way.
            wanted: gives the right results for `examples`.
            verdicts: ways that need no comparing; a right one joins them.
        """
        problems: List[str] = []
        for setup in self.ways:
            try:
                run = begin(setup)
                result = None if setup in verdicts else run(examples)
            except Exception as error:  # whatever an engine raises, the next one may do
                problems.append(f"does not run in {setup}: {_last_line(error)}")
            else:
                worst, rms = (0.0, 0.0) if result is None else relative_error(wanted(), result)
                if worst <= TOLERANCES[setup.precision][0] and rms <= TOLERANCES[setup.precision][1]:
                    if result is not None:
                        verdicts.add(setup)
                    self._run, self.setup = run, setup
                    return problems
                problems.append(f"is wrong by {worst:.1g} in {setup}, which is not used")
            logger.warning("%s %s", name, problems[-1])
        return problems

    def _wanted(self, layers: Callable[..., Any], examples: Dict[str, np.ndarray]) -> Arrays:
        arguments = [
            each if isinstance(each, int) else paddle.to_tensor(examples[name]) for name, each in self.inputs.items()
        ]
        with paddle.no_grad():
            results = layers(*arguments)
        if isinstance(results, tuple):
            return tuple(result.astype("float32").numpy() for result in results)
        return results.astype("float32").numpy()

    def _examples(self) -> Dict[str, np.ndarray]:
        """Small inputs of the right shapes, always the same."""
        draw = np.random.default_rng(0)
        levels = len(self.model.config.get("block_out_channels") or [1])
        side = 2**levels
        arrays = {}
        for name, each in self.inputs.items():
            if isinstance(each, int):
                continue
            shape, dtype = each
            free = iter([_EXAMPLE_BATCH, *([side, side] if len(shape) == 4 else [_EXAMPLE_LENGTH])])
            full = [next(free) if size is None else size if size > 0 else side // -size for size in shape]
            values = draw.integers(0, 10, full) if dtype == "int64" else draw.standard_normal(full)
            arrays[name] = values.astype(dtype)
        return arrays

    def _give_up_layers(self, used: Set[str]) -> None:
        for name, layer in list(self.model.named_children()):
            weights = {f"{name}.{key}": weight for key, weight in layer.named_parameters()}
            if weights and used.issuperset(weights):
                self.given_up[name] = layer if self.read_from is None else None
                self.in_use.update(weights)
                delattr(self.model, name)


def _last_line(error: Exception) -> str:
    """Of paddle's many-lined messages the one that says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
