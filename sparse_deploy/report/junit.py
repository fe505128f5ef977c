# SPDX-License-Identifier: Apache-2.0
"""Gates as JUnit XML, the format of test results in GitLab, Jenkins and other systems.

The file is valid under both schemas in use, Jenkins' (``junit-10.xsd`` of its xUnit plugin) and Ant's (Windy Road's
``JUnit.xsd``). Neither has properties of a test case, so the figures are properties of the suite, named after the case.
"""

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Sequence

from sparse_deploy.report.verdict import Policy, gate_name
from sparse_deploy.results import BenchReport, GateResult

# Characters that XML 1.0 forbids even as a character reference: control characters, surrogates, U+FFFE and U+FFFF.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Ant's schema forbids a time zone; the report's times are UTC.
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_NO_TIME = "1970-01-01T00:00:00"


def render_junit(report: BenchReport, policy: Policy) -> str:
    """One suite per cell, one test case per gate.

    A failed gate is a failure; an inconclusive gate and a missed informational gate are skipped. Under the policy
    ``fail`` an inconclusive gate is a failure, too.

    Args:
        report: the report, with its gates.
        policy: ``gate.on_inconclusive`` of the recipe.
    """
    root = ET.Element("testsuites")
    by_cell: dict[str, list[GateResult]] = defaultdict(list)
    for gate in report.gates:
        by_cell[gate.cell].append(gate)
    for number, (cell, gates) in enumerate(by_cell.items()):
        root.append(_suite(report, number, cell, gates, policy))
    ET.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(report: BenchReport, number: int, cell: str, gates: Sequence[GateResult], policy: Policy) -> ET.Element:
    cases = list(zip(_names(gates), gates, strict=True))
    outcomes = [_outcome(gate, policy) for gate in gates]
    when = _TIMESTAMP.match(report.created)
    suite = ET.Element(
        "testsuite",
        {
            "name": _token(cell),
            "tests": str(len(gates)),
            "failures": str(outcomes.count("failure")),
            "errors": "0",
            "skipped": str(outcomes.count("skipped")),
            "time": "0",
            "timestamp": when[0] if when else _NO_TIME,
            "hostname": "localhost",
            "package": _token(report.name),
            "id": str(number),
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, gate in cases:
        for figure, value in _figures(gate):
            ET.SubElement(properties, "property", name=f"{name}: {figure}", value=_legal(value))
    for name, gate in cases:
        suite.append(_case(report, name, gate, policy))
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    return suite


def _case(report: BenchReport, name: str, gate: GateResult, policy: Policy) -> ET.Element:
    # GitLab shows the class name as the suite and merges cases of equal class and name.
    case = ET.Element("testcase", name=name, classname=_token(f"{report.name}.{gate.cell}"), time="0")
    outcome = _outcome(gate, policy)
    if outcome != "passed":
        kind = f"informational {gate.verdict}" if gate.informational else gate.verdict
        what = ET.SubElement(case, outcome, type=kind, message=_legal(gate.explanation))
        # Jenkins shows the message, GitLab the text.
        facts = "".join(f"\n{figure}: {value}" for figure, value in _figures(gate))
        what.text = _legal(f"{gate.explanation}{facts}")
    return case


def _outcome(gate: GateResult, policy: Policy) -> str:
    if gate.verdict == "pass":
        return "passed"
    if gate.informational:
        return "skipped"
    return "failure" if gate.verdict == "fail" or policy == "fail" else "skipped"


def _names(gates: Sequence[GateResult]) -> list[str]:
    """Names of a cell's cases; equal names are numbered, because parsers drop duplicates."""
    seen: dict[str, int] = defaultdict(int)
    names = []
    for gate in gates:
        name = _token(gate_name(gate))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _figures(gate: GateResult) -> Iterator[tuple[str, str]]:
    yield "verdict", gate.verdict
    for name, value in (("value", gate.value), ("baseline", gate.baseline), ("bound", gate.bound)):
        if value is not None:
            yield name, f"{value:.6g}"
    if gate.evidence:
        for name, fact in gate.evidence.model_dump(exclude_none=True).items():
            yield name, f"{fact:.6g}" if isinstance(fact, float) else str(fact)


def _token(text: str) -> str:
    """Text as an ``xs:token``: no line breaks, single spaces."""
    return _legal(" ".join(text.split()))


def _legal(text: str) -> str:
    return _ILLEGAL.sub("�", text)
