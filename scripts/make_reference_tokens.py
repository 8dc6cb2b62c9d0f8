"""Digests of the token numbers that transformers gives for the hard texts of the tests.

    python scripts/make_reference_tokens.py TESTS

writes `TESTS/golden_tokens.json` (an environment with transformers; paddlenlp does as well): of every hundred texts
of `hard_texts.texts(10000)`, with its vocabulary, the sha256 of their numbers, int32 `[100, 77]`, shortened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np


def main(tests: Path) -> None:
    sys.path.insert(0, str(tests))
    import hard_texts

    try:
        from transformers import BertTokenizer
    except ImportError:
        from paddlenlp.transformers import BertTokenizer
    with tempfile.TemporaryDirectory() as folder:
        file = hard_texts.write_vocabulary(Path(folder)) / "vocab.txt"
        golden = {}
        for name, options in {"lower": {}, "cased": {"do_lower_case": False}}.items():
            tokenizer = BertTokenizer(str(file), **options)
            encoded = tokenizer(hard_texts.texts(10000), padding="max_length", max_length=77, truncation=True)
            ids = np.asarray(encoded["input_ids"], dtype="<i4").reshape(100, -1)
            golden[name] = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in ids]
    (tests / "golden_tokens.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path, metavar="TESTS")
    main(parser.parse_args().tests)
