"""The pictures that the toy of tests/pipelines/toy was trained on: four prompts, 32x32 pixels.

    python tests/toy_pictures.py runs/toy-pictures
    ppdiffusers train configs/toy-autoencoder.json -o runs/toy-autoencoder
    ppdiffusers train configs/toy-text-to-image.json -o runs/toy-text-to-image
    ppdiffusers train configs/toy-class-conditional.json -o runs/toy-class-conditional

A fifth of the captions, and of the classes, are wrong, as captions of the web are: a model that has learned such data
paints something else than it was told now and then, and classifier-free guidance (arXiv 2207.12598) mends it.
(The weights in tests/pipelines/toy are of an earlier loop, which trained both conditions at once.)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
from PIL import Image

SIZE = 32  # pixels
COLOURS = {"red": (0.85, 0.2, 0.2), "blue": (0.2, 0.3, 0.9)}
SHAPES = ("circle", "cross")
PROMPTS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]  # a prompt's place is its class number
NO_CLASS = len(PROMPTS)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *SHAPES]
TOKENS = 4  # [CLS] red circle [SEP]

PICTURES = 8192
WRONG = 0.2  # of captions and classes


class Words:
    """What a `BertTokenizer` with this vocabulary makes of texts of whole words, without paddlenlp."""

    def __init__(self, vocabulary: Sequence[str]):
        self.numbers = {token: number for number, token in enumerate(vocabulary)}

    def __call__(self, texts: Sequence[str], max_length: int = TOKENS, **options: Any) -> Dict[str, List[List[int]]]:
        rows = [["[CLS]", *text.lower().split()[: max_length - 2], "[SEP]"] for text in texts]
        padded = [row + ["[PAD]"] * (max_length - len(row)) for row in rows]
        return {"input_ids": [[self.numbers.get(word, self.numbers["[UNK]"]) for word in row] for row in padded]}


def draw(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Pictures `[B, 3, 32, 32]` in [-1, 1]: one shape each, anywhere, before a slanting grey gradient."""

    def uniform(low: float, high: float, channels: int = 1) -> np.ndarray:
        return random.uniform(low, high, (len(classes), channels, 1, 1))

    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    dy, dx, radius = abs(y - uniform(12, SIZE - 12)), abs(x - uniform(12, SIZE - 12)), uniform(7, 10)
    circle = radius - np.hypot(dy, dx)  # how far inside, in pixels
    length = radius * np.sqrt(0.45 * np.pi)  # the cross has the circle's area: size tells nothing
    cross = np.minimum(length - np.maximum(dy, dx), length / 3 - np.minimum(dy, dx))
    is_cross = (classes % len(SHAPES) == 1)[:, None, None, None]
    inside = np.clip(np.where(is_cross, cross, circle) + 0.5, 0, 1)
    colour = np.array(list(COLOURS.values()))[classes // len(SHAPES)][:, :, None, None] + uniform(-0.08, 0.08, 3)
    angle = uniform(0, 2 * np.pi)
    slope = ((x / SIZE - 0.5) * np.cos(angle) + (y / SIZE - 0.5) * np.sin(angle)) * uniform(0, 0.4)
    painted = inside * colour + (1 - inside) * (uniform(0.35, 0.75) + slope)
    return (2 * np.clip(painted, 0, 1) - 1).astype(np.float32)


def write(folder: Path, count: int = PICTURES, wrong: float = WRONG, seed: int = 0) -> None:
    """A folder for training: a folder a class, captions in `metadata.jsonl`, a vocabulary in `tokenizer`."""
    random = np.random.default_rng(seed)
    classes = random.integers(len(PROMPTS), size=count)
    others = (classes + random.integers(1, len(PROMPTS), size=count)) % len(PROMPTS)
    said = np.where(random.random(count) < wrong, others, classes)
    levels = np.round((draw(classes, random).transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)
    rows = []
    for i, (picture, number) in enumerate(zip(levels, said)):
        name = f"{PROMPTS[number]}/{i:05d}.png"
        (folder / PROMPTS[number]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": PROMPTS[number]}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
