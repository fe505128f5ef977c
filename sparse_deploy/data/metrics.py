# SPDX-License-Identifier: Apache-2.0
"""Scores of a whole split and of each of its examples, from the raw outputs of any runtime."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.encoded import EncodedSplit, RowOutputs
from sparse_deploy.data.encoded import SplitScore as SplitScore
from sparse_deploy.errors import DataError
from sparse_deploy.gate.metric import Metric


class Scorer(Protocol):
    """Scores model outputs: a task with labels, :class:`sparse_deploy.data.agreement.ModelAgreement` without."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the primary one first."""

    @property
    def known_metrics(self) -> Mapping[str, Metric]:
        """The metrics by name, with their tests."""

    @property
    def per_token(self) -> tuple[bool, ...]:
        """For each output of the model, whether its second axis is the tokens."""

    def score(self, split: EncodedSplit, outputs: Sequence[RowOutputs], data: DataSection) -> SplitScore:
        """Score the outputs of a model on a split."""


def score_split(
    task: Scorer, split: EncodedSplit, outputs: Sequence[RowOutputs], data: DataSection | None = None
) -> SplitScore:
    """Score the predictions of a model on a split.

    Args:
        task: scorer of the outputs.
        split: the encoded split.
        outputs: one array per feature and task output, without the batch axis and without padding.
        data: the window settings that the split was encoded with.

    Raises:
        DataError: fewer or more outputs than features, a wrong width, or NaN or infinity.
    """
    if len(outputs) != len(split.features):
        raise DataError(
            f"{split.name}: expected one output for each of {len(split.features)} features, found {len(outputs)}"
        )
    for number, output in enumerate(outputs):
        if not all(np.isfinite(part).all() for part in output):
            raise DataError(
                f"{split.name}: the model returned for feature {number} with NaN or infinity; its file is damaged"
            )
    return task.score(split, outputs, data or DataSection())
