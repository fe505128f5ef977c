# SPDX-License-Identifier: Apache-2.0
"""The expected speed in `inspect` is a recorded figure with its source, or unknown."""

import pytest

from sparse_deploy.inspection import expected_speed
from sparse_deploy.inspection.benefit import Verdict, assess_speed
from sparse_deploy.inspection.operators import OperatorDecisions, TensorDecision
from sparse_deploy.inspection.recorded_speed import RecordedSpeed, nearest_speed, recorded_speeds

ZEN4 = {"avx2", "avx512_vnni", "avx512vbmi"}


def speed(instruction_set, pattern="unstructured", zeros=0.7, speedup=1.8, forced=False, **changes):
    entry = {
        "cpu": "Some CPU", "instruction_set": instruction_set, "forced": forced, "model": "base", "pattern": pattern,
        "zero_share": zeros, "batch": 1, "tokens": 128, "best_dense": "openvino_int8", "speedup": speedup,
        "milliseconds": {"ours": 20.0, "onnxruntime_int8": 52.0, "openvino_int8": 36.0},
        "interval": (speedup - 0.1, speedup + 0.1), "command": "python benchmarks/encoder.py", "date": "2026-11-30",
    }  # fmt: skip
    return RecordedSpeed.model_validate(entry | changes)


def decisions(instruction_set, pattern="unstructured", zeros=0.7):
    tensor = TensorDecision(name="a", kernel="unstructured", pattern=pattern, zero_share=zeros, fill=0.3, cost=0.5)
    return OperatorDecisions(instruction_set=instruction_set, tensors=(tensor,))


@pytest.fixture
def recorded(monkeypatch):
    """Puts recorded figures in the place of the package's."""

    def put(*speeds):
        monkeypatch.setattr(
            expected_speed, "nearest_speed", lambda isa, pattern, share: nearest_speed(isa, pattern, share, speeds)
        )

    return put


def test_a_recorded_set_is_quoted_with_cpu_command_and_both_int8_runtimes(recorded):
    recorded(speed("avx512_vbmi"))
    (finding,) = assess_speed(ZEN4, decisions("avx512_bf16"))
    assert finding.verdict is Verdict.FASTER
    for words in ("avx512_vbmi on Some CPU (2026-11-30, `python benchmarks/encoder.py`)", "bert-base with 70 % zeros",
                  "20 ms, against 52 ms in ONNX Runtime INT8 and 36 ms in OpenVINO INT8", "1.80 times"):  # fmt: skip
        assert words in finding.explanation


def test_a_set_on_which_doing_nothing_was_faster_is_called_slower(recorded):
    recorded(speed("avx2", speedup=0.4))
    (finding,) = assess_speed({"avx2"}, decisions("avx2"))
    assert finding.verdict is Verdict.SLOWER


def test_a_forced_set_decides_nothing_against_other_runtimes(recorded):
    recorded(speed("avx2", forced=True, best_dense="", milliseconds={"ours": 40.0, "own_dense": 80.0}, speedup=2.0))
    (finding,) = assess_speed({"avx2"}, decisions("avx2"))
    assert finding.verdict is Verdict.UNKNOWN
    assert "2.00 times as fast as the dense kernels of this package" in finding.explanation
    assert "no measurement against ONNX Runtime INT8" in finding.explanation


def test_nothing_recorded_is_said(recorded):
    recorded(speed("avx512_vbmi"))
    for asked in (decisions("avx2_vnni"), decisions("avx512_vbmi", "1:2")):
        (finding,) = assess_speed(ZEN4, asked)
        assert finding.verdict is Verdict.UNKNOWN
        assert "There is no record" in finding.explanation


def test_amx_wins_whatever_was_recorded(recorded):
    recorded(speed("avx512_vbmi"))
    (finding,) = assess_speed(ZEN4 | {"amx_tile", "amx_int8"}, decisions("avx512_vbmi"))
    assert finding.verdict is Verdict.SLOWER
    assert "Use OpenVINO INT8" in finding.explanation
    assert "not measured" in finding.explanation


def test_without_operators_nothing_is_expected_of_them():
    assert assess_speed(ZEN4, "there is no compiler") == ()


def test_the_nearest_share_of_zeros_and_the_usual_request_are_taken():
    speeds = tuple(
        speed("avx2", zeros=zeros, model=model, batch=batch)
        for zeros in (0.7, 0.9) for model, batch in (("minilm", 1), ("base", 16), ("base", 1))
    )  # fmt: skip
    found = nearest_speed("avx2", "unstructured", 0.85, speeds)
    assert (found.zero_share, found.model, found.batch) == (0.9, "base", 1)


def test_the_packages_own_figures_can_be_read():
    assert any(entry.model == "base" and not entry.forced for entry in recorded_speeds())
