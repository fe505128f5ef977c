# SPDX-License-Identifier: Apache-2.0
"""Annotations: read back as the runner reads them, within its limits, worst first."""

import pytest

from sparse_deploy.report.annotations import annotations


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """As ActionCommand.cs of actions/runner takes a line apart."""
    assert "\n" not in line
    assert "\r" not in line
    assert line.startswith("::")
    end = line.index("::", 2)
    kind, _, properties = line[2:end].partition(" ")
    pairs = dict(pair.split("=", 1) for pair in properties.strip().split(",") if pair)
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        pairs = {name: value.replace(code, character) for name, value in pairs.items()}
    message = line[end + 2 :]
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        message = message.replace(code, character)
    return kind, pairs, message


def test_errors_and_warnings_by_verdict(paired_gate):
    gates = [paired_gate("openvino-int8", verdict) for verdict in ("pass", "inconclusive", "fail")]
    gates.append(paired_gate("openvino-fp32", "fail", informational=True))
    error, warning = map(parsed, annotations(gates, "more-rows"))
    assert error == (
        "error",
        {"title": "sparse-deploy gate: openvino-int8, accuracy max-degradation 0.01"},
        gates[2].explanation,
    )
    assert (warning[0], warning[2]) == ("warning", gates[1].explanation)
    assert [parsed(line)[0] for line in annotations(gates, "fail")] == ["error", "error"]


@pytest.mark.parametrize("text", ["100 % of 3,5: ok", "two\r\nlines", "::error::x", "%0A is a code, %25 too"])
def test_any_text_comes_back_as_it_was(paired_gate, text):
    gate = paired_gate("openvino-int8", "fail", explanation=text, metric=text)
    (line,) = annotations([gate], "more-rows")
    kind, properties, message = parsed(line)
    assert (kind, message) == ("error", text)
    assert text in properties["title"]


@pytest.mark.parametrize(("count", "shown"), [(10, 10), (11, 10), (300, 10)])
def test_at_most_ten_of_each_kind_and_the_last_counts_the_rest(paired_gate, count, shown):
    fails = [paired_gate("openvino-int8", "fail", drop=0.02 + i / 1000) for i in range(count)]
    undecided = [paired_gate("openvino-fp32", "inconclusive")] * count
    lines = [parsed(line) for line in annotations([*undecided, *fails], "more-rows")]
    assert [kind for kind, _, _ in lines] == ["error"] * shown + ["warning"] * shown
    assert lines[0][2] == fails[-1].explanation
    if count > shown:
        assert f"{count - 9} more gates of openvino-int8" in lines[9][2]
        assert f"{count - 9} more gates of openvino-fp32" in lines[-1][2]


def test_passes_make_no_noise(paired_gate):
    assert annotations([paired_gate("openvino-int8", "pass")], "fail") == []
