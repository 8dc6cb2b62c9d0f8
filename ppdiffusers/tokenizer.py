"""Text to token numbers, by paddlenlp or by whatever tokenizer the user brings."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from ppdiffusers.config import ConfigError, PathLike, read_json, replacing

VOCABULARY = "vocab.txt"
FAST_TOKENIZER = "tokenizer.json"  # the only file with the vocabulary that newer releases of transformers write
CONFIG = "tokenizer_config.json"
FILES = (VOCABULARY, FAST_TOKENIZER, CONFIG, "special_tokens_map.json", "added_tokens.json")
SPECIAL_TOKENS = 2  # [CLS] in front and [SEP] behind
SHOWN = 200  # characters of the text that a warning repeats


class BertTokenizer:
    """The tokenizer of the text-to-image models: the files of a saved folder, which paddlenlp reads for the first text.

    They are read when it is made and the folder is not needed any more; a pipeline can be loaded, moved and
    saved without paddlenlp.

    Args:
        folder: holds `vocab.txt`, or a `tokenizer.json` with the vocabulary, and may hold the other `FILES`.

    Raises:
        ConfigError: no vocabulary, or a broken `tokenizer_config.json` or `tokenizer.json`.
    """

    def __init__(self, folder: PathLike):
        folder = Path(folder)
        config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        self.do_lower_case = bool(config.get("do_lower_case", True))
        self._files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        self._vocabulary = self._files.get(VOCABULARY, b"")
        if VOCABULARY not in self._files and FAST_TOKENIZER in self._files:
            self._vocabulary = _vocabulary_of(folder / FAST_TOKENIZER)
        if not self._vocabulary.strip():
            raise ConfigError(
                f"{folder} holds no {VOCABULARY} with tokens; fetch the tokenizer again, or pass tokenizer=..."
            )
        self._tokenizer: Any = None

    @classmethod
    def from_pretrained(cls, folder: PathLike, subfolder: Optional[str] = None) -> BertTokenizer:
        """The tokenizer in `folder`, or in `subfolder` of it."""
        return cls(Path(folder) / subfolder if subfolder else folder)

    def save_pretrained(self, folder: PathLike) -> None:
        """Write the files to `folder`, which then holds none of another tokenizer.

        Raises:
            OSError: one cannot be written.
        """
        for name in FILES:
            if name in self._files:
                with replacing(Path(folder) / name) as part:
                    part.write_bytes(self._files[name])
            elif (Path(folder) / name).is_file():
                (Path(folder) / name).unlink()

    def __call__(self, texts: Sequence[str], max_length: int = 77) -> np.ndarray:
        """Token numbers `[B, max_length]`, int64, padded; a longer text is cut, with a warning that shows the loss.

        Raises:
            ImportError: paddlenlp is missing or broken.
        """
        if self._tokenizer is None:
            self._tokenizer = self._open()
        return encode(self._tokenizer, texts, max_length)

    def _open(self) -> Any:
        try:
            from paddlenlp.transformers import BertTokenizer as Tokenizer
        except ImportError as error:
            raise ImportError(
                f"text is tokenised by paddlenlp, which cannot be imported ({error}); install it: "
                'pip install "paddlenlp>=2.8.1,<3" "huggingface_hub<0.26" "aistudio-sdk<0.3"'
            ) from error
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / VOCABULARY
            file.write_bytes(self._vocabulary)
            return Tokenizer(str(file), do_lower_case=self.do_lower_case)


def _vocabulary_of(file: Path) -> bytes:
    """`vocab.txt` for a `tokenizer.json`: its tokens in the order of their numbers, one a line."""
    model = read_json(file).get("model")
    numbers = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(numbers, dict) or sorted(numbers.values()) != list(range(len(numbers))):
        raise ConfigError(f"{file} holds no WordPiece vocabulary; put the model's {VOCABULARY} beside it")
    return "".join(f"{token}\n" for token in sorted(numbers, key=numbers.__getitem__)).encode()


BertTokenizerFast = BertTokenizer  # the same files under transformers' other name


def encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Token numbers `[B, max_length]`, int64, by a tokenizer of paddlenlp or transformers.

    Warns:
        of every text that is cut, with what was cut off.

    Raises:
        TypeError: what it returns has no `input_ids` of that shape.
    """
    if hasattr(tokenizer, "tokenize") and hasattr(tokenizer, "convert_tokens_to_string"):
        for text in texts:
            tokens = tokenizer.tokenize(text)
            lost = tokenizer.convert_tokens_to_string(tokens[max_length - SPECIAL_TOKENS :])
            if lost:
                lost = lost if len(lost) <= SHOWN else lost[:SHOWN] + "..."
                warnings.warn(
                    f"a prompt of {len(tokens) + SPECIAL_TOKENS} tokens is longer than the {max_length} that this "
                    f"model reads; cut off: {lost!r}",
                    stacklevel=2,
                )
    encoded = tokenizer(list(texts), padding="max_length", max_length=max_length, truncation=True)
    try:
        ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    except (KeyError, TypeError, ValueError, IndexError):  # no mapping, or rows of different lengths
        ids = np.empty(0, dtype=np.int64)
    if ids.shape != (len(texts), max_length):
        raise TypeError(
            f"the tokenizer, a {type(tokenizer).__name__}, returned no input_ids of shape "
            f"{[len(texts), max_length]}; use one that is called as those of paddlenlp and transformers are"
        )
    return ids


def tokenise(tokenizer: Any, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Token numbers `[B, max_length]` by our `BertTokenizer` or by the user's own object, see `encode`."""
    if isinstance(tokenizer, BertTokenizer):
        return tokenizer(texts, max_length)
    return encode(tokenizer, texts, max_length)
