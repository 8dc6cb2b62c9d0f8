"""`convert`: any model that is understood here, into a folder of another kind."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any, Mapping, Optional, Union

import model_zoo
from ppdiffusers.checkpoints import open_checkpoint
from ppdiffusers.config import PathLike, appearing
from ppdiffusers.conversion import compvis, folders, yaml_files
from ppdiffusers.conversion.bundle import Bundle
from ppdiffusers.conversion.errors import ConversionError
from ppdiffusers.models.model import dtype_name
from ppdiffusers.pipelines.index import INDEX_FILE

WRITERS = {"ours": folders.write_ours, "diffusers": folders.write_diffusers, "compvis": compvis.write}


def convert(
    source: PathLike,
    target: PathLike,
    to: str = "ours",
    *,
    config: Union[PathLike, Mapping[str, Any], None] = None,
    model: Optional[str] = None,
    ema: bool = True,
    dtype: Any = None,
    tokenizer: Optional[PathLike] = None,
    force: bool = False,
) -> str:
    """Convert a model, tensor by tensor: memory holds little more than the largest one.

    Args:
        source: a CompVis checkpoint, a folder with one, or the folder of a pipeline, ours or diffusers'.
        target: a folder that is not there yet; it appears when it is whole.
        to: "ours", "diffusers", or "compvis" (`model.ckpt` and `config.yaml`).
        config: yaml of a CompVis checkpoint, or its content under "model"; by default, `config.yaml` beside it.
        model: name of a model of `model_zoo` whose yaml it is, instead of `config`.
        ema: take averaged weights of the U-Net where the original does.
        dtype: "float32", "float16" or "bfloat16"; as in the source when not given.
        tokenizer: folder with the `vocab.txt` of a CompVis text model; by default, `tokenizer` beside it.
        force: replace a target that is a converted model.

    Returns:
        The name of the pipeline's class.

    Raises:
        ConversionError: the source is none of these, or has no counterpart in the target's format.
        CheckpointError, ConfigError: a broken file.
        model_zoo.ModelZooError: an unknown name.
    """
    source, target = Path(source), Path(target)
    if to not in WRITERS:
        raise ConversionError(f"cannot convert to {to!r}; choose one of {', '.join(WRITERS)}")
    dtype = None if dtype is None else dtype_name(dtype)
    _check_target(source, target, force)
    with contextlib.ExitStack() as files:
        bundle = _read(source, config, model, ema, tokenizer, files)
        with appearing(target) as part:
            WRITERS[to](bundle, part, dtype)
    return type(bundle.pipeline).__name__


def _read(
    source: Path,
    config: Union[PathLike, Mapping[str, Any], None],
    model: Optional[str],
    ema: bool,
    tokenizer: Optional[PathLike],
    files: contextlib.ExitStack,
) -> Bundle:
    if (source / INDEX_FILE).is_file():
        if config is not None or model is not None or tokenizer is not None:
            raise ConversionError(f"{source} is a pipeline's folder: it takes no yaml, no model's name, no tokenizer")
        return folders.read(source, files)
    file = _checkpoint_file(source)
    given = _yaml_of(file, config, model)
    if tokenizer is None and (file.parent / compvis.TOKENIZER).is_dir():
        tokenizer = file.parent / compvis.TOKENIZER
    checkpoint = files.enter_context(open_checkpoint(file, skip_objects=True))
    return compvis.read(checkpoint, given, ema, tokenizer)


def _checkpoint_file(source: Path) -> Path:
    if not source.is_dir():
        if not source.exists():
            raise ConversionError(f"{source} does not exist")
        inside = _checkpoints_inside(source)
        if inside:
            raise ConversionError(f"{source} is an archive with {', '.join(inside)}: unpack it, and give that")
        return source
    found = sorted(source.glob("*.ckpt"))
    if len(found) != 1:
        raise ConversionError(f"{source} holds neither a {INDEX_FILE} nor one .ckpt file, but {len(found)} of them")
    return found[0]


def _checkpoints_inside(source: Path) -> Any:
    """Names of checkpoints in a zip archive that is none itself, as they were published."""
    try:
        with zipfile.ZipFile(source) as archive:
            return [name for name in archive.namelist() if name.endswith(".ckpt")]
    except (zipfile.BadZipFile, OSError):
        return []


def _yaml_of(file: Path, config: Union[PathLike, Mapping[str, Any], None], model: Optional[str]) -> Mapping[str, Any]:
    if config is not None and model is not None:
        raise ConversionError("both a yaml and a model's name are given; one of them says what the checkpoint is")
    if model is not None:
        original = model_zoo.find(model).original
        if original is None:
            raise ConversionError(f"the zoo knows no original checkpoint of {model}; give its yaml with --config")
        return original["config"]
    if isinstance(config, Mapping):
        return config
    beside = file.with_name(compvis.YAML)
    if config is None and not beside.is_file():
        raise ConversionError(
            f"what {file} holds is said by its yaml, and there is no {beside}: give it with --config, or the name of "
            "the model with --model (`model-zoo list`)"
        )
    return yaml_files.read_model(beside if config is None else config)


def _check_target(source: Path, target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise ConversionError(f"{target} exists; name another folder, or replace it with --force")
    if target.is_symlink() or not any((target / name).is_file() for name in (INDEX_FILE, compvis.CHECKPOINT)):
        raise ConversionError(f"{target} is not a converted model, and is not replaced; name another folder")
    inside = target.resolve()
    if inside == source.resolve() or inside in source.resolve().parents:
        raise ConversionError(f"{target} holds the source {source}; name another folder")
