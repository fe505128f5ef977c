# SPDX-License-Identifier: Apache-2.0
"""``bench --against``: comparison with a stored baseline or an earlier report of the same inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ConfigError
from sparse_deploy.evaluation.accuracy import ValidationSplit
from sparse_deploy.evaluation.baseline import (
    Baseline,
    baseline_of_report,
    check_alike,
    is_baseline,
    load_baseline,
)
from sparse_deploy.gate.figures import Contestant
from sparse_deploy.report.report import JSON_NAME, load_report
from sparse_deploy.results import Identity


@dataclass(frozen=True)
class Against:
    """The comparison of a run with stored predictions.

    Attributes:
        stored: the stored baseline.
        baseline: its baseline cell, on the rows of this run.
        examples: rows of this run, by the suffix of the split.
        task: the common task.
        same_checkpoint: whether its predictions are from the checkpoint of this deployment.
        same_work: whether rows and batches are also equal, so that an unchanged cell gives identical results.
    """

    stored: Baseline
    baseline: Contestant
    examples: dict[str, int]
    task: Task
    same_checkpoint: bool
    same_work: bool

    def same_cell(self, cell_id: str) -> Contestant | None:
        """The stored predictions of a cell; None if there are none, or if an unchanged cell's could differ."""
        return (
            self.stored.contestant(cell_id, self.examples, self.task)
            if self.same_checkpoint and self.same_work
            else None
        )

    @property
    def facts(self) -> dict[str, str | int]:
        """The entries in the settings of a report."""
        return {
            "against_name": self.stored.name,
            "against_created": self.stored.created,
            "against_cell": self.baseline.cell.id,
            "against_checkpoint": "same" if self.same_checkpoint else "another",
            "against_examples": sum(split.examples for split in self.stored.identity.splits.values()),
        }


def load_against(path: Path, ours: Identity, splits: Sequence[ValidationSplit], task: Task) -> Against:
    """Read a stored baseline, or a report with its predictions, and refuse one that can't be compared.

    Args:
        path: the file, or the folder of a report.
        ours: identity of this run.
        splits: validation splits of this run.
        task: task of this run.

    Raises:
        ArtifactError: the file is unreadable.
        ConfigError: the predictions are of another task, other rows, or another tokenizer.
    """
    file = path / JSON_NAME if path.is_dir() else path
    if not file.exists():
        raise ConfigError(
            f"--against {path}: no such file; expected one that bench --save-baseline wrote, or a report.json"
        )
    stored = (
        load_baseline(file, task) if is_baseline(file) else baseline_of_report(load_report(file), file.parent, task)
    )
    check_alike(stored, ours, {split.suffix: split.digests for split in splits}, str(path))
    examples = {split.suffix: len(split.digests) for split in splits}
    baseline = stored.contestant(stored.baseline, examples, task)
    assert baseline is not None  # noqa: S101 - both readers check that the baseline is among the cells
    theirs = stored.identity
    return Against(
        stored,
        baseline,
        examples,
        task,
        same_checkpoint=theirs.checkpoint_sha256 == ours.checkpoint_sha256,
        same_work=theirs.splits == ours.splits and theirs.batch_size == ours.batch_size,
    )
