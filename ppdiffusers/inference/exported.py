"""Folders of programs and their parameters, which run without the layers that they were made of; see `export`."""

from __future__ import annotations

import functools
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Dict, NamedTuple, NoReturn, Type

import numpy as np
import paddle
from paddle import nn

from model_zoo import digests
from ppdiffusers import onednn
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.config import ConfigError, PathLike, read_json
from ppdiffusers.inference import engines, plans
from ppdiffusers.inference.compiled import CompiledModel
from ppdiffusers.inference.engines import NoEngine, Runner, Setup
from ppdiffusers.inference.parts import Inputs, Part, parts_of
from ppdiffusers.inference.programs import load_program
from ppdiffusers.models.model import SAFE_WEIGHTS, Model, dtype_name, load_checkpoint
from ppdiffusers.threads import use_threads

MANIFEST = "deployment.json"
FORMAT = 1
ANSWER = "result"  # of an example: what the layers made of its other arrays
# What an exported model has of all that its class has beside its own methods.
_KEPT = {
    *("config", "config_keys", "config_name", "device", "downsampling_factor", "dtype"),
    *("eval", "num_parameters", "save_config", "training"),
}


class ExportError(ValueError):
    """A pipeline that cannot be exported, or an exported folder that cannot be used so; names the remedy."""


class PartFiles(NamedTuple):
    """Of one program."""

    program: Path  # as Paddle Inference reads it
    parameters: Path
    example: Path  # npz with an array for each input, and what the layers made of them


def is_exported(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


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
            engines.check_precision(self.precision)
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
            engine, precision: as of `compile_model`; "auto" is the precision that was chosen at export.
            dtype: of the parameters in memory; there is only float32.

        Raises:
            ExportError: engine "eager", another dtype, or a folder that does not fit this ppdiffusers.
            ValueError: an unknown engine or precision, or one that this machine does not have.
        """
        if dtype is not None and dtype_name(dtype) != "float32":
            raise ExportError(
                f"{self.folder} holds programs, which paddle_dtype={dtype!r} does not change; choose their precision= "
                f"from 'auto', {', '.join(map(repr, engines.PRECISIONS))}"
            )
        folder = self.folder / name
        with paddle.LazyGuard():  # no memory for layers, most of which have no weights here
            model = kind.from_config(kind.load_config(folder))
        try:
            entry, parts = self._components[name], parts_of(model).values()
            files = {part.name: self._part(entry["parts"][part.name], part.inputs) for part in parts}
            for layer in entry["replaced"]:
                delattr(model, layer)
        except (KeyError, TypeError, AttributeError) as error:
            raise self._broken(error) from None
        with open_checkpoint(folder / SAFE_WEIGHTS) as checkpoint:
            load_checkpoint(model, checkpoint, "float32")
        model.eval()
        return ExportedModel(self, model, files, engine, precision)

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


class ExportedModel(CompiledModel):
    """A component of an exported folder: called like the model that was exported, whose layers are not there.

    Raises:
        ExportError: engine "eager", or, when it is called, no engine computes what the layers computed.
        ValueError: an unknown engine or precision, or one that this machine does not have.
    """

    def __init__(
        self,
        source: Exported,
        model: Model,
        files: Dict[str, PartFiles],
        engine: str,
        precision: str,
        device: str = "cpu",
        tensorrt: bool = False,
    ):
        if engine == "eager":
            raise ExportError(
                f"{source.folder} holds programs without layers, which engine 'eager' would run; leave engine out, or "
                "load the pipeline that was exported"
            )
        if precision == "auto" and (source.precision != "bf16" or engines.has_bfloat16() or device != "cpu"):
            precision = source.precision
        super().__init__(model, engine, precision, device, tensorrt)
        self._source, self._files = source, files
        self._runners: Dict[str, Runner] = {}

    def with_engine(self, *settings: Any) -> ExportedModel:
        return ExportedModel(self._source, self.model, self._files, *settings)

    def __reduce__(self) -> NoReturn:
        self.require_layers()

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
            f"the {type(self.model).__name__} of {self._source.folder} has programs and no layers: it can be "
            "called, but not saved, moved, trained or exported; load the pipeline that was exported for that, or copy "
            "the folder"
        )

    def _runner(self, part: Part) -> Runner:
        files = self._files.get(part.name) or self.require_layers()
        with self._lock:
            if part.name not in self._runners:
                example = _example(files.example, part)
                check = example, example.pop(ANSWER)
                self._runners[part.name] = Runner(
                    f"{type(self.model).__name__}.{part.name}",
                    self._ways,
                    lambda setup: self._start(setup, part, files),
                    lambda: check,
                )
            return self._runners[part.name]

    def _start(self, setup: Setup, part: Part, files: PartFiles) -> Any:
        use_threads()
        program = load_program(files.program)
        arrays = map_parameters(program, files.parameters)  # raises; Paddle would run with a file that is cut
        if setup.engine == "onednn":
            parameters = {name: functools.partial(np.array, array) for name, array in arrays.items()}
            dtype = onednn.FP32 if setup.precision == "fp32" else onednn.BF16
            return engines.OneDNNEngine(program, plans.Weights(parameters, dtype))
        return engines.start_inference(lambda _: files[:2], setup, part.inputs)

    def _without_engine(self, part: Part, tensors: Any, reason: NoEngine) -> NoReturn:
        file = self._files[part.name].program
        raise ExportError(f"{file} {reason}; load the pipeline that was exported, which has layers too") from None


def _example(file: Path, part: Part) -> Dict[str, np.ndarray]:
    try:
        with np.load(file) as arrays:
            example = dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        raise ExportError(f"{file} is damaged; copy the folder again") from None
    if example.keys() != {*part.inputs, ANSWER}:
        raise ExportError(
            f"{file} holds {', '.join(example)}, and its program takes {', '.join(part.inputs)}; copy the folder again"
        )
    return example


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
