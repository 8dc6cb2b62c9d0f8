"""Texts that are hard to tokenise, and a vocabulary for them; both come from a seed alone."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "a painting of squirrel eating burger the lake street sign in style photo photograph portrait high quality "
    "detailed oil on canvas ultra realistic cat dog mountain sunset city night rain ing ed s er est un re able"
).split()
# Code points of one kind, both ends included. All are assigned in Unicode 10: others are control characters to some.
KINDS = {
    "ascii": [(0x20, 0x7E)],
    "latin": [(0xC0, 0x17F), (0x1E00, 0x1EFF)],
    "greek and cyrillic": [
        (0x370, 0x377),
        (0x37A, 0x37F),
        (0x384, 0x38A),
        (0x38E, 0x3A1),
        (0x3A3, 0x3FF),
        (0x400, 0x4FF),
    ],
    "marks": [(0x300, 0x36F)],
    "chinese": [(0x4E00, 0x4F00), (0x9F00, 0x9FCC), (0x3400, 0x3410), (0x20000, 0x20010), (0xF900, 0xF910)],
    "kana and hangul": [(0x3041, 0x3096), (0x3099, 0x30FF), (0xAC00, 0xAC40), (0x1100, 0x1112)],
    "right to left": [(0x5D0, 0x5EA), (0x620, 0x64A), (0x64B, 0x652)],
    "indic and thai": [(0x905, 0x939), (0x93E, 0x94D), (0xE01, 0xE30), (0xE31, 0xE3A)],
    "emoji": [(0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x2600, 0x26FF), (0xFE0F, 0xFE0F), (0x1F3FB, 0x1F3FF)],
    "punctuation": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0x2010, 0x2027), (0x3001, 0x3011)],
    "symbols": [(0xA1, 0xBF), (0x20A0, 0x20BF), (0x2190, 0x21FF), (0x2200, 0x22FF), (0xFF01, 0xFF5E)],
    "controls": [(0x00, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x202A, 0x202E), (0xFEFF, 0xFEFF), (0xAD, 0xAD)],
    "blanks": [(0x20, 0x20), (0x09, 0x0D), (0xA0, 0xA0), (0x2000, 0x200A), (0x3000, 0x3000), (0x2028, 0x2029)],
    "odd": [(0xFFFD, 0xFFFD), (0xE000, 0xE005), (0x1D400, 0x1D420), (0x130, 0x131), (0xDF, 0xDF), (0x149, 0x149)],
}


def characters(kind: str) -> list[str]:
    return [chr(code) for low, high in KINDS[kind] for code in range(low, high + 1)]


def vocabulary() -> list[str]:
    """4,500 tokens or so: letters of every kind alone and inside a word, and words and their pieces."""
    source = random.Random(1)
    tokens = [*SPECIAL, *WORDS, *(f"##{word}" for word in WORDS)]
    for kind in KINDS:
        if kind in ("controls", "blanks", "marks"):
            continue
        for character in characters(kind):
            for token in (character, f"##{character}"):
                if source.random() < 0.6:
                    tokens.append(token)
    return list(dict.fromkeys(tokens))


def write_vocabulary(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in vocabulary()).encode())
    return folder


def texts(count: int, seed: int = 0) -> list[str]:
    """Mixtures of all kinds, words of more than a hundred letters, special tokens in the middle, nothing at all."""
    source = random.Random(seed)
    letters = {kind: characters(kind) for kind in KINDS}

    def word() -> str:
        choice = source.random()
        if choice < 0.3:
            return source.choice(WORDS) + source.choice(["", "", source.choice(WORDS)])
        if choice < 0.34:
            return source.choice(SPECIAL)
        if choice < 0.37:
            return source.choice(letters[source.choice(["ascii", "latin", "emoji"])]) * source.randint(90, 130)
        kinds = source.sample(list(KINDS), source.randint(1, 2))
        made = "".join(source.choice(letters[source.choice(kinds)]) for _ in range(source.randint(1, 9)))
        return made.upper() if source.random() < 0.2 else made

    return [
        source.choice(["", " ", "  ", "\n"]).join(word() for _ in range(source.randint(0, 12)))
        + source.choice(["", " "])
        for _ in range(count)
    ]


def has_special_token(text: str) -> bool:
    """paddlenlp finds some that are spelled in a text, and reads others letter by letter."""
    return any(token.lower() in text.lower() for token in SPECIAL)


def has_symbol(text: str) -> bool:
    """paddlenlp takes each for a word of its own, transformers does not."""
    return any(
        unicodedata.category(character)[0] == "S" or ord(character) in MORE_SYMBOLS for character in text + text.lower()
    )


MORE_SYMBOLS = (173, 178, 186, 12295, 181, 216, 331, 433)
