"""Good files of every kind give their names, types, shapes and values."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from checkpoint_files import GOLDEN, TORCH_FILES, as_read, every_type

from model_zoo.formats import archive
from ppdiffusers.checkpoints import CheckpointError, open_checkpoint, save_pdparams, save_safetensors


def check(path, arrays, layout=None):
    """The file holds exactly these arrays, uint16 standing for bfloat16."""
    with open_checkpoint(path) as checkpoint:
        assert sorted(checkpoint.keys()) == sorted(arrays)
        for name, array in arrays.items():
            array = np.asarray(array)
            assert checkpoint.shape(name) == array.shape
            assert checkpoint.dtype(name) == ("bfloat16" if array.dtype == np.uint16 else array.dtype.name)
            read = checkpoint.read(name)
            expected = as_read(array)
            assert read.dtype == expected.dtype.newbyteorder("=") and read.shape == expected.shape
            np.testing.assert_array_equal(read, expected)
            assert not read.flags.writeable
            checkpoint.release(name)
            np.testing.assert_array_equal(read, expected)  # still valid after release
        assert layout is None or checkpoint.layout == layout


@pytest.mark.parametrize(
    "save", [save_pdparams, lambda path, arrays: save_safetensors(path, arrays, {"format": "pd"})], ids=["pd", "safe"]
)
def test_round_trip(save, tmp_path):
    arrays = every_type()
    arrays.update(
        zero_d=np.array(1.5, np.float32),
        empty=np.zeros((0, 3), np.float32),
        fortran=np.asfortranarray(arrays["float64"]),
        strided=arrays["float64"][:, ::2],
        big_endian=arrays["float32"].astype(">f4"),
        large=np.arange(70_000, dtype=np.float32).reshape(7, -1),
    )
    save(tmp_path / "deep" / "file", arrays)
    check(tmp_path / "deep" / "file", arrays, "paddle")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    from safetensors import safe_open

    arrays = every_type()
    save_safetensors(tmp_path / "file", arrays, {"format": "pt", "note": "ä"})
    with safe_open(str(tmp_path / "file"), framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "note": "ä"}
        assert sorted(file.keys()) == sorted(arrays)
        assert file.get_slice("bfloat16").get_dtype() == "BF16"
        for name in set(arrays) - {"bfloat16"}:  # which numpy lacks
            np.testing.assert_array_equal(file.get_tensor(name), arrays[name])


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    from safetensors.numpy import save_file

    arrays = every_type()
    del arrays["bfloat16"]
    save_file(arrays, str(tmp_path / "file"))
    check(tmp_path / "file", arrays, "torch")


@pytest.mark.parametrize(
    "name, metadata, layout",
    [
        ("a.safetensors", {"format": "pd"}, "paddle"),
        ("a.safetensors", {"format": "paddle"}, "paddle"),
        ("a.safetensors", {"format": "pt"}, "torch"),
        ("a.safetensors", {}, "torch"),
        ("diffusion_pytorch_model.safetensors", {}, "torch"),
        ("diffusion_paddle_model.safetensors", {}, "paddle"),
        ("diffusion_paddle_model-00001-of-00002.safetensors", {}, "paddle"),
        ("model_state.safetensors", {}, "paddle"),
    ],
)
def test_layout_of_safetensors(name, metadata, layout, tmp_path):
    save_safetensors(tmp_path / name, {"weight": np.ones(2, np.float32)}, metadata)
    with open_checkpoint(tmp_path / name) as checkpoint:
        assert checkpoint.layout == layout


def test_paddle_loads_what_we_write(tmp_path):
    import paddle

    arrays = every_type()
    save_pdparams(tmp_path / "model_state.pdparams", arrays)
    loaded = paddle.load(str(tmp_path / "model_state.pdparams"))
    assert sorted(loaded) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name].numpy(), array)
        assert str(loaded[name].dtype) == f"paddle.{name}"
    layer = paddle.nn.Linear(3, 2)
    state = {name: value.numpy() for name, value in layer.state_dict().items()}
    save_pdparams(tmp_path / "layer.pdparams", state)
    assert layer.set_state_dict(paddle.load(str(tmp_path / "layer.pdparams"))) == ([], [])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_files(protocol, tmp_path):
    import paddle

    layer = paddle.nn.Sequential(paddle.nn.Linear(30, 40), paddle.nn.BatchNorm1D(40))
    path = tmp_path / "model_state.pdparams"
    paddle.save(layer.state_dict(), str(path), protocol=protocol)
    check(path, {name: value.numpy() for name, value in layer.state_dict().items()}, "paddle")
    layer.to(dtype="bfloat16")
    paddle.save(layer.state_dict(), str(path), protocol=protocol)
    check(path, {name: value.numpy() for name, value in layer.state_dict().items()}, "paddle")
    # Not a state dict for Paddle, because of the number: tensors become (name, array) tuples.
    paddle.save({"weight": layer[0].weight, "epoch": 3}, str(path), protocol=protocol)
    check(path, {"weight": layer[0].weight.numpy()}, "paddle")
    paddle.save({"state_dict": layer.state_dict(), "epoch": 3}, str(path), protocol=protocol)
    check(path, {name: value.numpy() for name, value in layer.state_dict().items()}, "paddle")


@pytest.mark.parametrize("protocol", [2, 3])
def test_arrays_that_paddle_split(protocol, tmp_path):
    """At protocols 2 and 3 Paddle splits arrays of 1 GiB; here a small one is, and Paddle must understand it too."""
    import paddle

    arrays = {"large": np.arange(1000, dtype=np.float32).reshape(10, 100), "small": np.ones(3, np.float32)}
    parts = {f"large@@.{i}": arrays["large"].ravel()[i * 300 : (i + 1) * 300] for i in range(4)}
    plan = {"large": {"OriginShape": (10, 100), "slices": list(parts)}}
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"small": arrays["small"], **parts, "UnpackBigParamInfor@@": plan}, protocol))
    np.testing.assert_array_equal(paddle.load(str(path))["large"].numpy(), arrays["large"])
    check(path, arrays, "paddle")
    plan["large"]["slices"].append("large@@.4")
    path.write_bytes(pickle.dumps({**parts, "UnpackBigParamInfor@@": plan}, protocol))
    with pytest.raises(CheckpointError, match="lacks a part"):
        open_checkpoint(path)


def rename_numpy(content: bytes, old: bytes, new: bytes) -> bytes:
    """Move numpy's modules in a pickle of one frame."""
    for module in (b"multiarray", b"numeric"):
        before, after = old + b"." + module, new + b"." + module
        content = content.replace(b"\x8c" + bytes([len(before)]) + before, b"\x8c" + bytes([len(after)]) + after)
        content = content.replace(b"c" + before + b"\n", b"c" + after + b"\n")
    if content[2:3] == b"\x95":
        content = content[:3] + struct.pack("<Q", len(content) - 11) + content[11:]
    return content


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(protocol, core, write):
    arrays = every_type()
    arrays.update(
        zero_d=np.array(1.5, np.float32),
        empty=np.zeros((0, 3), np.float32),
        fortran=np.asfortranarray(arrays["float32"]),
        swapped=np.transpose(arrays["float32"], (1, 0, 2)),
        cycled=np.transpose(arrays["float32"], (1, 2, 0)),
        big_endian=arrays["float64"].astype(">f8"),
    )
    extra = {
        "StructuredToParameterName@@": {"float32": "w_0"},
        "epoch": 3,
        "best": np.float32(0.5),
        "note": [None, (1.5,)],
    }
    other = b"numpy.core" if core == b"numpy._core" else b"numpy._core"
    content = rename_numpy(pickle.dumps({**arrays, **extra}, protocol), other, core)
    assert core + b"." in content and other + b"." not in content
    check(write(content), arrays, "paddle")
    check(write(pickle.dumps({"w": ("linear_0.w_0", arrays["float32"])}, protocol)), {"w": arrays["float32"]})
    check(write(pickle.dumps(collections.OrderedDict(arrays), protocol)), arrays)


@pytest.mark.parametrize("protocol", range(6))
def test_large_arrays_of_every_protocol(protocol, write):
    arrays = {"w": np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32), "v": np.ones(3)}
    check(write(pickle.dumps(arrays, protocol)), arrays)


@pytest.mark.parametrize("count", [3, 20_000])
def test_python_2_pickle(count, write):
    """Written by hand: Python 2 has one type of string, and makes an OrderedDict of a list of pairs."""
    array = np.arange(count, dtype="<f4")
    raw = array.tobytes()
    content = (
        b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01]q\x02(U\x01wq\x03cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + b"J" + struct.pack("<i", count) + b"\x85cnumpy\ndtype\n"
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(raw)) + raw + b"tbea\x85R."
    )
    assert list(pickle.loads(content, encoding="latin1")) == ["w"]  # a good pickle, as Python sees it
    check(write(content), {"w": array})


@pytest.mark.parametrize("name", TORCH_FILES)
def test_torch_format(name):
    with np.load(GOLDEN / "expected.npz") as expected:
        prefix = name.replace("legacy-", "") + ":"
        arrays = {key[len(prefix) :]: expected[key] for key in expected.files if key.startswith(prefix)}
    assert arrays
    with open_checkpoint(GOLDEN / name) as checkpoint:
        assert checkpoint.layout == "torch"
        assert sorted(checkpoint.keys()) == sorted(arrays)
        for key, array in arrays.items():
            read = checkpoint.read(key)
            assert checkpoint.shape(key) == read.shape == array.shape and read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
            if "types" in name:
                assert checkpoint.dtype(key) == key


def test_torch_archive_that_was_packed_again(write, monkeypatch):
    """Compressed archives are read while they are small."""
    packed = io.BytesIO()
    with zipfile.ZipFile(GOLDEN / "views.pt") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    path = write(packed.getvalue(), "views.pt")
    with open_checkpoint(path) as checkpoint, open_checkpoint(GOLDEN / "views.pt") as plain:
        for name in plain.keys():
            np.testing.assert_array_equal(checkpoint.read(name), plain.read(name))
    monkeypatch.setattr(archive, "MAX_UNPACKED", 100)
    with pytest.raises(CheckpointError, match="compressed zip"):
        open_checkpoint(path)


def test_the_content_chooses_the_reader(tmp_path, good_files):
    for wrong, kind in {"a.pdparams": "safetensors", "b.safetensors": "pdparams", "c.safetensors": "types.pt"}.items():
        (tmp_path / wrong).write_bytes(good_files[kind])
        with open_checkpoint(str(tmp_path / wrong)) as checkpoint:
            assert "float32" in checkpoint.keys()


def test_large_tensors_are_views_on_the_file(tmp_path):
    array = np.arange(1000, dtype=np.float32)
    save_pdparams(tmp_path / "p", {"w": array})
    save_safetensors(tmp_path / "s", {"w": array}, {})
    for path in (tmp_path / "p", tmp_path / "s"):
        checkpoint = open_checkpoint(path)
        first, second = checkpoint.read("w"), checkpoint.read("w")
        assert np.shares_memory(first, second)
        with pytest.raises(ValueError):
            first[0] = 1
        checkpoint.close()
        checkpoint.close()
        np.testing.assert_array_equal(first, array)  # no crash: the map goes with the last array
        with pytest.raises(CheckpointError, match="closed"):
            checkpoint.read("w")


def test_unknown_name(tmp_path):
    save_pdparams(tmp_path / "p", {"weight": np.ones(1)})
    with open_checkpoint(tmp_path / "p") as checkpoint:
        for call in (checkpoint.read, checkpoint.shape, checkpoint.dtype, checkpoint.release):
            with pytest.raises(CheckpointError, match="no tensor 'wieght'; it has weight"):
                call("wieght")


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"]), np.ones(2, np.complex64), np.ones(2, np.uint32)])
def test_types_that_cannot_be_written(array, tmp_path):
    for save in (save_pdparams, lambda path, arrays: save_safetensors(path, arrays, {})):
        with pytest.raises(CheckpointError, match="'w'"):
            save(tmp_path / "file", {"w": array})
    with pytest.raises(CheckpointError, match="metadata"):
        save_safetensors(tmp_path / "file", {}, {"step": 3})
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_imported():
    code = "import sys, ppdiffusers.checkpoints; sys.exit(bool({'paddle', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
