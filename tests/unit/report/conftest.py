# SPDX-License-Identifier: Apache-2.0
"""The report that the tests of all formats share; its parts are in ``tests/made_reports.py``."""

from collections.abc import Callable
from typing import Any

import pytest
from made_reports import CELLS, GOALS, judged, make_cell

from sparse_deploy.config.schema import Goal, Reference
from sparse_deploy.machine import Machine
from sparse_deploy.results import BenchReport, Evidence, GateResult, TokenLengths

ReportMaker = Callable[..., BenchReport]


@pytest.fixture
def make_report() -> ReportMaker:
    """Builds the report; ``cells`` maps a cell id to changed fields, other arguments change the report itself."""

    def make(cells: dict[str, dict[str, Any]] | None = None, goals: tuple[Goal, ...] = GOALS, **changes: Any):
        made = tuple(make_cell(cell_id, seed, **(cells or {}).get(cell_id, {})) for seed, cell_id in enumerate(CELLS))
        fields: dict[str, Any] = {
            "created": "2026-11-21T05:30:00+00:00",
            "name": "minilm-sst2-unstructured-70",
            "deployment": "outputs/minilm-sst2-unstructured-70/deployment",
            "task": "sst2",
            "primary_metric": "accuracy",
            "examples": 872,
            "baseline": "pytorch-fp32",
            "machine": Machine(
                cpu_model="Intel(R) Xeon(R) Processor @ 2.10GHz", flags=("avx2", "fma", "avx512f", "avx512_vnni"),
                visible_cpus=8, quota_cpus=2.0, memory_bytes=16 * 2**30, kernel="6.1.0", python="3.12.3",
            ),
            "versions": {"torch": "2.13.0", "onnxruntime": "1.31.0", "openvino": "2026.4.0"},
            "settings": {"threads": 2, "blocks": 5, "block_seconds": 1.0, "throughput_batch_size": 32},
            "lengths": TokenLengths(minimum=4, p50=25, p90=39, p99=52, maximum=66, mean=25.2),
            "cells": made,
            "gates": judged(goals, made),
            "reference": (
                Reference(metrics={"accuracy": 91.5}, source="https://example.org/paper table 3", note="dense teacher"),
            ),
        }  # fmt: skip
        return BenchReport(**(fields | changes))

    return make


BOUNDS = {"pass": (-0.0035, 0.0023), "fail": (0.0151, 0.0312), "inconclusive": (-0.0012, 0.0138)}


@pytest.fixture
def paired_gate() -> Callable[..., GateResult]:
    """Builds the result of a paired test of a cell of :data:`CELLS`: at most ``allowed`` below the baseline."""

    def make(cell: str, verdict: str, *, metric: str = "accuracy", allowed: float = 0.01, **changes: Any) -> GateResult:
        low, high = changes.pop("low", BOUNDS[verdict][0]), changes.pop("high", BOUNDS[verdict][1])
        drop = changes.pop("drop", (BOUNDS[verdict][0] + BOUNDS[verdict][1]) / 2)
        evidence = Evidence(
            drop=drop, low=low, high=high, confidence=0.95, p_pass=0.02, p_fail=0.98, rows=872, changed=17, worse=10,
            better=7, method="exact McNemar test",
        )  # fmt: skip
        fields: dict[str, Any] = {
            "goal": Goal(metric=metric, type="max-degradation", value=allowed),
            "cell": cell,
            "value": 0.9048 - drop,
            "baseline": 0.9048,
            "bound": 0.9048 - allowed,
            "verdict": verdict,
            "explanation": f"{metric} of {cell}: drop {drop:.4f}.",
            "evidence": evidence,
        }
        return GateResult(**(fields | changes))

    return make
