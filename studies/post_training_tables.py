# SPDX-License-Identifier: Apache-2.0
"""The tables of ``docs/pruning.md`` from the records of ``post_training.py``."""

from collections.abc import Mapping, Sequence
from typing import Any

Records = Mapping[str, Mapping[str, Any]]
_NAMES = {
    "1_2": "1:2", "u60": "60 % unstructured", "u70": "70 % unstructured", "4x1-50": "50 % 4x1", "4x1-80": "80 % 4x1",
    "1x4-50": "50 % 1x4",
}  # fmt: skip


def tables(records: Records) -> dict[str, str]:
    """Each table by the name of its markers."""
    return {"sentence table": sentence_table(records), "classifier table": classifier_table(records)}


def sentence_table(records: Records) -> str:
    """Spearman of the sentence encoder by pattern and method."""
    dense = records.get("stsb-dense", {}).get("spearman")
    rows = []
    for key, name in _NAMES.items():
        found = {
            how: records.get(f"stsb-{key}-{how}", {}) for how in ("magnitude", "second-order", "recovered", "int8")
        }
        if any(found.values()):
            second = found["second-order"]
            rows.append(
                [
                    name,
                    *(_drop(found[how].get("spearman"), dense) for how in found),
                    _effort(second),
                    _steps(found["recovered"]),
                ]
            )
    head = ["zeros", "magnitude", "second order", "and recovery", "INT8 sparse file", "second order took", "recovery"]
    cpus = ", ".join(sorted({str(record.get("cpu")) for name, record in records.items() if name.startswith("stsb")}))
    return f"Dense: {dense}. {cpus}, {_threads(records)}.\n\n{_markdown(head, rows)}"


def classifier_table(records: Records) -> str:
    """Accuracy of classifiers by pattern and method, with the gate's verdict on a drop of one point."""
    rows = []
    for task in ("sst2", "qnli"):
        dense = records.get(f"{task}-dense", {})
        for key in ("1_2", "u60"):
            for how, words in (
                ("magnitude", "magnitude, one-shot"),
                ("second-order", "second order"),
                ("recovered", "second order and recovery"),
                ("gradual", "gradual magnitude with labels and teacher, as many steps"),
            ):
                record = records.get(f"{task}-{key}-{how}")
                if record:
                    bounds = f"{record['drop_low']:.2f} to {record['drop_high']:.2f}"
                    rows.append(
                        [task, _NAMES[key], words, f"{record['accuracy']:.2f} ({dense.get('accuracy')})", bounds,
                         record["verdict"], str(record.get("steps", ""))]
                    )  # fmt: skip
    return _markdown(["task", "zeros", "method", "accuracy (dense)", "drop, 95 % bounds", "gate", "steps"], rows)


def _drop(value: float | None, dense: float | None) -> str:
    return "" if value is None else f"{value:.2f} ({value - (dense or 0.0):+.2f})"


def _effort(record: Mapping[str, Any]) -> str:
    return f"{record['seconds']:.0f} s, {record['peak_mib']} MiB" if record else ""


def _steps(record: Mapping[str, Any]) -> str:
    return f"{record['minutes']:g} min, {record['steps']} steps" if record else ""


def _threads(records: Records) -> str:
    return " or ".join(sorted({f"{record['threads']} threads" for record in records.values() if "threads" in record}))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
