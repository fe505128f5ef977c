# SPDX-License-Identifier: Apache-2.0
"""The common base of tasks with one prediction per text or pair of texts."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparse_deploy.data.encoded import EncodedSplit, FloatArray, RowOutputs
from sparse_deploy.data.row_checks import Row
from sparse_deploy.data.tasks.base import Head, Output, Task, inputs_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from sparse_deploy.config.schema import DataSection


@dataclass(frozen=True)
class SequenceTask(Task):
    """One prediction per text or pair of texts, which is truncated to ``data.max_length``."""

    head: ClassVar[Head] = Head.SEQUENCE
    outputs: ClassVar[tuple[Output, ...]] = (Output("logits"),)

    def encode(
        self, examples: list[Row], tokenizer: "PreTrainedTokenizerFast", data: "DataSection", name: str
    ) -> EncodedSplit:
        """See :meth:`Task.encode`."""
        return self.encode_texts(examples, tokenizer, data, name)

    def training_columns(
        self, batch: dict[str, list[Any]], tokenizer: "PreTrainedTokenizerFast", data: "DataSection"
    ) -> dict[str, list[Any]]:
        """See :meth:`Task.training_columns`; ``labels`` are the :meth:`_targets`."""
        return {**inputs_of(self._tokenize(batch, tokenizer, data)), "labels": self._targets(batch["label"])}

    @abstractmethod
    def _targets(self, labels: Sequence[Any]) -> list[Any]:
        """The targets of the loss, one per row, from the labels of checked rows."""


def logits_of(outputs: Sequence[Sequence[RowOutputs]]) -> FloatArray:
    """``[texts, labels]``: the logits of texts of one window each."""
    return np.stack([windows[0][0] for windows in outputs])
