"""The models of a run: loaded, or built from a config and initialised."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from paddle import nn

import ppdiffusers
from ppdiffusers.config import ConfigError, read_json
from ppdiffusers.layers.embeddings import GaussianFourierProjection
from ppdiffusers.models import AutoencoderKL, Model, VQModel
from ppdiffusers.models.model import model_folder
from ppdiffusers.pipelines.index import INDEX_FILE, component_class
from ppdiffusers.training.configuration import Configuration
from ppdiffusers.training.initialisation import initialise

FIRST_STAGE = "vqvae"  # the component's name in every pipeline
_CLASS = "_class_name"


def make_components(
    config: Configuration, types: Dict[str, tuple], given: Optional[Dict[str, Any]] = None
) -> Tuple[Dict[str, Any], List[str]]:
    """The components of a pipeline, and the names of those that were built from a config.

    Args:
        types: the classes that each may be of.
        given: objects to take as they are.

    Raises:
        ConfigError: one that nothing says, an unknown class, or a broken folder.
    """
    specified = dict(config.models)
    unknown = [name for name in specified if name not in types]
    if unknown:
        raise ConfigError(f"models has {', '.join(unknown)}; a {config.task} model has {', '.join(types)}")
    start = None if config.init is None else model_folder(config.init, {})
    components, fresh = dict(given or {}), []
    for name, kinds in types.items():
        if name in components:
            continue
        wanted = specified.get(name)
        if wanted is None and start is not None:
            components[name] = _load(start, name, kinds)
        elif isinstance(wanted, str):
            components[name] = _load(model_folder(wanted, {}), name, kinds)
        elif isinstance(wanted, dict):
            values = dict(wanted)
            kind = component_kind(values.pop(_CLASS, None), name, kinds)
            components[name] = kind.from_config(values)
            if isinstance(components[name], Model):
                initialise(components[name], config.seed, config.initialisation)
                fresh.append(name)
        else:
            raise ConfigError(f"nothing says what the {name} is: give models.{name}, a folder or a config, or init")
    return components, fresh


def component_kind(named: Optional[str], name: str, kinds: tuple) -> Any:
    """The class of the component `name`, which may be of `kinds`: the one that a config names, or the usual one."""
    if named is not None:
        kind = getattr(ppdiffusers, named, None)
        if not isinstance(kind, type) or not issubclass(kind, kinds):
            names = ", ".join(each.__name__ for each in kinds)
            raise ConfigError(f"models.{name}._class_name is {named!r}; it must be a {names}")
        return kind
    return ppdiffusers.DDIMScheduler if name == "scheduler" else kinds[0]


def _load(folder: Path, name: str, kinds: tuple) -> Any:
    """Of a pipeline's folder, or of the component's own."""
    index = read_json(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else {}
    if index:
        if name not in index:
            raise ConfigError(f"{folder} has no {name}; it has {', '.join(key for key in index if key[0] != '_')}")
        return component_class(index[name], folder).from_pretrained(folder, subfolder=name)
    if name == "tokenizer":
        return ppdiffusers.BertTokenizer.from_pretrained(folder)
    file = folder / ("scheduler_config.json" if name == "scheduler" else "config.json")
    return component_kind(read_json(file).get(_CLASS), name, kinds).from_pretrained(folder)


def choose_trained(components: Dict[str, Any], names: List[str]) -> nn.LayerDict:
    """The components that learn, by name; of them only what `names` says has gradients, and nothing else.

    Args:
        names: components, or parts such as "vqvae.decoder".

    Raises:
        ConfigError: a name that is none of these.
    """
    models = {name: model for name, model in components.items() if isinstance(model, Model)}
    layers = [layer for model in models.values() for layer in model.sublayers()]
    drawn_once = {id(layer.weight) for layer in layers if isinstance(layer, GaussianFourierProjection)}
    for model in models.values():
        model.eval()
        for parameter in model.parameters():
            parameter.stop_gradient = True
    for path in names:
        name, *rest = path.split(".")
        part: Any = models.get(name)
        for attribute in rest:
            part = getattr(part, attribute, None)
        if not isinstance(part, nn.Layer):
            raise ConfigError(f"train has {path!r}; it may have {', '.join(models)} and parts of them")
        part.train()
        for parameter in part.parameters():
            parameter.stop_gradient = id(parameter) in drawn_once
    trained = {path.partition(".")[0]: models[path.partition(".")[0]] for path in names}
    if not any(not p.stop_gradient for model in trained.values() for p in model.parameters()):
        raise ConfigError("train is empty; name what is to learn, such as unet")
    return nn.LayerDict(trained)


def downscale_factor(first_stage: Any) -> int:
    """Pixels a latent, along one side."""
    factor: int = 2 ** (len(first_stage.config.block_out_channels) - 1)
    return factor


def latent_channels(first_stage: Any) -> int:
    channels: int = first_stage.config.get("vq_embed_dim") or first_stage.config.latent_channels
    return channels


FIRST_STAGE_CLASSES = {"vq": VQModel, "kl": AutoencoderKL}
