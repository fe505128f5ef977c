# SPDX-License-Identifier: Apache-2.0
"""A small generated WordPiece tokenizer, and the folder of real text if the machine has it."""

import json
import string
from pathlib import Path

import pytest

from sparse_deploy.data.features import load_tokenizer

REAL_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
WORDS = ["the", "a", "was", "in", "is", "it", "film", "good", "bad", "not", "tower", "paris", "who", "where", "built"]


def write_tokenizer(folder: Path) -> Path:
    characters = string.ascii_lowercase + string.digits + string.punctuation
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *characters, *(f"##{c}" for c in characters)]
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def tokenizer_folder(tmp_path):
    return write_tokenizer(tmp_path)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real text at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def bert_tokenizer(real_data, tmp_path_factory):
    """The WordPiece tokenizer of bert-base-uncased."""
    folder = write_tokenizer(tmp_path_factory.mktemp("bert"))
    (folder / "vocab.txt").write_bytes((real_data / "vocab" / "bert-base-uncased-vocab.txt").read_bytes())
    return load_tokenizer(folder)
