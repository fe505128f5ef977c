# SPDX-License-Identifier: Apache-2.0
"""gate.json, gate.md and the step summary: complete, within GitHub's limit, and appended to the existing text."""

import json
import math
import xml.etree.ElementTree as ET

import pytest

from sparse_deploy.errors import ConfigError
from sparse_deploy.report.ci_summary import MAX_BYTES, append_step_summary, render_summary
from sparse_deploy.report.gate_files import GateFile, write_gate_files


def test_all_files_say_the_same(make_report, paired_gate, tmp_path):
    gates = (paired_gate("openvino-int8", "fail"), paired_gate("openvino-fp32", "inconclusive"))
    write_gate_files(make_report(gates=gates), tmp_path, "more-rows")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate.json", "gate.md", "junit.xml"]
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["schema_version"], found["verdict"], found["exit_code"]) == (1, "fail", 3)
    assert (found["failed"], found["inconclusive"], found["passed"]) == (1, 1, 0)
    assert found["gates"][0]["evidence"]["changed"] == 17
    markdown = (tmp_path / "gate.md").read_text()
    assert markdown.startswith("## sparse-deploy gate: FAIL\n")
    assert gates[0].explanation in markdown
    assert "exit code 3" in markdown
    assert len(ET.parse(tmp_path / "junit.xml").findall(".//testcase")) == 2


def test_gate_json_reads_back_and_has_no_bare_nan(make_report, paired_gate, tmp_path):
    gate = paired_gate("openvino-int8", "fail", value=math.nan)
    write_gate_files(make_report(gates=(gate,)), tmp_path, "warn")
    text = (tmp_path / "gate.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert math.isnan(GateFile.model_validate_json(text).gates[0].value)


def test_hostile_text_stays_text_in_markdown(make_report, paired_gate):
    gate = paired_gate("openvino-int8", "fail", explanation="<script> | [a](javascript:b)\n# c")
    text = render_summary(make_report(gates=(gate,)), "more-rows")
    assert "<script>" not in text
    assert "](" not in text
    assert "\n# c" not in text


def test_a_huge_summary_is_cut_at_a_line_with_a_note(make_report, paired_gate):
    gates = tuple(paired_gate("openvino-int8", "fail", explanation="ü" * 3000) for _ in range(9000))
    text = render_summary(make_report(gates=gates), "more-rows")
    assert MAX_BYTES * 0.99 < len(text.encode()) <= MAX_BYTES < 2**20
    *_, before, blank, note, end = text.split("\n")
    assert "was truncated" in note
    assert (blank, end) == ("", "")
    assert before.startswith("| fail")
    assert before.endswith(" |")


def test_the_step_summary_is_appended_within_what_is_left(make_report, paired_gate, tmp_path):
    report = make_report(gates=(paired_gate("openvino-int8", "fail"),))
    path = tmp_path / "summary.md"
    path.write_text("mine\n")
    append_step_summary(path, report, "more-rows")
    assert path.read_text() == "mine\n" + render_summary(report, "more-rows")
    full = "x" * (MAX_BYTES - 100)
    path.write_text(full)
    append_step_summary(path, report, "more-rows")
    assert len(path.read_bytes()) <= MAX_BYTES
    with pytest.raises(ConfigError, match="GITHUB_STEP_SUMMARY"):
        append_step_summary(tmp_path / "no" / "folder.md", report, "more-rows")
