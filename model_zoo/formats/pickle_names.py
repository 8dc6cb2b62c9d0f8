"""The allow-list: every name that the pickle of a weight file may hold, and what it makes.

`ppdiffusers.checkpoints.allowed` has an inert stand-in for each of these makings and refuses every other name;
`model_zoo.scan` tells the names on the list from those that are not. It exists once, here.
"""

from __future__ import annotations

MAX_STEPS = 1_000_000  # opcodes; a model of a thousand tensors takes some 40,000

Name = tuple[str, str]  # module, name in it

# torch's classes of storages -> the type of their elements.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_BYTES = {
    8: ("float64", "int64"),
    4: ("float32", "int32"),
    2: ("float16", "bfloat16", "int16"),
    1: ("int8", "uint8", "bool"),
}
SIZES = {f"storage of {dtype}": size for size, dtypes in _BYTES.items() for dtype in dtypes}  # bytes of an element

# `eval("data", {"data": value})`: how Paddle pickles the tensors of static programs. Any other form is an attack.
VALUE_OF_EVAL = "value of eval"


def _names() -> dict[Name, str]:
    names = {
        ("collections", "OrderedDict"): "ordered dict",
        ("_codecs", "encode"): "bytes of text",
        ("numpy", "ndarray"): "class of arrays",
        ("numpy", "dtype"): "type",
        ("torch", "Size"): "tuple",
        ("torch", "device"): "device",
        ("torch", "Tensor"): "class of tensors",
        ("torch.nn.parameter", "Parameter"): "class of tensors",
        ("torch._utils", "_rebuild_tensor"): "tensor",
        ("torch._utils", "_rebuild_tensor_v2"): "tensor",
        ("torch._utils", "_rebuild_parameter"): "parameter",
        ("torch._utils", "_rebuild_parameter_with_state"): "parameter",
        ("torch._tensor", "_rebuild_from_type_v2"): "tensor with attributes",
        ("torch.storage", "UntypedStorage"): "storage of uint8",
    }
    for builtins in ("builtins", "__builtin__"):
        names[builtins, "tuple"] = "tuple"
        names[builtins, "bytes"] = "empty bytes"
        names[builtins, "eval"] = VALUE_OF_EVAL
    for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
        names[f"{core}.multiarray", "_reconstruct"] = "array"
        names[f"{core}.multiarray", "scalar"] = "number"
        names[f"{core}.numeric", "_frombuffer"] = "array of a buffer"
    for name, dtype in STORAGES.items():
        names["torch", name] = f"storage of {dtype}"
    return names


NAMES = _names()
