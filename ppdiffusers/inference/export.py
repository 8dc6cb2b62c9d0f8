"""Pipelines as folders for deployment: programs and parameters instead of layers, and a manifest of them.

deployment.json                        the manifest, see `export`
model_index.json                       as of any saved pipeline
<component>/<part>.json                the program of a heavy part, as Paddle Inference reads it
<component>/<part>.pdiparams           its parameters, float32
<component>/<part>.npz                 small inputs, and what the layers make of them
<component>/config.json                as of any saved model
<component>/diffusion_paddle_model.safetensors   weights that no program holds, of embeddings and codebooks
scheduler/, tokenizer/                 as of any saved pipeline
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Set

import numpy as np
import paddle

from model_zoo import digests
from ppdiffusers.checkpoints import save_safetensors
from ppdiffusers.config import PathLike, appearing, write_json
from ppdiffusers.inference.compiled import CompiledPart, compile_model
from ppdiffusers.inference.exported import (
    ANSWER,
    FORMAT,
    MANIFEST,
    Exported,
    ExportedPart,
    ExportError,
    check_precision,
    is_exported,
    part_name,
)
from ppdiffusers.inference.programs import UnsupportedPaddle, cached_program, save_parameters, weights
from ppdiffusers.models.model import SAFE_WEIGHTS, Model
from ppdiffusers.version import __version__


def export(pipeline: Any, folder: PathLike, index_file: str, precision: str = "auto", force: bool = False) -> None:
    """Write `pipeline` for deployment; see `DiffusionPipeline.export`.

    The manifest is a JSON object: `format`, versions of `ppdiffusers` and `paddle`, the `pipeline`'s class, the
    `precision` that was asked for, `components` with programs, each with its `class`, the names of `layers` that
    programs `replaced` and its `parts`, and the size and sha256 of all other `files`. A part names its files and, in
    the order of the call, its `inputs` with their shape (null where it varies) and type.

    Before the folder gets its name, every program has run once in Paddle Inference, and given what the layers gave.

    Args:
        index_file: name of the file for the pipeline's own config.
    """
    check_precision(precision)
    target = Path(folder)
    _check_target(target, force)
    for name, component in pipeline.components.items():
        _check_component(name, component)
    with appearing(target) as part:
        components = {}
        for name, component in pipeline.components.items():
            if not isinstance(component, Model) or not component._programs():
                component.save_pretrained(part / name)
            else:
                components[name] = _write_model(component, part, name, pipeline._engine)
        write_json(part / index_file, pipeline.config)
        files = sorted(file for file in part.rglob("*") if file.is_file())
        manifest = {
            "format": FORMAT,
            "ppdiffusers": __version__,
            "paddle": paddle.__version__,
            "pipeline": type(pipeline).__name__,
            "precision": precision,
            "components": components,
            "files": {str(file.relative_to(part).as_posix()): _describe(file) for file in files},
        }
        write_json(part / MANIFEST, manifest)
        _try(part, {name: type(pipeline.components[name]) for name in components})


def _check_target(target: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise ExportError(f"{target} exists; name another folder, or replace it with force=True (--force)")
    if target.is_symlink() or not is_exported(target):
        raise ExportError(f"{target} is no exported pipeline, and is not replaced; name another folder")


def _check_component(name: str, component: Any) -> None:
    if not hasattr(component, "save_pretrained"):
        raise ExportError(f"the {name}, a {type(component).__name__}, has no save_pretrained, so it cannot be written")
    if not isinstance(component, Model):
        return
    if component._exported is not None:
        component._use_layers()  # raises, with the reason
    if component.dtype != paddle.float32:
        raise ExportError(
            f"the {name} is {str(component.dtype).rpartition('.')[2]}, and programs are made of float32 layers; load "
            "the pipeline without paddle_dtype"
        )


def _write_model(model: Model, root: Path, name: str, compiled: Any) -> Dict[str, Any]:
    """What the manifest says about the component. A compiled model is compiled again with `compiled` afterwards."""
    was_compiled = model._restore is not None
    model._use_layers()
    training, folder = model.training, root / name
    model.eval()
    held: Set[str] = set()
    parts = {}
    for method, inputs in model._programs().items():
        part = part_name(method)
        try:
            program = cached_program(model, method, inputs)
        except UnsupportedPaddle as error:
            raise ExportError(f"the {name} cannot be exported: {error}") from None
        held.update(program.parameters.values())
        names = {"program": f"{part}.json", "parameters": f"{part}.pdiparams", "example": f"{part}.npz"}
        folder.mkdir(exist_ok=True)
        shutil.copyfile(program.file, folder / names["program"])
        save_parameters(model, program, folder / names["parameters"])
        _write_example(model, method, folder / names["example"])
        shapes = {key: {"shape": shape, "dtype": dtype} for key, (shape, dtype) in inputs.items()}
        parts[part] = {**{key: f"{name}/{file}" for key, file in names.items()}, "inputs": shapes}
    replaced = _replaced(model, held)
    left = {key: value.numpy() for key, value in weights(model).items() if key.partition(".")[0] not in replaced}
    save_safetensors(folder / SAFE_WEIGHTS, left, {"format": "pd"})
    model.save_config(folder)
    if training:
        model.train()
    if was_compiled:
        compile_model(model, *compiled)
    return {"class": type(model).__name__, "replaced": replaced, "parts": parts}


def _replaced(model: Model, held: Set[str]) -> List[str]:
    """The children all of whose weights programs hold; those without weights stay."""
    found = []
    for name, layer in model.named_children():
        names = [f"{name}.{key}" for key, _ in layer.named_parameters()]
        if names and held.issuperset(names):
            found.append(name)
    return found


def _write_example(model: Model, method: str, file: Path) -> None:
    compared = CompiledPart(model, method, model._programs()[method], [])
    arrays: Dict[str, Any] = compared._examples()
    arrays[ANSWER] = compared._wanted(functools.partial(getattr(type(model), method), model), arrays)
    np.savez(file, **arrays)


def _describe(file: Path) -> Dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": digests.of_file(file, ["sha256"])["sha256"]}


def _try(folder: Path, kinds: Dict[str, Any]) -> None:
    """Open what was written and run every program once.

    Raises:
        ExportError: one does not give what its layers gave.
    """
    exported = Exported(folder)
    for name, kind in kinds.items():
        model = exported.load(name, kind, "inference", "fp32")
        for part in list(vars(model).values()):
            if isinstance(part, ExportedPart):
                part.compile()
