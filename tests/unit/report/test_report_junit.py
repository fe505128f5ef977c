# SPDX-License-Identifier: Apache-2.0
"""JUnit XML: well-formed for any text, valid under both schemas in use, each verdict in its element."""

import re
import xml.etree.ElementTree as ET

from sparse_deploy.report.junit import render_junit

HOSTILE = 'a\x00b\x1b[31m <x y="1"> & ]]> \ud800 \ufffe \U0001f600\n'
# Allowed in both Ant's JUnit.xsd and Jenkins' junit-10.xsd: attributes (all required but those in brackets), children.
SHAPES = {
    "testsuites": (set(), ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "package", "id"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"name", "classname", "time"}, ["skipped", "failure"]),
    "failure": ({"type", "message"}, []),
    "skipped": ({"type", "message"}, []),
    "system-out": (set(), []),
    "system-err": (set(), []),
}


def check_shape(element: ET.Element) -> None:
    attributes, children = SHAPES[element.tag]
    assert set(element.attrib) == attributes
    order = [children.index(child.tag) for child in element]  # fails on a foreign child
    assert order == sorted(order)
    for attribute in {"name", "classname", "package"} & attributes:
        value = element.attrib[attribute]
        assert value
        assert value == " ".join(value.split())  # xs:token
    for child in element:
        check_shape(child)


def suites(report, policy="more-rows") -> dict[str, ET.Element]:
    root = ET.fromstring(render_junit(report, policy).encode())
    check_shape(root)
    return {suite.attrib["name"]: suite for suite in root}


def outcomes(suite: ET.Element) -> list[str]:
    return [case[0].tag if len(case) else "passed" for case in suite.iter("testcase")]


def test_a_suite_per_cell_and_a_case_per_gate(make_report, paired_gate):
    report = make_report()
    gates = (*report.gates, paired_gate("openvino-int8", "fail"))
    found = suites(make_report(gates=gates))
    assert set(found) == {cell.id for cell in report.cells}
    assert sum(len(list(suite.iter("testcase"))) for suite in found.values()) == len(gates)
    for suite in found.values():
        counted = outcomes(suite)
        for attribute, outcome in (("failures", "failure"), ("skipped", "skipped")):
            assert int(suite.attrib[attribute]) == counted.count(outcome)
        assert int(suite.attrib["tests"]) == len(counted)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])


def test_what_is_inconclusive_follows_the_policy(make_report, paired_gate):
    report = make_report(gates=(paired_gate("openvino-int8", "inconclusive"),))
    for policy, outcome in (("more-rows", "skipped"), ("warn", "skipped"), ("fail", "failure")):
        (suite,) = suites(report, policy).values()
        assert outcomes(suite) == [outcome]
        assert suite.find(f".//{outcome}").attrib["type"] == "inconclusive"


def test_a_missed_informational_gate_is_no_failure(make_report, paired_gate):
    report = make_report(gates=(paired_gate("openvino-int8", "fail", informational=True),))
    (suite,) = suites(report, "fail").values()
    assert outcomes(suite) == ["skipped"]
    assert suite.find(".//skipped").attrib["type"] == "informational fail"


def test_figures_are_properties_of_the_suite_and_in_the_text_of_a_failure(make_report, paired_gate):
    (suite,) = suites(make_report(gates=(paired_gate("openvino-int8", "fail", drop=0.0234),))).values()
    properties = {entry.attrib["name"]: entry.attrib["value"] for entry in suite.iter("property")}
    name = suite.find("testcase").attrib["name"]
    assert properties[f"{name}: drop"] == "0.0234"
    assert properties[f"{name}: changed"] == "17"
    failure = suite.find(".//failure")
    assert failure.attrib["message"] == "accuracy of openvino-int8: drop 0.0234."
    assert "drop: 0.0234" in failure.text


def test_cases_of_a_cell_never_share_a_name(make_report, paired_gate):
    (suite,) = suites(make_report(gates=(paired_gate("openvino-int8", "pass"),) * 3)).values()
    names = [case.attrib["name"] for case in suite.iter("testcase")]
    assert len(set(names)) == 3


def test_hostile_text_stays_text(make_report, paired_gate):
    gate = paired_gate("openvino-int8", "fail", explanation=HOSTILE, metric=HOSTILE)
    (suite,) = suites(make_report(gates=(gate,), name=f"a\n b {HOSTILE}")).values()
    message = suite.find(".//failure").text
    assert '<x y="1"> & ]]>' in message
    assert "\U0001f600" in message
    assert "\ufffd[31m" in message


def test_no_gates_make_an_empty_file(make_report):
    assert suites(make_report(gates=())) == {}
