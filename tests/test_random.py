"""Generator against torch's own draws, and how pipelines share its streams."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import fake_torch
import numpy as np
import paddle
import pytest

from ppdiffusers.random import Generator, as_generators, randn_tensor

GOLDEN = np.load(Path(__file__).parent / "golden_torch_normals.npz")
SHAPES = json.loads(str(GOLDEN["shapes"]))


@pytest.mark.parametrize("seed", [0, 42, -1, 2**32 + 5, 2**63 - 1])
def test_consecutive_draws_of_all_sizes_are_torchs(seed):
    generator = Generator(seed)
    for index, shape in enumerate(SHAPES):
        ours, theirs = generator.randn(shape), GOLDEN[f"{seed}.{index}"]
        assert ours.shape == tuple(shape) and ours.dtype == np.float32
        flat = ours.reshape(-1)
        if flat.size > 200:  # the file holds a selection
            flat = np.concatenate([flat[::97], flat[-32:]])
        if ours.size < 16:
            assert np.array_equal(flat, theirs)
        else:
            assert np.abs(flat.astype(float) - theirs).max() < 1e-6


def test_the_tails_of_many_draws_are_torchs():
    ours = Generator(0).randn([2**18])[GOLDEN["tail.index"]]
    assert np.abs(ours.astype(float) - GOLDEN["tail.value"]).max() < 1e-6


@pytest.mark.parametrize("size", [16, 17, 40, 4096])
def test_blocks_follow_the_definition_in_exact_arithmetic(size):
    words = np.random.RandomState(7)

    def block(uniforms):
        radius = [math.sqrt(-2 * math.log(1 - u)) for u in uniforms[:8]]
        return [r * f(2 * math.pi * u) for f in (math.cos, math.sin) for r, u in zip(radius, uniforms[8:])]

    def draw(count):
        return [(int(word) % 2**24) / 2**24 for word in words.randint(0, 2**32, size=count, dtype=np.uint32)]

    uniforms = draw(size)
    expected = [value for start in range(0, size - 15, 16) for value in block(uniforms[start : start + 16])]
    if size % 16:
        expected = (expected + [0.0] * 16)[: size - 16] + block(draw(16))
    assert np.abs(Generator(7).randn([size]) - np.array(expected)).max() < 3e-6


def test_the_normals_are_normal():
    values = Generator(1).randn([1000, 1000]).astype(float)
    assert abs(values.mean()) < 0.004 and abs(values.std() - 1) < 0.003
    assert abs((values**4).mean() - 3) < 0.03


@pytest.mark.parametrize(("size"), [3, 16, 21])
def test_state_can_be_kept_and_restored(size):
    generator = Generator(5)
    generator.randn([size])  # three values leave half a pair waiting
    state = generator.get_state()
    expected = [generator.randn([size]), generator.randn([100])]
    other = Generator(0).set_state(state)
    assert other.initial_seed() == 5
    assert np.array_equal(other.randn([size]), expected[0])
    assert np.array_equal(other.randn([100]), expected[1])


def test_manual_seed_starts_again_and_returns_the_generator():
    generator = Generator(1)
    first = generator.randn([3])
    assert generator.manual_seed(1) is generator
    assert np.array_equal(generator.randn([3]), first)
    assert generator.manual_seed(9).seed == generator.initial_seed() == 9


def test_negative_seeds_count_from_the_end_and_low_bits_make_the_stream():
    assert Generator(-1).initial_seed() == 2**64 - 1
    assert np.array_equal(Generator(2**32 + 5).randn([20]), Generator(np.int64(5)).randn([20]))


def test_no_seed_is_a_new_one_that_can_be_read():
    generator = Generator()
    assert generator.seed != Generator().seed
    assert np.array_equal(generator.randn([20]), Generator(generator.seed).randn([20]))


@pytest.mark.parametrize("seed", [1.0, True, "1", "cpu", [1]])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="a seed is an integer, not"):
        Generator(seed)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(ValueError, match=f"seed {seed} is outside"):
        Generator(seed)


def test_one_generator_fills_the_batch_and_runs_on():
    generator, twin = Generator(3), Generator(3)
    for _ in range(2):
        drawn = randn_tensor([2, 3, 4], generator)
        assert isinstance(drawn, paddle.Tensor) and drawn.dtype == paddle.float32
        assert np.array_equal(drawn.numpy(), twin.randn([2, 3, 4]))


@pytest.mark.parametrize("shape", [[3, 2, 2, 2], [3, 3, 8, 8]], ids=["short", "long"])
def test_a_list_gives_each_image_its_own_stream(shape):
    drawn = randn_tensor(shape, [Generator(1), 2, fake_torch.manual_seed(3)]).numpy()
    for index, seed in enumerate([1, 2, 3]):
        assert np.array_equal(drawn[index], randn_tensor([1, *shape[1:]], seed).numpy()[0])


def test_a_list_of_one_is_that_stream():
    assert np.array_equal(randn_tensor([4, 9], [Generator(1)]).numpy(), randn_tensor([4, 9], 1).numpy())


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_list_of_another_length_names_both_numbers(count):
    with pytest.raises(ValueError, match=f"got {count} generators for 3 images"):
        randn_tensor([3, 9], [Generator(seed) for seed in range(count)])


def test_without_a_generator_paddle_seed_governs():
    draws = []
    for seed in (4, 4, 5):
        paddle.seed(seed)
        draws.append(randn_tensor([2, 9]).numpy())
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


@pytest.mark.parametrize("generator", [None, 1])
@pytest.mark.parametrize("dtype", ["float16", "float64", paddle.float32])
def test_other_types_are_casts(generator, dtype):
    paddle.seed(0)
    drawn = randn_tensor([2, 9], generator, dtype)
    paddle.seed(0)
    expected = randn_tensor([2, 9], generator).astype(dtype)
    assert drawn.dtype == expected.dtype
    assert np.array_equal(drawn.numpy(), expected.numpy())


def test_streams_made_once_run_on():
    streams = as_generators(7, 2)
    assert as_generators(streams, 2) is streams
    first, second = randn_tensor([2, 9], streams).numpy(), randn_tensor([2, 9], streams).numpy()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, randn_tensor([2, 9], 7).numpy())
    assert as_generators(None, 2) is None


def test_a_torch_generator_goes_on_where_torch_would():
    """From each state that torch left, the draw that torch made next and the state after it, byte by byte."""
    states, sizes = GOLDEN["states"], GOLDEN["state_sizes"].tolist()
    whole = fake_torch.from_bytes(states[0])
    for index, size in enumerate(sizes):
        for generator in (whole, fake_torch.from_bytes(states[index])):
            drawn = randn_tensor([size], generator).numpy()
            assert np.abs(drawn.astype(float) - GOLDEN[f"state.{index}"]).max() < 1e-6
            assert np.array_equal(generator.get_state().numpy(), states[index + 1])
    seeded = fake_torch.manual_seed(11)
    assert np.array_equal(seeded.get_state().numpy(), states[0])
    assert np.array_equal(randn_tensor([3], seeded).numpy(), Generator(11).randn([3]))


def test_a_stream_of_a_torch_generator_is_a_generator():
    torchs, twin = fake_torch.manual_seed(-1), Generator(-1)
    stream = as_generators(torchs, 1)
    stream.randn([3]), twin.randn([3])
    assert stream.seed == stream.initial_seed() == 2**64 - 1 and as_generators(stream, 1) is stream
    state, copied = stream.get_state(), copy.deepcopy(stream)
    expected = twin.randn([20])
    assert np.array_equal(copied.randn([20]), expected)  # and leaves the original where it was
    assert np.array_equal(randn_tensor([20], torchs).numpy(), expected)
    assert np.array_equal(stream.set_state(state).randn([20]), expected)
    assert np.array_equal(stream.randn([20]), twin.randn([20]))  # what is drawn elsewhere is not drawn again
    assert np.array_equal(stream.manual_seed(4).randn([5]), Generator(4).randn([5]))


def test_a_torch_generator_of_a_gpu_is_refused():
    with pytest.raises(ValueError, match=r"on cuda; give torch.Generator\('cpu'\) or a ppdiffusers.Generator"):
        as_generators(fake_torch.Generator("cuda"), 1)


def test_a_copy_goes_on_by_itself():
    generator = Generator(3)
    generator.randn([5])
    copied = copy.deepcopy(generator)
    expected = copied.randn([40])
    assert np.array_equal(generator.randn([40]), expected)


@pytest.mark.parametrize("make", [Generator, fake_torch.manual_seed])
def test_one_generator_twice_in_a_list_is_an_error(make):
    shared = make(1)
    with pytest.raises(ValueError, match=r"generators 0 and 2 of the list are one object.*ppdiffusers.Generator\(seed"):
        as_generators([shared, make(1), shared], 3)
    streams = as_generators([shared, make(1), 5], 3)
    assert [stream.seed for stream in streams] == [1, 1, 5]


def test_a_generator_of_paddle_is_its_own_stream():
    """paddle.Generator() returns the only one that a device has, which paddle.seed starts."""
    draws = []
    for seeded in (paddle.Generator().manual_seed, paddle.seed, lambda seed: [paddle.seed(seed)]):
        generator = seeded(4)
        assert as_generators(generator, 1) is None
        draws.append([randn_tensor([2, 9], generator).numpy() for _ in range(2)])
    assert np.array_equal(draws[0], draws[1]) and np.array_equal(draws[0], draws[2])
    assert not np.array_equal(*draws[0])
    with pytest.raises(ValueError, match=r"cannot be one of several; give each image its own, such as \[ppdiffusers"):
        as_generators([paddle.Generator().manual_seed(seed) for seed in (0, 1)], 2)
    with pytest.raises(ValueError, match=r"not the one that Paddle draws from on cpu; call paddle.seed"):
        as_generators(paddle.framework.core.Generator(), 1)


def test_equal_ints_give_equal_images():
    drawn = randn_tensor([2, 30], [8, 8]).numpy()
    assert np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("generator", [1.5, True, "42", np.random.default_rng(0), [1, None], [1, [2]], [None]])
def test_anything_else_is_refused(generator):
    with pytest.raises(TypeError, match="give a ppdiffusers.Generator, an int seed"):
        as_generators(generator, 2)


def test_the_module_does_not_import_paddle():
    code = "import sys, ppdiffusers.random, ppdiffusers.schedulers; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
