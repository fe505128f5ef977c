# SPDX-License-Identifier: Apache-2.0
"""Records of cells: their fields, from the label with most comparable rounds."""

import json

import pytest
from harness.bars import Bar, cell_bars
from harness.cells import parse_cell
from harness.measure import largest_step, relative_errors
from harness.profile import operator_times
from harness.report import cell_line, cell_record, context, summarize, verdict
from harness.rivals import Block
from harness.sessions import RIVALS

from sparse_deploy.measurement.machine_state import FAR, NEAR, State

BAR = cell_bars("avx512_vbmi")["base-u70-b1-s128"]
NEAR_STATE, FAR_STATE = State(30.0, 3.6), State(160.0, 3.6)


def block(rival, turn, ms, state=NEAR_STATE):
    return Block(rival, turn, (ms,) * 3, (state, state))


@pytest.fixture
def blocks():
    near = [block(name, turn, ms) for turn in range(4) for name, ms in (("ours", 15.0), ("openvino_int8", 30.0))]
    far = [block(n, t, ms, FAR_STATE) for t in (4, 5) for n, ms in (("ours", 20.0), ("openvino_int8", 60.0))]
    return [*near, *far, block("ort_fp32", 0, 110.0)]


def test_a_record_holds_its_fields_and_is_json(blocks):
    record = {**cell_record(parse_cell("base-u70-b1-s128"), blocks, {}, {"pytorch_bf16": "no"}), **context(2)}
    assert record["cell"] == "base-u70-b1-s128"
    assert record["ours_ms"] == 15.0
    assert record["openvino_int8_ms"] == 30.0
    assert record["best_dense"] == "openvino_int8"
    assert record["speedup_vs_best_dense"] == 2.0
    assert record["interval"] == [2.0, 2.0]
    assert record["spread"]["ours"] == [15.0, 15.0]
    assert record["label"] == NEAR
    assert record["machine"]["cpu_model"]
    assert record["versions"]["onnxruntime"]
    assert all(f"{name}_ms" in record for name in RIVALS)
    assert json.loads(json.dumps(record)) == record


def test_the_other_label_stands_apart(blocks):
    record = cell_record(parse_cell("base-u70-b1-s128"), blocks, {}, {})
    assert record["by_label"][FAR]["speedup"] == 3.0
    assert record["by_label"][FAR]["milliseconds"] == {"ours": 20.0, "openvino_int8": 60.0}


def test_a_bar_is_reached_from_its_value_on(blocks):
    cell = parse_cell("base-u70-b1-s128")
    assert cell_record(cell, blocks, {}, {}, Bar(2.0, 3.0))["reached"] is True
    assert cell_record(cell, blocks, {}, {}, Bar(2.01, 3.0))["reached"] is False
    assert "reached" not in cell_record(cell, blocks, {}, {})
    assert verdict(Bar(1.8, 2.5), 1.8)["reached"] is True
    assert verdict(Bar(1.8, 2.5), 1.79)["reached"] is False
    assert verdict(Bar(1.8, 2.5), None)["reached"] is None


def test_a_rival_with_disturbed_blocks_only_gets_a_marked_figure_and_no_say(blocks):
    dirty = Block("openvino_bf16", 0, (12.0,), (NEAR_STATE, NEAR_STATE), foreign=0.5)
    record = cell_record(parse_cell("base-u70-b1-s128"), [*blocks, dirty], {}, {})
    assert record["openvino_bf16_ms"] == 12.0
    assert record["disturbed"] == ["openvino_bf16"]
    assert record["best_dense"] == "openvino_int8"


def test_rivals_alone_make_a_record_too(blocks):
    alone = [block for block in blocks if block.contestant != "ours"]
    record = cell_record(parse_cell("base-u70-b1-s128"), alone, {}, {"ours": "no"}, BAR)
    assert record["ours_ms"] is None
    assert record["speedup_vs_best_dense"] is None
    assert record["reached"] is None
    assert record["best_dense"] == "openvino_int8"
    assert "openvino_int8 30.00" in cell_line(record)


def test_no_clean_block_is_said(blocks):
    mixed = [Block("ours", 0, (1.0,), (NEAR_STATE, FAR_STATE))]
    assert summarize(mixed)["label"] is None
    assert "no clean block" in cell_line(cell_record(parse_cell("base-u70-b1-s128"), mixed, {}, {}))


def test_the_line_of_a_terminal_says_what_matters(blocks):
    line = cell_line(cell_record(parse_cell("base-u70-b1-s128"), blocks, {}, {}, BAR))
    assert "2.00x [2.00, 2.00] over openvino_int8" in line
    assert "bar 1.8: reached" in line


def test_relative_error_is_that_of_the_whole_answer():
    answers = {"pytorch_fp32": [[3.0, 0.0], [4.0]], "ours": [[3.0, 0.0], [4.5]]}
    assert relative_errors(answers) == {"pytorch_fp32": 0.0, "ours": 0.1}
    assert relative_errors({"ours": [[1.0]]}) == {}


def points(*costs, label=NEAR):
    return [{"batch": 1, "sequence": s, "ours_ms": ms, "label": label} for s, ms in costs]


def test_a_step_is_a_rise_of_the_time_per_token():
    assert largest_step(points((16, 1.6), (17, 3.2), (32, 3.3))) == pytest.approx(3.2 / 17 * 10, rel=1e-3)
    assert largest_step(points((16, 1.6), (32, 3.2))) == 1.0


def test_steps_are_taken_within_one_label_only():
    assert largest_step([*points((16, 1.6)), *points((17, 3.2), label=FAR)]) is None


def test_operator_times_are_summed_by_type_and_divided_by_inferences():
    events = [
        {"cat": "Node", "name": "a_kernel_time", "dur": 3000, "args": {"op_name": "MatMul"}},
        {"cat": "Node", "name": "b_kernel_time", "dur": 1000, "args": {"op_name": "MatMul"}},
        {"cat": "Node", "name": "c_kernel_time", "dur": 6000, "args": {"op_name": "Gelu"}},
        {"cat": "Node", "name": "c_fence_before", "dur": 9000, "args": {"op_name": "Gelu"}},
        {"cat": "Session", "name": "model_run", "dur": 9000, "args": {}},
    ]
    assert list(operator_times(events, 2).items()) == [("Gelu", 3.0), ("MatMul", 2.0)]
