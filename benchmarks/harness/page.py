# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md from records: tables of cells, kernels, serving, scaling, sweeps and profiles. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence

from harness.bars import CELLS, CREATION_BAR_S, PACKED_BARS, SCALING_BAR, openvino_bars
from harness.records import Record, is_forced
from harness.sessions import OURS, OURS_OPENVINO, OWN_DENSE, RIVALS

_LEAST_SHARE = 0.005
# With fewer rounds under a label no interval is shown.
_LEAST_ROUNDS = 3

_HEAD = """# Results

`python benchmarks/results_markdown.py` writes this page from `benchmarks/results/*/*.json`; the last section is
`benchmarks/notes.md`. [How speed is measured](README.md) explains the tables. A section is a CPU and the instruction
set of the kernels; a measurement changes only the section of its machine.
"""
_FORCED = """`SPARSE_DEPLOY_ISA={name}` forced this instruction set on a CPU whose best one is {best}. Other runtimes
can't be limited in the same way, so the baseline is the same model with all weights in the dense layout of the same set
(own dense). Whole models against other runtimes on a CPU without {best} are not measured here.
"""
_HIDDEN = """`python tests/hidden_instructions.py CMD` ran these cells: ONNX Runtime, OpenVINO, PyTorch and the sparse
operators each saw a CPU with AVX2 and without AVX-512 and VNNI, and used the code that they have for such a CPU. Clock,
caches and memory are those of the CPU above; an AVX2-only CPU will differ.
"""


def render_page(sections: Mapping[str, Sequence[Record]], notes: str) -> str:
    """The whole page.

    Args:
        sections: records by the name of the section's folder.
        notes: hand-written Markdown that comes after the tables.
    """
    parts = [_HEAD]
    for name, records in sections.items():
        parts.append(f"## {_title(records[0])}\n")
        parts.append(_machine(records))
        if is_forced(records[0]):
            parts.append(_FORCED.format(**records[0]["instruction_set"]))
        if "hidden" in records[0]["machine"]["cpu_model"]:
            parts.append(_HIDDEN)
        for section in (_cells, _rivals, _labels, _inside_openvino, _kernels, _serving, _scaling, _sweeps, _profiles):
            if text := section(records, name):
                parts.append(text)
    if notes.strip():
        parts.append(notes.strip() + "\n")
    return "\n".join(parts)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns, except the first, are right-aligned."""
    lines = [_row(headers), _row(["---", *("---:" for _ in headers[1:])])]
    return "\n".join([*lines, *(_row(row) for row in rows)]) + "\n"


def milliseconds(value: float | None) -> str:
    """A latency with three significant digits; empty if None."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdict(reached: bool | None) -> str:
    """The verdict as text; empty if nothing was required."""
    return "" if reached is None else "reached" if reached else "**missed**"


def _name(runtime: str) -> str:
    """The heading of a runtime: the candidate is the sparse model."""
    return {OURS: "sparse", OURS_OPENVINO: "sparse in OpenVINO"}.get(runtime, runtime.replace("_", " "))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    order = {name: number for number, name in enumerate(CELLS)}
    found = [record for record in records if record["kind"] == kind]
    return sorted(found, key=lambda record: order.get(record.get("cell", ""), len(order)))


def _ratio(record: Record, name: str = "speedup") -> str:
    if record.get(name) is None:
        return ""
    if record.get("rounds", _LEAST_ROUNDS) < _LEAST_ROUNDS:
        return f"{record[name]:.2f}"
    low, high = record["interval"]
    return f"{record[name]:.2f} [{low:.2f}, {high:.2f}]"


def _title(record: Record) -> str:
    used = record["instruction_set"]
    return f"{record['machine']['cpu_model']}, {used['name']}{' (forced)' if is_forced(record) else ''}"


def _machine(records: Sequence[Record]) -> str:
    last = max(records, key=lambda record: record["measured_at"])
    machine, dates = last["machine"], sorted({record["measured_at"][:10] for record in records})
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    return (
        f"{machine['cpu_model']}, {machine['visible_cpus']} CPUs, {', '.join(machine['flags'])}; "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB. {versions}. Measured {' to '.join({dates[0]: 1, dates[-1]: 1})}.\n"
    )


def _cells(records: Sequence[Record], _: str) -> str:
    rows = [
        (
            f"`{record['cell']}`",
            milliseconds(record["ours_ms"]),
            record["best_dense"] or "",
            milliseconds(record.get(f"{record['best_dense']}_ms")),
            _ratio(record, "speedup_vs_best_dense"),
            f"{record['bar']:g}" if "bar" in record else "",
            f"{record['aim']:g}" if "aim" in record else "",
            verdict(record.get("reached")),
            f"{record['label']}, {record.get('rounds', 0)}",
        )
        for record in _of(records, "cell")
    ]
    if not rows:
        return ""
    headers = ("cell", "sparse ms", "best dense", "dense ms", "speed-up [95 %]", "bar", "goal", "", "cores, rounds")
    return "### Whole encoders\n\n" + markdown_table(headers, rows)


def _rivals(records: Sequence[Record], _: str) -> str:
    cells = _of(records, "cell")
    if not cells:
        return ""
    names = [
        name for name in (OURS, OWN_DENSE, *RIVALS) if any(record.get(f"{name}_ms") is not None for record in cells)
    ]
    rows = [(f"`{record['cell']}`", *(_rival_ms(record, name) for name in names)) for record in cells]
    errors = [
        (f"`{record['cell']}`", *(_error(record, name) for name in names))
        for record in cells
        if any(_error(record, name) for name in names)
    ]
    headers = ("cell", *(_name(name) for name in names))
    text = "All runtimes, median ms (in brackets: other processes used the machine at that time):\n\n" + markdown_table(
        headers, rows
    )
    if errors:
        text += "\nRelative error of the result against PyTorch FP32, %:\n\n" + markdown_table(headers, errors)
    return text


def _rival_ms(record: Record, name: str) -> str:
    text = milliseconds(record.get(f"{name}_ms"))
    return f"({text})" if name in record.get("disturbed", ()) else text


def _error(record: Record, name: str) -> str:
    error = record.get("variants", {}).get(name, {}).get("relative_error")
    return "" if error is None else f"{100 * error:.2f}"


def _labels(records: Sequence[Record], _: str) -> str:
    rows = [
        (f"`{record['cell']}`", label, milliseconds(found["milliseconds"].get(OURS)), found["best_dense"],
         milliseconds(found["milliseconds"].get(found["best_dense"])), _ratio(found), str(found["rounds"]))
        for record in _of(records, "cell")
        for label, found in record["by_label"].items()
        if label != record["label"] and found.get("rounds", 0) >= _LEAST_ROUNDS
    ]  # fmt: skip
    if not rows:
        return ""
    headers = ("cell", "cores", "sparse ms", "best dense", "dense ms", "speed-up [95 %]", "rounds")
    return "The same for the other label of the cores, where it has enough blocks:\n\n" + markdown_table(headers, rows)


def _inside_openvino(records: Sequence[Record], _: str) -> str:
    rows = []
    for record in _of(records, "cell"):
        bars = {} if is_forced(record) else openvino_bars(record["instruction_set"]["name"])
        bar = bars.get(record["cell"])
        for label, found in record["by_label"].items():
            inside = found.get(OURS_OPENVINO)
            if inside is None or found.get("rounds", 0) < _LEAST_ROUNDS:
                continue
            milli = found["milliseconds"]
            rows.append(
                (
                    f"`{record['cell']}`",
                    label,
                    milliseconds(milli[OURS_OPENVINO]),
                    milliseconds(milli[OURS]),
                    f"{100 * (milli[OURS_OPENVINO] / milli[OURS] - 1):+.0f} %",
                    found["best_dense"],
                    milliseconds(milli[found["best_dense"]]),
                    _ratio(inside),
                    f"{bar:g}" if bar else "",
                    verdict(inside["speedup"] >= bar) if bar else "",
                )
            )
    if not rows:
        return ""
    headers = ("cell", "cores", "inside OpenVINO ms", "inside ONNX Runtime ms", "difference", "best dense", "dense ms",
               "speed-up [95 %]", "bar", "")  # fmt: skip
    return "### The same operators inside OpenVINO\n\n" + markdown_table(headers, rows)


def _kernels(records: Sequence[Record], _: str) -> str:
    found = _of(records, "kernel")
    rows = []
    for record in found:
        linear, matmul = record["linear"], record["matmul"]
        rows.append(
            (
                f"`{record['cell']}`",
                record["kernel"],
                f"{linear['us']:.1f}",
                f"{linear['gmacs']:.0f}",
                f"{linear['dense_gmacs']:.0f}",
                _ratio(linear, "ratio"),
                _ratio(matmul, "ratio"),
                f"{record['bar']:g}" if record["bar"] else "",
                verdict(linear["reached"]),
                verdict(matmul["reached"]),
                f"{record['fill']:.2f}",
                f"{record['packed_ratio']:.2f}",
            )
        )
    if not rows:
        return ""
    headers = ("weight, tokens", "kernel", "µs", "GMAC/s", "dense GMAC/s", "SparseLinear / dense", "product / dense",
               "bar", "SparseLinear", "product", "fill", "bytes")  # fmt: skip
    peak = next((r["linear"]["dense_gmacs"] / r["linear"]["dense_of_peak"] for r in found
                 if r["linear"]["dense_of_peak"]), None)  # fmt: skip
    limit = f" The multiply-add instruction alone does {peak:.0f} GMAC/s." if peak else ""
    return (
        "### Kernels\n\nOne thread, against the dense kernel of the same run. GMAC/s count the products of the dense "
        f"matrix; fill and bytes are relative to dense INT8.{limit}\n\n" + markdown_table(headers, rows)
    )


def _serving(records: Sequence[Record], _: str) -> str:
    rows = []
    for record in _of(records, "serving"):
        pattern = record["cell"].split("-")[1]
        bar = PACKED_BARS.get(pattern)
        for rival, figures in record["rivals"].items():
            ours = rival == OURS
            rows.append(
                (
                    f"`{record['cell']}`",
                    _name(rival),
                    f"{figures['creation_s']:.2f}",
                    verdict(figures["creation_s"] <= CREATION_BAR_S) if ours else "",
                    f"{figures['peak_mb']:.0f}",
                    verdict(record["peak_mb"] < record["dense_int8_peak_mb"])
                    if ours and record["dense_int8_peak_mb"]
                    else "",
                    f"{figures['file_mb']:.1f}",
                    f"{record['packed_ratio']:.2f}" if ours else "",
                    verdict(record["packed_ratio"] <= bar) if ours and bar else "",
                )
            )
    if not rows:
        return ""
    headers = ("cell", "runtime", "session s", "≤ 3 s", "peak MB", "below dense INT8", "file MB",
               "packed / dense INT8", "bar")  # fmt: skip
    return "### Serving processes\n\n" + markdown_table(headers, rows)


def _scaling(records: Sequence[Record], _: str) -> str:
    rows = []
    for record in _of(records, "scaling"):
        for rival, found in record["rivals"].items():
            times = ", ".join(f"{threads}: {milliseconds(ms)}" for threads, ms in sorted(found["milliseconds"].items()))
            reached = verdict(found["speedup"] >= SCALING_BAR) if rival == OURS and found["speedup"] else ""
            rows.append((f"`{record['cell']}`", _name(rival), times, _ratio(found), reached))
    if not rows:
        return ""
    headers = ("cell", "runtime", "threads: ms", "speed-up by threads [95 %]", f"at least {SCALING_BAR}")
    return "### Threads\n\n" + markdown_table(headers, rows)


def _sweeps(records: Sequence[Record], section: str) -> str:
    parts = []
    for record in sorted(_of(records, "sweep"), key=lambda record: -len(record["points"])):
        over = record["sweep"]
        names = [n for n in (OURS, *RIVALS) if any(p.get(f"{n}_ms") is not None for p in record["points"])]
        rows = [
            (str(point[over]), *(milliseconds(point.get(f"{name}_ms")) for name in names),
             _ratio(point, "speedup_vs_best_dense"), point["label"] or "")
            for point in record["points"]
        ]  # fmt: skip
        step = record["largest_step"]
        parts.append(
            f"### Time against {'sequence length' if over == 'sequence' else 'batch'}: {record['model']}\n\n"
            f"![{over}](results/{section}/sweep-{over}.svg)\n\n"
            + (
                f"Largest increase of the sparse time per token to the next point: {step:.2f} times.\n\n"
                if step
                else ""
            )
            + markdown_table((over, *(_name(n) for n in names), "speed-up [95 %]", "cores"), rows)
        )
    return "\n".join(parts)


def _profiles(records: Sequence[Record], _: str) -> str:
    parts = []
    for record in _of(records, "profile"):
        if OURS not in record["rivals"]:
            continue
        ours = record["rivals"][OURS]
        rows = [
            (f"{'phase' if title == 'phases' else 'operator'} {name}", f"{ms:.3f}", f"{ms / ours['total_ms']:.1%}")
            for title in ("operators", "phases")
            for name, ms in ours.get(title, {}).items()
            if ms / ours["total_ms"] >= _LEAST_SHARE
        ]
        parts.append(
            f"`{record['cell']}`, {ours['total_ms']:.2f} ms per inference with the phase timers on; phases are summed "
            f"over {record['threads']} threads:\n\n" + markdown_table(("part of the sparse model", "ms", "share"), rows)
        )
    return "### Profiles\n\n" + "\n".join(parts) if parts else ""
