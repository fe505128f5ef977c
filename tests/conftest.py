# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every suite shares: tiny real checkpoints, real text where it is, quiet libraries."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoint import demo_recipe, prune_folder
from tiny_deployment import BENCH_RECIPE, seal_deployment, write_models

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
for noisy in ("torchao", "torch.utils._pytree"):
    logging.getLogger(noisy).setLevel(logging.ERROR)

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real GLUE and SQuAD text; tests that need it are skipped where it is not."""
    if not REAL_DATA.is_dir():
        pytest.skip("no ../shared/data here")
    return REAL_DATA


@pytest.fixture
def without_operators(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As where the compiled operators are missing."""
    from sparse_deploy.kernels import loader

    monkeypatch.setenv(loader.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("no-operators")))
    loader.open_library.cache_clear()
    yield
    loader.open_library.cache_clear()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT encoder (hidden 32) with a WordPiece vocabulary of the demo text, as a plain HF folder."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from sparse_deploy.data.demo_text import demo_rows

    folder = tmp_path_factory.mktemp("tiny-encoder")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=specials)
    tokenizer.train_from_iterator((row["sentence"] for row in demo_rows("train")[:1500]), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=128).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sparse_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with 70 % of its encoder weights at zero."""
    return prune_folder(tiny_encoder, tmp_path_factory.mktemp("sparse") / "u70", "unstructured", 0.7)


@pytest.fixture(scope="session")
def tiny_deployment(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment of the sparse tiny encoder with a random head, in every format; tests change a copy of it."""
    folder = tmp_path_factory.mktemp("tiny") / "deployment"
    folder.mkdir()
    write_models(folder, sparse_encoder)
    seal_deployment(folder, BENCH_RECIPE)
    return folder


@pytest.fixture(scope="session")
def trained_checkpoint(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 70 % sparse tiny encoder, fine-tuned on the demo text for some steps by the real stage."""
    from sparse_deploy.stages.finetune import finetune

    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    finetune(demo_recipe(sparse_encoder), output)
    return output
