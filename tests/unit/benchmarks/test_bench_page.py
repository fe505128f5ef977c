# SPDX-License-Identifier: Apache-2.0
"""RESULTS.md from records: latest record of a cell, verdicts, and the hand-written notes at the end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness.bars import cell_bars
from harness.cells import parse_cell
from harness.micro import MicroCell, operator_record
from harness.page import markdown_table, milliseconds, render_page, verdict
from harness.plots import plot_encoders, plot_sweep
from harness.records import read_records, section, store_record
from harness.report import cell_record, context
from harness.rivals import Block, Ratio

from sparse_deploy.measurement.machine_state import State

STATE = State(30.0, 3.6)
ZEN4 = {"instruction_set": {"name": "avx512_vbmi", "best": "avx512_vbmi"}}
FORCED = {"instruction_set": {"name": "avx2", "best": "avx512_vbmi"}}


def cell(name, ours, rival):
    times = (("ours", ours), ("openvino_int8", rival))
    blocks = [Block(rival, turn, (ms,), (STATE, STATE)) for turn in range(3) for rival, ms in times]
    variants = {"ours": {"variant": "", "relative_error": 0.0123}}
    bar = cell_bars("avx512_vbmi").get(name)
    return {**cell_record(parse_cell(name), blocks, variants, {}, bar), **context(2), **ZEN4}


def kernel(pattern, ratio):
    one = MicroCell(pattern, 768, 768, 128)
    figures = operator_record(one, 0.1, 0.1 * ratio, Ratio(ratio, ratio - 0.1, ratio + 0.1, 15), 230.0, 1.9)
    return {
        "kind": "kernel", "cell": one.name, "kernel": "unstructured", "bar": 1.9, "linear": figures,
        "matmul": figures, "fill": 0.35, "packed_ratio": 0.7, **context(1),
    }  # fmt: skip


SWEEP = {
    "kind": "sweep",
    "sweep": "sequence",
    "model": "base-u70",
    "points": [
        {
            "batch": 1,
            "sequence": s,
            "ours_ms": s / 10,
            "openvino_int8_ms": s / 5,
            "best_dense": "openvino_int8",
            "speedup_vs_best_dense": 2.0,
            "interval": [1.9, 2.1],
            "label": "near",
        }
        for s in (16, 17, 32)
    ],
    "largest_step": 1.0,
    "missing": {},
    **context(2),
}


def test_the_latest_record_of_a_cell_counts(tmp_path):
    old, new = cell("base-u70-b1-s128", 20.0, 30.0), cell("base-u70-b1-s128", 15.0, 30.0)
    old["measured_at"], new["measured_at"] = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"
    (tmp_path / "b.json").write_text(json.dumps(old) + "\n\n")
    (tmp_path / "a.json").write_text(json.dumps(new) + "\n" + json.dumps(SWEEP) + "\n")
    records = read_records(tmp_path)
    assert [record.get("ours_ms") for record in records if record["kind"] == "cell"] == [15.0]
    assert len(records) == 2


def test_the_operators_inside_openvino_have_a_table_of_their_own():
    times = (("ours", 10.0), ("ours_openvino", 11.0), ("openvino_int8", 22.0))
    blocks = [Block(rival, turn, (ms,), (STATE, STATE)) for turn in range(3) for rival, ms in times]
    name = "base-b80_4x1-b1-s128"
    record = {**cell_record(parse_cell(name), blocks, {}, {}), **context(2), **ZEN4}
    page = render_page({"cpu": [record, cell("base-u70-b1-s128", 10.0, 20.0)]}, "")
    table = page[page.index("### The same operators inside OpenVINO") :].splitlines()[2:]
    assert len([line for line in table if line.startswith("|")]) == 3  # of the other cell nothing was measured
    assert (
        f"| `{name}` | near | 11.0 | 10.0 | +10 % | openvino_int8 | 22.0 | 2.00 [2.00, 2.00] | 2.3 | **missed** |"
        in page
    )


def test_measuring_again_renews_only_its_own_record_and_section(tmp_path):
    first, other = cell("base-u70-b1-s128", 20.0, 30.0), cell("base-u90-b1-s128", 9.0, 30.0)
    forced = {**cell("base-u70-b1-s128", 40.0, 80.0), **FORCED}
    paths = [store_record(tmp_path, record) for record in (first, other, forced)]
    assert paths[0] == paths[1] != paths[2]
    assert section(forced) == f"{section(first)}-forced-avx2"
    untouched = paths[2].read_bytes()
    store_record(tmp_path, cell("base-u70-b1-s128", 15.0, 30.0))
    assert {record["cell"]: record["ours_ms"] for record in read_records(paths[0].parent)} == {
        "base-u70-b1-s128": 15.0, "base-u90-b1-s128": 9.0,
    }  # fmt: skip
    assert paths[2].read_bytes() == untouched


def test_a_forced_set_says_so_and_stands_beside_its_own_dense_layout():
    blocks = [
        Block(rival, turn, (ms,), (STATE, STATE))
        for turn in range(3)
        for rival, ms in (("ours", 40), ("own_dense", 80))
    ]
    record = {**cell_record(parse_cell("base-u70-b1-s128"), blocks, {}, {}), **context(2), **FORCED}
    page = render_page({"zen4": [cell("base-u70-b1-s128", 15.0, 30.0)], "forced": [record]}, "")
    assert "avx2 (forced)" in page
    assert "`SPARSE_DEPLOY_ISA=avx2` forced this instruction set on a CPU whose best one is avx512_vbmi" in page
    assert "| `base-u70-b1-s128` | 40.0 | own_dense | 80.0 | 2.00 [2.00, 2.00] |  |  |  | near, 3 |" in page


@pytest.mark.parametrize("line", ["{", "[]", '{"kind": "cell"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / "x.json").write_text(line)
    with pytest.raises(ValueError, match=r"x\.json, line 1"):
        read_records(tmp_path)


def test_the_committed_page_and_figures_are_what_the_records_say():
    script = Path(__file__).parents[3] / "benchmarks" / "results_markdown.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def test_the_page_shows_cells_with_their_verdicts_and_the_notes():
    records = [cell("base-u90-b1-s128", 15.0, 30.0), cell("base-u70-b1-s128", 15.0, 30.0)]
    page = render_page({"some-cpu": records}, "## Where the time goes\n\nIn the product.")
    assert f"## {records[0]['machine']['cpu_model']}, avx512_vbmi\n" in page
    lines = [line for line in page.splitlines() if "[2.00, 2.00]" in line]
    assert "`base-u70-b1-s128`" in lines[0]
    assert "| 1.8 | 2.5 | reached |" in lines[0]
    assert "**missed**" in lines[1]
    assert "1.23" in page
    assert page.rstrip().endswith("In the product.")


def test_the_page_shows_kernels_scaling_serving_sweeps_and_profiles():
    records = [
        kernel("u70", 2.0),
        kernel("12", 1.2),
        SWEEP,
        {
            "kind": "scaling",
            "cell": "base-u70-b1-s128",
            "rivals": {
                "ours": {
                    "milliseconds": {"1": 28.0, "2": 15.0},
                    "speedup": 1.87,
                    "interval": [1.8, 1.9],
                    "label": "near",
                }
            },
            **context(2),
        },
        {
            "kind": "serving",
            "cell": "base-u70-b1-s128",
            "rivals": {
                "ours": {"creation_s": 3.5, "peak_mb": 300.0, "file_mb": 150.0},
                "ort_qdq_int8": {"creation_s": 0.4, "peak_mb": 400.0, "file_mb": 180.0},
            },
            "packed_ratio": 0.7,
            "peak_mb": 300.0,
            "dense_int8_peak_mb": 400.0,
            **context(2),
        },
        {
            "kind": "profile",
            "cell": "base-u70-b1-s128",
            "rivals": {"ours": {"total_ms": 15.0, "operators": {"SparseEncoderLayer": 14.0}, "phases": {"ffn1": 8.0}}},
            **context(2),
        },
    ]
    page = render_page({"cpu": records}, "")
    assert "`u70-768x768-m128`" in page
    assert "2.00 [1.90, 2.10]" in page
    assert "1.87 [1.80, 1.90]" in page
    assert "results/cpu/sweep-sequence.svg" in page
    assert "phase ffn1" in page
    serving = next(line for line in page.splitlines() if "3.50" in line)
    assert "**missed**" in serving
    assert serving.count("reached") == 2


def test_a_kernel_is_judged_where_a_bar_was_set():
    one = MicroCell("u70", 768, 768, 128)
    assert operator_record(one, 0.1, 0.2, Ratio(1.9, 1, 2, 3), None, 1.9)["reached"] is True
    assert operator_record(one, 0.1, 0.2, Ratio(1.89, 1, 2, 3), None, 1.9)["reached"] is False
    assert operator_record(one, 0.1, 0.2, Ratio(1.0, 1, 2, 3), None, None)["reached"] is None
    assert operator_record(one, 0.1, 0.2, Ratio(2, 1, 2, 3), 200.0, None)["gmacs"] == 755.0


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (None, "")])
def test_latencies_have_three_digits(value, text):
    assert milliseconds(value) == text


def test_tables_and_verdicts():
    assert markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
    assert [verdict(value) for value in (True, False, None)] == ["reached", "**missed**", ""]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_sweep_is_drawn_the_same_way_each_time(tmp_path, suffix):
    plot_sweep(SWEEP, tmp_path / f"one{suffix}")
    plot_sweep(SWEEP, tmp_path / f"two{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    if suffix == ".svg":
        assert "tokens per sequence" in (tmp_path / "one.svg").read_text()


def test_the_plot_of_encoders_names_the_fastest_dense_runtime_and_leaves_batches_out(tmp_path):
    cells = [cell("base-u70-b1-s128", 10.0, 25.0), cell("base-u70-b16-s128", 100.0, 200.0)]
    plot_encoders(cells, tmp_path / "encoders.svg")
    text = (tmp_path / "encoders.svg").read_text()
    assert "25 ms, OpenVINO INT8" in text
    assert "10 ms, sparse: 2.5 times as fast" in text
    assert "BERT-base, 70 % unstructured, 128 tokens" in text
    assert "200 ms" not in text
