# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every suite shares: tiny real checkpoints, real text where it is, quiet libraries."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

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


def prune_folder(source: Path, target: Path, pattern: str, target_share: float) -> Path:
    """Copy a checkpoint with its encoder weights pruned one-shot to a pattern."""
    import shutil

    from safetensors.torch import load_file, save_file

    from sparse_deploy.config.schema import DEFAULT_EXCLUDE
    from sparse_deploy.sparsity.pattern import SparsityPattern
    from sparse_deploy.sparsity.statistics import prunable_names
    from sparse_deploy.training.pruning import magnitude_masks

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    names = prunable_names([n for n, w in weights.items() if w.ndim == 2], DEFAULT_EXCLUDE)
    masks = magnitude_masks(
        {n: weights[n] for n in names}, SparsityPattern.parse(pattern), target_share, "layer"
    )
    for name, mask in masks.items():
        weights[name][np.asarray(mask)] = 0.0
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="session")
def sparse_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with 70 % of its encoder weights at zero."""
    return prune_folder(tiny_encoder, tmp_path_factory.mktemp("sparse") / "u70", "unstructured", 0.7)


@pytest.fixture(scope="session")
def trained_checkpoint(sparse_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 70 % sparse tiny encoder, fine-tuned on the demo text for some steps by the real stage."""
    from sparse_deploy.stages.finetune import finetune

    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    finetune(demo_recipe(sparse_encoder), output)
    return output


def demo_recipe(model: Path, **changes: object):
    """A recipe for the demo text that takes seconds on the tiny encoder; ``changes`` replace whole sections."""
    from sparse_deploy.config import recipe_from_mapping

    data = {
        "name": "tiny-demo-u70",
        "task": "demo",
        "model": {"name_or_path": str(model)},
        "data": {"max_length": 64, "train_samples": 256, "validation_samples": 96},
        "sparsity": {"mode": "lock", "pattern": "unstructured", "target": 0.7},
        "finetune": {
            "max_steps": 12, "learning_rate": 1e-3, "train_batch_size": 16, "weight_decay": 0.1, "save_steps": 5,
            "logging_steps": 4,
        },
        "quantization": {"calibration_samples": 32},
        "bench": {"blocks": 2, "block_seconds": 0.1, "warmup_seconds": 0.5, "throughput_batch_size": 8},
    }  # fmt: skip
    return recipe_from_mapping(data | changes, "test")
