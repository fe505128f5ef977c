# SPDX-License-Identifier: Apache-2.0
"""Scores of a session in this process, for ``export``, which does not measure time."""

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.encoded import SplitScore
from sparse_deploy.data.metrics import score_split
from sparse_deploy.data.tasks import Task
from sparse_deploy.evaluation.accuracy import ValidationSplit
from sparse_deploy.evaluation.requests import answer
from sparse_deploy.runtimes import Session


def score_session(
    session: Session, task: Task, split: ValidationSplit, *, batch_size: int, data: DataSection
) -> SplitScore:
    """Run every request of a split in batches of similar length, and score the outputs.

    Args:
        session: an opened model.
        task: the task, which has the metrics.
        split: see :func:`sparse_deploy.evaluation.accuracy.load_validation`.
        batch_size: requests per batch.
        data: the window settings that the split was encoded with.

    Raises:
        ArtifactError: the model fails on a batch.
        DataError: the outputs have a wrong width, or NaN.
    """
    outputs = answer(session.run, split.requests, batch_size, task.per_token)
    return score_split(task, split.encoded, outputs, data)
