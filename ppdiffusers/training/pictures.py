"""One's own pictures: a folder, what is said of each picture in it, and how one is read for training."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from ppdiffusers.images import to_pictures
from ppdiffusers.layout import FULL_CROP, Box, LayoutBox
from ppdiffusers.pictures import ImageError, format_of, open_image
from ppdiffusers.training.configuration import Data

CAPTION_FILES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
_readable = lru_cache(maxsize=None)(lambda suffix: format_of(f"x{suffix}") is not None)


class DataError(ValueError):
    """Pictures or annotations that cannot be trained on; the message says where they are and what to do."""


class Texts:
    """Many strings in two arrays. A list of a million is an object each, of which every process would get its copy."""

    def __init__(self, texts: Sequence[str]):
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        part = self._bytes[self._ends[index] : self._ends[index + 1]]
        return part.tobytes().decode("utf-8", "surrogateescape")


@dataclass
class Sample:
    """A picture as it is trained on, and what is said of it.

    `pixels`: `[H, W, 3]` float32 in [-1, 1]. `index`: its place in the folder. `flipped`: whether it is mirrored.
    `mask`: `[H, W]` bool; `labels`: `[H, W]` integers. `crop`: the part of the picture, to which `boxes` do not refer:
    both are in [0, 1] of the whole. `moments`: `[C, h, w]`, what a first stage made of the picture before, in which
    case there are no pixels.
    """

    pixels: np.ndarray
    index: int = -1
    flipped: bool = False
    caption: str = ""
    class_number: int = 0
    mask: Optional[np.ndarray] = None
    labels: Optional[np.ndarray] = None
    boxes: List[LayoutBox] = field(default_factory=list)
    crop: Box = FULL_CROP
    moments: Optional[np.ndarray] = None


class Pictures:
    """The pictures of a folder, in the order of their names.

    Args:
        data: says where they are and what goes with them.
        needs: which annotations the task reads: "captions", "classes", "labels", "boxes". Masks are optional.
        held_out: those that `data.held_out` sets apart, not the others.
        path: in place of `data.path`.

    Attributes:
        names: relative to the folder. classes: names of the classes, of folders or of the COCO file.

    Raises:
        DataError: no pictures, or annotations that are missing or broken.
    """

    def __init__(
        self, data: Data, needs: Sequence[str] = (), held_out: Optional[bool] = None, path: Optional[str] = None
    ):
        self.data, self.needs = data, tuple(needs)
        self.root = Path(path or data.path)
        self.classes: List[str] = []
        self._captions: Optional[Texts] = None
        self._boxes: Dict[str, Any] = {}
        if not self.root.is_dir():
            raise DataError(f"{self.root} is no folder; name that of your pictures: data.path=FOLDER")
        names = sorted(_names_of_pictures(self.root, {data.masks, data.labels}))
        found = len(names)
        texts: Optional[Dict[str, str]] = None
        if "captions" in needs:
            texts = self._read_captions(names)
            names = names if texts is None else [name for name in names if name in texts]
        if "classes" in needs:
            self.classes = sorted({name.partition("/")[0] for name in names if "/" in name})
            names = [name for name in names if "/" in name]
            self._class_of = {name: number for number, name in enumerate(self.classes)}
        if "boxes" in needs:
            self._read_boxes()
            names = [name for name in names if name in self._boxes]
        if "labels" in needs and data.labels is None:
            raise DataError("this task needs label maps: name their folder, data.labels=FOLDER within data.path")
        if not names:
            what = f"none of the {found} pictures in {self.root} has what the task needs: {', '.join(needs)}"
            raise DataError(
                what if found else f"{self.root} holds no pictures; name a folder that does: data.path=FOLDER"
            )
        if held_out is not None and data.held_out:
            names = [name for name in names if _is_held_out(name, data.held_out) == held_out]
            if not names:
                raise DataError(
                    f"data.held_out {data.held_out:g} of {found} pictures leaves none for "
                    f"{'validation' if held_out else 'training'}; change it, or name a folder as data.validation"
                )
        self.names = Texts(names)
        if texts is not None:
            self._captions = Texts([texts[name] for name in names])

    def __len__(self) -> int:
        return len(self.names)

    def share_classes(self, other: Pictures) -> Pictures:
        """Count the classes of folders as `other` does; returns itself.

        Raises:
            DataError: a class that `other` does not have.
        """
        unknown = set(self.classes) - set(other.classes)
        if unknown and "classes" in self.needs:
            raise DataError(f"{self.root} has the class {min(unknown)!r}, which {other.root} does not have")
        self.classes = other.classes
        self._class_of = {name: number for number, name in enumerate(self.classes)}
        return self

    def sizes(self) -> np.ndarray:
        """Width and height of every picture, `[N, 2]`, from the heads of the files; 0 where there is none to read."""
        sizes = np.zeros((len(self), 2), np.int32)
        for index in range(len(self)):
            try:
                with Image.open(self.root / self.names[index]) as image:
                    turned = image.getexif().get(0x0112, 1) >= 5
                    sizes[index] = image.size[::-1] if turned else image.size
            except Exception:  # of whatever kind: it is skipped, and said, when it is read
                continue
        return sizes

    def read(self, index: int, random: np.random.Generator, size: Optional[Tuple[int, int]] = None) -> Sample:
        """A picture, resized, cropped and perhaps mirrored.

        Args:
            random: decides about these; the same draws for every picture.
            size: height and width; a square of `data.size` when not given.

        Raises:
            ImageError: it cannot be read, or is too small.
        """
        data, name = self.data, self.names[index]
        draws = random.random(4)
        height, width = size or (data.size, data.size)
        picture = to_pictures(open_image(self.root / name))[0]
        unit = picture.rgb / 2 + np.float32(0.5)
        if picture.alpha is not None:
            unit = unit * picture.alpha[..., None] + 1 - picture.alpha[..., None]
        shorter, least = min(picture.size), data.smallest or max(1, data.size // 2)
        if shorter < least:
            rows, columns = picture.size
            raise ImageError(f"{name} is {columns}x{rows}; sides of {least} pixels are the least (data.smallest)")
        rows, columns = picture.size
        fill = max(height / rows, width / columns)  # the scale at which the crop just fits
        zoom = data.zoom[0] + (data.zoom[1] - data.zoom[0]) * draws[0]
        scale = fill * max(1.0, min(zoom, 1 / fill))  # never larger than it is, but for a crop that would not fit
        rows, columns = max(height, round(rows * scale)), max(width, round(columns * scale))
        place = draws[1:3] if data.crop == "random" else (0.5, 0.5)
        top, left = (round(at * (whole - part)) for at, whole, part in zip(place, (rows, columns), (height, width)))
        flipped = bool(data.flip and draws[3] < 0.5)

        def cut(values: np.ndarray, method: Image.Resampling) -> np.ndarray:
            image = Image.fromarray(values)
            if image.size != (columns, rows):
                image = image.resize((columns, rows), method)
            part = np.asarray(image)[top : top + height, left : left + width]
            return np.ascontiguousarray(part[:, ::-1] if flipped else part)

        levels = np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
        crop = left / columns, top / rows, (left + width) / columns, (top + height) / rows
        sample = Sample(
            cut(levels, Image.Resampling.LANCZOS).astype(np.float32) / np.float32(127.5) - 1, index, flipped
        )
        sample.crop = (1 - crop[2], crop[1], 1 - crop[0], crop[3]) if flipped else crop
        sample.caption = self.caption(index)
        if "classes" in self.needs:
            sample.class_number = self.class_number(index)
        if data.masks is not None:
            sample.mask = (
                cut(_annotation(self.root / data.masks, name, picture.size, "L"), Image.Resampling.NEAREST) > 127
            )
        if "labels" in self.needs:
            labels = _annotation(self.root / str(data.labels), name, picture.size, None)
            sample.labels = cut(labels, Image.Resampling.NEAREST).astype(np.int64)
        if "boxes" in self.needs:
            sample.boxes = self.boxes(index, flipped)
        return sample

    def caption(self, index: int) -> str:
        if self._captions is not None:
            return self._captions[index]
        if "captions" not in self.needs:
            return ""
        file = (self.root / self.names[index]).with_suffix(".txt")
        try:
            return " ".join(file.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise ImageError(f"{self.names[index]} has no caption that can be read in {file.name} ({error})") from None

    def class_number(self, index: int) -> int:
        return self._class_of[self.names[index].partition("/")[0]]

    def boxes(self, index: int, flipped: bool = False) -> List[LayoutBox]:
        """The objects of a picture, the largest first."""
        found = [
            LayoutBox(label, (1 - right, top, 1 - left, bottom) if flipped else (left, top, right, bottom), group=crowd)
            for label, (left, top, right, bottom), crowd in self._boxes[self.names[index]]
        ]
        return sorted(found, key=lambda item: (item.box[0] - item.box[2]) * (item.box[3] - item.box[1]))

    def _read_captions(self, names: List[str]) -> Optional[Dict[str, str]]:
        """Captions by name; None where each lies beside its picture, in a text file."""
        wanted = self.data.captions
        if wanted is None:
            wanted = next((name for name in CAPTION_FILES if (self.root / name).is_file()), "txt")
        if wanted == "txt":
            if names and not any((self.root / name).with_suffix(".txt").is_file() for name in names[:100]):
                raise DataError(
                    f"{self.root} has no captions: neither {', '.join(CAPTION_FILES)} nor .txt files beside the "
                    "pictures; or name the file that has them, data.captions=FILE"
                )
            return None
        file = self.root / wanted
        try:
            with open(file, encoding="utf-8", newline="") as lines:
                if file.suffix == ".csv":
                    rows: Iterator[Dict[str, Any]] = csv.DictReader(lines)
                else:
                    rows = (json.loads(line) for line in lines if line.strip())
                return {_text(row, "file_name", file): _text(row, "text", file) for row in rows}
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{file}, which data.captions names, cannot be read: {error}") from None

    def _read_boxes(self) -> None:
        file = self.root / (self.data.boxes or "annotations.json")
        try:
            coco = json.loads(file.read_text(encoding="utf-8"))
            kinds = sorted(coco["categories"], key=lambda kind: kind["id"])
            number = {kind["id"]: place for place, kind in enumerate(kinds)}
            self.classes = [str(kind.get("name", kind["id"])) for kind in kinds]
            images = {image["id"]: image for image in coco["images"]}
            for item in coco["annotations"]:
                image = images[item["image_id"]]
                x, y, width, height = item["bbox"]
                corners = np.array([x, y, x + width, y + height]) / np.tile([image["width"], image["height"]], 2)
                left, top, right, bottom = np.clip(corners, 0, 1).tolist()
                if left < right and top < bottom:
                    box = number[item["category_id"]], (left, top, right, bottom), bool(item.get("iscrowd", 0))
                    self._boxes.setdefault(image["file_name"], []).append(box)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file} cannot be read as COCO's images, annotations and categories ({error!r}); "
                "name such a file: data.boxes=FILE"
            ) from None


def _text(row: Any, key: str, file: Path) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise DataError(f"{file} has an entry without {key!r}: {row!r}; every picture needs file_name and text")
    return str(row[key])


def _names_of_pictures(root: Path, without: set) -> Iterator[str]:
    """Names relative to `root`, with slashes; hidden files, and folders of annotations, are left out."""
    skipped = {os.path.normpath(root / name) for name in without if name}
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if name[0] != "." and os.path.normpath(os.path.join(folder, name)) not in skipped
        ]
        prefix = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if prefix == "." else prefix + "/"
        yield from (prefix + name for name in files if name[0] != "." and _readable(os.path.splitext(name)[1].lower()))


def _is_held_out(name: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") < share * 2**64


def _annotation(folder: Path, name: str, size: Tuple[int, int], mode: Optional[str]) -> np.ndarray:
    """The mask or label map of a picture, `[H, W]`."""
    file = (folder / name).with_suffix(".png")
    file = file if file.is_file() else folder / name
    image = open_image(file)
    if mode is None and image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise ImageError(f"{file} of mode {image.mode} is no label map; use one of mode L, P or I")
    values = np.asarray(image.convert(mode) if mode else image)
    if values.shape != size:
        raise ImageError(f"{file} is {values.shape[1]}x{values.shape[0]}, its picture {size[1]}x{size[0]}")
    return values.astype(np.int32 if mode is None else np.uint8)
