# SPDX-License-Identifier: Apache-2.0
"""Text to model inputs: a token data set for training, plain numpy arrays for evaluation without torch."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.encoded import EncodedSplit as EncodedSplit
from sparse_deploy.data.encoded import Feature as Feature
from sparse_deploy.data.encoded import IntArray as IntArray
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import CheckpointError, one_line

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerFast


# Each of these files defines a tokenizer: tokenizer.json, WordPiece, byte-level BPE (with merges.txt), SentencePiece.
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model",
    "tokenizer.model",
)  # fmt: skip


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load the fast tokenizer of a checkpoint or deployment.

    Padding and truncation in a ``tokenizer.json`` (MiniLM's pads every text to 128) are switched off: both are set per
    call, and saved copies must not depend on them.

    Raises:
        CheckpointError: the tokenizer is missing, damaged, or not a fast one.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder}: expected a tokenizer, one of {', '.join(TOKENIZER_FILES)}, found none; copy its files here"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception for a damaged tokenizer.json
        reason = one_line(error)
        raise CheckpointError(f"{folder}: the tokenizer can't be loaded ({reason}); copy its files again") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: expected a fast tokenizer, found {type(tokenizer).__name__}; add tokenizer.json"
        )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def tokenizer_sha256(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Fingerprint of the behaviour of a tokenizer: vocabulary, normalization, splitting, special tokens, padding token.

    Padding, truncation and the other settings of ``tokenizer_config.json`` are not included.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for key in ("padding", "truncation", "version"):
        content.pop(key, None)
    text = json.dumps([content, tokenizer.pad_token_id], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def tokenize_training(
    task: Task, rows: "datasets.Dataset", tokenizer: "PreTrainedTokenizerFast", data: DataSection
) -> "datasets.Dataset":
    """Tokenize rows for training; batches are padded later.

    Returns:
        ``input_ids``, ``attention_mask``, ``token_type_ids``, ``length``, and the targets of the loss: see
        :meth:`sparse_deploy.data.tasks.Task.training_columns`.

    Raises:
        ConfigError: the overlap of SQuAD's windows is too large.
    """

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return task.training_columns(batch, tokenizer, data)

    # With a fingerprint, datasets does not hash the tokenizer for a cache, which tables in memory do not use.
    return rows.map(
        encode,
        batched=True,
        remove_columns=rows.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
        new_fingerprint=f"{rows._fingerprint}tokens",
        desc=f"tokenizing {task.name}",
    )


def encode_split(
    task: Task,
    rows: "datasets.Dataset",
    tokenizer: "PreTrainedTokenizerFast",
    data: DataSection,
    *,
    name: str = "validation",
) -> EncodedSplit:
    """Tokenize a split for evaluation.

    Raises:
        ConfigError: the overlap of SQuAD's windows is too large.
    """
    examples = [{"id": number, **row} for number, row in enumerate(rows.to_list())]
    return task.encode(examples, tokenizer, data, name)
