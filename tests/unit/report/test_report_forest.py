# SPDX-License-Identifier: Apache-2.0
"""The forest plot: a row per gate with evidence, its place in points, its colour and mark by verdict."""

import math
import re
import xml.etree.ElementTree as ET

from sparse_deploy.report.forest import drops_by_gate
from sparse_deploy.report.page import render_page
from sparse_deploy.report.svg import VERDICT_COLOURS


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_row_per_gate_with_evidence(make_report, paired_gate):
    gates = tuple(paired_gate(cell, "pass") for cell in ("onnxruntime-fp32", "openvino-int8"))
    flat = make_report().gates
    shown = texts(drops_by_gate(make_report(gates=gates + flat)))
    assert {"onnxruntime-fp32", "openvino-int8", "allowed", "pass"} <= set(shown)
    assert "pytorch-int8" not in shown
    assert "fail" not in shown


def test_nothing_is_drawn_without_evidence(make_report, paired_gate):
    assert drops_by_gate(make_report()) == ""
    assert drops_by_gate(make_report(gates=())) == ""
    unbounded = paired_gate("openvino-int8", "inconclusive", high=math.inf)
    assert drops_by_gate(make_report(gates=(unbounded,))) == ""


def test_goals_are_told_apart_by_their_metric(make_report, paired_gate):
    gates = (paired_gate("openvino-int8", "pass"), paired_gate("openvino-int8", "fail", metric="f1"))
    assert {"openvino-int8  accuracy", "openvino-int8  f1"} <= set(texts(drops_by_gate(make_report(gates=gates))))


def test_each_verdict_has_its_page_colour(make_report, paired_gate):
    for verdict, variable in (("pass", "--good"), ("fail", "--bad"), ("inconclusive", "--warn")):
        svg = drops_by_gate(make_report(gates=(paired_gate("openvino-int8", verdict),)))
        assert f"var({variable}, {VERDICT_COLOURS[verdict]})" in svg
        others = {"--good", "--bad", "--warn"} - {variable}
        assert not any(other in svg for other in others)


def test_drops_of_squad_are_points_already(make_report, paired_gate):
    gate = paired_gate("openvino-int8", "inconclusive", metric="f1", drop=2.0, low=1.0, high=3.0, allowed=2.5)
    shares = drops_by_gate(make_report(gates=(gate,)))
    points = drops_by_gate(make_report(gates=(gate,), task="squad"))
    assert "300" in texts(shares)
    assert "3.0" in texts(points)


def test_a_stored_baseline_is_named(make_report, paired_gate):
    report = make_report(gates=(paired_gate("pytorch-fp32", "pass"),), settings={"against_cell": "pytorch-fp32"})
    assert "points below the stored pytorch-fp32 (right is worse)" in texts(drops_by_gate(report))
    assert "below the stored pytorch-fp32 on the same examples" in render_page(report)


def test_the_page_holds_the_plot_once_and_its_ids_stay_unique(make_report, paired_gate):
    gates = tuple(paired_gate(cell.id, "fail") for cell in make_report().cells[1:])
    page = render_page(make_report(gates=gates))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("Drop against the baseline, with its bounds") == 1
    assert page.count('class="is-fail"') == 2 * len(gates)  # in the table, and beside the reason
    assert all(page.count(gate.explanation) for gate in gates)
