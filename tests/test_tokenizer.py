"""The tokenizer: numbers equal to transformers' and paddlenlp's, files read once and written whole, calls as theirs."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hard_texts
import numpy as np
import paddle
import pytest

from ppdiffusers import BertTokenizer
from ppdiffusers.config import ConfigError
from ppdiffusers.tokenizer import Encoding, tokenise

GOLDEN = json.loads((Path(__file__).parent / "golden_tokens.json").read_text())
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "straße", "##n", "cat", "s"]
VOCAB = {"vocab.txt": "\n".join(TOKENS) + "\n"}
CONFIG = {"tokenizer_config.json": json.dumps({"do_lower_case": False}), "special_tokens_map.json": "{}"}
FAST = {"model": {"type": "WordPiece", "vocab": {token: number for number, token in reversed([*enumerate(TOKENS)])}}}
CASED = {**FAST, "normalizer": {"type": "BertNormalizer", "lowercase": False, "handle_chinese_chars": False}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hard_texts.write_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return BertTokenizer(folder)


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def contents(folder):
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


# Numbers.


@pytest.mark.parametrize("case", GOLDEN)
def test_ten_thousand_hard_texts_have_the_numbers_of_transformers(case, folder):
    tokenizer = BertTokenizer(folder, do_lower_case=case == "lower")
    encoded = tokenizer(hard_texts.texts(10000), padding="max_length", max_length=77, truncation=True)
    ids = np.asarray(encoded.input_ids, dtype="<i4")
    assert [hashlib.sha256(rows.tobytes()).hexdigest()[:16] for rows in ids.reshape(100, -1)] == GOLDEN[case]
    known = ids[ids > len(hard_texts.SPECIAL)]  # or the texts would be nothing but unknown words
    assert len(known) > 50000 and len(set(known.tolist())) > 2500


def test_ten_thousand_hard_texts_have_the_numbers_of_paddlenlp(folder, tokenizer):
    try:
        from paddlenlp.transformers import BertTokenizer as Theirs
    except ImportError:
        pytest.skip("paddlenlp is not installed")
    theirs = Theirs(str(folder / "vocab.txt"), do_lower_case=True)
    splitting = BertTokenizer(folder, split_symbols=True)
    texts = [text for text in hard_texts.texts(10000) if not hard_texts.has_special_token(text)]
    assert len(texts) > 7500
    numbers = tokenise(theirs, texts, 77)
    np.testing.assert_array_equal(numbers, tokenise(splitting, texts, 77))
    plain = np.array([not hard_texts.has_symbol(text) for text in texts])
    assert plain.sum() > 1500
    np.testing.assert_array_equal(numbers[plain], tokenise(tokenizer, texts, 77)[plain])


def test_words_pieces_and_what_is_no_text(tokenizer, folder):
    assert tokenizer.tokenize("A PAINTINGs of\tstreet") == ["a", "painting", "##s", "of", "street"]
    assert tokenizer.tokenize("CAFÉ") == tokenizer.tokenize("cafe")
    assert tokenizer.tokenize("paintingpainting 東cat") == ["painting", "##painting", "[UNK]", "cat"]
    assert tokenizer.tokenize("cat[MASK]dog [SEP]") == ["cat", "[MASK]", "dog", "[SEP]"]
    assert tokenizer.tokenize("s" * 101) == ["[UNK]"] != tokenizer.tokenize("s" * 100)
    assert tokenizer.tokenize("ca\x00t \ud800dog\u200b") == ["cat", "dog"]
    assert tokenizer.tokenize("") == []
    assert BertTokenizer(folder, split_symbols=True).tokenize("cat+dog") == ["cat", "+", "dog"]
    assert tokenizer.tokenize("cat\u2192dog") == ["cat", "##\u2192", "##dog"]  # a letter to BERT
    with pytest.raises(TypeError, match="a text is a str, not a int"):
        tokenizer(["a", 3])


# Calls.


def test_a_call_is_that_of_paddlenlp_and_transformers(tokenizer):
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    cat, dog = tokenizer.convert_tokens_to_ids(["cat", "dog"])
    assert (tokenizer("cat").input_ids, tokenizer.encode("cat dog")) == ([cls, cat, sep], [cls, cat, dog, sep])
    assert tokenizer("cat", add_special_tokens=False)["input_ids"] == [cat]
    encoded = tokenizer(["cat", "cat dog cat"], padding=True)
    assert isinstance(encoded, dict) and isinstance(encoded, Encoding)
    assert encoded.input_ids[0] == [cls, cat, sep, pad, pad] and encoded.attention_mask[0] == [1, 1, 1, 0, 0]
    assert encoded.token_type_ids == [[0] * 5] * 2
    cut = tokenizer("cat dog cat", padding="max_length", max_length=4, truncation=True, return_tensors="np")
    assert cut.input_ids.tolist() == [[cls, cat, dog, sep]] and cut["input_ids"].dtype == np.int64
    for kind in ("pd", "pt"):
        tensors = tokenizer(["cat"], padding="max_length", max_length=7, return_tensors=kind)
        assert isinstance(tensors.input_ids, paddle.Tensor) and tensors.input_ids.shape == [1, 7]
    with pytest.raises(ValueError, match="ask for padding=True"):
        tokenizer(["cat", "cat dog"], return_tensors="np")
    with pytest.raises(ValueError, match="return_tensors 'tf'"):
        tokenizer("cat", return_tensors="tf")
    with pytest.raises(ValueError, match="needs a max_length"):
        tokenizer("cat", padding="max_length")
    with pytest.raises(AttributeError, match="no 'pixel_values'; it has input_ids"):
        _ = encoded.pixel_values


def test_back_to_text(tokenizer):
    ids = tokenizer(["Cats eating; a street", "dog"], padding=True).input_ids
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ["cats eating ; a street", "dog"]
    assert tokenizer.decode(np.array(ids[1])).startswith("[CLS] dog [SEP] [PAD]")
    assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids("nowhere")) == "[UNK]"
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab()) == len(hard_texts.vocabulary())


def test_from_many_threads_and_pickles(tokenizer, folder):
    texts = hard_texts.texts(400, seed=3)
    expected = tokenise(tokenizer, texts, 77).tolist()
    fresh = pickle.loads(pickle.dumps(BertTokenizer(folder)))
    with ThreadPoolExecutor(8) as pool:
        assert [row[0] for row in pool.map(lambda text: tokenise(fresh, [text], 77).tolist(), texts)] == expected


def test_the_library_is_imported_for_the_first_text_only(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer = BertTokenizer(folder)
    with pytest.raises(ImportError):
        tokenizer("cat")


# Files.

FOLDERS = {"vocab": {**VOCAB, **CONFIG}, "json": {"tokenizer.json": json.dumps(FAST), **CONFIG}, "bare": VOCAB}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_the_folder_is_not_needed_once_it_is_read(files, tmp_path):
    tokenizer = BertTokenizer(write(tmp_path / "gone", files))
    shutil.rmtree(tmp_path / "gone")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert contents(tmp_path / "saved") == files
    for made in (tokenizer, BertTokenizer.from_pretrained(tmp_path, subfolder="saved")):
        cased = len(files) > 1
        assert made.do_lower_case is not cased
        assert tokenise(made, ["cats", "Cat"], 4).tolist() == [[2, 1, 3, 0], [2, 1 if cased else 6, 3, 0]]
        assert made.tokenize("straße") == ["straße"]


def test_one_file_is_enough_and_options_are_saved(tmp_path):
    write(tmp_path, {"vocab.txt": "[PAD]\r\n[UNK]\r\n<s>\r\n[SEP]\r\ncat\r\n", "fast.json": json.dumps(CASED)})
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False, cls_token="<s>", model_max_length=5)
    assert tokenizer("Cat cat", padding="max_length").input_ids == [2, 1, 4, 3, 0]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = BertTokenizer(tmp_path / "saved")
    assert again("Cat cat", padding="max_length").input_ids == [2, 1, 4, 3, 0]
    assert (again.cls_token, again.model_max_length) == ("<s>", 5)
    cased = BertTokenizer(tmp_path / "fast.json")
    assert not cased.do_lower_case and cased._options["tokenize_chinese_chars"] is False
    assert BertTokenizer(tmp_path / "fast.json", do_lower_case=True).do_lower_case


def test_added_tokens_have_their_numbers(tmp_path):
    tokenizer = BertTokenizer(write(tmp_path / "right", {**VOCAB, "added_tokens.json": '{"<sks>": 8}'}))
    assert tokenizer("cat<sks>cat").input_ids == [2, 6, 8, 6, 3] and len(tokenizer) == 9
    wrong = BertTokenizer(write(tmp_path / "wrong", {**VOCAB, "added_tokens.json": '{"<sks>": 11}'}))
    with pytest.raises(ConfigError, match="<sks>.*11"):
        wrong("cat")


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
        ({"vocab.txt": "cat\n[SEP]\n[PAD]\n"}, r"lacks \[UNK\], \[CLS\]; is it BERT's"),
        ({"tokenizer.json": "{"}, "is not JSON"),
        ({"tokenizer.json": json.dumps({"model": {"vocab": {"a": 0, "b": 2}}})}, "no WordPiece vocabulary"),
        ({**VOCAB, "tokenizer_config.json": "[]"}, "not an object"),
    ],
)
def test_what_is_no_tokenizer_is_refused_when_it_is_read(files, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        BertTokenizer(write(tmp_path / "broken", files))


def test_an_unknown_option_is_an_error(folder):
    with pytest.raises(ConfigError, match="does not know 'do_lowercase'"):
        BertTokenizer(folder, do_lowercase=True)
