# SPDX-License-Identifier: Apache-2.0
"""Tokenization with the ``tokenizers`` library only; the same tokens as :mod:`sparse_deploy.data.features`."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from sparse_deploy.data.encoded import Feature
from sparse_deploy.data.squad import MAX_QUESTION_TOKENS, WindowMap, cut_question, window_map
from sparse_deploy.errors import ArtifactError, one_line
from sparse_deploy.serving.inference_protocol import RequestError

TOKENIZER_FILE = "tokenizer.json"
_MAX_TOKENIZER_BYTES = 64 * 2**20
# The result of the tokenizer takes 100 to 400 bytes per token until its ids are copied.
_TEXTS_AT_ONCE = 32


class TextEncoder:
    """The tokenizer of a deployment.

    Args:
        folder: the deployment.
        max_length: tokens of a text or window, with special tokens; longer texts are truncated, contexts windowed.
        overlap: overlap of two windows, in tokens; None for truncated texts.

    Raises:
        ArtifactError: no readable ``tokenizer.json``, or the overlap is too large.
    """

    def __init__(self, folder: Path, max_length: int, overlap: int | None = None) -> None:
        path = folder / TOKENIZER_FILE
        if not path.is_file() or path.stat().st_size > _MAX_TOKENIZER_BYTES:
            raise ArtifactError(f"{path}: expected a tokenizer of at most {_MAX_TOKENIZER_BYTES} bytes; export again")
        self._plain, self._cutting = _load(path), _load(path)
        self._max_length = max_length
        self._overlap = overlap or 0
        self._special_of_pairs = self._plain.num_special_tokens_to_add(True)
        room = max_length - MAX_QUESTION_TOKENS - self._special_of_pairs
        if overlap is not None and overlap >= room:
            raise ArtifactError(
                f"{folder}: with a question of {MAX_QUESTION_TOKENS} tokens, data.max_length {max_length} leaves "
                f"{room} for the context, too few for data.doc_stride {overlap}; export with a smaller doc_stride"
            )
        if overlap is None:
            self._cutting.enable_truncation(max_length)
        else:
            self._cutting.enable_truncation(max_length, stride=overlap, strategy="only_second")

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, truncate: bool = True, spans: bool = False
    ) -> tuple[list[Feature], list[WindowMap | None]]:
        """Tokens of texts, or of pairs of texts.

        Args:
            texts: texts of the rows.
            pairs: the second texts.
            truncate: truncate texts longer than ``data.max_length`` instead of refusing them.
            spans: also return the positions of tokens in ``texts``, which takes longer.

        Raises:
            RequestError: 413, a text is too long and must not be truncated.
        """
        rows = list(zip(texts, pairs, strict=True)) if pairs else list(texts)
        features: list[Feature] = []
        maps: list[WindowMap | None] = []
        tokenizer = self._cutting if truncate else self._plain
        encode = tokenizer.encode_batch if spans else tokenizer.encode_batch_fast
        for begin in range(0, len(rows), _TEXTS_AT_ONCE):
            # The batch method releases the interpreter lock, a single call does not.
            found = encode(rows[begin : begin + _TEXTS_AT_ONCE])
            if not truncate:
                self._check_length(found, begin)
            features += [_feature(encoding) for encoding in found]
            maps += [window_map(encoding, 0) if spans else None for encoding in found]
        return features, maps

    def _check_length(self, found: Sequence[Encoding], begin: int) -> None:
        for number, encoding in enumerate(found, start=begin):
            if len(encoding) > self._max_length:
                raise RequestError(
                    f"text {number} has {len(encoding)} tokens, special tokens included; the model reads at most "
                    f"{self._max_length}. Shorten it, or set truncate: true",
                    413,
                )

    def windows(self, question: str, context: str, most: int) -> tuple[list[Feature], list[WindowMap]]:
        """Windows of one question over its context, equal to :func:`sparse_deploy.data.squad.tokenize_windows`.

        Args:
            question: the question, truncated if it is too long.
            context: a context of any length.
            most: largest number of windows.

        Raises:
            RequestError: 413, there are more windows; they are counted before they are made.
        """
        question = question.lstrip()
        (tokens,) = self._plain.encode_batch([question], add_special_tokens=False)
        question, _ = cut_question(question, tokens.offsets)
        if len(context) > most:  # fewer characters can't be more windows
            check_rows(self._count_windows(question, context), most)
        (encoding,) = self._cutting.encode_batch([(question, context)])
        windows = [encoding, *encoding.overflowing]
        check_rows(len(windows), most)
        return [_feature(window) for window in windows], [window_map(window, 1) for window in windows]

    def _count_windows(self, question: str, context: str) -> int:
        """Number of windows of a context, from the length of a window and its overlap."""
        lengths = [len(one) for one in self._plain.encode_batch_fast([question, context], add_special_tokens=False)]
        room = self._max_length - self._special_of_pairs - lengths[0]
        return 1 + math.ceil(max(lengths[1] - room, 0) / (room - self._overlap))


def count_rows(texts: Sequence[str], others: Sequence[str] | None, names: Sequence[str]) -> int:
    """The number of texts, equal for all columns.

    Raises:
        RequestError: 400, the columns have different lengths.
    """
    if others is not None and len(others) != len(texts):
        raise RequestError(f"{names[1]}: expected {len(texts)} texts, as many as {names[0]} has; got {len(others)}")
    return len(texts)


def check_rows(rows: int, most: int) -> None:
    """Refuse a request with too many sequences.

    Raises:
        RequestError: 413.
    """
    if rows > most:
        raise RequestError(f"one request may have {most} rows or windows here; this one has {rows} or more", 413)


def _load(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception
        raise ArtifactError(f"{path}: not a readable tokenizer: {one_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _feature(encoding: Encoding) -> Feature:
    return {
        "input_ids": np.array(encoding.ids, dtype=np.int64),
        "attention_mask": np.array(encoding.attention_mask, dtype=np.int64),
        "token_type_ids": np.array(encoding.type_ids, dtype=np.int64),
    }
