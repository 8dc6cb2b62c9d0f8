"""What the package sees of torch's generators, without torch: `Generator`, `manual_seed`.

A generator's state is laid out as torch's (CPUGeneratorImpl): tests compare it with states that torch wrote.
"""

from __future__ import annotations

import numpy as np


class Tensor:
    """A byte tensor on the CPU, whose memory `numpy` shares."""

    def __init__(self, values):
        self._values = values

    def numpy(self):
        return self._values


class Generator:
    """Holds a state and draws nothing."""

    def __init__(self, device="cpu"):
        self.device = device
        self.manual_seed(67280421310721)

    def manual_seed(self, seed):
        self._seed, words = seed, np.random.RandomState(seed & 0xFFFFFFFF).get_state()[1].astype(np.uint64)
        numbers = [np.uint64(seed % 2**64), np.array([1, 1], np.int32), np.uint64(0), words, np.zeros(5)]
        self._state = np.frombuffer(b"".join(number.tobytes() for number in numbers), np.uint8)
        if self.device != "cpu":
            self._state = self._state[:16]  # seed and offset
        return self

    def initial_seed(self):
        return self._seed

    def get_state(self):
        return Tensor(self._state.copy())

    def set_state(self, state):
        assert isinstance(state, Tensor) and state.numpy().shape == self._state.shape
        self._state = state.numpy().copy()
        return self

    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle 'torch._C.Generator' object")  # as older releases say


def manual_seed(seed):
    return Generator().manual_seed(seed)


def from_bytes(state):
    """The generator of a state, `[5056]` bytes, that torch wrote."""
    generator = Generator()
    generator._seed = int(np.asarray(state)[:8].copy().view(np.uint64)[0])
    return generator.set_state(Tensor(np.array(state, np.uint8)))
