"""Weights that lie over their file's pages: used and changed like any others, while the file stays as it is."""

import copy
import gc
import os
import pickle
import sys
import threading

import numpy as np
import paddle
import pytest

from ppdiffusers import UNet2DModel
from ppdiffusers.checkpoints import open_checkpoint, save_safetensors
from ppdiffusers.models.model import linear_weights
from ppdiffusers.models.weights import give_back_pages

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(paddle.Tensor, "__dlpack__"),
    reason="weights are mapped on Linux, by paddle 3",
)
CONFIG = dict(
    block_out_channels=(8, 32),
    norm_num_groups=4,
    layers_per_block=1,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
FILE = "diffusion_paddle_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    paddle.seed(3)
    UNet2DModel(**CONFIG).save_pretrained(tmp_path)
    return tmp_path


def maps_of(path):
    """First and last address of each mapping of a file, also of one that was deleted since."""
    with open("/proc/self/maps") as lines:
        ranges = [line.split()[0].split("-") for line in lines if str(path) in line]
    return [(int(start, 16), int(stop, 16)) for start, stop in ranges]


def is_mapped(tensor, path):
    return any(start <= tensor.data_ptr() < stop for start, stop in maps_of(path))


def values(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_all_weights_of_our_files_are_mapped_and_work_as_copies_do(folder):
    mapped = UNet2DModel.from_pretrained(folder)
    copied = UNet2DModel.from_pretrained(folder, disable_mmap=True)
    assert all(is_mapped(tensor, folder / FILE) for tensor in mapped.parameters())
    assert not any(is_mapped(tensor, folder / FILE) for tensor in copied.parameters())
    large = [tensor for tensor in mapped.parameters() if tensor.size % 16 == 0]
    assert large and all(tensor.data_ptr() % 64 == 0 for tensor in large)
    assert_equal(values(mapped), values(copied))
    results = []
    for model in (mapped, copied):
        optimizer = paddle.optimizer.AdamW(0.01, parameters=model.parameters())
        for _ in range(2):
            (model(paddle.ones([1, 3, 8, 8]), 3).sample ** 2).mean().backward()
            optimizer.step()
            optimizer.clear_grad()
        results.append(values(model))
    assert_equal(*results)
    assert_equal(values(UNet2DModel.from_pretrained(folder)), values(UNet2DModel.from_pretrained(folder, None)))


def step(model):
    optimizer = paddle.optimizer.Adam(0.1, parameters=model.parameters())
    model(paddle.ones([1, 3, 8, 8]), 3).sample.sum().backward()
    optimizer.step()


@paddle.no_grad()
def fill(model):
    for tensor in model.parameters():
        tensor.set_value(paddle.full_like(tensor, 0.5))


@paddle.no_grad()
def write(model):
    for tensor in model.parameters():
        tensor[...] = 0.5
        tensor.add_(tensor)


def set_state(model):
    model.set_state_dict({name: paddle.ones_like(value) for name, value in model.state_dict().items()})


@pytest.mark.parametrize(
    "change",
    [step, fill, write, set_state, lambda model: model.to(dtype="float16")],
    ids=["optimiser", "set_value", "in place", "set_state_dict", "to"],
)
def test_changes_stay_in_the_model(folder, change):
    content = (folder / FILE).read_bytes()
    model, other = UNet2DModel.from_pretrained(folder), UNet2DModel.from_pretrained(folder)
    before = values(other)
    change(model)
    assert any((value != before[name]).any() for name, value in values(model).items())
    assert_equal(values(other), before)
    assert (folder / FILE).read_bytes() == content


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_of_their_own(folder, duplicate):
    model = UNet2DModel.from_pretrained(folder)
    if duplicate is not copy.deepcopy and paddle.__version__ < "3.3":
        pytest.skip("paddle before 3.3 pickles no layers")
    double, before = duplicate(model), values(model)
    fill(double)
    assert_equal(values(model), before)
    assert double.config == model.config and not any(is_mapped(x, folder / FILE) for x in double.parameters())


def test_the_mapping_goes_with_its_last_user(folder):
    model = UNet2DModel.from_pretrained(folder)
    kept = model.conv_in.weight.detach()
    expected = kept.numpy().copy()
    os.unlink(folder / FILE)
    del model
    gc.collect()
    assert is_mapped(kept, folder / FILE)
    np.testing.assert_array_equal(kept.numpy(), expected)
    thread = threading.Thread(target=lambda held: held.clear(), args=([kept],))  # freed by a thread that did not map
    del kept
    thread.start()
    thread.join()
    gc.collect()
    assert not maps_of(folder / FILE)


def test_saving_over_the_files_that_a_model_lies_on(folder):
    model, other = UNet2DModel.from_pretrained(folder), UNet2DModel.from_pretrained(folder)
    before = values(other)
    fill(model)
    model.save_pretrained(folder)
    model.save_pretrained(folder, paddle_dtype="float16")
    assert_equal(values(other), before)
    again = UNet2DModel.from_pretrained(folder)
    assert_equal(values(again), values(model))
    state = folder / "state.pdparams"
    paddle.save(other.state_dict(), str(state))
    again.set_state_dict(paddle.load(str(state)))
    assert_equal(values(again), before)


def test_forked_children_have_weights_of_their_own(folder):
    model = UNet2DModel.from_pretrained(folder)
    before = values(model)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert_equal(values(model), before)
            fill(model)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_equal(values(model), before)


def test_what_does_not_lie_as_it_is_wanted_is_copied(folder):
    """torch's layout at addresses that are no multiple of four, in half precision and not."""
    model = UNet2DModel.from_pretrained(folder)
    model.save_config(folder / "torch")
    transposed = linear_weights(model)
    state = {n: np.ascontiguousarray(x.T) if n in transposed else x for n, x in values(model).items()}
    file = folder / "torch" / "diffusion_pytorch_model.safetensors"
    save_safetensors(file, state, {})
    loaded = UNet2DModel.from_pretrained(folder / "torch")
    assert_equal(values(loaded), values(model))
    assert {name for name, x in loaded.state_dict().items() if not is_mapped(x, file)} == transposed

    del loaded
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + content[8 : 8 + length] + b" " + content[8 + length :])
    odd = UNet2DModel.from_pretrained(folder / "torch")
    assert_equal(values(odd), values(model))
    assert not maps_of(file)

    for stored in ("float16", "bfloat16"):
        model.save_pretrained(folder / stored, paddle_dtype=stored)
        file = folder / stored / FILE
        for wanted in ("float32", "float16", "bfloat16"):
            half = UNet2DModel.from_pretrained(folder / stored, paddle_dtype=wanted)
            assert str(half.dtype) == f"paddle.{wanted}"
            assert all(is_mapped(tensor, file) == (stored == wanted) for tensor in half.parameters())
            exact = half.to(dtype="float32").conv_in.weight.numpy()
            np.testing.assert_allclose(exact, values(model)["conv_in.weight"], rtol=2**-7, atol=1e-7)


def test_other_systems_copy(folder, monkeypatch):
    expected = values(UNet2DModel.from_pretrained(folder))
    monkeypatch.setattr(sys, "platform", "win32")
    model = UNet2DModel.from_pretrained(folder)
    assert_equal(values(model), expected)
    assert not maps_of(folder / FILE)
    give_back_pages(model.parameters())


def test_a_map_outlives_its_checkpoint(tmp_path):
    array = np.arange(2000, dtype=np.float32)
    save_safetensors(tmp_path / "x.safetensors", {"a": array, "empty": np.zeros([0, 3], np.float32)}, {})
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        first, second, empty = checkpoint.map("a"), checkpoint.map("a"), checkpoint.map("empty")
        first[3] = -1
        checkpoint.release("a")
        assert checkpoint.read("a")[3] == 3
    assert first[3] == second[3] == -1 and (first[4:] == array[4:]).all() and empty.shape == (0, 3)
    del first, second, empty
    assert not maps_of(tmp_path / "x.safetensors")


def resident(path):
    """Bytes of a file's mappings that are in this process's memory."""
    total, inside = 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if "-" in line.split()[0]:
                inside = str(path) in line
            elif inside and line.startswith("Rss:"):
                total += 1024 * int(line.split()[1])
    return total


def test_pages_that_are_given_back_return(tmp_path):
    file = tmp_path / "x.safetensors"
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal([1024, 1024]).astype(np.float32) for name in "abc"}
    save_safetensors(file, arrays, {})
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)  # pages that are not on the disk yet cannot be given back
    os.close(descriptor)
    with open_checkpoint(file) as checkpoint:
        tensors = [paddle.utils.dlpack.from_dlpack(checkpoint.map(name)) for name in "abc"]
    ordinary = paddle.ones([1024, 1024])
    tensors[1][100:200] = 7.0
    arrays["b"][100:200] = 7.0
    assert [float(tensor.sum()) for tensor in tensors]
    before = resident(file)
    give_back_pages([*tensors[:2], ordinary])
    after = resident(file)
    assert before == pytest.approx(3 * 2**22, rel=0.01)
    for name, tensor in zip("abc", tensors):
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])
    assert float(ordinary.sum()) == 2**20
    if after == before:
        pytest.skip("this kernel or file system takes no pages back")
    # "c", the rows that were written, and some pages at the places that weights_state looks at
    assert after < 2**22 + 100 * 4096 + 30 * 4096
