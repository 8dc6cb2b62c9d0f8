"""Layers as kernels compute them, for random shapes, layouts and wishes for gradients, against paddle's own operators.

Those compute in float64: in float32 the gradients of its group norm are off by 1e-5 themselves.

Run as a program (`layer_cases.py COUNT SEED`) it prints the cases that differ, and the largest difference, for the CPU
at hand as ONEDNN_MAX_CPU_ISA bounds it.
"""

import json
import sys

import numpy as np
import paddle
import paddle.nn.functional as F

from ppdiffusers.layers import basic
from ppdiffusers.layers.resampling import repeat_pixels
from ppdiffusers.onednn import functions

TOLERANCE = 1e-5  # of the largest difference, relative to the largest value
LIMITS = ("_CONVOLUTION_FROM", "_PRODUCT_FROM", "_MAP_FROM")


def plain_norm(norm):
    return lambda x, scale, shift: F.group_norm(x, norm._num_groups, norm._epsilon, scale, shift)


def plain_convolution(layer):
    geometry = layer._stride, layer._updated_padding, layer._dilation
    return lambda x, weight, bias=None: F.conv2d(x, weight, bias, *geometry)


def scores(query, key):
    return F.softmax(paddle.matmul(query, key, transpose_y=True), axis=-1)


class Cases:
    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def pick(self, *values):
        return values[self.random.integers(len(values))]

    def tensor(self, *shape):
        """With gradients or not, and now and then a view whose elements do not lie in order."""
        values = paddle.to_tensor(self.random.standard_normal(shape).astype(np.float32))
        if self.random.random() < 0.3 and len(shape) > 2:
            order = [0, *range(2, len(shape)), 1]
            values = values.transpose(order).contiguous().transpose(np.argsort(order).tolist())
        values.stop_gradient = bool(self.random.random() < 0.3)
        return values

    def layer(self, layer):
        for parameter in layer.parameters():
            parameter.set_value(self.random.standard_normal(parameter.shape).astype(np.float32))
            parameter.stop_gradient = bool(self.random.random() < 0.3)
        return layer

    def map(self, channels):
        return self.tensor(int(self.pick(1, 2, 3)), channels, *(int(n) for n in self.random.integers(5, 14, 2)))

    def norm(self):
        groups = int(self.pick(1, 2, 4))
        return self.layer(basic.GroupNorm(groups, groups * int(self.pick(1, 3, 8)), epsilon=self.pick(1e-5, 1e-6)))

    def convolution(self, inner):
        outer, size = (int(n) for n in (self.pick(1, 3, 16, 24, 33), self.pick(1, 2, 3, 4)))
        geometry = (int(self.pick(1, 2)), int(self.pick(0, 1, 2)), int(self.pick(1, 1, 2)) if size < 4 else 1)
        bias = self.pick(None, None, False)
        return self.layer(basic.Conv2D(inner, outer, size, *geometry, bias_attr=bias))

    # Each gives the tensors that may have gradients, a function by kernels, and one of paddle's operators.

    def case_convolution(self):
        layer = self.convolution(int(self.pick(1, 3, 16, 20)))
        x = self.map(layer.weight.shape[1])
        return [x, *layer.parameters()], lambda: layer(x), plain_convolution(layer)

    def case_doubled(self):
        inner = int(self.pick(3, 16))
        layer = self.layer(basic.Conv2D(inner, int(self.pick(4, 16)), 3, padding=1))
        x, plain = self.map(inner), plain_convolution(layer)
        return (
            [x, *layer.parameters()],
            lambda: basic.doubled_convolution(layer, x),
            lambda x, *others: plain(repeat_pixels(x), *others),
        )

    def case_norm(self):
        norm = self.norm()
        x = self.map(norm.weight.shape[0])
        return [x, *norm.parameters()], lambda: norm(x), plain_norm(norm)

    def case_norm_and_silu(self):
        norm, silu = self.norm(), basic.Silu()
        x, plain = self.map(norm.weight.shape[0]), plain_norm(norm)
        return (
            [x, *norm.parameters()],
            lambda: basic.normed_and_activated(norm, silu, x),
            lambda *inputs: F.silu(plain(*inputs)),
        )

    def case_chain(self):
        norm, silu = self.norm(), basic.Silu()
        layer = self.convolution(norm.weight.shape[0])
        x, first, last = self.map(norm.weight.shape[0]), plain_norm(norm), plain_convolution(layer)
        return (
            [x, *norm.parameters(), *layer.parameters()],
            lambda: basic.normed_and_convolved(norm, silu, layer, x),
            lambda x, scale, shift, *others: last(F.silu(first(x, scale, shift)), *others),
        )

    def case_silu(self):
        x, silu = self.tensor(2, 5, 7), basic.Silu()
        return [x], lambda: silu(x), F.silu

    def case_linear(self):
        inner, outer = (int(n) for n in self.random.integers(1, 40, 2))
        layer = self.layer(basic.Linear(inner, outer, bias_attr=self.pick(None, False)))
        x = self.tensor(*self.random.integers(1, 8, int(self.pick(1, 2, 3))).tolist(), inner)
        return [x, *layer.parameters()], lambda: layer(x), F.linear

    def case_attention(self):
        batch, heads, rows, columns, depth, width = self.random.integers(1, 9, 6).tolist()
        q, k = self.tensor(batch, heads, rows, depth), self.tensor(batch, heads, columns, depth)
        v = self.tensor(batch, heads, columns, width)
        return [q, k, v], lambda: basic.attention(q, k, v), lambda q, k, v: paddle.matmul(scores(q, k), v)

    def case_sum(self):
        x = self.map(4)
        y = self.tensor(*x.shape[:2], *self.pick(x.shape[2:], (1, 1)))
        return [x, y], lambda: basic.added(x, y) * x, lambda x, y: (x + y) * x

    def all(self, count):
        kinds = [name for name in sorted(dir(self)) if name.startswith("case_")]
        for number in range(count):
            yield kinds[number % len(kinds)], getattr(self, kinds[number % len(kinds)])()


def difference(ours, plain):
    scale = float(np.abs(plain).max()) or 1.0
    return float(np.abs(ours - plain).max()) / scale if ours.shape == plain.shape else float("inf")


def outcome(function, tensors, weights):
    """The result, and the gradients that there are, for a loss that is a weighted sum."""
    for tensor in tensors:
        tensor.clear_gradient()
    result = function()
    found = [result.numpy()]
    if not result.stop_gradient:
        result.backward(paddle.to_tensor(np.resize(weights, result.shape)).astype(result.dtype))
        found += [None if each.grad is None else each.grad.numpy() for each in tensors]
    return found


def in_float64(tensors):
    return [paddle.to_tensor(each.numpy().astype(np.float64), stop_gradient=each.stop_gradient) for each in tensors]


def differences(count, seed):
    """(kind, largest difference, used kernels) of every case."""
    cases = Cases(seed)
    calls, run = [], functions._run
    functions._run = lambda *places: (calls.append(1), run(*places))
    kept = [getattr(basic, name) for name in LIMITS]
    for name in LIMITS:
        setattr(basic, name, 0)
    at_once, functions._SCORES_AT_ONCE = functions._SCORES_AT_ONCE, 40
    try:
        for kind, (tensors, ours, plain) in cases.all(count):
            weights, exact = cases.random.standard_normal(10_000).astype(np.float32), in_float64(tensors)
            calls.clear()
            got = outcome(ours, tensors, weights)
            wanted = outcome(lambda plain=plain, exact=exact: plain(*exact), exact, weights)
            same = [(a is None) == (b is None) for a, b in zip(got, wanted)]
            worst = max(difference(a, b) for a, b in zip(got, wanted) if a is not None and b is not None)
            yield kind, worst if all(same) and len(got) == len(wanted) else float("inf"), bool(calls)
    finally:
        functions._run, functions._SCORES_AT_ONCE = run, at_once
        for name, value in zip(LIMITS, kept):
            setattr(basic, name, value)


if __name__ == "__main__":
    found = list(differences(int(sys.argv[1]), int(sys.argv[2])))
    used = {kind: sum(used for each, _, used in found if each == kind) for kind, _, _ in found}
    wrong = [(kind, worst) for kind, worst, _ in found if not worst < TOLERANCE]
    print(json.dumps({"wrong": wrong, "worst": max(worst for _, worst, _ in found), "used": used}))
