"""The original's yaml files. PyYAML is imported when one is read or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping

from ppdiffusers.config import PathLike, replacing
from ppdiffusers.conversion.errors import ConversionError


def read_model(file: PathLike) -> Mapping[str, Any]:
    """What a yaml says under "model".

    Raises:
        ConversionError: no such file, not yaml, or nothing under "model".
        ImportError: PyYAML is missing.
    """
    yaml = _yaml()
    try:
        value = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversionError(f"the yaml {file} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConversionError(f"{file} is not yaml: {str(error)[:200]}") from None
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, dict):
        raise ConversionError(f'{file} has no mapping under "model"; give the yaml that was published with the model')
    return model


def write(file: PathLike, values: Dict[str, Any]) -> None:
    """Write a mapping, in its order and in one rename."""
    text = _yaml().safe_dump(values, sort_keys=False, default_flow_style=None)
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f"yaml files need PyYAML, which cannot be imported ({error}); install it: pip install pyyaml"
        ) from error
    return yaml
