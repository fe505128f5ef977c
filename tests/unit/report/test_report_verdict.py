# SPDX-License-Identifier: Apache-2.0
"""The whole verdict: the worst gate, its exit code by policy, and the order of the gates."""

import pytest

from sparse_deploy.config.schema import Goal
from sparse_deploy.report.findings import headline, slower_sparse_file
from sparse_deploy.report.tables import gate_rows
from sparse_deploy.report.verdict import whole_verdict, worst_first


@pytest.mark.parametrize(
    ("verdicts", "verdict", "codes"),
    [
        (["pass", "pass"], "pass", (0, 0, 0)),
        (["pass", "inconclusive"], "inconclusive", (4, 3, 0)),
        (["inconclusive", "fail", "pass"], "fail", (3, 3, 3)),
        ([], "pass", (0, 0, 0)),
    ],
)
def test_the_worst_gate_decides_and_the_policy_only_what_is_inconclusive(paired_gate, verdicts, verdict, codes):
    gates = [paired_gate("openvino-int8", each) for each in verdicts]
    for policy, code in zip(("more-rows", "fail", "warn"), codes, strict=True):
        found = whole_verdict(gates, policy)
        assert (found.verdict, found.exit_code) == (verdict, code)


def test_informational_gates_do_not_count(make_report, paired_gate):
    gates = (paired_gate("openvino-int8", "fail", informational=True), paired_gate("openvino-int8", "pass"))
    found = whole_verdict(gates, "more-rows")
    assert (found.verdict, found.failed, found.passed, found.informational) == ("pass", 0, 1, 1)
    report = make_report(gates=gates)
    fastest, goals, *_ = headline(report)
    assert (goals.answer, fastest.tone) == ("all passed", "good")
    assert [row[0] for row in gate_rows(report).rows] == ["pass", "fail (informs)"]


def test_the_sentence_counts(paired_gate):
    gates = [paired_gate("openvino-int8", verdict) for verdict in ("fail", "inconclusive", "inconclusive", "pass")]
    assert whole_verdict(gates, "more-rows").sentence == "fail: 1 of 4 gates failed, 2 inconclusive"
    assert whole_verdict(gates[1:], "more-rows").sentence == "inconclusive: 2 of 3 gates"
    assert whole_verdict(gates[3:], "more-rows").sentence == "pass: 1 gates"


def test_the_largest_miss_comes_first_in_either_direction(paired_gate):
    near, far = (paired_gate("openvino-int8", "fail", drop=drop) for drop in (0.02, 0.2))
    ratio = paired_gate(
        "openvino-fp32", "fail", goal=Goal(metric="file_size_ratio", type="at-most", value=0.5), value=0.9, bound=0.5,
        evidence=None,
    )  # fmt: skip
    undecided = paired_gate("openvino-int8", "inconclusive")
    assert worst_first([undecided, near, far, ratio]) == [ratio, far, near, undecided]


def test_a_gate_table_shows_drops_in_points_and_plain_figures_as_they_are(make_report, paired_gate):
    paired = paired_gate("openvino-int8", "inconclusive", drop=0.0063)
    at_most = paired_gate(
        "openvino-int8", "pass", goal=Goal(metric="logit_difference", type="at-most", value=0.05), value=0.0123456,
        bound=0.05, baseline=None, evidence=None,
    )  # fmt: skip
    table = gate_rows(make_report(gates=(paired, at_most)))
    first, second = (dict(zip(table.headers, row, strict=True)) for row in table.rows)
    assert (first["drop"], first["bounds"], first["allowed"]) == ("+0.63", "-0.12 to +1.38 at 95 %", "≤ 1.00")
    assert first["rows changed"] == "17 of 872 (10 worse, 7 better)"
    assert (second["measured"], second["drop"], second["allowed"]) == ("0.012346", "-", "≤ 0.05")


@pytest.mark.parametrize(
    ("sparse_ms", "stable", "told"), [(5.0, True, True), (3.0, True, False), (5.0, False, False)],
    ids=["slower", "faster", "unsteady"],
)  # fmt: skip
def test_a_sparse_file_that_is_not_the_fastest_is_told(make_report, sparse_ms, stable, told):
    report = make_report()
    cell = report.cell("onnxruntime-int8")
    latency = cell.latency.model_copy(update={"p50_ms": sparse_ms})
    sparse = cell.model_copy(update={"id": "sparse-int8", "runtime": "sparse", "latency": latency, "stable": stable})
    line = slower_sparse_file(report.model_copy(update={"cells": (*report.cells, sparse)}))
    assert (line is not None) == told
    if line:
        assert "openvino-int8 takes 3.60 ms, sparse-int8 5.00 ms; use openvino-int8" in line


def test_without_a_sparse_file_nothing_is_said_about_one(make_report):
    assert slower_sparse_file(make_report()) is None
