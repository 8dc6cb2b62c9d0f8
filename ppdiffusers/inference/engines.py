"""What runs a program: kernels of oneDNN, the library that Paddle carries, or Paddle Inference.

An engine is called with numpy arrays by the names of the program's inputs, from any thread.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle

from ppdiffusers import onednn
from ppdiffusers.inference import gpu, plans
from ppdiffusers.inference.parts import Inputs, full_shape
from ppdiffusers.layers.statistics import paused
from ppdiffusers.threads import get_num_threads

logger = logging.getLogger("ppdiffusers")

PRECISIONS = ("fp32", "bf16")
# Largest difference, and its root mean square, that a program may have from the layers, over the scale of the result.
TOLERANCES = {"fp32": (1e-4, 1e-4), "bf16": (0.2, 0.03), "fp16": (0.03, 0.005)}
# oneDNN's sine overwrites the value that a cosine reads too, when this pass has run (paddle 3.3).
FAULTY_PASSES = ("inplace_pass",)
_PLANS = 3  # of different input shapes that an engine keeps
_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH = 5  # of a sequence

Arrays = Union[np.ndarray, Tuple[np.ndarray, ...]]  # of one result, or of several
Engine = Callable[[Dict[str, np.ndarray]], Arrays]
_NAMES = {"onednn": "oneDNN", "inference": "Paddle Inference"}


class NoEngine(RuntimeError):
    """No engine runs a program for tensors of these sizes; the message says why, engine by engine."""


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

    All predictors run in one thread. Paddle keeps kernels of oneDNN by the identity of the thread that made them, they
    do not outlive it, and the system gives its identity to another: a predictor that ran there fails.

    Args:
        program, parameters: files; not needed any more afterwards.
    """

    _thread = ThreadPoolExecutor(1, "paddle-inference")

    def __init__(self, program: Path, parameters: Path, setup: Setup):
        self._predictor = self._thread.submit(_predictor, program, parameters, setup).result()
        self._outputs = [self._predictor.get_output_handle(name) for name in self._predictor.get_output_names()]

    def __call__(self, arrays: Dict[str, np.ndarray]) -> Arrays:
        return self._thread.submit(self._run, arrays).result()

    def _run(self, arrays: Dict[str, np.ndarray]) -> Arrays:
        for name, array in arrays.items():
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(array))
        self._predictor.run()
        return one_or_all([output.copy_to_cpu() for output in self._outputs])

    @classmethod
    def _after_fork(cls) -> None:
        cls._thread = ThreadPoolExecutor(1, "paddle-inference")  # a forked process has the forking thread only


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=PaddleInferenceEngine._after_fork)


def _predictor(program: Path, parameters: Path, setup: Setup) -> Any:
    from paddle import inference

    config = inference.Config(str(program), str(parameters))
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
    return inference.create_predictor(config)


class OneDNNEngine:
    """The program as kernels of oneDNN, the library that Paddle carries, on the CPU.

    Args:
        weights: may be shared by engines of the same model and precision.
    """

    _arena = plans.Arena()  # of all plans in the process, of which one runs at a time, with all cores

    def __init__(self, program: Any, weights: plans.Weights):
        self._program = program
        self._weights = weights
        self._plans: Dict[Any, plans.Plan] = {}
        self._made = 0
        self._lock = threading.Lock()  # of the plans

    def __call__(self, arrays: Dict[str, np.ndarray]) -> Arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
        key = tuple(sorted(shapes.items()))
        with self._lock:
            found = self._plans.pop(key, None)
            if found is None:
                found = plans.make_plan(self._program, self._weights, shapes, self._arena)
                if self._made == 1:  # that of the comparison, whose layouts of weights go when others come
                    self._plans.clear()
                self._made += 1
            self._plans[key] = found  # the latest at the end
            while len(self._plans) > _PLANS:
                del self._plans[next(iter(self._plans))]
        return one_or_all(found.run(arrays))


def one_or_all(arrays: List[np.ndarray]) -> Arrays:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def start_inference(write: Callable[[Path], Tuple[Path, Path]], setup: Setup, inputs: Inputs) -> PaddleInferenceEngine:
    """An engine of Paddle Inference.

    Args:
        write: puts program and parameters into a folder, or names those that lie elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="ppdiffusers-") as scratch:
        files = write(Path(scratch))
        if setup.tensorrt:
            files = gpu.with_tensorrt(files[0], inputs, setup.precision, Path(scratch))
        return PaddleInferenceEngine(*files, setup)


class Runner:
    """Runs a program in the first of several ways that computes what its layers compute.

    Each way is started, and compared with the layers on small examples, when it is first its turn. One that is wrong,
    or that does not start, is left out from then on; one that has no kernel for certain sizes, for those sizes. So the
    same call takes the same way, whatever ran before it.

    Args:
        name: in messages.
        ways: the fastest first.
        start: gives the engine of a way.
        check: gives small inputs, and the right results for them.
    """

    def __init__(
        self,
        name: str,
        ways: List[Setup],
        start: Callable[[Setup], Engine],
        check: Callable[[], Tuple[Dict[str, np.ndarray], Arrays]],
    ):
        self.name, self.ways = name, ways
        self.seconds = 0.0  # that compiling took, checks included
        self.setup: Optional[Setup] = None  # of the latest call
        self._start, self._check = start, functools.cache(check)
        self._engines: Dict[Setup, Engine] = {}
        self._problems: Dict[Any, str] = {}  # of ways, or of ways at certain sizes
        self._lock = threading.RLock()

    def __call__(self, arrays: Dict[str, np.ndarray]) -> Arrays:
        """
        Raises:
            NoEngine: no way is left for these sizes.
        """
        sizes = tuple(sorted((name, array.shape) for name, array in arrays.items()))
        problems: List[str] = []
        for setup in self.ways:
            try:
                with self._lock:
                    if setup not in self._engines and setup not in self._problems:
                        with paused():
                            self._compare(setup)
                problem = self._problems.get(setup) or self._problems.get((setup, sizes))
                if problem is None:
                    result = self._engines[setup](arrays)
                    self.setup = setup
                    return result
            except (onednn.NotEnoughMemory, MemoryError) as error:  # the other ways would need more
                logger.warning("%s: no room for this size in %s: %s", self.name, setup, last_line(error))
                raise NoEngine(f"has no room in {setup}: {last_line(error)}") from None
            except Exception as error:  # whatever an engine raises, the next one may do
                problem = self._problems[setup, sizes] = f"does not run in {setup} at this size: {last_line(error)}"
                logger.warning("%s %s", self.name, problem)
            problems.append(problem)
        self.setup = None
        raise NoEngine("; ".join(problems))

    def _compare(self, setup: Setup) -> None:
        """Start a way, and find out whether it is right."""
        started = time.perf_counter()
        examples, wanted = self._check()
        try:
            engine = self._start(setup)
            worst, rms = relative_error(wanted, engine(examples))
        except (onednn.NotEnoughMemory, MemoryError):
            raise
        except Exception as error:  # whatever an engine raises, the next one may do
            self._problems[setup] = f"does not run in {setup}: {last_line(error)}"
        else:
            if worst <= TOLERANCES[setup.precision][0] and rms <= TOLERANCES[setup.precision][1]:
                self._engines[setup] = engine
            else:
                self._problems[setup] = f"is wrong by {worst:.1g} in {setup}, which is not used"
        self.seconds += time.perf_counter() - started
        if setup in self._engines:
            logger.info("%s runs in %s; compiled in %.1f s", self.name, setup, self.seconds)
        else:
            logger.warning("%s %s", self.name, self._problems[setup])


def on_tensors(run: Callable[[Dict[str, np.ndarray]], Arrays], inputs: Inputs, tensors: Sequence[Any]) -> Any:
    """What `run` makes of paddle's tensors, given in the order of `inputs`, as tensors."""
    given = zip(inputs.items(), tensors)
    results = run({name: tensor.astype(dtype).numpy() for (name, (_, dtype)), tensor in given})
    return tuple(map(paddle.to_tensor, results)) if isinstance(results, tuple) else paddle.to_tensor(results)


def example_arrays(inputs: Inputs, factor: int) -> Dict[str, np.ndarray]:
    """Small inputs of the right shapes, always the same.

    Args:
        factor: the model's `downsampling_factor`.
    """
    draw = np.random.default_rng(0)
    side = max(2 * factor, gpu.Sizes().multiple)
    arrays = {}
    for name, (shape, dtype) in inputs.items():
        full = full_shape(shape, _EXAMPLE_BATCH, side, _EXAMPLE_LENGTH)
        values = draw.integers(0, 10, full) if dtype == "int64" else draw.standard_normal(full)
        arrays[name] = values.astype(dtype)
    return arrays


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 (AVX512_BF16 or AMX), and ONEDNN_MAX_CPU_ISA does not keep it from it."""
    supported = getattr(paddle.base.core, "supports_bfloat16_fast_performance", None)
    return bool(supported and supported()) and (not onednn.is_there() or onednn.has_bfloat16())


def setups(engine: str, precision: str, device: str = "cpu", tensorrt: bool = False) -> List[Setup]:
    """Ways to run a program, the fastest first; a later one is for where an earlier one fails its check.

    Arguments are those of `compile_model`, but for the engine "eager".

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
    check_precision(precision)
    if precision == "bf16" and not has_bfloat16():
        raise ValueError("precision 'bf16': this CPU has no bfloat16 arithmetic; use 'fp32' or 'auto'")
    kinds = [engine] if engine != "auto" else (["onednn"] if onednn.is_there() else []) + ["inference"]
    precisions = ["bf16", "fp32"] if precision != "fp32" and has_bfloat16() else ["fp32"]
    found = [Setup(kind, each) for each in precisions for kind in kinds]
    if "inference" in kinds:
        found.append(Setup("inference", "fp32", onednn=False))
    return found


def check_precision(precision: str) -> None:
    """Raises ValueError for one that CPUs do not have."""
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision {precision!r} is unknown; use 'auto', {', '.join(map(repr, PRECISIONS))}")


def _gpu_setups(engine: str, precision: str, device: str, tensorrt: bool) -> List[Setup]:
    kind, _, number = device.replace("cuda", "gpu").partition(":")
    if kind != "gpu" or not (number or "0").isdigit():
        raise ValueError(f"device {device!r} is unknown; use 'cpu', 'gpu' or 'gpu:1'")
    if engine not in ("auto", "inference"):
        raise ValueError(f"engine {engine!r} does not run on a GPU; use 'inference'")
    gpu.require_gpu(precision, tensorrt, int(number or 0))
    plain = Setup("inference", precision, gpu=int(number or 0))
    return [plain._replace(tensorrt=True), plain] if tensorrt else [plain]


def relative_error(wanted: Arrays, got: Arrays) -> Tuple[float, float]:
    """Largest difference over the largest wanted value, and root mean square difference over that of what is wanted;
    of several results the largest of each."""
    if isinstance(wanted, tuple) and isinstance(got, tuple) and len(wanted) == len(got):
        worst, rms = zip(*map(relative_error, wanted, got))
        return max(worst), max(rms)
    if isinstance(wanted, tuple) or isinstance(got, tuple) or wanted.shape != got.shape or not np.isfinite(got).all():
        return float("inf"), float("inf")
    difference = np.abs(wanted.astype(np.float64) - got)
    rms = np.sqrt((difference**2).mean()) / (np.sqrt((wanted.astype(np.float64) ** 2).mean()) or 1.0)
    return float(difference.max() / (np.abs(wanted).max() or 1.0)), float(rms)


def last_line(error: BaseException) -> str:
    """Of paddle's many-lined messages the one that says what happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
