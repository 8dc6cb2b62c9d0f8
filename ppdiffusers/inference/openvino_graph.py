"""Paddle's programs as OpenVINO graphs.

One function an operator, named as in the program without its dialect (`pd_op.conv2d` is `conv2d`). Only what the
models of this package are made of is here; anything else is an `UnsupportedOperator`, and the caller runs the program
in Paddle Inference.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

import numpy as np

Node = Any
# OpenVINO 2026.4 fuses attention into one kernel, which takes four times as long in bfloat16 for heads of width 512.
_WIDEST_FUSED_HEAD = 256
_NUMPY_TYPES = {
    "FLOAT32": np.float32,
    "FLOAT64": np.float64,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class UnsupportedOperator(ValueError):
    """The program has an operator that this module does not translate."""


def build(program: Any, parameters: Mapping[str, np.ndarray]) -> Any:
    """An `openvino.Model` that computes what `program` (PIR) computes.

    Args:
        parameters: weights by the names that the program gives them. They are not copied here.

    Raises:
        UnsupportedOperator: names it.
    """
    import openvino
    from openvino import opset13 as ops

    graph = _Graph(ops, parameters)
    for op in program.global_block().ops:
        graph.add(op)
    return openvino.Model(graph.results, graph.inputs, "program")


class _Graph:
    def __init__(self, ops: Any, parameters: Mapping[str, np.ndarray]):
        self.ops = ops
        self.parameters = parameters
        self.inputs: List[Node] = []
        self.results: List[Node] = []
        self.nodes: Dict[Any, Any] = {}  # by program value; a list of nodes for the results of `combine` and `split`

    def add(self, op: Any) -> None:
        name = op.name().split(".")[-1].rstrip("_")
        translate = _OPERATORS.get(name)
        if translate is None:
            raise UnsupportedOperator(f"OpenVINO graphs are not built of {op.name()}")
        operands = op.operands_source()  # those left out are not initialised
        sources = [self.nodes[value.hash()] if value.initialized() else None for value in operands]
        made = translate(self, op.attrs(), *sources)
        if op.num_results() == 0:
            return
        outputs = made if isinstance(made, tuple) else (made,)
        for value, node in zip(op.results(), outputs):
            self.nodes[value.hash()] = node

    def scalar(self, node: Node) -> Node:
        """`[1]`, which Paddle uses for numbers too, would raise the rank of what it is combined with."""
        return self.ops.reshape(node, self.constant([]), False)

    def constant(self, value: Any, dtype: Any = np.int64) -> Node:
        return self.ops.constant(np.asarray(value, dtype))


def _parameter(graph: _Graph, attrs: Dict[str, Any]) -> Node:
    return graph.ops.constant(graph.parameters[attrs["parameter_name"]], shared_memory=True)


def _data(graph: _Graph, attrs: Dict[str, Any]) -> Node:
    from openvino import PartialShape

    dtype = _NUMPY_TYPES[attrs["dtype"].name]
    node = graph.ops.parameter(PartialShape(list(attrs["shape"])), dtype, attrs["name"])
    node.output(0).set_names({attrs["name"]})
    graph.inputs.append(node)
    return node


def _fetch(graph: _Graph, attrs: Dict[str, Any], x: Node) -> Node:
    node = graph.ops.result(x)
    graph.results.append(node)
    return node


def _full(graph: _Graph, attrs: Dict[str, Any]) -> Node:
    return graph.ops.constant(np.full(list(attrs["shape"]), attrs["value"], _NUMPY_TYPES[attrs["dtype"].name]))


def _full_int_array(graph: _Graph, attrs: Dict[str, Any]) -> Node:
    return graph.constant(attrs["value"])


def _combine(graph: _Graph, attrs: Dict[str, Any], *parts: Node) -> List[Node]:
    return list(parts)


def _slice(graph: _Graph, attrs: Dict[str, Any], x: Node, starts: Node, ends: Node) -> Node:
    axes = graph.constant(attrs["axes"])
    node = graph.ops.slice(x, starts, ends, graph.constant([1] * len(attrs["axes"])), axes)
    gone = list(attrs["decrease_axis"])
    return graph.ops.squeeze(node, graph.constant(gone)) if gone else node


def _stack(graph: _Graph, attrs: Dict[str, Any], parts: List[Node]) -> Node:
    axis = graph.constant(attrs["axis"])
    return graph.ops.concat([graph.ops.unsqueeze(part, axis) for part in parts], attrs["axis"])


def _scale(graph: _Graph, attrs: Dict[str, Any], x: Node, factor: Node) -> Node:
    """x * factor + bias, or (x + bias) * factor; in the type of x, which may be a whole number."""
    bias = graph.ops.convert_like(graph.constant(attrs["bias"], np.float32), x)
    factor = graph.ops.convert_like(graph.scalar(factor), x)
    if not attrs["bias"]:
        return graph.ops.multiply(x, factor)
    if attrs["bias_after_scale"]:
        return graph.ops.add(graph.ops.multiply(x, factor), bias)
    return graph.ops.multiply(graph.ops.add(x, bias), factor)


def _conv2d(graph: _Graph, attrs: Dict[str, Any], x: Node, weight: Node) -> Node:
    if attrs["groups"] != 1 or attrs["data_format"] != "NCHW" or attrs["padding_algorithm"] != "EXPLICIT":
        raise UnsupportedOperator(f"a convolution with {attrs}")
    padding = list(attrs["paddings"])
    begin, end = (padding, padding) if len(padding) == 2 else (padding[::2], padding[1::2])
    return graph.ops.convolution(x, weight, list(attrs["strides"]), begin, end, list(attrs["dilations"]))


def _group_norm(graph: _Graph, attrs: Dict[str, Any], x: Node, scale: Node, bias: Node) -> Node:
    return graph.ops.group_normalization(x, scale, bias, attrs["groups"], attrs["epsilon"])


def _layer_norm(graph: _Graph, attrs: Dict[str, Any], x: Node, scale: Node, bias: Node) -> Node:
    rank = x.get_output_partial_shape(0).rank.get_length()
    axes = graph.constant(list(range(attrs["begin_norm_axis"], rank)))
    node = graph.ops.mvn(x, axes, True, attrs["epsilon"], "INSIDE_SQRT")
    return graph.ops.add(graph.ops.multiply(node, scale), bias)


def _matmul(graph: _Graph, attrs: Dict[str, Any], x: Node, y: Node) -> Node:
    if x.get_type_name() == "Softmax" and y.get_output_partial_shape(0)[-1].get_min_length() > _WIDEST_FUSED_HEAD:
        x = graph.ops.reshape(x, graph.constant([0, 0, 0, -1]), True)  # as it is: keeps the three from being fused
    return graph.ops.matmul(x, y, attrs["transpose_x"], attrs["transpose_y"])


def _gelu(graph: _Graph, attrs: Dict[str, Any], x: Node) -> Node:
    return graph.ops.gelu(x, "tanh" if attrs["approximate"] else "erf")


def _pool2d(graph: _Graph, attrs: Dict[str, Any], x: Node, kernel: Node) -> Node:
    if attrs["pooling_type"] != "avg" or any(attrs["paddings"]) or attrs["ceil_mode"] or attrs["global_pooling"]:
        raise UnsupportedOperator(f"a pooling with {attrs}")
    size = [int(n) for n in kernel.get_vector()]
    return graph.ops.avg_pool(x, list(attrs["strides"]), [0, 0], [0, 0], size, True)


def _pad3d(graph: _Graph, attrs: Dict[str, Any], x: Node, paddings: Node) -> Node:
    """`paddings` begin with the last axis: left, right, top, bottom, front, back."""
    if attrs["mode"] != "constant" or attrs["data_format"] != "NCDHW":
        raise UnsupportedOperator(f"a padding with {attrs}")
    left, right, top, bottom, front, back = (int(n) for n in paddings.get_vector())
    begin, end = graph.constant([0, 0, front, top, left]), graph.constant([0, 0, back, bottom, right])
    return graph.ops.pad(x, begin, end, "constant", graph.constant(attrs["pad_value"], np.float32))


def _dropout(graph: _Graph, attrs: Dict[str, Any], x: Node, *rest: Node) -> Node:
    if attrs["mode"] != "upscale_in_train" or not attrs["is_test"]:
        raise UnsupportedOperator("a dropout of a model in training")
    return x


def _arange(graph: _Graph, attrs: Dict[str, Any], start: Node, end: Node, step: Node) -> Node:
    scalars = (graph.scalar(node) for node in (start, end, step))
    return graph.ops.range(*scalars, output_type=np.dtype(_NUMPY_TYPES[attrs["dtype"].name]).name.replace("int", "i"))


def _split_with_num(graph: _Graph, attrs: Dict[str, Any], x: Node, axis: Node) -> List[Node]:
    return list(graph.ops.split(x, graph.scalar(axis), attrs["num"]).outputs())


def _builtin_split(graph: _Graph, attrs: Dict[str, Any], parts: List[Node]) -> tuple:
    return tuple(parts)


def _binary(name: str) -> Callable[..., Node]:
    return lambda graph, attrs, x, y: getattr(graph.ops, name)(x, y)


_OPERATORS: Dict[str, Callable[..., Any]] = {
    "parameter": _parameter,
    "data": _data,
    "fetch": _fetch,
    "full": _full,
    "full_int_array": _full_int_array,
    "combine": _combine,
    "split": _builtin_split,
    "split_with_num": _split_with_num,
    "arange": _arange,
    "dropout": _dropout,
    "slice": _slice,
    "stack": _stack,
    "scale": _scale,
    "conv2d": _conv2d,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "matmul": _matmul,
    "gelu": _gelu,
    "pool2d": _pool2d,
    "pad3d": _pad3d,
    "add": _binary("add"),
    "multiply": _binary("multiply"),
    "subtract": _binary("subtract"),
    "divide": _binary("divide"),
    "floor_divide": _binary("divide"),  # of sizes, which are whole and not negative
    "silu": lambda graph, attrs, x: graph.ops.swish(x),
    "relu": lambda graph, attrs, x: graph.ops.relu(x),
    "softmax": lambda graph, attrs, x: graph.ops.softmax(x, attrs["axis"]),
    "shape64": lambda graph, attrs, x: graph.ops.shape_of(x, "i64"),
    "reshape": lambda graph, attrs, x, shape: graph.ops.reshape(x, shape, True),
    "transpose": lambda graph, attrs, x: graph.ops.transpose(x, graph.constant(attrs["perm"])),
    "unsqueeze": lambda graph, attrs, x, axes: graph.ops.unsqueeze(x, axes),
    "squeeze": lambda graph, attrs, x, axes: graph.ops.squeeze(x, axes),
    "tile": lambda graph, attrs, x, repeats: graph.ops.tile(x, repeats),
    "expand": lambda graph, attrs, x, shape: graph.ops.broadcast(x, shape, broadcast_spec="BIDIRECTIONAL"),
    "concat": lambda graph, attrs, parts, axis: graph.ops.concat(parts, int(axis.get_vector()[0])),
    "embedding": lambda graph, attrs, ids, table: graph.ops.gather(table, ids, graph.constant(0)),
    "cast": lambda graph, attrs, x: graph.ops.convert(x, _NUMPY_TYPES[attrs["dtype"].name]),
    "assign": lambda graph, attrs, x: x,
    "share_data": lambda graph, attrs, x: x,
}
