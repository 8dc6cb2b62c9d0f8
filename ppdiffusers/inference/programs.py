"""Parts of models as Paddle programs (PIR), traced without their weights.

A trace runs the layers once on symbols, which takes a tenth of a second or two. So nothing is kept between processes:
no file can be out of date, damaged, or somebody else's.
"""

from __future__ import annotations

import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdiffusers.config import replacing
from ppdiffusers.inference.parts import Part
from ppdiffusers.models.half_precision import HALF, in_float32
from ppdiffusers.models.weights import tensors_of

_tracing = threading.RLock()  # paddle has one static mode for the whole process


class UnsupportedPaddle(RuntimeError):
    """This paddle cannot write a model as a program."""


@dataclass(frozen=True)
class Program:
    """A traced part of a model, without its weights.

    Attributes:
        ir: the program.
        parameters: the weights that it reads, by their names in it: the model's own tensors.
    """

    ir: Any
    parameters: Dict[str, paddle.Tensor]

    def save(self, folder: Path, name: str = "program") -> Tuple[Path, Path]:
        """Write program and weights, these as float32, as Paddle Inference reads them.

        Returns:
            The files, `<name>.json` and `<name>.pdiparams`.

        Raises:
            OSError: they cannot be written, or not whole: Paddle does not tell that a disk is full.
        """
        files = folder / f"{name}.json", folder / f"{name}.pdiparams"
        names = sorted(self.parameters)  # the order in which they are read
        held = [self.parameters[name].astype("float32").cpu() for name in names]  # `get_tensor` keeps nothing alive
        with replacing(files[0]) as program, replacing(files[1]) as parameters:
            paddle.base.core.serialize_pir_program(self.ir, str(program), True, False, True)
            tensors = [tensor.get_tensor() for tensor in held]
            paddle.base.core.save_combine_func(tensors, names, str(parameters), True, False, False)
            size = 4 * sum(tensor.size for tensor in held)
            if not _is_whole(program) or parameters.stat().st_size < size:
                raise OSError(errno.ENOSPC, "could not be written whole", str(files[0]))
        return files


def load_program(file: Path) -> Any:
    """What `Program.save` wrote, as `paddle.static.Program`."""
    program = paddle.static.Program()
    paddle.base.core.deserialize_pir_program(str(file), program)
    return program


def trace(model: Any, part: Part) -> Program:
    """The program of a part of `model`, for inputs of every size. The model is not changed.

    Raises:
        UnsupportedPaddle: paddle before 3.0 writes other programs.
        Exception: whatever layers raise that cannot be traced.
    """
    if not hasattr(paddle, "pir_utils"):
        raise UnsupportedPaddle(f"paddle {paddle.__version__} has no program format that is used here; 3.0 has")
    originals = {tensor.name: tensor for tensor in tensors_of(model)}
    if any(tensor.dtype in HALF for tensor in originals.values()):
        names = {name: _float32_name(tensor) for name, tensor in originals.items()}
        model = in_float32(model, lambda tensor: None if tensor is None else names.get(tensor.name, tensor))
    # In a thread of its own, with whose end the static mode ends. Its stack is short too, which Paddle notes down for
    # every operator: from the depth of a web server that takes twice as long as all the rest.
    with _tracing, ThreadPoolExecutor(1) as thread:
        ir, parameters = thread.submit(_trace, model, part).result()
    return Program(ir, {name: originals.get(name, tensor) for name, tensor in parameters.items()})


def _trace(model: Any, part: Part) -> Tuple[Any, Dict[str, paddle.Tensor]]:
    """A program, and the weights that it reads."""
    from paddle.base.dygraph.base import to_static_mode_guard
    from paddle.jit.dy2static.parameter_recorder import _global_inplace_map, _global_parameter_recorder
    from paddle.static.pir_io import normalize_pir_program  # the only way to a program that is fed and fetched

    # Not by `paddle.jit.to_static`: it rewrites the source of what it calls, which takes longer than the trace and is
    # not needed, as no branch in the layers depends on a tensor.
    _enter_static_mode()
    main = paddle.static.Program()
    with paddle.static.program_guard(main, paddle.static.Program()):
        feeds = [
            paddle.static.data(name, [-1 if size is None or size < 0 else size for size in shape], dtype)
            for name, (shape, dtype) in part.inputs.items()
        ]
        try:
            with to_static_mode_guard(True):  # layers give their weights as values of the program
                outputs = part.function(model, *feeds)
        finally:
            tensors, values = _global_parameter_recorder.pop(main)
            _global_inplace_map.pop(main)
        program = normalize_pir_program(main, feeds, list(outputs) if isinstance(outputs, tuple) else [outputs])
    known = {value.name: tensor for tensor, value in zip(tensors, values)}
    read = [op.attrs()["parameter_name"] for op in program.global_block().ops if op.name() == "builtin.parameter"]
    return program, {name: known[name] for name in read}


def _float32_name(tensor: Any) -> Any:
    """In place of a weight in half precision, one that has only the name and the shape of a float32 one."""
    if tensor.dtype not in HALF:
        return tensor
    with paddle.LazyGuard():  # no memory
        parameter = nn.Layer().create_parameter(tensor.shape, dtype="float32")
    parameter.name = tensor.name
    return parameter


def _enter_static_mode() -> None:
    """As `paddle.enable_static()`, but for this thread alone.

    Paddle keeps its mode by thread, and beside it one for threads that begin: that function switches both, and a thread
    that begins before `paddle.disable_static()` stays in static mode.
    """
    from paddle.base import core, framework

    vars(framework.global_var)["_dygraph_tracer_"] = None  # of a `threading.local`
    core._switch_tracer(None)  # type: ignore[attr-defined]


def as_float32(tensor: paddle.Tensor) -> np.ndarray:
    """A weight as a float32 array in this machine's memory: the tensor's own memory where that is possible."""
    value = tensor.detach()
    value = value if value.dtype == paddle.float32 else value.astype("float32")
    return np.from_dlpack(value if value.place.is_cpu_place() else value.cpu())


def _is_whole(program: Path) -> bool:
    try:
        json.loads(program.read_bytes())
    except ValueError:
        return False
    return True
