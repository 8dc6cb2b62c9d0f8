"""Folders of programs and their parameters, which run without the layers that they were made of; see `export`."""

from __future__ import annotations

import functools
import logging
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, NamedTuple, NoReturn, Type

import numpy as np
import paddle

from model_zoo import digests
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.config import ConfigError, PathLike, read_json
from ppdiffusers.inference import gpu
from ppdiffusers.inference.compiled import CompiledPart
from ppdiffusers.inference.engines import (
    PRECISIONS,
    OneDNNEngine,
    PaddleInferenceEngine,
    Setup,
    has_bfloat16,
    setups,
)
from ppdiffusers.inference.programs import Inputs, Program
from ppdiffusers.models.model import SAFE_WEIGHTS, Model, dtype_name, load_checkpoint
from ppdiffusers.threads import use_threads

logger = logging.getLogger("ppdiffusers")

MANIFEST = "deployment.json"
FORMAT = 1
ANSWER = "result"  # of an example: what the layers made of its other arrays


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

    def load(self, name: str, kind: Type[Model], engine: str, precision: str, dtype: Any = None) -> Model:
        """The component `name`, a `kind` whose programs run in `engine`; they are started when they are first called.

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
        with paddle.LazyGuard():  # no memory for layers, most of which go at once
            model = kind.from_config(kind.load_config(folder))
        inputs = model._programs()
        try:
            entry = self._components[name]
            parts = {method: self._part(entry["parts"][part_name(method)], inputs[method]) for method in inputs}
            for layer in entry["replaced"]:
                delattr(model, layer)
        except (KeyError, TypeError, AttributeError) as error:
            raise self._broken(error) from None
        with open_checkpoint(folder / SAFE_WEIGHTS) as checkpoint:
            load_checkpoint(model, checkpoint, "float32")
        model.eval()
        object.__setattr__(model, "_exported", functools.partial(self._use, model, parts))
        object.__setattr__(model, "_restore", functools.partial(self._refuse, kind))
        self._use(model, parts, engine, precision)
        return model

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

    def _use(
        self,
        model: Model,
        parts: Dict[str, PartFiles],
        engine: str,
        precision: str,
        device: str = "cpu",
        tensorrt: bool = False,
    ) -> None:
        """What `compile_model` does, with the files that are here."""
        if engine == "eager":
            raise ExportError(
                f"{self.folder} holds programs without layers, which engine 'eager' would run; leave engine out, or "
                "load the pipeline that was exported"
            )
        chosen = precision
        if precision == "auto" and (self.precision != "bf16" or has_bfloat16() or device != "cpu"):
            chosen = self.precision
        ways = setups(engine, chosen, device, tensorrt)
        for method, files in parts.items():
            object.__setattr__(model, method, ExportedPart(model, method, model._programs()[method], ways, files))

    def _refuse(self, kind: Type[Model]) -> NoReturn:
        raise ExportError(
            f"the {kind.__name__} of {self.folder} has programs and no layers: it can be called, but not saved, moved, "
            "trained or exported; load the pipeline that was exported for that, or copy the folder"
        )


class ExportedPart(CompiledPart):
    """`model.method`, as a program of an exported folder. It is checked with the example that lies beside it."""

    def __init__(self, model: Model, method: str, inputs: Inputs, ways: List[Setup], files: PartFiles):
        super().__init__(model, method, inputs, ways)
        self.files = files

    def compile(self) -> None:
        """Choose the fastest way that computes what the layers computed.

        Raises:
            ExportError: there is none.
        """
        started = time.perf_counter()
        use_threads()
        name = f"{type(self.model).__name__}.{part_name(self.method)}"
        example = self._example()
        wanted = example.pop(ANSWER)
        problems = self._first_right(name, self._start, example, lambda: wanted, set())
        if self.setup is None:
            raise ExportError(
                f"{self.files.program} {'; '.join(problems)}; load the pipeline that was exported, which has layers too"
            )
        self.seconds = time.perf_counter() - started
        logger.info("%s runs in %s; started in %.1f s", name, self.setup, self.seconds)

    def _example(self) -> Dict[str, np.ndarray]:
        try:
            with np.load(self.files.example) as arrays:
                example = dict(arrays)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            raise ExportError(f"{self.files.example} is damaged; copy the folder again") from None
        if example.keys() != {*self.inputs, ANSWER}:
            raise ExportError(
                f"{self.files.example} holds {', '.join(example)}, and its program takes {', '.join(self.inputs)}; "
                "copy the folder again"
            )
        return example

    def siblings(self, programs: Dict[str, Inputs]) -> NoReturn:
        raise ExportError(
            f"{self.files.program} runs whole, and nothing here runs parts of it: disable_deep_cache(), or load the "
            "pipeline that was exported"
        )

    def _start(self, setup: Setup) -> Any:
        if setup.engine == "onednn":
            program = Program(self.files.program, {}).load()
            arrays = read_parameters(program, self.files.parameters)
            return OneDNNEngine(program, {name: array.view for name, array in arrays.items()}, setup)
        if setup.tensorrt:
            with tempfile.TemporaryDirectory(prefix="ppdiffusers-") as scratch:
                made = gpu.with_tensorrt(self.files.program, self.inputs, gpu.Sizes(), setup.precision, Path(scratch))
                return PaddleInferenceEngine(*made, setup)
        return PaddleInferenceEngine(self.files.program, self.files.parameters, setup)


def part_name(method: str) -> str:
    """What files and people call a program; the method behind it is private."""
    return method.strip("_")


def read_parameters(program: Any, file: Path) -> Dict[str, np.ndarray]:
    """The arrays of a `.pdiparams`, by their names in the program."""
    operators = program.global_block().ops
    names = sorted(op.attrs()["parameter_name"] for op in operators if op.name() == "builtin.parameter")
    tensors = [paddle.empty([0]) for _ in names]
    dense = [tensor.get_tensor() for tensor in tensors]
    paddle.base.core.load_combine_func(str(file), names, dense, False, paddle.CPUPlace())
    return {name: np.from_dlpack(tensor) for name, tensor in zip(names, tensors)}
