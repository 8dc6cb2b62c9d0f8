"""Folders of pipelines: ours, the community's and diffusers', which differ in file names, layout and libraries."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Dict, Optional

from ppdiffusers.checkpoints import Checkpoint, Pending, open_checkpoint, save_safetensors
from ppdiffusers.checkpoints.names import current_name
from ppdiffusers.config import read_json, write_json
from ppdiffusers.conversion.bundle import Bundle, bundled, without_memory
from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.conversion.rows import layout_rows
from ppdiffusers.conversion.tensors import Taking, cast, give
from ppdiffusers.models import LDMBertModel, UNet2DModel, VQModel
from ppdiffusers.models.model import SAFE_WEIGHTS, Model, find_weights
from ppdiffusers.pipelines.index import INDEX_FILE, component_class
from ppdiffusers.pipelines.pipeline import DiffusionPipeline

# Where diffusers looks for the classes that it has; the text encoder is one of its own pipelines' modules.
DIFFUSERS_PIPELINES = ("LDMPipeline", "LDMSuperResolutionPipeline", "LDMTextToImagePipeline")
_LIBRARIES = {"LDMBertModel": "latent_diffusion", "BertTokenizer": "transformers"}
_BERT_NOTES = {"architectures": ["LDMBertModel"], "model_type": "ldmbert"}


def read(folder: Path, files: contextlib.ExitStack) -> Bundle:
    """The pipeline in a folder, its tensors not read yet; their files stay open until `files` is closed.

    Raises:
        ConfigError: a broken or foreign `model_index.json` or config.
        CheckpointError: a broken weight file, or none.
        ConversionError: weights that do not fit the config.
    """
    index = read_json(folder / INDEX_FILE)
    pipeline_class = DiffusionPipeline._class_for(index, folder)
    components: Dict[str, Any] = {name: index[name] for name in pipeline_class._value_names if name in index}
    tensors = {}
    for name in pipeline_class._component_types:
        if name not in index:
            raise ConversionError(f"{folder / INDEX_FILE} names no {name}, which a {pipeline_class.__name__} needs")
        kind = component_class(index[name], folder)
        if not issubclass(kind, Model):
            components[name] = kind.from_pretrained(folder, subfolder=name)
            continue
        components[name] = without_memory(kind, kind.load_config(folder / name))
        checkpoint = files.enter_context(open_checkpoint(find_weights(folder / name, kind._weight_files)))
        tensors[name] = _take(components[name], checkpoint)
    return bundled(pipeline_class, components, tensors)


def _take(model: Model, checkpoint: Checkpoint) -> Dict[str, Pending]:
    stored = {current_name(key): key for key in checkpoint.keys()}
    taking = Taking(checkpoint)
    tensors = taking.take(layout_rows(model, checkpoint.layout), lambda today: stored.get(today, today))
    taking.check(lambda key: key.startswith(model._unused_weights), f"the {type(model).__name__} of its config")
    return tensors


def write_ours(bundle: Bundle, folder: Path, dtype: Optional[str] = None) -> None:
    """Write what `pipeline.save_pretrained(folder)` writes; tensors keep the type that they have in the source."""
    for name, component in bundle.pipeline.components.items():
        if isinstance(component, Model):
            save_safetensors(folder / name / SAFE_WEIGHTS, cast(bundle.tensors[name], dtype), {"format": "pd"})
            component.save_config(folder / name)
        else:
            component.save_pretrained(folder / name)
    write_json(folder / INDEX_FILE, bundle.pipeline.config)


def write_diffusers(bundle: Bundle, folder: Path, dtype: Optional[str] = None) -> None:
    """Write what diffusers' own `save_pretrained` writes: torch's layout, under diffusers' file names.

    Raises:
        ConversionError: diffusers has no such pipeline or model.
    """
    kind = type(bundle.pipeline).__name__
    if kind not in DIFFUSERS_PIPELINES:
        raise ConversionError(f"diffusers has no {kind}; it has {', '.join(DIFFUSERS_PIPELINES)}")
    index: Dict[str, Any] = {"_class_name": kind}
    for name, component in bundle.pipeline.components.items():
        component_kind = type(component).__name__
        index[name] = [_LIBRARIES.get(component_kind, "diffusers"), component_kind]
        if not isinstance(component, Model):
            component.save_pretrained(folder / name)
            continue
        bert = isinstance(component, LDMBertModel)
        file = folder / name / ("model.safetensors" if bert else "diffusion_pytorch_model.safetensors")
        config = _diffusers_config(component)
        tensors = give(layout_rows(component, "torch"), cast(bundle.tensors[name], dtype))
        save_safetensors(file, tensors, {"format": "pt"})
        write_json(file.with_name("config.json"), config)
    write_json(folder / INDEX_FILE, index)


def _diffusers_config(model: Model) -> Dict[str, Any]:
    config = {"_class_name": type(model).__name__, **model.config}
    if isinstance(model, UNet2DModel) and isinstance(config["attention_head_dim"], tuple):
        raise ConversionError(
            "diffusers' UNet2DModel has one attention_head_dim for all levels, and this model has "
            f"{list(config['attention_head_dim'])}"
        )
    if isinstance(model, VQModel):
        config["scaling_factor"] = 1.0  # diffusers divides latents by it, and these are unscaled
    return {**_BERT_NOTES, **config} if isinstance(model, LDMBertModel) else config
