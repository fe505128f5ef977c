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
    return {
        "sentence table": sentence_table(records),
        "peer table": peer_table(records),
        "choice table": choice_table(records),
        "rounding table": rounding_table(records),
        "time table": time_table(records),
        "classifier table": classifier_table(records),
    }


def sentence_table(records: Records) -> str:
    """Spearman of the sentence encoder by pattern and method."""
    dense = records.get("stsb-dense", {}).get("spearman")
    columns = {
        "magnitude": "magnitude", "second-order": "second order", "recovered": "and recovery",
        "int8": "second order, INT8 sparse file",
    }  # fmt: skip
    rows = []
    for key, name in _NAMES.items():
        found = {how: records.get(f"stsb-{key}-{how}", {}) for how in columns}
        if any(found.values()):
            spearman = [_drop(record.get("spearman"), dense) for record in found.values()]
            rows.append([name, *spearman, _steps(found["recovered"])])
    return f"Dense: {dense}.\n\n{_markdown(['zeros', *columns.values(), 'recovery'], rows)}"


def peer_table(records: Records) -> str:
    """1:2 by this project and by llm-compressor, from as many texts."""
    dense = records.get("stsb-dense", {}).get("spearman")
    tools = {
        "few": "sparse-deploy prune",
        "sparsegpt": "llm-compressor 0.14, SparseGPT",
        "wanda": "llm-compressor 0.14, Wanda",
    }
    rows = [
        [name, _drop(record["spearman"], dense), f"{record['seconds']:.0f} s", f"{record['peak_mib']} MiB",
         str(record["load"])]
        for key, name in tools.items()
        if (record := records.get(f"stsb-1_2-{key}"))
    ]  # fmt: skip
    return _markdown(["tool", "Spearman", "time", "peak memory of the process", "load of the machine"], rows)


def choice_table(records: Records) -> str:
    """Equal shares in all matrices against shares by sensitivity, at equal predicted speed."""
    dense = records.get("stsb-dense", {}).get("spearman")
    chosen, uniform = records.get("stsb-u70-chosen"), records.get("stsb-u70-second-order")
    if not chosen or not uniform:
        return "Not measured yet."
    shares = chosen["shares"]
    rows = [
        ["70 % in each matrix", f"{chosen['speed']:.2f}", "70.0 %", _drop(uniform["spearman"], dense)],
        [
            f"by sensitivity, {shares[0]:.0%} to {shares[-1]:.0%}", f"{chosen['speed']:.2f}", f"{chosen['zeros']:.1%}",
            _drop(chosen["spearman"], dense),
        ],
    ]  # fmt: skip
    return _markdown(["unstructured zeros", "predicted speed of the products", "zeros over all", "Spearman"], rows)


def rounding_table(records: Records) -> str:
    """Static INT8 of the 1:2 encoder by the rounding of its weights."""
    record = records.get("stsb-1_2-rounding")
    if not record:
        return "Not measured yet."
    rows = [
        [how, f"{record[how]['distance']:.5f}", _drop(record[how]["spearman"], record["spearman"])]
        for how in ("nearest", "compensated")
    ]
    return _markdown(["weight_rounding", "1 - cosine to FP32, mean", "Spearman (against FP32 of the same zeros)"], rows)


def time_table(records: Records) -> str:
    """Seconds and memory of every cell that was timed, and the load of the machine."""
    timed = {
        "stsb-1_2-second-order": "MiniLM, 1:2",
        "stsb-1_2-recovered": "MiniLM, 1:2 (the memory is that of the recovery after it)",
        "sst2-1_2-second-order": "MiniLM with a head, 1:2",
        "stsb-u70-second-order": "MiniLM, 70 % unstructured",
        "stsb-4x1-50-second-order": "MiniLM, 50 % 4x1",
        "stsb-u70-chosen": "MiniLM, unstructured, shares by sensitivity",
        "bert-base-1_2-time": "bert-base with random weights, 1:2",
    }
    rows = [
        [name, f"{record['seconds']:.0f} s", f"{record['peak_mib']} MiB", str(record["threads"]), str(record["load"])]
        for key, name in timed.items()
        if (record := records.get(key)) and "load" in record
    ]
    return _markdown(["what", "time", "peak memory of the process", "threads", "load of the machine"], rows)


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
                         record["verdict"], _minutes(record), str(record.get("steps", ""))]
                    )  # fmt: skip
    return _markdown(
        ["task", "zeros", "method", "accuracy (dense)", "drop, 95 % bounds", "gate", "minutes", "steps"], rows
    )


def _drop(value: float | None, dense: float | None) -> str:
    return "" if value is None else f"{value:.2f} ({value - (dense or 0.0):+.2f})"


def _steps(record: Mapping[str, Any]) -> str:
    return f"{record['minutes']:g} min, {record['steps']} steps" if record else ""


def _minutes(record: Mapping[str, Any]) -> str:
    """Minutes of pruning and training together."""
    return f"{record['seconds'] / 60 + record.get('minutes', 0.0):.1f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
