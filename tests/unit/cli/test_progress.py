# SPDX-License-Identifier: Apache-2.0
"""Progress off a terminal: one line per stage, repeated lines in a long stage, nothing when quiet."""

import io

import pytest

from sparse_deploy.cli.progress import ProgressLines, progress_bar


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def lines(clock):
    return ProgressLines("finetune x", io.StringIO(), lambda: clock[0])


def written(lines: ProgressLines) -> list[str]:
    return lines._stream.getvalue().splitlines()


def test_each_stage_is_one_line_however_often_its_numbers_change(lines):
    lines.show("loading model and text", 0.0)
    for step in range(1, 50):
        lines.show(f"step {step}/80, loss {1 / step:.3f}", 0.0)
    lines.show("INT8 ONNX (static)")
    lines.show("FP32 OpenVINO IR")
    assert written(lines) == [
        "finetune x: loading model and text",
        "finetune x: step 1/80, loss 1.000",
        "finetune x: INT8 ONNX (static)",
        "finetune x: FP32 OpenVINO IR",
    ]


def test_a_long_stage_repeats_its_newest_message_with_the_time_left(lines, clock):
    lines.show("step 1/80", 0.0125)
    clock[0] += 30
    lines.show("step 20/80, loss 0.400", 0.25)
    lines.show("step 20/80", 0.25)
    lines.repeat()
    assert written(lines)[-1] == "finetune x: step 20/80 (0 s in this stage); 25% done, about 2 min left"
    clock[0] += 10
    lines.repeat()
    assert "(10 s in this stage)" in written(lines)[-1]


def test_nothing_is_repeated_before_the_first_message(lines):
    lines.repeat()
    assert written(lines) == []


def test_a_closed_stream_does_not_end_the_work(lines):
    lines._stream.close()
    lines.show("step 1/80")


def test_quiet_is_silent_and_a_pipe_is_not(capsys):
    with progress_bar("export x", quiet=True) as show:
        show("FP32 ONNX")
    assert capsys.readouterr() == ("", "")
    with progress_bar("export x") as show:
        show("FP32 ONNX")
    assert capsys.readouterr() == ("", "export x: FP32 ONNX\n")
