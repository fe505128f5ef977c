# SPDX-License-Identifier: Apache-2.0
"""The accuracy table: signs, units, verdicts, and what is missing."""

import json

from accuracy import BUDGETS, recipe
from accuracy_table import TWINS, markdown, twins, twins_markdown

from sparse_deploy.config.loader import recipe_from_mapping


def gate(cell, drop, high, verdict, metric="accuracy"):
    return {"cell": cell, "metric": metric, "drop": drop, "high": high, "verdict": verdict}


def record(task, gates, *, kind="static", search=None, metric="accuracy", unit=1.0):
    return {
        "task": task, "model": "u70", "kind": kind, "zeros": 0.7, "rows": 1000, "baseline": {metric: 0.8 * unit},
        "fp32": {metric: -0.001 * unit}, "search": search, "gates": gates,
    }  # fmt: skip


def fields(table, line):
    return [field.strip() for field in table.splitlines()[line].strip("|").split("|")]


def test_a_drop_is_shown_as_a_change_in_points_with_its_worst_case():
    static = record(
        "sst2",
        [gate("onnxruntime-int8", 0.004, 0.009, "inconclusive"), gate("sparse-int8", 0.03, 0.05, "fail")],
        search={"fp32_operators": ["a", "b"]},
    )
    dynamic = record("sst2", [gate("onnxruntime-int8", 0.0, -0.001, "pass")], kind="dynamic")
    sparse = record("sst2", [gate("openvino-sparse-int8", -0.001, 0.0, "pass")], kind="sparse")
    table = markdown([static, dynamic, sparse], ["sst2"])
    row = dict(zip(fields(table, 0), fields(table, 2), strict=True))
    assert row["PyTorch FP32"] == "80.00"
    assert row["FP32 elsewhere"] == "-0.10"
    assert row["ORT INT8 static"] == "-0.40 (≥ -0.90) open"
    assert row["ORT INT8 dynamic"] == "+0.00 (≥ +0.10) pass"
    assert row["sparse in ORT"] == "-3.00 (≥ -5.00) **fail**"
    assert row["sparse in OpenVINO"] == "+0.10 (≥ +0.00) pass"
    assert row["OpenVINO INT8 static"] == ""
    assert row["kept FP32"] == "2"


def test_squad_is_in_percent_already_and_a_metric_has_a_row():
    squad = record("squad", [gate("onnxruntime-int8", 0.4, 0.9, "pass", "f1")], metric="f1", unit=100.0)
    assert "-0.40 (≥ -0.90) pass" in markdown([squad], ["squad"])
    both = record("mnli", [gate("sparse-int8", 0, 0, "pass"), gate("sparse-int8", 0, 0, "pass", "accuracy_mismatched")])
    for figures in (both["baseline"], both["fp32"]):
        figures["accuracy_mismatched"] = 0.5
    assert len(markdown([both], ["mnli"]).splitlines()) == 4


def test_two_runtimes_with_the_same_operators(tmp_path):
    (tmp_path / "predictions").mkdir()
    for cell, last in zip(TWINS, ([0.03, 0.01], [0.01, 0.02]), strict=True):
        rows = [
            {"label": 1, "prediction": 1, "logits": [-1.0, 1.0]},
            {"label": 1, "prediction": int(last[1] > last[0]), "logits": last},
        ]
        for split in ("", "-mismatched"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "predictions" / f"{cell}{split}.jsonl").write_text(text)
    found = record("mnli", [], kind="sparse") | {"twins": twins(tmp_path)}
    table = twins_markdown([found, record("mnli", [])], ["sst2", "mnli"])
    assert fields(table, 2) == ["mnli", "70", "4", "2", "at most 0.020", "0.020"]
    assert len(table.splitlines()) == 3


def test_every_recipe_is_valid(tmp_path):
    for task in BUDGETS:
        for model in ("dense", "u70"):
            assert recipe_from_mapping(recipe(task, model, tmp_path), task).task == task
