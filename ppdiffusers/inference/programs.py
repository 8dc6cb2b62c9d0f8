"""Parts of models as Paddle programs: traced once an architecture, and kept in the cache without weights."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Dict, List, Optional

import paddle
from paddle import nn

from model_zoo import digests, settings
from ppdiffusers.config import ConfigError, read_json, replacing, write_json
from ppdiffusers.models.model import Model
from ppdiffusers.version import __version__

logger = logging.getLogger("ppdiffusers")

STRUCTURE = ".json"  # ending by which Paddle Inference knows the programs of paddle 3
CACHE_FOLDER = ".programs"  # in the model cache, where no model's name begins with a dot

# Name to shape and type of a tensor, or to a number that the program is made for. None is a size that differs from
# call to call, and -n an n-th of such a height or width.
Inputs = Dict[str, Any]


class UnsupportedPaddle(RuntimeError):
    """This paddle cannot write a model as a program."""


@dataclass(frozen=True)
class Program:
    """A traced part of a model, without its weights.

    Attributes:
        file: the program as paddle serialises it.
        parameters: names of weights in the program, to names in the model's state dict.
    """

    file: Path
    parameters: Dict[str, str]

    def load(self) -> Any:
        """The program itself, as `paddle.static.Program`."""
        program = paddle.static.Program()
        paddle.base.core.deserialize_pir_program(str(self.file), program)
        return program


def cached_program(model: Model, method: str, inputs: Inputs) -> Program:
    """The program of `model.method`, traced where the cache has none for this architecture and paddle version.

    Raises:
        UnsupportedPaddle: paddle before 3.0 writes other programs.
    """
    key = {
        "class": type(model).__name__,
        "config": dict(model.config),
        "method": method,
        "inputs": inputs,
        "paddle": paddle.__version__,
        "ppdiffusers": __version__,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=list).encode()).hexdigest()[:32]
    file = settings.home() / CACHE_FOLDER / f"{digest}{STRUCTURE}"
    try:
        kept = read_json(file.with_suffix(".parameters.json"))
        if kept["sha256"] == digests.of_file(file, ["sha256"])["sha256"]:
            return Program(file, kept["parameters"])
    except (ConfigError, KeyError, OSError):
        pass  # missing or damaged: traced again
    try:
        return trace(model, method, inputs, file)
    except OSError as error:
        logger.warning("%s cannot keep programs (%s); they are made anew in every process", file.parent, error)
        return trace(model, method, inputs, Path(_scratch().name) / file.name)


@functools.cache
def _scratch() -> Any:
    """A folder that goes when this process ends."""
    return tempfile.TemporaryDirectory(prefix="ppdiffusers-")


def trace(model: Model, method: str, inputs: Inputs, file: Path) -> Program:
    """Write the program of `model.method` to `file`, and beside it its digest and the names of its weights.

    Raises:
        OSError: they cannot be written, or not whole.
        UnsupportedPaddle: paddle before 3.0 writes other programs.
    """
    if not hasattr(paddle, "pir_utils"):
        raise UnsupportedPaddle(f"paddle {paddle.__version__} has no program format that is used here; 3.0 has")
    from paddle.static.pir_io import normalize_pir_program  # the only way to a program that is fed and fetched

    specs = [each if isinstance(each, int) else _spec(name, *each) for name, each in inputs.items()]
    layers = MethodType(getattr(type(model), method), model)  # whatever stands for it now
    with warnings.catch_warnings():  # on lists that it keeps as they are
        warnings.simplefilter("ignore")
        traced = paddle.jit.to_static(layers, input_spec=specs, full_graph=True).concrete_program
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    known = {value.name: names[tensor.name] for tensor, value in zip(*traced.parameters)}  # of the whole model
    operators = traced.main_program.global_block().ops
    feeds = [op.result(0) for op in operators if op.name() == "pd_op.data"]
    with paddle.pir_utils.IrGuard():
        program = normalize_pir_program(traced.main_program, feeds, list(traced.outputs))
    read = [op.attrs()["parameter_name"] for op in program.global_block().ops if op.name() == "builtin.parameter"]
    parameters = {name: known[name] for name in read}
    with replacing(file) as part:
        paddle.base.core.serialize_pir_program(program, str(part), True, False, True)
        try:
            json.loads(part.read_bytes())
        except ValueError:
            raise _no_room(file) from None
        sha256 = digests.of_file(part, ["sha256"])["sha256"]
    write_json(file.with_suffix(".parameters.json"), {"sha256": sha256, "parameters": parameters})
    return Program(file, parameters)


def _spec(name: str, shape: List[Optional[int]], dtype: str) -> Any:
    return paddle.static.InputSpec([size if size is None or size > 0 else None for size in shape], dtype, name)


def weights(model: Model) -> Dict[str, paddle.Tensor]:
    """By name, of the layers that are there: `state_dict` would bring back those that programs stand for."""
    return dict(nn.Layer.state_dict(model))


def save_parameters(model: Model, program: Program, file: Path) -> None:
    """Write the weights of `program` as Paddle Inference reads them (`.pdiparams`), from `model`'s, as float32."""
    state = weights(model)
    names = sorted(program.parameters)  # the order in which they are read
    tensors = [state[program.parameters[name]].astype("float32").get_tensor() for name in names]
    with replacing(file) as part:
        paddle.base.core.save_combine_func(tensors, names, str(part), True, False, False)
        if part.stat().st_size < 4 * sum(math.prod(tensor.shape()) for tensor in tensors):
            raise _no_room(file)


def _no_room(file: Path) -> OSError:
    """Paddle does not tell that a disk is full."""
    return OSError(errno.ENOSPC, "could not be written whole", str(file))
