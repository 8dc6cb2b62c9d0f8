"""Base of every model: config, strict loading from any community format, safe saving."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Set, Tuple, Type, TypeVar, Union

import numpy as np
import paddle
from paddle import nn

import model_zoo
from ppdiffusers.arguments import take_loading_options
from ppdiffusers.checkpoints import (
    Checkpoint,
    CheckpointError,
    Pending,
    open_checkpoint,
    save_pdparams,
    save_safetensors,
)
from ppdiffusers.checkpoints.names import current_name
from ppdiffusers.config import ConfigError, Configurable, PathLike
from ppdiffusers.models.half_precision import runs_in_half

SAFE_WEIGHTS = "diffusion_paddle_model.safetensors"
PICKLED_WEIGHTS = "model_state.pdparams"
# In order of preference. Ours first: saving into a folder must change what is loaded from it.
WEIGHT_FILES = (
    SAFE_WEIGHTS,
    PICKLED_WEIGHTS,
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
DTYPES = ("float32", "float16", "bfloat16")

Self = TypeVar("Self", bound="Model")


def dtype_name(dtype: Any) -> str:
    """`"float16"` of `"float16"`, `paddle.float16` or `numpy.float16`.

    Raises:
        ValueError: not a floating type that models come in.
    """
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    name = name.rsplit(".", 1)[-1].lower()
    if name not in DTYPES:
        raise ValueError(f"paddle_dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return name


class Model(nn.Layer, Configurable):
    """A Paddle layer that is described by a config and loads and saves itself.

    Its weights may be float32, float16 or bfloat16, loaded so or converted by `.to(dtype=...)`. On a CPU it computes
    in float32 in any case, and returns float32 (see `half_precision`).
    """

    # Names that this class's weights have in published folders, in order of preference.
    _weight_files: ClassVar[Tuple[str, ...]] = WEIGHT_FILES
    # How the names of tensors begin that published files hold and no result depends on.
    _unused_weights: ClassVar[Tuple[str, ...]] = ()
    # Keys of published configs of which only this one value is supported; they are `_legacy_config_keys` too.
    _fixed_config_keys: ClassVar[Dict[str, Any]] = {}

    # What is called on a model beside itself.
    _entries: ClassVar[Tuple[str, ...]] = ("encode", "decode")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in cls._entries:
            if name in cls.__dict__:
                setattr(cls, name, runs_in_half(cls.__dict__[name]))

    @runs_in_half
    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return super().__call__(*inputs, **options)

    @classmethod
    def from_config(cls: Type[Self], config: Union[Mapping[str, Any], PathLike], **overrides: Any) -> Self:
        """Build from a mapping or a JSON file; keyword arguments win over its values.

        Raises:
            ConfigError: a key that this class does not know, or a value that it does not support.
        """
        values = {**(config if isinstance(config, Mapping) else cls.load_config(config)), **overrides}
        for key, only in cls._fixed_config_keys.items():
            if values.get(key, only) != only:
                raise ConfigError(
                    f"{cls.__name__} does not support {key}={values[key]!r}; it runs models with {key}={only!r}"
                )
        return super().from_config(config, **overrides)

    @property
    def dtype(self) -> Any:
        """Type of the parameters."""
        return next(iter(self.parameters())).dtype

    @property
    def device(self) -> Any:
        """Where the parameters are: a place of paddle's."""
        return next(iter(self.parameters())).place

    @property
    def downsampling_factor(self) -> int:
        """How much smaller the coarsest maps are, along a side: each level of the config halves them."""
        return 2 ** (len(self.config.get("block_out_channels") or [1]) - 1)

    def num_parameters(self) -> int:
        return sum(math.prod(parameter.shape) for parameter in self.parameters())

    @classmethod
    def from_pretrained(
        cls: Type[Self],
        name_or_path: PathLike,
        subfolder: Optional[str] = None,
        paddle_dtype: Any = None,
        disable_mmap: bool = False,
        **options: Any,
    ) -> Self:
        """Load a saved model, in evaluation mode.

        On a CPU under Linux, weights that a safetensors file holds in the wanted type and layout are not copied: the
        parameters lie over the file's pages, as `Checkpoint.map` says. They may be changed as any others; the file
        stays as it is. The file may be deleted, or replaced by a rename, as `save_pretrained` does it; one that other
        programs rewrite in place is for `disable_mmap`.

        Args:
            name_or_path: a folder, or the name of a model that `model_zoo` knows. The folder holds
                `config.json` and one of `diffusion_paddle_model.safetensors`,
                `model_state.pdparams`, `diffusion_pytorch_model.safetensors`,
                `diffusion_pytorch_model.bin` (`model.safetensors`, `pytorch_model.bin` of a text encoder).
            subfolder: the component, e.g. "unet".
            paddle_dtype: type of the parameters in memory, as a name or as paddle's, numpy's or torch's object;
                float32 when not given, whatever the file holds.
            disable_mmap: copy all weights into memory.
            options: `torch_dtype` and `dtype`, other libraries' names of `paddle_dtype`; `cache_dir`, `endpoint`,
                `local_files_only`, `progress` of `model_zoo.download`; anything else is taken for a config key and wins
                over the file's value.
        Raises:
            ConfigError: the config is missing, broken, or has unknown keys.
            CheckpointError: no weights, a broken file, or weights that do not fit the config.
        """
        use_safetensors = take_loading_options(options)
        folder = model_folder(name_or_path, options)
        folder = folder / subfolder if subfolder else folder
        dtype = dtype_name(asked_dtype(paddle_dtype, options) or "float32")
        config = cls.load_config(folder)
        safe = [name for name in cls._weight_files if name.endswith(".safetensors") is bool(use_safetensors)]
        weights = find_weights(folder, cls._weight_files if use_safetensors is None else tuple(safe))
        with paddle.LazyGuard():  # no memory and no time for random values that the file replaces
            model = cls.from_config(config, **options)
        with open_checkpoint(weights) as checkpoint:
            load_checkpoint(model, checkpoint, dtype, disable_mmap)
        model.eval()
        return model

    def save_pretrained(self, folder: PathLike, safe_serialization: bool = True, paddle_dtype: Any = None) -> None:
        """Write the config and the weights, each in one rename.

        Args:
            safe_serialization: `diffusion_paddle_model.safetensors`, which cannot carry code; False
                writes `model_state.pdparams`, a pickle, for tools that only know `paddle.load`.
            paddle_dtype: type in the file; as in memory when not given.
        """
        folder, state = Path(folder), self.state_dict()
        if safe_serialization:
            arrays = {name: _pending(value, paddle_dtype) for name, value in state.items()}
            save_safetensors(folder / SAFE_WEIGHTS, arrays, {"format": "pd"})
        else:
            save_pdparams(folder / PICKLED_WEIGHTS, {n: as_numpy(value, paddle_dtype) for n, value in state.items()})
        stale = folder / (PICKLED_WEIGHTS if safe_serialization else SAFE_WEIGHTS)
        if stale.exists():  # or an older save in the other format could be loaded instead of this one
            stale.unlink()
        self.save_config(folder)


def asked_dtype(paddle_dtype: Any, options: Dict[str, Any]) -> Any:
    """The type that a caller asks for, under whichever name; takes the other names out of `options`.

    Raises:
        ValueError: two names with two types.
    """
    given = [paddle_dtype, *(options.pop(name) for name in ("torch_dtype", "dtype") if name in options)]
    names = {dtype_name(value) for value in given if value is not None}
    if len(names) > 1:
        raise ValueError(f"paddle_dtype, torch_dtype and dtype ask for {' and '.join(sorted(names))}; give one of them")
    return names.pop() if names else None


def model_folder(name_or_path: PathLike, options: Dict[str, Any]) -> Path:
    """The local folder of a name or path; takes the download options out of `options`."""
    download = {
        key: options.pop(key) for key in ("cache_dir", "endpoint", "local_files_only", "progress") if key in options
    }
    return model_zoo.resolve(name_or_path, **download)


def find_weights(folder: Path, names: Tuple[str, ...] = WEIGHT_FILES) -> Path:
    """The weight file of a component's folder: the first of `names` that is there.

    Raises:
        CheckpointError: there is none.
    """
    if any(folder.glob("*.pdiparams")) and (folder.parent / "deployment.json").is_file():
        raise CheckpointError(f"{folder} holds programs without layers; open the whole folder with DiffusionPipeline")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds no weights; it needs one of {', '.join(names)}")


def load_checkpoint(model: Model, checkpoint: Checkpoint, dtype: str, disable_mmap: bool = False) -> None:
    """Fill every parameter of `model` from `checkpoint`, converted to `dtype`, or change nothing.

    What can be used as it lies in the file is mapped, unless `disable_mmap`. The rest is copied tensor by tensor and
    the file's pages are given back, so the peak is the model and one tensor.

    Raises:
        CheckpointError: names every missing, unexpected and mis-shaped key.
    """
    parameters = dict(model.state_dict())
    keys = {current_name(key): key for key in checkpoint.keys() if not key.startswith(model._unused_weights)}
    transposed = linear_weights(model) if checkpoint.layout == "torch" else set()
    problems: Dict[str, List[str]] = {
        "missing": [name for name in parameters if name not in keys],
        "unexpected": [key for name, key in keys.items() if name not in parameters],
        "wrong shape": [],
    }
    for name in filter(keys.__contains__, parameters):
        shape, wanted = list(checkpoint.shape(keys[name])), list(parameters[name].shape)
        if (shape[::-1] if name in transposed else shape) != wanted:
            problems["wrong shape"].append(f"{keys[name]} is {shape}, the config wants {wanted}")
    if any(problems.values()):
        told = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in problems.items() if found)
        raise CheckpointError(
            f"{checkpoint.path} does not fit {type(model).__name__}: {told}. "
            "Is it the config.json that was saved with these weights?"
        )
    device = paddle.get_device()
    place = paddle.CPUPlace() if device == "cpu" else paddle.CUDAPlace(int(device.partition(":")[2] or 0))
    for name, parameter in parameters.items():
        can_be_mapped = device == "cpu" and not disable_mmap and name not in transposed
        mapped = _mapped(checkpoint, keys[name], dtype) if can_be_mapped else None
        if mapped is not None:
            parameter.get_tensor()._share_data_with(mapped.get_tensor())
        else:
            array = checkpoint.read(keys[name])
            array = np.ascontiguousarray(array.T if name in transposed else array)
            parameter.get_tensor().set(to_dtype(array, dtype), place)
            checkpoint.release(keys[name])


def _mapped(checkpoint: Checkpoint, key: str, dtype: str) -> Optional[paddle.Tensor]:
    """A tensor over the file's pages, which it keeps mapped; None where the weight has to be copied."""
    array = checkpoint.map(key) if checkpoint.dtype(key) == dtype else None
    if array is None or not hasattr(paddle.Tensor, "__dlpack__"):  # paddle before 3 imports no arrays
        return None
    bits = array.view(np.float16) if dtype == "bfloat16" else array  # paddle has no operators on uint16
    tensor = paddle.utils.dlpack.from_dlpack(bits)
    tensor = tensor.view("bfloat16") if dtype == "bfloat16" else tensor
    return tensor if tensor.data_ptr() == array.ctypes.data else None  # where dlpack or view made a copy


def linear_weights(model: nn.Layer) -> Set[str]:
    """Names of the weights that torch keeps as [out, in] and paddle as [in, out]."""
    layers: List[Tuple[str, nn.Layer]] = list(model.named_sublayers(include_self=True))
    return {f"{name}.weight" if name else "weight" for name, layer in layers if isinstance(layer, nn.Linear)}


def to_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """As `dtype`; bfloat16 is uint16 in paddle's arrays, rounded to nearest even."""
    if dtype != "bfloat16":
        return array.astype(dtype, copy=False)
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _pending(value: paddle.Tensor, dtype: Any) -> Pending:
    """`as_numpy`, when it is written: a model that is saved is not in memory twice."""
    name = str(value.dtype).rpartition(".")[2] if dtype is None else dtype_name(dtype)
    return Pending(name, tuple(value.shape), lambda: as_numpy(value, dtype))


def as_numpy(value: paddle.Tensor, dtype: Any = None) -> np.ndarray:
    if dtype is None:
        return value.numpy()  # bfloat16 comes as uint16
    return to_dtype(value.astype("float32").numpy(), dtype_name(dtype))
