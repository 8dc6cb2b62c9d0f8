"""Parts of models as Paddle programs (PIR), traced without their weights.

A trace runs the layers once on symbols, which takes a tenth of a second or two. So nothing is kept between processes:
no file can be out of date, damaged, or somebody else's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, NoReturn

import numpy as np
import paddle

from ppdiffusers.config import replacing
from ppdiffusers.inference.parts import Inputs, Part
from ppdiffusers.models.half_precision import HALF

_PATIENCE = 60  # seconds that a trace may take; a tenth of one is usual
_LONGEST_PROBLEM = 10_000  # bytes
_tracing = threading.RLock()


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

    def save(self, file: Path) -> None:
        """Write it as Paddle Inference reads it.

        Raises:
            OSError: it cannot be written, or not whole.
        """
        with replacing(file) as part:
            paddle.base.core.serialize_pir_program(self.ir, str(part), True, False, True)
            if part.read_bytes()[-1:] != b"}":
                raise _no_room(file)

    def save_parameters(self, file: Path) -> None:
        """Write the weights as Paddle Inference reads them (`.pdiparams`), as float32.

        Raises:
            OSError: they cannot be written, or not whole.
        """
        names = sorted(self.parameters)  # the order in which they are read
        tensors = [self.parameters[name].astype("float32").cpu().get_tensor() for name in names]
        with replacing(file) as part:
            paddle.base.core.save_combine_func(tensors, names, str(part), True, False, False)
            if part.stat().st_size < 4 * sum(math.prod(tensor.shape()) for tensor in tensors):
                raise _no_room(file)


def _no_room(file: Path) -> OSError:
    """Paddle does not tell that a disk is full."""
    return OSError(errno.ENOSPC, "could not be written whole", str(file))


def load_program(file: Path) -> Any:
    """What `Program.save` wrote, as `paddle.static.Program`."""
    program = paddle.static.Program()
    paddle.base.core.deserialize_pir_program(str(file), program)
    return program


def trace(model: Any, part: Part) -> Program:
    """The program of a part of `model`, for inputs of every size. The model is not changed.

    Paddle has one static mode for the whole process: what other threads compute while it is on lands in the program,
    and crashes. So the trace is made in a forked child, where there are no other threads, and which a model in half
    precision can be converted in. Where there is no fork, or a GPU is in use, it is made here, and nobody else should
    compute meanwhile.

    Raises:
        UnsupportedPaddle: paddle before 3.0 writes other programs.
        Exception: whatever layers raise that cannot be traced.
    """
    if not hasattr(paddle, "pir_utils"):
        raise UnsupportedPaddle(f"paddle {paddle.__version__} has no program format that is used here; 3.0 has")
    tensors = {tensor.name: tensor for tensor in (*model.parameters(), *model.buffers())}
    with _tracing:
        alone = threading.active_count() == 1 and all(tensor.dtype not in HALF for tensor in tensors.values())
        if alone or not hasattr(os, "memfd_create") or paddle.get_device() != "cpu":
            program = _trace(model, part)
        else:
            program = _trace_in_child(model, part)
    read = [op.attrs()["parameter_name"] for op in program.global_block().ops if op.name() == "builtin.parameter"]
    return Program(program, {name: tensors[name] for name in read})


def _trace(model: Any, part: Part) -> Any:
    from paddle.static.pir_io import normalize_pir_program  # the only way to a program that is fed and fetched

    # Paddle would rewrite the source of what it calls, which takes ten times as long as the trace. There is no need: no
    # branch in the layers depends on a tensor.
    run = paddle.jit.not_to_static(lambda tensors: part.function(model, *tensors))
    with warnings.catch_warnings(), paddle.no_grad():
        warnings.simplefilter("ignore")  # on lists that it keeps as they are
        traced = paddle.jit.to_static(run, input_spec=[_specs(part.inputs)], full_graph=True).concrete_program
        feeds = [op.result(0) for op in traced.main_program.global_block().ops if op.name() == "pd_op.data"]
        with paddle.pir_utils.IrGuard():
            return normalize_pir_program(traced.main_program, feeds, list(traced.outputs))


def _trace_in_child(model: Any, part: Part) -> Any:
    """
    Raises:
        RuntimeError: what the trace raised in the child, or that it did not end.
    """
    file = os.memfd_create("program")
    problem = os.memfd_create("problem")
    try:
        with warnings.catch_warnings(), _openmp_silent():
            warnings.simplefilter("ignore")  # Python 3.12 on forks of processes with threads
            child = os.fork()
            if child == 0:
                _be_the_child(model, part, f"/proc/self/fd/{file}", problem)
        status = _wait(child)
        if status != 0:
            raise RuntimeError(os.pread(problem, _LONGEST_PROBLEM, 0).decode(errors="replace") or f"status {status}")
        return load_program(Path(f"/proc/self/fd/{file}"))
    finally:
        os.close(file)
        os.close(problem)


@contextlib.contextmanager
def _openmp_silent() -> Iterator[None]:
    """Without its warning, which takes for granted that the child computes in parallel too."""
    file = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    openmp = ctypes.CDLL(str(file)) if file.is_file() else None
    if openmp is not None:
        openmp.kmp_set_warnings_off()
    try:
        yield
    finally:
        if openmp is not None:
            openmp.kmp_set_warnings_on()


def _be_the_child(model: Any, part: Part, file: str, problem: int) -> NoReturn:
    status = 1
    try:
        paddle.disable_static()  # which the end of the other threads has switched on
        if any(tensor.dtype in HALF for tensor in model.parameters()):
            model.to(dtype="float32")  # of this process alone
        paddle.base.core.serialize_pir_program(_trace(model, part), file, True, False, True)
        status = 0
    except BaseException as error:
        os.write(problem, str(error).encode()[-_LONGEST_PROBLEM:])
    finally:
        os._exit(status)  # nothing of the parent's is flushed, closed or deleted twice


def _wait(child: int) -> int:
    """The exit status of a process; one that hangs is ended."""
    for _ in range(_PATIENCE * 200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _specs(inputs: Inputs) -> Any:
    return [
        paddle.static.InputSpec([size if size is None or size > 0 else None for size in shape], dtype, name)
        for name, (shape, dtype) in inputs.items()
    ]


def as_float32(tensor: paddle.Tensor) -> np.ndarray:
    """A weight as a float32 array in this machine's memory: the tensor's own memory where that is possible."""
    value = tensor.detach()
    value = value if value.dtype == paddle.float32 else value.astype("float32")
    return np.from_dlpack(value if value.place.is_cpu_place() else value.cpu())
