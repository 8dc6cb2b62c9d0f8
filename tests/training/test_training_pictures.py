"""Folders of pictures and their annotations, crops, batches, degradations."""

import json
import resource
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from training_cases import COLOURS, make

from ppdiffusers.config import ConfigError
from ppdiffusers.layout import LayoutBox
from ppdiffusers.pictures import ImageError
from ppdiffusers.training.batches import Batches, bucket_shapes, open_sources
from ppdiffusers.training.configuration import Data, configuration, plain, read_configuration
from ppdiffusers.training.degradations import add_noise, blur, bsrgan, degrade, gaussian, random_kernel
from ppdiffusers.training.pictures import DataError, Pictures


def data(folder, **values):
    annotations = {name: name for name in ("masks", "labels") if (folder / name).is_dir()}
    return Data(path=str(folder), **{"size": 16, **annotations, **values})


def read(source, index=0, seed=0):
    return source.read(index, np.random.default_rng(seed))


def test_every_annotation_follows_the_picture(pictures):
    """The box is where its colour is, in the mask, the labels and the layout, however the picture is cropped."""
    needs = ("captions", "classes", "labels", "boxes")
    source = Pictures(data(pictures, size=8, smallest=8, zoom=(1.0, 2.0)), needs)
    assert len(source) == 8 and source.classes == list(COLOURS)
    flips, crops = set(), set()
    for seed in range(40):
        sample = read(source, seed % 8, seed)
        colour = source.names[seed % 8].split("/")[0]
        assert sample.caption == colour and source.classes[sample.class_number] == colour
        assert ((sample.labels > 0) == sample.mask).all()
        assert {*np.unique(sample.labels)} <= {0, 1 + sample.class_number}
        (box,) = sample.boxes
        left, top, right, bottom = sample.crop
        assert box.label == sample.class_number
        y, x = (np.mgrid[:8, :8] + 0.5) / 8
        x, y = left + x * (right - left), top + y * (bottom - top)  # of pixels' middles, in the whole
        inside = (box.box[0] < x) & (x < box.box[2]) & (box.box[1] < y) & (y < box.box[3])
        assert (inside != sample.mask).mean() <= 0.15  # but for a resized edge
        painted = np.abs((sample.pixels + 1) * 127.5 - COLOURS[colour]).max(axis=-1) < 12
        assert (painted & ~sample.mask).mean() < 0.1
        flips.add(sample.flipped)
        crops.add(sample.crop)
    assert flips == {True, False} and len(crops) > 30
    centre = Pictures(data(pictures, size=8, crop="centre", flip=False), needs)
    assert read(centre, 1, 0).crop == read(centre, 1, 5).crop == (0, 0, 1, 1)


def test_captions_of_every_kind(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "p")
    root = tmp_path / "p"
    lines = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    (root / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match="no captions.*metadata.jsonl"):
        Pictures(data(root), ["captions"])
    rows = [f'{line["file_name"]},"a box, {line["text"]}"' for line in lines[:5]]
    (root / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    source = Pictures(data(root), ["captions"])
    assert len(source) == 5 and read(source, 0).caption == "a box, blue"
    for line in lines[:3]:
        (root / line["file_name"]).with_suffix(".txt").write_text(f"beside {line['text']}\n")
    source = Pictures(data(root, captions="txt"), ["captions"])
    assert read(source, [source.names[i] for i in range(8)].index("red/1.png")).caption == "beside red"
    with pytest.raises(ImageError, match="caption"):
        read(source, [source.names[i] for i in range(8)].index("red/7.png"))
    (root / "metadata.jsonl").write_text('{"file_name": "red/1.png"}\n')
    with pytest.raises(DataError, match="'text'"):
        Pictures(data(root), ["captions"])


@pytest.mark.parametrize(
    "change, needs, message",
    [
        (lambda root: shutil.rmtree(root), (), "is no folder"),
        (lambda root: [shutil.rmtree(root / name) for name in COLOURS], (), "holds no pictures"),
        (lambda root: [shutil.rmtree(root / name) for name in COLOURS], ("classes",), "holds no pictures"),
        (lambda root: (root / "annotations.json").write_text('{"images": 3}'), ("boxes",), "COCO"),
        (
            lambda root: (root / "metadata.jsonl").write_text('{"file_name": "x.png", "text": ""}'),
            ("captions",),
            "8 pic",
        ),
    ],
)
def test_a_set_without_anything_is_one_clear_error(tmp_path, pictures, change, needs, message):
    root = shutil.copytree(pictures, tmp_path / "p")
    change(root)
    with pytest.raises(DataError, match=message):
        Pictures(data(root), needs)


def test_held_out_pictures_are_the_same_whatever_else_is_there(tmp_path):
    for i in range(200):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    names = {}
    for side in (False, True):
        source = Pictures(data(tmp_path, held_out=0.2), held_out=side)
        names[side] = {source.names[i] for i in range(len(source))}
    assert not names[True] & names[False] and len(names[True] | names[False]) == 200
    assert 20 <= len(names[True]) <= 60
    Image.new("RGB", (4, 4)).save(tmp_path / "more.png")
    again = Pictures(data(tmp_path, held_out=0.2), held_out=True)
    assert {again.names[i] for i in range(len(again))} - {"more.png"} == names[True]


def items(source, size=4, seed=0, shapes=()):
    return Batches(
        source, lambda sample, random: {"pixels": sample.pixels, "noise": random.random(3)}, size, seed, shapes
    )


def test_a_batch_is_a_function_of_seed_and_step(pictures):
    source = Pictures(data(pictures))
    batches, again = items(source, seed=1), items(source, seed=1)
    again.batch(3)
    for name, value in batches.batch(7).items():
        np.testing.assert_array_equal(value, again.batch(7)[name])
    assert (batches.batch(7)["noise"] != batches.batch(8)["noise"]).all()
    assert (batches.batch(7)["noise"] != items(source, seed=2).batch(7)["noise"]).all()
    for epoch in range(3):  # every picture once, in another order
        seen = [batches._scheduled(2 * epoch + i // 4, i % 4)[0] for i in range(8)]
        assert sorted(seen) == list(range(8))
    orders = {tuple(batches._scheduled(2 * epoch + i // 4, i % 4)[0] for i in range(8)) for epoch in range(5)}
    assert len(orders) == 5


def test_buckets_hold_one_aspect(tmp_path):
    for i in range(30):
        Image.new("RGB", [(40, 20), (20, 40), (30, 30)][i % 3]).save(tmp_path / f"{i}.png")
    source = Pictures(data(tmp_path))
    shapes = bucket_shapes(16, 3, 4)
    assert shapes == [(12, 24), (16, 16), (24, 12)]
    batches = items(source, 4, shapes=shapes)
    found = [batches.batch(step)["pixels"].shape[1:3] for step in range(9)]
    assert {*found[:9]} == {*shapes} and [found.count(shape) for shape in shapes] == [3, 3, 3]


def test_broken_pictures_are_passed_over_and_listed(tmp_path):
    """CMYK, 16 bits, a palette and transparency are used; cut, empty and tiny files are not."""
    random = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(random.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"good{i}.jpg")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(tmp_path / "white16.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "bad-tiny.png")
    (tmp_path / "bad-empty.png").write_bytes(b"")
    (tmp_path / "bad-cut.jpg").write_bytes((tmp_path / "good0.jpg").read_bytes()[:300])
    (tmp_path / "bad-text.png").write_text("no picture")
    source = Pictures(data(tmp_path))
    batches = items(source)
    found = [batches.batch(step) for step in range(6)]
    skipped = {source.names[i] for batch in found for i in batch["skipped"].ravel() if i >= 0}
    assert skipped == {"bad-tiny.png", "bad-empty.png", "bad-cut.jpg", "bad-text.png"}
    names = [source.names[i] for i in range(len(source))]
    assert (read(source, names.index("white16.png")).pixels > 0.99).all()
    assert (read(source, names.index("clear.png")).pixels > 0.99).all()  # on white
    red = read(source, names.index("cmyk.jpg")).pixels.mean(axis=(0, 1))
    assert red[0] > 0.5 and red[1] < -0.4 and red[2] < -0.4
    for name in names:
        if name.startswith(("good", "cmyk", "white", "clear")):
            (tmp_path / name).unlink()
    with pytest.raises(DataError, match="in a row cannot be used"):
        items(Pictures(data(tmp_path))).batch(0)


def test_many_paths_take_little_memory_and_time(tmp_path, monkeypatch):
    """200,000 names in a second or two, a hundred bytes each at most; the million is measured by hand."""
    count = 200_000
    names = (f"folder{i % 97}/picture-{i:08d}.jpg" for i in range(count))
    monkeypatch.setattr("ppdiffusers.training.pictures._names_of_pictures", lambda *_: names)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = Pictures(data(tmp_path))
    assert len(source) == count and source.names[5].startswith("folder")
    held = source.names._bytes.nbytes + source.names._ends.nbytes
    assert held < 50 * count and time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB, while it is read


def test_degradations():
    random = np.random.default_rng(0)
    picture = random.random((64, 48, 3)).astype(np.float32)
    kernel = gaussian(7, np.array([4.0, 0.5]), 0.3)
    assert kernel.sum() == pytest.approx(1) and (kernel == kernel[::-1, ::-1]).all()
    padded = np.pad(picture, ((3, 3), (3, 3), (0, 0)), mode="symmetric")
    slow = sum(kernel[i, j] * padded[i : i + 64, j : j + 48] for i in range(7) for j in range(7))
    np.testing.assert_allclose(blur(picture, kernel), slow, atol=1e-5)
    y, x = np.mgrid[:7, :7] - 3
    along = (kernel * (x * np.cos(0.3) + y * np.sin(0.3)) ** 2).sum()
    across = (kernel * (y * np.cos(0.3) - x * np.sin(0.3)) ** 2).sum()
    assert along > 3 * across
    noise = [add_noise(np.full((32, 32, 3), 0.5, np.float32), np.random.default_rng(i)) - 0.5 for i in range(60)]
    levels = np.array([each.std() * 255 for each in noise])
    assert 1.5 < levels.min() < 6 and 20 < levels.max() < 27
    shared = np.array([np.ptp(each, axis=-1).max() < 1e-6 for each in noise])
    assert 0.2 < shared.mean() < 0.6
    assert {random_kernel(4, random).shape[0] for _ in range(60)} == {7, 9, 11, 13, 15, 17, 19, 21}
    first, second = (bsrgan(picture, 4, np.random.default_rng(7)) for _ in range(2))
    assert first.shape == (16, 12, 3) and (first == second).all() and first.min() >= 0 and first.max() <= 1
    flat = np.full((64, 64, 3), 0.2, np.float32)
    results = [degrade(flat, 4, "bsrgan", np.random.default_rng(i)) for i in range(8)]
    assert all(abs(each.mean() - 0.2) < 0.05 for each in results) and max(each.std() for each in results) > 0.01
    levels = (degrade(picture, 4, "area", random) + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"task": "paint"}, "task of .*'paint'; use one of vq"),
        ({"data": {"sizes": 3}}, "data.sizes; did you mean data.size"),
        ({"data": {"size": "large"}}, "data.size of .*'large'; it must be int"),
        ({"steps": 0}, "steps of .* more than 0"),
        ({"data": {"path": ""}}, "data.path=FOLDER"),
        ({"data": {"path": "x", "cache_latents": True}}, "super-resolution needs the pixels"),
        ({"data": 3}, "data of .* is 3"),
    ],
)
def test_a_configuration_that_cannot_be_names_the_key(values, message):
    with pytest.raises(ConfigError, match=message):
        configuration({"task": "super-resolution", "data": {"path": "x"}, **values})


def test_configurations_are_read_changed_and_written(tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"task": "vq", "data": {"path": "a", "size": 64}, "betas": [0.5, 0.9]}')
    changes = ["data.size=32", "data.path=my pictures", "data.zoom=[1, 2]", "models.vqvae.layers_per_block=3"]
    config = read_configuration(file, changes)
    assert (config.data.size, config.data.path, config.data.zoom) == (32, "my pictures", (1, 2))
    assert config.models == {"vqvae": {"layers_per_block": 3}} and config.betas == (0.5, 0.9)
    assert configuration(plain(config)) == config
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        read_configuration(file, ["data.size"])


def test_validation_by_a_folder_of_its_own(pictures, tmp_path):
    config = make("class-conditional", pictures, data={"validation": str(tmp_path)})
    for name in ("red", "green"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="'green'"):
        open_sources(config, ("classes",))
    shutil.rmtree(tmp_path / "green")
    _, validation = open_sources(config, ("classes",))
    assert validation.class_number(0) == 1  # as in the training pictures, which have blue too


def test_boxes_out_of_sight_are_left_out(pictures):
    source = Pictures(data(pictures), ("boxes",))
    assert all(isinstance(box, LayoutBox) for box in source.boxes(0))
    coco = json.loads((pictures / "annotations.json").read_text())
    name = coco["images"][0]["file_name"]
    (box,) = source.boxes([source.names[i] for i in range(8)].index(name))
    x, y, width, height = coco["annotations"][0]["bbox"]
    assert box.box == pytest.approx((x / 16, y / 16, (x + width) / 16, (y + height) / 16))
