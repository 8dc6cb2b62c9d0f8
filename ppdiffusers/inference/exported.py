"""Folders of programs and their parameters, which run without the layers that they were made of; see `export`."""

from __future__ import annotations

import functools
import struct
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Type

import numpy as np
import paddle
from paddle import nn

from model_zoo import digests
from ppdiffusers import onednn
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.config import ConfigError, PathLike, read_json
from ppdiffusers.inference import plans
from ppdiffusers.inference.engines import (
    PRECISIONS,
    NoEngine,
    OneDNNEngine,
    Runner,
    Setup,
    has_bfloat16,
    on_tensors,
    setups,
    start_inference,
)
from ppdiffusers.inference.parts import Inputs, Part, parts_of
from ppdiffusers.inference.programs import load_program
from ppdiffusers.inference.stand_in import StandIn
from ppdiffusers.models.model import SAFE_WEIGHTS, Model, dtype_name, load_checkpoint
from ppdiffusers.threads import use_threads

MANIFEST = "deployment.json"
FORMAT = 1
ANSWER = "result"  # of an example: what the layers made of its other arrays
# What an exported model has of all that its class has beside its own methods.
_KEPT = ("config", "config_keys", "config_name", "dtype", "eval", "num_parameters", "save_config", "training")


class ExportError(ValueError):
    """A pipeline that cannot be exported, or an exported folder that cannot be used so; names the remedy."""


class PartFiles(NamedTuple):
    """Of one program.

    Attributes:
        program, parameters: as Paddle Inference reads them.
        example: npz with an array for each input and what the layers made of them, `result`.
    """

    program: Path
    parameters: Path
    example: Path


def is_exported(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def check_precision(precision: str) -> None:
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision {precision!r} is unknown; use 'auto', {', '.join(map(repr, PRECISIONS))}")


class Exported:
    """An exported folder, its files being all there and as long as they were.

    Raises:
        ExportError: a broken or foreign manifest, another paddle than the one that wrote the programs, or files that
            are missing or of another size.
    """

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        self._file = self.folder / MANIFEST
        try:
            manifest = read_json(self._file)
            if manifest.get("format") != FORMAT:
                raise ExportError(
                    f"{self._file} has the format {manifest.get('format')!r}, and this ppdiffusers reads {FORMAT}; "
                    "export the pipeline again with this one"
                )
            self._check_paddle(manifest["paddle"])
            self.precision: str = manifest["precision"]
            check_precision(self.precision)
            self.files: Dict[str, Dict[str, Any]] = manifest["files"]
            self._components: Dict[str, Dict[str, Any]] = dict(manifest["components"])
            self._check_sizes()
        except (ExportError, ConfigError):
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> ExportError:
        return ExportError(
            f"{self._file} is no whole manifest ({type(error).__name__}: {error}); copy the folder again"
        )

    def _check_paddle(self, version: str) -> None:
        """Paddle changes its programs from minor version to minor version, both ways."""
        if version.split(".")[:2] != paddle.__version__.split(".")[:2]:
            wanted = ".".join(version.split(".")[:2])
            raise ExportError(
                f"{self.folder} was exported by paddle {version}, and this is {paddle.__version__}, which does not "
                f"read its programs; install paddlepaddle=={wanted}.*, or export the pipeline again with this paddle"
            )

    def _check_sizes(self) -> None:
        for name, file in self.files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ExportError(f"{self._file} names {name!r}, which is not in its folder; do not use it")
            found = self.folder / path
            if not found.is_file():
                raise ExportError(f"{self.folder} lacks {name}; copy the folder again")
            if found.stat().st_size != file["size"]:
                raise ExportError(
                    f"{found} has {found.stat().st_size} bytes and was exported with {file['size']}; copy it again"
                )

    def verify(self) -> None:
        """Compare every file's digest.

        Raises:
            ExportError: names the first file that is not what was exported.
        """
        for name, file in self.files.items():
            if digests.of_file(self.folder / name, ["sha256"])["sha256"] != file["sha256"]:
                raise ExportError(f"{self.folder / name} is not what was exported: its sha256 differs; copy it again")

    def holds(self, name: str) -> bool:
        """Whether the component has programs; others are saved as always."""
        return name in self._components

    def load(self, name: str, kind: Type[Model], engine: str, precision: str, dtype: Any = None) -> ExportedModel:
        """The component `name`, in place of a `kind`; its programs are started when they are first called.

        Args:
            engine: "auto", "onednn" or "inference".
            precision: "auto" is the one that was chosen at export.
            dtype: of the parameters in memory; there is only float32.

        Raises:
            ExportError: engine "eager", another dtype, or a folder that does not fit this ppdiffusers.
            ValueError: an unknown engine or precision, or one that this machine does not have.
        """
        if dtype is not None and dtype_name(dtype) != "float32":
            raise ExportError(
                f"{self.folder} holds programs, which paddle_dtype={dtype!r} does not change; choose their precision= "
                f"from 'auto', {', '.join(map(repr, PRECISIONS))}"
            )
        folder = self.folder / name
        with paddle.LazyGuard():  # no memory for layers, most of which have no weights here
            model = kind.from_config(kind.load_config(folder))
        try:
            entry = self._components[name]
            files = {
                method: self._part(entry["parts"][part.name], part.inputs) for method, part in parts_of(model).items()
            }
            parts = parts_of(model)
            for layer in entry["replaced"]:
                delattr(model, layer)
        except (KeyError, TypeError, AttributeError) as error:
            raise self._broken(error) from None
        with open_checkpoint(folder / SAFE_WEIGHTS) as checkpoint:
            load_checkpoint(model, checkpoint, "float32")
        model.eval()
        return ExportedModel(self, model, parts, files, engine, precision)

    def _part(self, entry: Dict[str, Any], inputs: Inputs) -> PartFiles:
        found = {name: (value["shape"], value["dtype"]) for name, value in entry["inputs"].items()}
        if found != inputs:
            raise ExportError(
                f"{self.folder} was exported by a ppdiffusers whose programs take {found}, and this one calls them "
                f"with {inputs}; export the pipeline again with this one"
            )
        names = [entry["program"], entry["parameters"], entry["example"]]
        if not self.files.keys() >= set(names):
            raise KeyError(f"files of {names[0]}")
        return PartFiles(*(self.folder / name for name in names))


class ExportedModel(StandIn):
    """A component of an exported folder: called like the model that was exported, whose layers are not there.

    Raises:
        ExportError: engine "eager".
        ValueError: an unknown engine or precision, or one that this machine does not have.
    """

    def __init__(
        self,
        source: Exported,
        model: Model,
        parts: Dict[str, Part],
        files: Dict[str, PartFiles],
        engine: str,
        precision: str,
        device: str = "cpu",
        tensorrt: bool = False,
    ):
        super().__init__(model)
        if engine == "eager":
            raise ExportError(
                f"{source.folder} holds programs without layers, which engine 'eager' would run; leave engine out, or "
                "load the pipeline that was exported"
            )
        if precision == "auto" and (source.precision != "bf16" or has_bfloat16() or device != "cpu"):
            precision = source.precision
        self._arguments = source, model, parts, files
        ways = setups(engine, precision, device, tensorrt)
        kind = type(model).__name__
        self._parts = {method: ExportedPart(kind, part, files[method], ways) for method, part in parts.items()}

    def with_engine(self, engine: str, precision: str, device: str = "cpu", tensorrt: bool = False) -> ExportedModel:
        return ExportedModel(*self._arguments, engine, precision, device, tensorrt)

    def __reduce__(self) -> NoReturn:
        self.require_layers()

    def _replaced(self) -> Mapping[str, Callable[..., Any]]:
        return self._parts

    def __getattr__(self, name: str) -> Any:
        general = hasattr(nn.Layer, name) or name in vars(Model)
        if general and name != "forward" and name not in _KEPT and not name.startswith("_"):
            self.require_layers()
        return super().__getattr__(name)

    def to(self, device: Any = None, dtype: Any = None, blocking: Any = None) -> ExportedModel:
        """Where programs run and in what is of `with_engine`."""
        if device not in (None, "cpu") or dtype not in (None, "float32"):
            self.require_layers()
        return self

    def require_layers(self) -> NoReturn:
        """Raises ExportError."""
        raise ExportError(
            f"the {type(self.model).__name__} of {self._arguments[0].folder} has programs and no layers: it can be "
            "called, but not saved, moved, trained or exported; load the pipeline that was exported for that, or copy "
            "the folder"
        )


class ExportedPart:
    """A program of an exported folder. It is checked with the example that lies beside it.

    Attributes:
        setup: what the latest call ran in; None before the first.
    """

    def __init__(self, kind: str, part: Part, files: PartFiles, ways: List[Setup]):
        self.part, self.files = part, files
        self._ways, self._name = ways, f"{kind}.{part.name}"
        self._lock = threading.Lock()
        self._runner: Optional[Runner] = None
        self._weights: Dict[str, plans.Weights] = {}

    @property
    def setup(self) -> Optional[Setup]:
        return None if self._runner is None else self._runner.setup

    def __call__(self, *tensors: paddle.Tensor) -> Any:
        """
        Raises:
            ExportError: no engine computes what the layers computed.
        """
        with paddle.no_grad():
            return on_tensors(self.run, self.part.inputs, tensors)

    def run(self, arrays: Optional[Dict[str, np.ndarray]] = None) -> Any:
        """What the program makes of `arrays`, or of the example."""
        with self._lock:
            if self._runner is None:
                example = self._example()
                answer = example.pop(ANSWER)
                self._runner = Runner(self._name, self._ways, self._start, lambda: example, lambda _: answer)
                self._example_arrays = example
        try:
            return self._runner(self._example_arrays if arrays is None else arrays)
        except NoEngine as error:
            raise ExportError(
                f"{self.files.program} {error}; load the pipeline that was exported, which has layers too"
            ) from None

    def _example(self) -> Dict[str, np.ndarray]:
        try:
            with np.load(self.files.example) as arrays:
                example = dict(arrays)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            raise ExportError(f"{self.files.example} is damaged; copy the folder again") from None
        if example.keys() != {*self.part.inputs, ANSWER}:
            raise ExportError(
                f"{self.files.example} holds {', '.join(example)}, and its program takes "
                f"{', '.join(self.part.inputs)}; copy the folder again"
            )
        return example

    def _start(self, setup: Setup) -> Any:
        use_threads()
        program = load_program(self.files.program)
        arrays = map_parameters(program, self.files.parameters)  # raises; Paddle would run with a file that is cut
        if setup.engine == "onednn":
            weights = plans.Weights(
                {name: functools.partial(np.array, array) for name, array in arrays.items()},
                onednn.FP32 if setup.precision == "fp32" else onednn.BF16,
            )
            return OneDNNEngine(program, weights)
        return start_inference(lambda _: (self.files.program, self.files.parameters), setup, self.part.inputs)


def map_parameters(program: Any, file: Path) -> Dict[str, np.ndarray]:
    """The arrays of a `.pdiparams` by their names in the program, as views of the file, which is read when they are.

    The file holds, in the order of the names, a header of two versions, levels of detail (none), and a description in
    protocol buffers, and the values (`paddle/fluid/framework/lod_tensor.cc`, `SerializeToStream`).

    Raises:
        ExportError: it holds something else, or not all.
    """
    results = [op.result(0) for op in program.global_block().ops if op.name() == "builtin.parameter"]
    shapes = {value.name: list(value.shape) for value in results}
    offset, arrays = 0, {}
    try:
        data = np.memmap(file, np.uint8, "r")
        for name in sorted(shapes):
            _, levels, _, described = struct.unpack("<IQIi", data[offset : offset + 20].tobytes())
            offset += 20 + described
            count = int(np.prod(shapes[name]))
            if levels or described < 0:
                raise ValueError(f"{name} is no array")
            arrays[name] = np.frombuffer(data, np.float32, count, offset).reshape(shapes[name])
            offset += 4 * count
        if offset != data.size:
            raise ValueError(f"{data.size - offset} bytes are left over")
    except (struct.error, ValueError) as error:
        raise ExportError(f"{file} does not hold its program's parameters ({error}); copy the folder again") from None
    return arrays
