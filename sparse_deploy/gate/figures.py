# SPDX-License-Identifier: Apache-2.0
"""Metrics of goals: task metrics, and figures without a test."""

from dataclasses import dataclass

from sparse_deploy.gate.companions import Rows, agreement, logit_difference
from sparse_deploy.results import Cell

SPARSITY_METRIC = "sparsity"
LATENCY_METRIC = "latency_ratio"
# Compared with the baseline cell, so the baseline has no such figure.
AGAINST_BASELINE = ("agreement", "logit_difference", "file_size_ratio", LATENCY_METRIC)
AGAINST_ITSELF = ("logit_drift", "agreement_drift")
COMPANIONS = (SPARSITY_METRIC, *AGAINST_BASELINE, *AGAINST_ITSELF)


@dataclass(frozen=True)
class Contestant:
    """A cell with its per-example results.

    Attributes:
        cell: figures of the cell.
        rows: results by the suffix of the split.
    """

    cell: Cell
    rows: Rows


def metric_value(cell: Cell, metric: str) -> float | None:
    """A task metric of a cell, or its share of zeros for ``sparsity``; None if the cell has no such figure."""
    if metric == SPARSITY_METRIC:
        return cell.sparsity.sparsity_of_prunable if cell.sparsity else None
    return cell.metrics.get(metric)


def figure(metric: str, contestant: Contestant, baseline: Contestant) -> float | None:
    """A figure of a cell for a goal, except its latency; None if the cell has no such figure."""
    cell, drift = contestant.cell, contestant.cell.drift
    match metric:
        case "agreement":
            return agreement(baseline.rows, contestant.rows)
        case "logit_difference":
            return logit_difference(baseline.rows, contestant.rows)
        case "file_size_ratio":
            return cell.file_bytes / baseline.cell.file_bytes if baseline.cell.file_bytes else None
        case "agreement_drift":
            return drift.agreement if drift else None
        case "logit_drift":
            return drift.logit_difference if drift else None
        case _:
            return metric_value(cell, metric)
