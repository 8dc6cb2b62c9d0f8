"""What runs a program: kernels of oneDNN, the library that Paddle carries, or Paddle Inference.

An engine is made of a program and its weights, and is called with numpy arrays by the names of the program's inputs.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from ppdiffusers.inference import gpu, onednn
from ppdiffusers.inference.programs import Inputs, Program, save_parameters, weights
from ppdiffusers.models.model import Model
from ppdiffusers.threads import get_num_threads

PRECISIONS = ("fp32", "bf16")
# oneDNN's sine overwrites the value that a cosine reads too, when this pass has run (paddle 3.3).
FAULTY_PASSES = ("inplace_pass",)
_PLANS = 3  # of different input shapes that an engine keeps

Arrays = Union[np.ndarray, Tuple[np.ndarray, ...]]  # of one result, or of several


_NAMES = {"onednn": "oneDNN", "inference": "Paddle Inference"}


class Setup(NamedTuple):
    """One way to run a program."""

    engine: str  # "onednn" or "inference"
    precision: str
    onednn: bool = True  # of Paddle Inference
    faulty_passes: Tuple[str, ...] = FAULTY_PASSES  # that are left out
    gpu: Optional[int] = None  # number of the GPU, for Paddle Inference
    tensorrt: bool = False

    def __str__(self) -> str:
        name = _NAMES[self.engine]
        where = "" if self.gpu is None else f", GPU {self.gpu}{' with TensorRT' if self.tensorrt else ''}"
        return f"{name} ({self.precision}{'' if self.onednn else ', without oneDNN'}{where})"


class PaddleInferenceEngine:
    """A predictor of Paddle Inference.

    Args:
        structure, weights: files of the program; not needed any more afterwards.
    """

    def __init__(self, structure: Path, weights: Path, setup: Setup):
        from paddle import inference

        config = inference.Config(str(structure), str(weights))
        config.disable_glog_info()
        config.enable_new_ir(True)
        config.enable_new_executor(True)
        config.set_cpu_math_library_num_threads(get_num_threads())
        for name in setup.faulty_passes:
            config.delete_pass(name)
        if setup.gpu is not None:
            gpu.configure(config, setup.precision, setup.gpu)
        else:
            config.disable_gpu()
        if not setup.onednn or setup.gpu is not None:
            config.disable_mkldnn()
        elif setup.precision == "bf16":
            config.enable_mkldnn_bfloat16()
        self._predictor = inference.create_predictor(config)
        self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]

    def __call__(self, arrays: Dict[str, np.ndarray]) -> Arrays:
        for name, array in arrays.items():
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return _one_or_all([output.copy_to_cpu() for output in self._outputs])


class OneDNNEngine:
    """The program as kernels of oneDNN, the library that Paddle carries, on the CPU."""

    _arena = onednn.Arena()

    def __init__(self, program: Any, parameters: Mapping[str, Callable[[], np.ndarray]], setup: Setup):
        self._program = program
        self._weights = onednn.Weights(parameters, onednn.FP32 if setup.precision == "fp32" else onednn.BF16)
        self._plans: Dict[Any, onednn.Plan] = {}
        self._lock = threading.Lock()  # of the plans

    def __call__(self, arrays: Dict[str, np.ndarray]) -> Arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
        key = tuple(sorted(shapes.items()))
        with self._lock:
            found = self._plans.pop(key, None)
            found = found or onednn.make_plan(self._program, self._weights, shapes, self._arena)
            self._plans[key] = found  # the latest at the end
            while len(self._plans) > _PLANS:
                del self._plans[next(iter(self._plans))]
        return _one_or_all(found.run(arrays))


def _one_or_all(arrays: List[np.ndarray]) -> Arrays:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 (AVX512_BF16 or AMX), and ONEDNN_MAX_CPU_ISA does not keep it from it."""
    import paddle

    supported = getattr(paddle.base.core, "supports_bfloat16_fast_performance", None)
    return bool(supported and supported()) and (not onednn.is_there() or onednn.has_bfloat16())


def setups(engine: str, precision: str, device: str = "cpu", tensorrt: bool = False) -> List[Setup]:
    """Ways to run a program, the fastest first; a later one is for where an earlier one fails its check.

    Args:
        engine: "auto", "onednn" or "inference".
        precision: "auto" (bf16 where the CPU has it), "fp32" or "bf16"; on a GPU also "fp16", which is "auto" there.
        device: "cpu", "gpu" or "gpu:1".
        tensorrt: on a GPU, TensorRT for what it takes of a program.

    Raises:
        ValueError: unknown, or not possible here; names the remedy.
    """
    if device != "cpu":
        return _gpu_setups(engine, "fp16" if precision == "auto" else precision, device, tensorrt)
    if tensorrt:
        raise ValueError("tensorrt is of a GPU: give device='gpu' too")
    if engine not in ("auto", *_NAMES):
        raise ValueError(f"engine {engine!r} is unknown; use 'auto', 'eager', {', '.join(map(repr, _NAMES))}")
    if engine == "onednn" and not onednn.is_there():
        raise ValueError("engine 'onednn' needs a paddle that carries oneDNN 3, as its x86 wheels do; use 'auto'")
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision {precision!r} is unknown; use 'auto', {', '.join(map(repr, PRECISIONS))}")
    if precision == "bf16" and not has_bfloat16():
        raise ValueError("precision 'bf16': this CPU has no bfloat16 arithmetic; use 'fp32' or 'auto'")
    kinds = [engine] if engine != "auto" else (["onednn"] if onednn.is_there() else []) + ["inference"]
    precisions = ["bf16", "fp32"] if precision != "fp32" and has_bfloat16() else ["fp32"]
    found = [Setup(kind, each) for each in precisions for kind in kinds]
    if "inference" in kinds:
        found.append(Setup("inference", "fp32", onednn=False))
    return found


def _gpu_setups(engine: str, precision: str, device: str, tensorrt: bool) -> List[Setup]:
    kind, _, number = device.replace("cuda", "gpu").partition(":")
    if kind != "gpu" or not (number or "0").isdigit():
        raise ValueError(f"device {device!r} is unknown; use 'cpu', 'gpu' or 'gpu:1'")
    if engine not in ("auto", "inference"):
        raise ValueError(f"engine {engine!r} does not run on a GPU; use 'inference'")
    gpu.require_gpu(precision, tensorrt, int(number or 0))
    plain = Setup("inference", precision, gpu=int(number or 0))
    return [plain._replace(tensorrt=True), plain] if tensorrt else [plain]


def start(setup: Setup, model: Model, program: Program, inputs: Inputs) -> Any:
    """An engine with `model`'s weights. It has a copy of its own: the model may give up its."""
    if setup.engine == "onednn":
        state = weights(model)
        # Not copied: these are the tensors' own memory, also after the model has given them up.
        arrays = {
            name: functools.partial(_float32_array, state[key].detach()) for name, key in program.parameters.items()
        }
        return OneDNNEngine(program.load(), arrays, setup)
    with tempfile.TemporaryDirectory(prefix="ppdiffusers-", dir=_roomy_folder(program)) as scratch:
        file = Path(scratch) / "weights.pdiparams"
        save_parameters(model, program, file)
        structure = program.file
        if setup.tensorrt:
            beside = Path(shutil.copy(structure, file.with_suffix(structure.suffix)))
            structure, file = gpu.with_tensorrt(beside, inputs, gpu.Sizes(), setup.precision, Path(scratch))
        return PaddleInferenceEngine(structure, file, setup)


def _float32_array(tensor: Any) -> np.ndarray:
    return np.from_dlpack(tensor.astype("float32"))


def _roomy_folder(program: Program) -> Path:
    """Where gigabytes may lie for a second: beside the program, if that is writable, as /tmp is often small."""
    folder = program.file.parent
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def relative_error(wanted: Arrays, got: Arrays) -> Tuple[float, float]:
    """Largest difference over the largest wanted value, and root mean square difference over that of what is wanted;
    of several results the largest of each."""
    if isinstance(wanted, tuple) and isinstance(got, tuple) and len(wanted) == len(got):
        worst, rms = zip(*(relative_error(*pair) for pair in zip(wanted, got)))
        return max(worst), max(rms)
    if isinstance(wanted, tuple) or isinstance(got, tuple):  # of different numbers of results
        return float("inf"), float("inf")
    if wanted.shape != got.shape or not np.isfinite(got).all():
        return float("inf"), float("inf")
    difference = np.abs(wanted.astype(np.float64) - got)
    rms = np.sqrt((difference**2).mean()) / (np.sqrt((wanted.astype(np.float64) ** 2).mean()) or 1.0)
    return float(difference.max() / (np.abs(wanted).max() or 1.0)), float(rms)
