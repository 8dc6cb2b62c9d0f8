"""Random draws that a seed fixes: torch's normal stream, one stream an image, the same for every step.

Pictures are compared by seed across libraries, so `Generator` follows torch's CPU generator value
by value (checked against torch 2.13).
"""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np

if TYPE_CHECKING:
    import paddle

BLOCK = 16  # torch transforms normals in blocks of this many, and anything shorter one by one
TWO_PI = np.float32(2 * math.pi)

# The bytes of `torch.Generator().get_state()` on a CPU. Of the 624 words `next` is the next one, and after `left` - 1
# more they are made anew; `spare` is the second normal of a pair that is waiting.
TORCH_STATE = np.dtype(
    [("seed", "u8"), ("left", "i4"), ("seeded", "i4"), ("next", "u8"), ("words", "u8", 624)]
    + [("x", "f8"), ("spare", "f8"), ("rho", "f8"), ("has_spare", "i8"), ("float_spare", "f4", 2)]
)
WORDS = 624


class Generator:
    """The normals of `torch.Generator().manual_seed(seed)` on a CPU, float32.

    Agreement with torch is within 1e-6 for any sequence of shapes, short ones included: torch's
    vectorised logarithm and cosines differ from the exact ones in the last bits.

    Args:
        seed: any integer from -2**63 to 2**64 - 1; as in torch a negative one stands for
            2**64 + seed, and only its low 32 bits reach the stream. None takes a fresh seed from the
            operating system; `initial_seed()` tells which.

    Raises:
        TypeError: a seed that is no integer (a float, a bool, a string, a device name).
        ValueError: an integer outside that range.
    """

    def __init__(self, seed: int | None = None):
        self.manual_seed(secrets.randbits(32) if seed is None else seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed` from its beginning; returns the generator itself."""
        self._seed = _checked_seed(seed)
        self._words = np.random.RandomState(self._seed & 0xFFFFFFFF)
        self._spare: float | None = None
        return self

    @property
    def seed(self) -> int:
        """The seed that the stream was started from, in 0 ... 2**64 - 1."""
        return self._seed

    def initial_seed(self) -> int:
        """The seed that the stream was started from, in 0 ... 2**64 - 1 (torch's name for it)."""
        return self.seed

    def get_state(self) -> tuple[int, dict[str, Any], float | None]:
        """Where the stream is, for `set_state`."""
        return self._seed, self._words.get_state(legacy=False), self._spare

    def set_state(self, state: tuple[int, dict[str, Any], float | None]) -> Generator:
        """Go to where `get_state` was called; returns the generator itself."""
        self._seed, words, self._spare = state
        self._words.set_state(words)
        return self

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed})"

    def randn(self, shape: Sequence[int]) -> np.ndarray:
        """The next standard normals of the stream, float32, as an array of `shape`."""
        size = math.prod(shape)
        return (self._blocks(size) if size >= BLOCK else self._singles(size)).reshape(shape)

    def _draw(self, count: int) -> np.ndarray:
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)

    def _blocks(self, size: int) -> np.ndarray:
        """16 or more values: uniforms for all of them, transformed in blocks; the last 16 again from
        fresh uniforms where the size is no multiple of 16."""
        whole = size - size % BLOCK
        values = np.empty(size, dtype=np.float32)
        values[:whole] = _box_muller(self._draw(size)[:whole])
        if whole < size:
            values[-BLOCK:] = _box_muller(self._draw(BLOCK))
        return values

    def _singles(self, size: int) -> np.ndarray:
        """Fewer than 16 values: one at a time, in double; each pair's second value waits for the next
        such draw, whatever else is drawn between."""
        values = np.empty(size, dtype=np.float32)
        for index in range(size):
            if self._spare is None:
                high_1, low_1, high_2, low_2 = self._draw(4).tolist()
                radius = math.sqrt(-2 * math.log1p(-_uniform53(high_2, low_2)))
                angle = 2 * math.pi * _uniform53(high_1, low_1)
                values[index], self._spare = radius * math.cos(angle), radius * math.sin(angle)
            else:
                values[index], self._spare = self._spare, None
        return values


class _TorchGenerator(Generator):
    """The stream of a torch generator: every draw begins at its state and leaves it where torch's would have.

    torch is not needed: a state is a tensor whose memory numpy reads and writes.

    Raises:
        ValueError: a generator that is not on the CPU, whose stream is another one.
    """

    def __init__(self, generator: Any):
        self._generator = generator
        self._words = np.random.RandomState(0)
        self._load()

    @property
    def seed(self) -> int:
        return self._generator.initial_seed() % 2**64

    def _fields(self) -> tuple[Any, np.ndarray]:
        """torch's state, and its numbers, which are the same memory."""
        state = self._generator.get_state()
        values = state.numpy()
        if values.nbytes != TORCH_STATE.itemsize:
            raise ValueError(
                f"cannot continue the stream of a generator on {getattr(self._generator, 'device', 'another device')}; "
                "give torch.Generator('cpu') or a ppdiffusers.Generator"
            )
        return state, values.view(TORCH_STATE)[0]

    def _load(self) -> None:
        _, fields = self._fields()
        position = int(fields["next"]) if fields["left"] > 1 else WORDS
        self._words.set_state(("MT19937", fields["words"].astype(np.uint32), position, 0, 0.0))
        self._seed, self._spare = int(fields["seed"]), float(fields["spare"]) if fields["has_spare"] else None

    def _store(self) -> None:
        state, fields = self._fields()
        words = self._words.get_state(legacy=False)["state"]
        fields["words"], position = words["key"], words["pos"]
        fields["seed"], fields["next"], fields["left"] = self._seed, position, WORDS + 1 - position
        fields["spare"], fields["has_spare"] = self._spare or 0.0, self._spare is not None
        self._generator.set_state(state)

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed(seed)
        self._store()
        return self

    def get_state(self) -> tuple[int, dict[str, Any], float | None]:
        self._load()
        return super().get_state()

    def set_state(self, state: tuple[int, dict[str, Any], float | None]) -> Generator:
        super().set_state(state)
        self._store()
        return self

    def randn(self, shape: Sequence[int]) -> np.ndarray:
        self._load()
        values = super().randn(shape)
        self._store()
        return values

    def __deepcopy__(self, memo: Any) -> Generator:
        return Generator(0).set_state(self.get_state())


# Torch's and Paddle's generators cannot be named here.
Source = Union[Generator, int, Any]
Streams = Union[Generator, list[Generator], None]


def as_generators(generator: Source | Sequence[Source] | None, batch_size: int) -> Streams:
    """What a caller passes as `generator`, as running streams.

    A pipeline calls it once, at its start, and draws everything from the result: the initial noise
    and each step's noise then come from the same streams. Applied to its own result it changes nothing.

    Args:
        generator: one of these, or a list with one of these an image:
            - a `Generator`: used as it is, so that the next call goes on where this one stops;
            - a torch generator on the CPU: continued from its state and advanced as torch would have, so that
              it too gives another picture at the next call, and the same ones as in torch;
            - an int: a fresh `Generator` of that seed, the same picture at every call;
            - a `paddle.Generator`, not in a list: the same as None;
            - None: Paddle's own stream on the device, which `paddle.seed` starts. It is one for the whole
              process, and another on every kind of device.
        batch_size: number of images.

    Returns:
        One `Generator`; or a list of `batch_size` of them; or None.

    Raises:
        TypeError: something else; numpy's generators too, whose normals no other library draws.
        ValueError: a list whose length is neither 1 nor `batch_size`, or that holds one generator twice; a
            generator of Paddle in a list or of another device; a torch generator that is not on the CPU.
    """
    if not isinstance(generator, (list, tuple)):
        return None if generator is None else _as_generator(generator)
    if len(generator) == 1:
        return _as_generator(generator[0])
    if len(generator) != batch_size:
        raise ValueError(f"got {len(generator)} generators for {batch_size} images; give one an image, or a single one")
    remedy = f"give each image its own, such as [ppdiffusers.Generator(seed) for seed in range({batch_size})]"
    places: dict[int, int] = {}
    for index, item in enumerate(generator):
        if _is_of_paddle(item):
            raise ValueError(
                "Paddle has one generator a device, and paddle.Generator() returns that one every time: "
                f"it cannot be one of several; {remedy}"
            )
        # Equal ints are no objects that advance: two images of one seed both get that seed's picture.
        first = index if hasattr(item, "__index__") else places.setdefault(id(item), index)
        if first != index:
            raise ValueError(f"generators {first} and {index} of the list are one object, one stream; {remedy}")
    return [_as_generator(item) for item in generator]  # type: ignore[misc]


def randn_tensor(
    shape: Sequence[int],
    generator: Source | Sequence[Source] | None = None,
    dtype: Any = "float32",
) -> paddle.Tensor:
    """Standard normals as a Paddle tensor of `shape`, drawn in float32 and cast to `dtype`.

    Args:
        shape: with a list of generators, `shape[0]` is their number, and each fills its own
            `[1, *shape[1:]]`: an image is the same in every batch.
        generator: as in `as_generators`. An int starts its stream anew at every call; to draw more than
            once, pass a generator. None draws from Paddle's own.

    Raises:
        TypeError, ValueError: as `as_generators`.
    """
    import paddle

    shape = [int(length) for length in shape]
    streams = as_generators(generator, shape[0] if shape else 1)
    if streams is None:
        return paddle.randn(shape, dtype="float32").astype(dtype)
    if isinstance(streams, Generator):
        values = streams.randn(shape)
    else:
        values = np.stack([stream.randn(shape[1:]) for stream in streams])
    return paddle.to_tensor(values).astype(dtype)


def _is_of_paddle(item: Any) -> bool:
    return type(item).__name__ == "Generator" and type(item).__module__.partition(".")[0] == "paddle"


def _as_generator(item: Source) -> Generator | None:
    """The running stream of a source; None for that of Paddle."""
    if isinstance(item, Generator):
        return item
    if _is_of_paddle(item):
        import paddle

        if hasattr(paddle, "Generator") and item is not paddle.Generator():
            raise ValueError(
                f"this paddle.Generator is not the one that Paddle draws from on {paddle.get_device()}; call "
                "paddle.seed(...) and leave generator out, or give a ppdiffusers.Generator"
            )
        return None
    if all(callable(getattr(item, name, None)) for name in ("initial_seed", "get_state", "set_state")):
        return _TorchGenerator(item)
    try:
        return Generator(_checked_seed(item))
    except TypeError:
        raise TypeError(
            f"cannot draw from {item!r} ({type(item).__name__}); give a ppdiffusers.Generator, an int seed, "
            "a torch generator, or a list of one an image"
        ) from None


def _checked_seed(seed: Any) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"a seed is an integer, not {seed!r} ({type(seed).__name__})") from None
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed {number} is outside -2**63 ... 2**64 - 1; take a smaller one")
    return number % 2**64


def _box_muller(words: np.ndarray) -> np.ndarray:
    """Normals of whole blocks of 32-bit words: eight radii and eight angles make eight cosines and eight sines."""
    uniforms = (words & 0xFFFFFF).astype(np.float32).reshape(-1, 2, BLOCK // 2) * np.float32(2**-24)
    radius = np.sqrt(-2 * np.log1p(-uniforms[:, 0].astype(np.float64)))
    # The angle is rounded to float32 as torch rounds it: an exact one would be 2e-6 away in the tails.
    angle = (TWO_PI * uniforms[:, 1]).astype(np.float64)
    normals = np.empty(uniforms.shape, dtype=np.float32)
    normals[:, 0] = radius * np.cos(angle)
    normals[:, 1] = radius * np.sin(angle)
    return normals.reshape(-1)


def _uniform53(high: int, low: int) -> float:
    return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53
