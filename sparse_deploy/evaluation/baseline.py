# SPDX-License-Identifier: Apache-2.0
"""Stored baselines: the predictions of every cell of a run, and the identity of its inputs.

One JSON file in columns; 872 rows of SST-2 and seven cells take 0.3 MB. It has fingerprints of texts, not the texts,
and predictions (SQuAD's are words of its text). A ``report.json`` with its predictions has the same content, and is
read into the same type.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from sparse_deploy.artifacts import MAX_JSON_BYTES, package_versions, read_json_file, write_text_atomically
from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.evaluation.accuracy import PREDICTIONS_FOLDER, Row, ValidationSplit, predictions_file
from sparse_deploy.gate.companions import agreement, logit_difference
from sparse_deploy.gate.figures import Contestant
from sparse_deploy.machine import Machine
from sparse_deploy.results import BenchReport, Cell, Drift, Figures, Identity, SplitIdentity
from sparse_deploy.strict_json import read_bounded

KIND: Final = "sparse-deploy baseline"
_SAVE_HINT = "Make one with: sparse-deploy bench DEPLOYMENT --save-baseline FILE"
_LOGIT_DIGITS = 6
# Columns of all cells, in addition to those of the task. Columns computed from them (correct, score) are not stored.
_SHARED = ("id", "sha256")
Columns = dict[str, list[Any]]


class StoredCell(Figures):
    """One cell without its timing, and its predictions in columns, by the suffix of the split."""

    cell: Cell
    answers: dict[str, Columns]


class Baseline(Figures):
    """The content of a file of ``bench --save-baseline``.

    Attributes:
        baseline: id of the baseline cell of relative goals.
        rows: columns of all cells, by the suffix of the split.
    """

    kind: Literal["sparse-deploy baseline"] = KIND
    schema_version: Literal[1] = 1
    created: str
    name: str
    identity: Identity
    versions: dict[str, str]
    machine: Machine
    baseline: str
    rows: dict[str, Columns]
    cells: tuple[StoredCell, ...]

    def contestant(self, cell_id: str, examples: Mapping[str, int], task: Task) -> Contestant | None:
        """A stored cell on the first examples of each split, with metrics of these examples; None if it is missing."""
        stored = next((one for one in self.cells if one.cell.id == cell_id), None)
        if stored is None:
            return None
        rows = {
            suffix: _as_rows(task, self.rows[suffix], stored.answers[suffix], count)
            for suffix, count in examples.items()
        }
        metrics = {
            f"{name}_{suffix}" if suffix else name: value
            for suffix, lines in rows.items()
            for name, value in task.metrics_of_rows(lines).items()
        }
        return Contestant(stored.cell.model_copy(update={"metrics": metrics}), rows)


def identify(
    task: Task,
    data: DataSection,
    splits: Sequence[ValidationSplit],
    *,
    tokenizer_sha256: str,
    checkpoint_sha256: str,
    batch_size: int,
) -> Identity:
    """The identity of a run.

    Args:
        task: the task.
        data: the recipe's ``data`` section.
        splits: the validation splits.
        tokenizer_sha256: see :func:`sparse_deploy.data.features.tokenizer_sha256`.
        checkpoint_sha256: SHA-256 of the deployment's ``model.safetensors``.
        batch_size: requests per batch.
    """
    return Identity(
        task=task.name,
        inputs=task.input_settings(data),
        splits={split.suffix: _split_identity(split.digests) for split in splits},
        tokenizer_sha256=tokenizer_sha256,
        checkpoint_sha256=checkpoint_sha256,
        batch_size=batch_size,
    )


def make_baseline(
    name: str, identity: Identity, cells: Sequence[Contestant], baseline: str, machine: Machine, task: Task
) -> Baseline:
    """The baseline of a run, to be stored."""
    return Baseline(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=name,
        identity=identity,
        versions=package_versions(),
        machine=machine,
        baseline=baseline,
        rows={suffix: _columns(rows, (*_SHARED, *task.shared_scores)) for suffix, rows in cells[0].rows.items()},
        cells=tuple(
            StoredCell(
                cell=one.cell.model_copy(
                    update={"latency": None, "throughput": None, "streamed": None, "shapes": (), "predictions": ""}
                ),
                answers={suffix: _columns(rows, task.own_scores) for suffix, rows in one.rows.items()},
            )
            for one in cells
        ),
    )


def save_baseline(baseline: Baseline, path: Path) -> None:
    """Write the file atomically.

    Raises:
        ArtifactError: the file can't be written.
    """
    check_baseline_target(path)
    write_text_atomically(path, baseline.model_dump_json() + "\n")


def check_baseline_target(path: Path) -> None:
    """Refuse the path of a baseline file that cannot be written, before the run.

    Raises:
        ConfigError: the path is a folder, or its folder does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        found = "a folder" if path.is_dir() else f"no folder {str(path.parent)!r}"
        raise ConfigError(f"--save-baseline {path}: expected a file in a folder that exists, found {found}")


def is_baseline(path: Path) -> bool:
    """Whether a file was written by :func:`save_baseline`; other files may be reports."""
    try:
        with path.open("rb") as stream:
            return KIND.encode() in stream.read(200)
    except OSError:
        return False


def load_baseline(path: Path, task: Task) -> Baseline:
    """Read a file of :func:`save_baseline`.

    Raises:
        ArtifactError: the file is unreadable, of another version, or inconsistent.
    """
    baseline = read_json_file(path, Baseline, "baseline", _SAVE_HINT)
    _check_columns(baseline, path, task)
    return baseline


def baseline_of_report(report: BenchReport, folder: Path, task: Task) -> Baseline:
    """Read a baseline from a report and its predictions.

    Raises:
        ArtifactError: the report has no identity (earlier version), or predictions are missing or damaged.
    """
    path = folder / PREDICTIONS_FOLDER
    if report.identity is None:
        raise ArtifactError(f"{folder}: the report has no fingerprints of its rows; bench that deployment again")
    suffixes = tuple(report.identity.splits)
    answers = {cell.id: {s: _read_rows(path / predictions_file(cell.id, s)) for s in suffixes} for cell in report.cells}
    try:
        cells = [Contestant(cell, answers[cell.id]) for cell in report.cells]
        baseline = make_baseline(report.name, report.identity, cells, report.baseline, report.machine, task)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not readable as predictions: {error}; bench that deployment again") from error
    _check_columns(baseline, path, task)
    return baseline


def check_alike(stored: Baseline, ours: Identity, digests: Mapping[str, Sequence[str]], source: str) -> None:
    """Refuse a baseline of other inputs; a different checkpoint and fewer rows (the first ones) are allowed.

    Args:
        stored: the baseline.
        ours: identity of this run.
        digests: fingerprint of every row of this run, by the suffix of the split.
        source: the baseline's name for the error.

    Raises:
        ConfigError: a different task, input, row or tokenizer.
    """
    theirs = stored.identity
    facts = [("task", theirs.task, ours.task)]
    facts += [(f"data.{key}", str(theirs.inputs.get(key)), str(value)) for key, value in ours.inputs.items()]
    for what, before, now in facts:
        if before != now:
            raise ConfigError(f"--against {source}: its {what} is {before}, that of this run is {now}; {_REMEDY}")
    for suffix, rows in digests.items():
        _check_rows(stored.rows.get(suffix, {}).get("sha256", []), rows, ours.splits[suffix], source, suffix)
    if theirs.tokenizer_sha256 != ours.tokenizer_sha256:
        raise ConfigError(
            f"--against {source}: its tokenizer is {theirs.tokenizer_sha256[:12]}, that of the deployment is "
            f"{ours.tokenizer_sha256[:12]}, so the model reads different tokens. Restore the tokenizer, or {_REMEDY}"
        )


_REMEDY = "save a baseline of this set-up with --save-baseline"


def drift_of(cell: Contestant, stored: Contestant | None) -> Drift | None:
    """The difference between a cell's predictions and its stored ones; None without stored predictions."""
    if stored is None:
        return None
    return Drift(agreement=agreement(stored.rows, cell.rows), logit_difference=logit_difference(stored.rows, cell.rows))


def _check_rows(theirs: Sequence[str], ours: Sequence[str], identity: SplitIdentity, source: str, suffix: str) -> None:
    split = f" of the split {suffix}" if suffix else ""
    differs = next((n for n, pair in enumerate(zip(theirs, ours, strict=False), start=1) if pair[0] != pair[1]), None)
    if differs is not None:
        raise ConfigError(f"--against {source}: its validation rows{split} differ from row {differs} on; {_REMEDY}")
    if len(ours) > len(theirs):
        raise ConfigError(
            f"--against {source}: it has {len(theirs)} validation rows{split}, this run has "
            f"{identity.examples}; bench --validation-samples {len(theirs)}, or {_REMEDY}"
        )


def _split_identity(digests: Sequence[str]) -> SplitIdentity:
    return SplitIdentity(examples=len(digests), sha256=hashlib.sha256("".join(digests).encode()).hexdigest())


def _columns(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Columns:
    columns = {key: [row[key] for row in rows] for key in keys if key in rows[0]}
    if "logits" in columns:
        columns["logits"] = [[round(logit, _LOGIT_DIGITS) for logit in logits] for logits in columns["logits"]]
    return columns


def _as_rows(task: Task, shared: Columns, own: Columns, count: int) -> list[Row]:
    rows: list[Row] = [
        {**{key: shared[key][n] for key in shared}, **{key: own[key][n] for key in own}} for n in range(count)
    ]
    return [task.complete_row(row) for row in rows]


def _read_rows(path: Path) -> list[Row]:
    try:
        text = read_bounded(path, MAX_JSON_BYTES).decode("utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected predictions, one JSON object per line: {error}") from error


def _check_columns(baseline: Baseline, path: Path, task: Task) -> None:
    """Checks beyond the schema: equal lengths, the columns of the task, and the fingerprint of the rows.

    A baseline of another task is refused later, with a better message.
    """
    if baseline.identity.task != task.name:
        return
    # The columns of retrieval metrics exist only for pairs without labels.
    wanted = {name for name in task.own_scores if name in ("prediction", "logits") or name in task.metrics}
    if baseline.baseline not in {one.cell.id for one in baseline.cells}:
        raise ArtifactError(f"{path}: the baseline {baseline.baseline!r} is not among its cells. {_SAVE_HINT}")
    for suffix, split in baseline.identity.splits.items():
        shared = baseline.rows.get(suffix, {})
        sides = [shared, *(one.answers.get(suffix, {}) for one in baseline.cells)]
        lengths = {len(column) for side in sides for column in side.values()}
        whole = {*_SHARED, *task.shared_scores} <= shared.keys()
        whole &= all(wanted <= side.keys() and _even(side["logits"]) for side in sides[1:])
        if lengths != {split.examples} or not whole:
            raise ArtifactError(f"{path}: its columns of the split {suffix!r} contradict each other. {_SAVE_HINT}")
        if _split_identity([str(digest) for digest in shared["sha256"]]) != split:
            raise ArtifactError(f"{path}: its rows of the split {suffix!r} differ from their fingerprint. {_SAVE_HINT}")


def _even(logits: Sequence[Any]) -> bool:
    """Whether all rows have the same number of logits, and each is a number."""
    numbers = all(isinstance(row, list) and all(isinstance(logit, int | float) for logit in row) for row in logits)
    return numbers and len({len(row) for row in logits}) == 1
