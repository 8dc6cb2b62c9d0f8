"""Text to token numbers: BERT's WordPiece, or whatever tokenizer the user brings."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np

from ppdiffusers.config import ConfigError, PathLike, read_json, replacing

VOCABULARY = "vocab.txt"
FAST_TOKENIZER = "tokenizer.json"  # the only file with the vocabulary that newer releases of transformers write
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
FILES = (VOCABULARY, FAST_TOKENIZER, CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
OPTIONS = {
    "do_lower_case": True,
    "tokenize_chinese_chars": True,
    "strip_accents": None,
    "split_symbols": False,
    **SPECIAL,
}
# What paddlenlp takes for symbols: the Unicode category, and eight more.
SYMBOLS = r"[\p{S}\u00AD\u00B2\u00B5\u00BA\u00D8\u014B\u01B1\u3007]"
LONGEST_WORD = 100  # characters; a longer one is unknown, as in every implementation of BERT's
SHOWN = 200  # characters of the text that a warning repeats
NO_LIMIT = 10**9  # `model_max_length` of files that know of none is larger still


class Encoding(Dict[str, Any]):
    """What a tokenizer returns: `encoding["input_ids"]` and `encoding.input_ids`, as of paddlenlp and transformers."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"the encoding has no {key!r}; it has {', '.join(self)}") from None


class BertTokenizer:
    """BERT's tokenizer, of text-to-image models: words, then the longest pieces of them that the vocabulary has.

    The files are read when it is made and not needed any more. It is called as those of paddlenlp and transformers
    are; the work is done by the `tokenizers` library, and the numbers are those of transformers, with which the models
    were trained. paddlenlp has another rule: every symbol (emoji, +, =, currency) is a word of its own there.

    Args:
        vocab_file: a `vocab.txt`, or a folder that holds one, or a `tokenizer.json` with the vocabulary, and may
            hold the other `FILES`.
        do_lower_case: whether letters are made small, and stripped of accents.
        options: the other `OPTIONS`, instead of the folder's: `tokenize_chinese_chars` (each of them is a word),
            `strip_accents` (None: as do_lower_case), `split_symbols` (True for the numbers of paddlenlp), names of
            special tokens; and `model_max_length`.

    Raises:
        ConfigError: no vocabulary, one without the special tokens, a broken file, or an unknown option.
    """

    padding_side = "right"
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(self, vocab_file: PathLike, do_lower_case: Optional[bool] = None, **options: Any):
        path = Path(vocab_file)
        if path.is_file():
            self._files = {VOCABULARY if path.suffix != ".json" else FAST_TOKENIZER: path.read_bytes()}
        else:
            self._files = {name: (path / name).read_bytes() for name in FILES if (path / name).is_file()}
        fast = self._read(path, FAST_TOKENIZER)
        if VOCABULARY in self._files:
            # Python's own end of lines: some tokens are other characters that end a line.
            lines = self._files[VOCABULARY].decode("utf-8").replace("\r\n", "\n").split("\n")
            self.vocab = {token: number for number, token in enumerate(lines[:-1] if lines[-1] == "" else lines)}
        else:
            self.vocab = _vocabulary_of(path, fast) if fast else {}
        if not any(token.strip() for token in self.vocab):
            raise ConfigError(
                f"{path} holds no {VOCABULARY} with tokens; fetch the tokenizer again, or pass tokenizer=..."
            )
        settings = self._settings(path, fast)
        given = {"do_lower_case": do_lower_case, **options}
        unknown = [name for name in given if name not in OPTIONS and name not in ("model_max_length", "max_len")]
        if unknown:
            raise ConfigError(
                f"BertTokenizer does not know {', '.join(map(repr, unknown))}; it takes {', '.join(OPTIONS)}"
            )
        given = {name: value for name, value in given.items() if value is not None}
        if given:
            config = {**self._read(path, CONFIG), **given}
            self._files[CONFIG] = (json.dumps(config, indent=2, default=str) + "\n").encode()
        settings.update(given)
        self.do_lower_case = bool(settings["do_lower_case"])
        self._options = {name: settings[name] for name in OPTIONS}
        limit = settings.get("model_max_length", settings.get("max_len")) or NO_LIMIT
        self.model_max_length = int(min(limit, NO_LIMIT))
        for name in SPECIAL:
            setattr(self, name, self._options[name])
            setattr(self, f"{name}_id", self.vocab.get(self._options[name]))
        missing = [
            self._options[name] for name in SPECIAL if name != "mask_token" and self._options[name] not in self.vocab
        ]
        if missing:
            raise ConfigError(
                f"the vocabulary of {path} lacks {', '.join(missing)}; is it BERT's? "
                "Other names of special tokens are arguments: cls_token=..."
            )
        added = self._read(path, ADDED_TOKENS)
        self._added = {token: number for token, number in added.items() if token not in self.vocab}
        self._tokenizer: Any = None

    def _read(self, path: Path, name: str) -> Dict[str, Any]:
        if name not in self._files:
            return {}
        return read_json(path if path.is_file() else path / name)

    def _settings(self, path: Path, fast: Dict[str, Any]) -> Dict[str, Any]:
        """What the files say of `OPTIONS`, the most particular one last."""
        settings: Dict[str, Any] = dict(OPTIONS)
        normalizer = fast.get("normalizer") or {}
        if normalizer.get("type") == "BertNormalizer":
            names = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
            settings.update({names.get(key, key): value for key, value in normalizer.items()})
        for name in (SPECIAL_TOKENS_MAP, CONFIG):
            for key, value in self._read(path, name).items():
                if isinstance(value, dict) and "content" in value:  # a token with its properties
                    value = value["content"]
                if key in SPECIAL and not isinstance(value, str):
                    continue
                settings[key] = value
        return settings

    @classmethod
    def from_pretrained(cls, name_or_path: PathLike, subfolder: Optional[str] = None, **options: Any) -> BertTokenizer:
        """The tokenizer in a folder, or of a model that `model_zoo` knows by name, or in `subfolder` of it.

        Args:
            options: as of the constructor, and `cache_dir`, `endpoint`, `local_files_only`, `progress` of
                `model_zoo.download`.

        Raises:
            ConfigError: as the constructor. model_zoo.ModelZooError: an unknown name, or a failed download.
        """
        import model_zoo

        names = ("cache_dir", "endpoint", "local_files_only", "progress")
        folder = model_zoo.resolve(name_or_path, **{name: options.pop(name) for name in names if name in options})
        return cls(Path(folder) / subfolder if subfolder else folder, **options)

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

    def _open(self) -> Any:
        if self._tokenizer is None:
            from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

            unknown = self._options["unk_token"]
            model = models.WordPiece(self.vocab, unk_token=unknown, max_input_chars_per_word=LONGEST_WORD)
            tokenizer = Tokenizer(model)
            tokenizer.normalizer = normalizers.BertNormalizer(
                clean_text=True,
                handle_chinese_chars=self._options["tokenize_chinese_chars"],
                strip_accents=self._options["strip_accents"],
                lowercase=self.do_lower_case,
            )
            words: Any = pre_tokenizers.BertPreTokenizer()
            if self._options["split_symbols"]:
                words = pre_tokenizers.Sequence([words, pre_tokenizers.Split(Regex(SYMBOLS), "isolated")])
            tokenizer.pre_tokenizer = words
            special = [AddedToken(token, normalized=False, special=True) for token in self.all_special_tokens]
            tokenizer.add_special_tokens(special)
            for token in sorted(self._added, key=self._added.__getitem__):
                tokenizer.add_tokens([AddedToken(token, normalized=False)])
                if tokenizer.token_to_id(token) != self._added[token]:
                    raise ConfigError(
                        f"{ADDED_TOKENS} gives {token!r} the number {self._added[token]}, where the vocabulary goes on "
                        f"at {tokenizer.token_to_id(token)}; are they of one model?"
                    )
            self._tokenizer = tokenizer
        return self._tokenizer

    def _pieces(self, text: str) -> Any:
        if not isinstance(text, str):
            raise TypeError(f"a text is a str, not a {type(text).__name__}")
        # Halves of characters count as control characters, which are dropped.
        return self._open().encode(text.encode("utf-8", "ignore").decode("utf-8"), add_special_tokens=False)

    def __call__(
        self,
        text: Union[str, Sequence[str]],
        padding: Union[bool, str] = False,
        truncation: Union[bool, str] = False,
        max_length: Optional[int] = None,
        return_tensors: Optional[str] = None,
        add_special_tokens: bool = True,
    ) -> Encoding:
        """Token numbers of one text or several, with [CLS] in front and [SEP] behind.

        Args:
            padding: True pads to the longest text, "max_length" to that.
            truncation: True cuts what is longer than `max_length`.
            max_length: tokens, special ones included; `model_max_length` where not given.
            return_tensors: "np" for numpy, "pd" for Paddle (and "pt", for code that was written for torch); lists
                where not given.

        Returns:
            `input_ids`, `token_type_ids` (zeros) and `attention_mask` (0 where padded): `[B, T]`, of one text `[T]`
            in lists.

        Raises:
            TypeError: not text.
            ValueError: padding to no length, or texts of different lengths as one array.
            ImportError: no `tokenizers` library.
        """
        texts = [text] if isinstance(text, str) else list(text)
        limit = self.model_max_length if max_length is None else int(max_length)
        around = 2 if add_special_tokens else 0
        rows: List[List[int]] = []
        for each in texts:
            numbers = self._pieces(each).ids
            if truncation:
                numbers = numbers[: max(limit - around, 0)]
            rows.append([self.cls_token_id, *numbers, self.sep_token_id] if add_special_tokens else numbers)  # type: ignore[attr-defined]
        length = 0
        if padding == "max_length":
            if limit >= NO_LIMIT:
                raise ValueError("padding='max_length' needs a max_length: this tokenizer has none of its own")
            length = limit
        elif padding:
            length = max(map(len, rows), default=0)
        padded = [row + [self.pad_token_id] * (length - len(row)) for row in rows]  # type: ignore[attr-defined]
        columns = {
            "input_ids": padded,
            "token_type_ids": [[0] * len(row) for row in padded],
            "attention_mask": [[1] * len(row) + [0] * (len(full) - len(row)) for row, full in zip(rows, padded)],
        }
        if return_tensors is None:
            return Encoding({key: rows[0] if isinstance(text, str) else rows for key, rows in columns.items()})
        if len({len(row) for row in padded}) > 1:
            raise ValueError("texts of different lengths make no array; ask for padding=True and truncation=True")
        arrays = {key: np.asarray(rows, dtype=np.int64) for key, rows in columns.items()}
        if return_tensors in ("pd", "pt"):
            import paddle

            return Encoding({key: paddle.to_tensor(array) for key, array in arrays.items()})
        if return_tensors != "np":
            raise ValueError(f"return_tensors {return_tensors!r} is not one of 'np', 'pd', 'pt'")
        return Encoding(arrays)

    def tokenize(self, text: str) -> List[str]:
        """The tokens of a text, without special ones."""
        return self._pieces(text).tokens

    def encode(self, text: str, **options: Any) -> List[int]:
        """`input_ids` of a call."""
        return self(text, **options)["input_ids"]

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of token numbers, as far as they tell: small letters, blanks around punctuation."""
        tokens = self.convert_ids_to_tokens(np.asarray(ids).reshape(-1).tolist())
        special = self.all_special_tokens if skip_special_tokens else ()
        return self.convert_tokens_to_string([token for token in tokens if token not in special])

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> List[str]:
        """`decode` of each of several."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_tokens_to_ids(self, tokens: Union[str, Sequence[str]]) -> Any:
        """The number of a token, or of each; that of the unknown token for one that the vocabulary lacks."""
        if isinstance(tokens, str):
            number = self._open().token_to_id(tokens)
            return self.unk_token_id if number is None else number  # type: ignore[attr-defined]
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The token of a number, or of each."""
        if isinstance(ids, (list, tuple, np.ndarray)):
            return [self.convert_ids_to_tokens(number) for number in ids]
        token = self._open().id_to_token(int(ids))
        return self.unk_token if token is None else token  # type: ignore[attr-defined]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Tokens with blanks between words."""
        return " ".join(tokens).replace(" ##", "").strip()

    @property
    def all_special_tokens(self) -> List[str]:
        return [self._options[name] for name in SPECIAL if self._options[name] in self.vocab]

    @property
    def all_special_ids(self) -> List[int]:
        return [self.vocab[token] for token in self.all_special_tokens]

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary; `len(tokenizer)` counts added ones too."""
        return len(self.vocab)

    def get_vocab(self) -> Dict[str, int]:
        """Numbers by tokens, added ones included."""
        return self._open().get_vocab()

    def __len__(self) -> int:
        return len(self.vocab) + len(self._added)

    def __repr__(self) -> str:
        return f"BertTokenizer({len(self)} tokens, do_lower_case={self.do_lower_case})"

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}


BertTokenizerFast = BertTokenizer  # the same files under transformers' other name


def _vocabulary_of(path: Path, fast: Dict[str, Any]) -> Dict[str, int]:
    """The tokens of a `tokenizer.json`, in the order of their numbers."""
    model = fast.get("model")
    numbers = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(numbers, dict) or sorted(numbers.values()) != list(range(len(numbers))):
        raise ConfigError(f"{path} holds no WordPiece vocabulary; put the model's {VOCABULARY} beside it")
    return {token: numbers[token] for token in sorted(numbers, key=numbers.__getitem__)}


def tokenise(tokenizer: Any, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Token numbers `[B, max_length]`, int64, by our `BertTokenizer` or one of paddlenlp or transformers.

    Warns:
        of every text that is cut, with what was cut off.

    Raises:
        TypeError: what it returns has no `input_ids` of that shape.
    """
    if hasattr(tokenizer, "tokenize") and hasattr(tokenizer, "convert_tokens_to_string"):
        for text in texts:
            tokens = tokenizer.tokenize(text)
            lost = tokenizer.convert_tokens_to_string(tokens[max_length - 2 :])  # [CLS] and [SEP] count
            if lost:
                lost = lost if len(lost) <= SHOWN else lost[:SHOWN] + "..."
                warnings.warn(
                    f"a prompt of {len(tokens) + 2} tokens is longer than the {max_length} that this "
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
