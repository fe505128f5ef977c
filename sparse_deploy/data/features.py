# SPDX-License-Identifier: Apache-2.0
"""Text to model inputs: a token data set for training, plain numpy arrays for evaluation without torch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.squad import WindowMap, answer_positions, tokenize_windows
from sparse_deploy.data.tasks import MODEL_INPUTS, Task, TaskKind
from sparse_deploy.errors import CheckpointError

if TYPE_CHECKING:
    import datasets
    from transformers import BatchEncoding, PreTrainedTokenizerFast

IntArray = npt.NDArray[np.int64]
Feature = dict[str, IntArray]


@dataclass(frozen=True)
class EncodedSplit:
    """A split as model inputs, with what scoring needs.

    Attributes:
        name: split name.
        features: unpadded inputs, each array int64 ``[tokens]``; several per example for SQuAD.
        example_of: ``[features]`` row of ``examples`` that each feature belongs to, ascending.
        examples: original rows, each with an ``id`` (row number, or SQuAD's own).
        windows: one map per feature for SQuAD, else None.
        truncated: how many examples were longer than the window and lost text (never for SQuAD).
    """

    name: str
    features: list[Feature]
    example_of: IntArray
    examples: list[dict[str, Any]]
    windows: list[WindowMap] | None
    truncated: int = 0

    @property
    def lengths(self) -> IntArray:
        """``[features]`` tokens of each feature."""
        return np.array([len(feature["input_ids"]) for feature in self.features], dtype=np.int64)


# Any of them makes a tokenizer: its own format, WordPiece, byte-level BPE (with merges.txt), or SentencePiece.
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model",
    "tokenizer.model",
)  # fmt: skip


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load the fast tokenizer of a checkpoint or deployment.

    Padding and truncation that a ``tokenizer.json`` carries (MiniLM's pads everything to 128) are switched off: both
    are decided per call here, and saved copies must not surprise other readers.

    Raises:
        CheckpointError: missing, damaged, or not a fast tokenizer.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder}: expected a tokenizer, one of {', '.join(TOKENIZER_FILES)}, found none; copy its files here"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a damaged tokenizer.json
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder}: the tokenizer can't be loaded ({reason}); copy its files again") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: expected a fast tokenizer, found {type(tokenizer).__name__}; add tokenizer.json"
        )
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def tokenizer_sha256(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Fingerprint of what a tokenizer does: vocabulary, normalisation, splitting, special tokens, padding token.

    Padding and truncation are left out, and so is everything that ``tokenizer_config.json`` only passes on.
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
        ``input_ids``, ``attention_mask``, ``token_type_ids``, ``length``, and ``labels`` or, for SQuAD, one row per
        window with ``start_positions`` and ``end_positions`` (CLS where the window lacks the answer).

    Raises:
        ConfigError: SQuAD's overlap leaves no room in the window.
    """

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if task.kind is TaskKind.QUESTION_ANSWERING:
            return _training_windows(batch, tokenizer, data)
        encoding = _encode_text(task, batch, tokenizer, data)
        return {**_inputs(encoding), "labels": batch["label"]}

    # A fingerprint of our own keeps datasets from hashing the tokenizer for a cache that memory tables don't use.
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
        ConfigError: SQuAD's overlap leaves no room in the window.
    """
    examples = [{"id": number, **row} for number, row in enumerate(rows.to_list())]
    batch = {column: [example[column] for example in examples] for column in task.text_columns}
    if task.kind is TaskKind.QUESTION_ANSWERING:
        encoding, windows, example_of = tokenize_windows(
            batch["question"], batch["context"], tokenizer, data.max_length, data.doc_stride
        )
        return EncodedSplit(name, _features(encoding), example_of, examples, windows)
    encoding = _encode_text(task, batch, tokenizer, data)
    truncated = sum(bool(one.overflowing) for one in encoding.encodings or ())
    return EncodedSplit(name, _features(encoding), np.arange(len(examples)), examples, None, truncated)


def pad_batch(features: Sequence[Feature], pad_id: int = 0, length: int | None = None) -> Feature:
    """Pad features to one batch.

    Args:
        features: at least one.
        pad_id: the tokenizer's padding token.
        length: tokens to pad to; the longest feature when None. Longer features are an error of the caller.

    Returns:
        int64 ``[batch, tokens]`` per model input; padding has mask 0 and token type 0.
    """
    tokens = length or max(len(feature["input_ids"]) for feature in features)
    batch = {}
    for key in MODEL_INPUTS:
        batch[key] = np.full((len(features), tokens), pad_id if key == "input_ids" else 0, dtype=np.int64)
        for row, feature in enumerate(features):
            batch[key][row, : len(feature[key])] = feature[key]
    return batch


def _encode_text(
    task: Task, batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: DataSection
) -> "BatchEncoding":
    return tokenizer(
        *(batch[column] for column in task.text_columns),
        truncation=True,
        max_length=data.max_length,
        padding=False,
        return_token_type_ids=True,
    )


def _training_windows(
    batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: DataSection
) -> dict[str, list[Any]]:
    encoding, windows, example_of = tokenize_windows(
        batch["question"], batch["context"], tokenizer, data.max_length, data.doc_stride
    )
    positions = [
        answer_positions(window, batch["answers"][example], ids.index(tokenizer.cls_token_id))
        for window, example, ids in zip(windows, example_of, encoding["input_ids"], strict=True)
    ]
    return {
        **_inputs(encoding),
        "start_positions": [start for start, _ in positions],
        "end_positions": [end for _, end in positions],
    }


def _inputs(encoding: "BatchEncoding") -> dict[str, list[Any]]:
    inputs = {key: encoding[key] for key in MODEL_INPUTS}
    return {**inputs, "length": [len(ids) for ids in encoding["input_ids"]]}


def _features(encoding: "BatchEncoding") -> list[Feature]:
    columns = [[np.asarray(values, dtype=np.int64) for values in encoding[key]] for key in MODEL_INPUTS]
    return [dict(zip(MODEL_INPUTS, values, strict=True)) for values in zip(*columns, strict=True)]
