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

import copy
import os
from pathlib import Path
from typing import Any, Dict, List, Set

import numpy as np
import paddle

from model_zoo import digests
from ppdiffusers.checkpoints import save_safetensors
from ppdiffusers.config import PathLike, appearing, write_json
from ppdiffusers.inference.compiled import layers_on_examples
from ppdiffusers.inference.engines import check_precision, example_arrays
from ppdiffusers.inference.exported import ANSWER, FORMAT, MANIFEST, Exported, ExportError, is_exported
from ppdiffusers.inference.parts import parts_of
from ppdiffusers.inference.programs import UnsupportedPaddle, trace
from ppdiffusers.inference.stand_in import StandIn
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
            if not isinstance(component, Model) or not parts_of(component):
                component.save_pretrained(part / name)
            else:
                components[name] = _write_model(component, part, name)
        write_json(part / index_file, pipeline.config)
        files = sorted(file for file in part.rglob("*") if file.is_file())
        manifest = {
            "format": FORMAT,
            "ppdiffusers": __version__,
            "paddle": paddle.__version__,
            "pipeline": type(pipeline).__name__,
            "precision": precision,
            "components": components,
            "files": {
                file.relative_to(part).as_posix(): {"size": file.stat().st_size, **digests.of_file(file, ["sha256"])}
                for file in files
            },
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
    if isinstance(component, StandIn):
        component.require_layers()  # raises, with the reason, where there are none
    if component.dtype != paddle.float32:
        raise ExportError(
            f"the {name} is {str(component.dtype).rpartition('.')[2]}, and programs are made of float32 layers; load "
            "the pipeline without paddle_dtype"
        )


def _write_model(model: Model, root: Path, name: str) -> Dict[str, Any]:
    """What the manifest says about the component."""
    folder = root / name
    folder.mkdir(exist_ok=True)
    if model.training:  # programs are of the other mode
        model = copy.deepcopy(model)
        model.eval()
    held: Set[int] = set()
    parts = {}
    for part in parts_of(model).values():
        try:
            program = trace(model, part)
        except UnsupportedPaddle as error:
            raise ExportError(f"the {name} cannot be exported: {error}") from None
        held.update(map(id, program.parameters.values()))
        names = {"program": f"{part.name}.json", "parameters": f"{part.name}.pdiparams", "example": f"{part.name}.npz"}
        program.save(folder, part.name)
        examples, wanted = layers_on_examples(model, part)
        saved: Dict[str, Any] = {**examples, ANSWER: wanted}
        np.savez(folder / names["example"], **saved)
        shapes = {key: {"shape": shape, "dtype": dtype} for key, (shape, dtype) in part.inputs.items()}
        parts[part.name] = {**{key: f"{name}/{file}" for key, file in names.items()}, "inputs": shapes}
    replaced = _replaced(model, held)
    weights = model.state_dict()
    left = {key: value.numpy() for key, value in weights.items() if key.partition(".")[0] not in replaced}
    save_safetensors(folder / SAFE_WEIGHTS, left, {"format": "pd"})
    model.save_config(folder)
    return {"class": type(model).__name__, "replaced": replaced, "parts": parts}


def _replaced(model: Model, held: Set[int]) -> List[str]:
    """The children all of whose weights programs hold, by identity; those without weights stay."""
    found = []
    for name, layer in model.named_children():
        weights = {id(weight) for weight in layer.parameters()}
        if weights and held.issuperset(weights):
            found.append(name)
    return found


def _try(folder: Path, kinds: Dict[str, Any]) -> None:
    """Open what was written and run every program once.

    Raises:
        ExportError: one does not give what its layers gave.
    """
    exported = Exported(folder)
    for name, kind in kinds.items():
        model = exported.load(name, kind, "inference", "fp32")
        for part in model._parts.values():
            part(*map(paddle.to_tensor, example_arrays(part.part.inputs, model.downsampling_factor).values()))
