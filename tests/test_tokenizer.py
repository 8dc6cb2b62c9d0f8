"""The tokenizer's folder: read once, written whole. Token numbers are tested with the text-to-image pipeline."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import pytest

from ppdiffusers import BertTokenizer
from ppdiffusers.config import ConfigError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "straße", "##n"]
FAST = {"model": {"type": "WordPiece", "vocab": {token: number for number, token in reversed([*enumerate(TOKENS)])}}}
VOCAB = {"vocab.txt": "\n".join(TOKENS) + "\n"}
CONFIG = {"tokenizer_config.json": json.dumps({"do_lower_case": False}), "special_tokens_map.json": "{}"}


class PaddlenlpTokenizer:
    """Reads its vocabulary as paddlenlp's does: from a file, when it is made."""

    def __init__(self, vocab_file, do_lower_case):
        self.words, self.do_lower_case = Path(vocab_file).read_text(encoding="utf-8").split("\n"), do_lower_case

    def __call__(self, texts, padding, max_length, truncation):
        return {"input_ids": [[self.words.index(text)] + [0] * (max_length - 1) for text in texts]}


@pytest.fixture(autouse=True)
def paddlenlp(monkeypatch):
    for name in ("paddlenlp", "paddlenlp.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["paddlenlp.transformers"].BertTokenizer = PaddlenlpTokenizer


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def contents(folder):
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


FOLDERS = {"vocab": {**VOCAB, **CONFIG}, "json": {"tokenizer.json": json.dumps(FAST), **CONFIG}, "bare": VOCAB}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_the_folder_is_not_needed_once_it_is_read(files, tmp_path):
    tokenizer = BertTokenizer(write(tmp_path / "gone", files))
    shutil.rmtree(tmp_path / "gone")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert contents(tmp_path / "saved") == files
    for made in (tokenizer, BertTokenizer.from_pretrained(tmp_path, subfolder="saved")):
        assert made(["straße", "##n"], max_length=3).tolist() == [[4, 0, 0], [5, 0, 0]]
        assert made._tokenizer.do_lower_case is made.do_lower_case is (len(files) == 1)


def test_a_saved_folder_holds_nothing_of_another_tokenizer(tmp_path):
    target = write(tmp_path / "target", {"vocab.txt": "other\n", "added_tokens.json": "{}", "README.md": "kept"})
    BertTokenizer(write(tmp_path / "source", FOLDERS["json"])).save_pretrained(target)
    assert contents(target) == {**FOLDERS["json"], "README.md": "kept"}
    BertTokenizer(target).save_pretrained(target)
    assert contents(target) == {**FOLDERS["json"], "README.md": "kept"}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    tokenizer = BertTokenizer(write(tmp_path / "source", VOCAB))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        tokenizer.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no vocab.txt"),
        ({"vocab.txt": "\n"}, "holds no vocab.txt with tokens; fetch the tokenizer again"),
        ({"tokenizer.json": "{"}, "is not JSON"),
        ({"tokenizer.json": json.dumps({"model": {"vocab": {"a": 0, "b": 2}}})}, "no WordPiece vocabulary"),
        ({**VOCAB, "tokenizer_config.json": "[]"}, "not an object"),
    ],
)
def test_what_is_no_tokenizer_is_refused_when_it_is_read(files, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        BertTokenizer(write(tmp_path / "broken", files))
