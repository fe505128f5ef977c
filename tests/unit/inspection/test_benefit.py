# SPDX-License-Identifier: Apache-2.0
"""Verdicts on recorded CPUs: the use of zeros per runtime, and the failing conditions of OpenVINO."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_deploy.inspection.benefit import (
    SPARSE_RATE_PROPERTY,
    TensorFacts,
    Verdict,
    assess_openvino,
    assess_operators,
    assess_runtimes,
)
from sparse_deploy.inspection.operators import OperatorDecisions, TensorDecision, decide

HASWELL = {"avx2", "fma"}
ZEN4 = HASWELL | {"avx512f", "avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16"}
SAPPHIRE_RAPIDS = ZEN4 | {"avx_vnni", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}


def tensor(share=0.7, shape=(384, 1536), weight="i8", activation="u8", name="encoder.w"):
    return TensorFacts(name=name, shape=shape, zero_share=share, weight_type=weight, activation_type=activation)


@pytest.mark.parametrize(("flags", "lacking"), [(HASWELL, "amx_tile"), (ZEN4, "amx_int8")], ids=["Haswell", "Zen 4"])
def test_without_amx_the_switch_has_no_effect(flags, lacking):
    finding = assess_openvino(flags, [tensor(), tensor(0.75)])
    assert finding.verdict is Verdict.NO_EFFECT
    assert "lacks AMX" in finding.explanation
    assert "so the setting has no effect" in finding.explanation
    assert "2 of 2 sparse tensors of the file would qualify" in finding.explanation
    amx = next(c for c in finding.conditions if "AMX" in c.text)
    assert not amx.holds
    assert lacking in amx.found
    assert (finding.tensors_ready, finding.suggested_rate) == (2, None)


def test_sapphire_rapids_with_int8_qualifies_at_the_lowest_zero_share():
    finding = assess_openvino(SAPPHIRE_RAPIDS, [tensor(0.8049), tensor(0.79999), tensor(0.0, name="dense")])
    assert finding.verdict is Verdict.WITH_SETTING
    assert (finding.tensors_ready, finding.tensors_sparse, finding.suggested_rate) == (2, 2, 0.79)
    assert f"{SPARSE_RATE_PROPERTY} to 0.79" in finding.explanation
    assert [c.holds for c in finding.conditions] == [True, True, True, True, True]


@pytest.mark.parametrize("missing", ["amx_tile", "amx_int8", "amx_bf16", "avx512_fp16"])
def test_each_amx_flag_is_needed(missing):
    finding = assess_openvino(SAPPHIRE_RAPIDS - {missing}, [tensor()])
    assert finding.verdict is Verdict.NO_EFFECT
    assert f"(no {missing})" in finding.explanation


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (tensor(weight="f32", activation="f32"), "the file is not INT8"),
        (tensor(activation="f32"), "found f32"),
        (tensor(weight="u8"), "weights are stored as i8: 0 of 1 sparse tensors; found u8"),
        (tensor(shape=(312, 1200)), "multiples of 64: 0 of 1 sparse tensors; found 312x1200"),
        (tensor(shape=(64, 65)), "64x65"),
        (tensor(shape=(65, 64)), "65x64"),
    ],
    ids=["FP32", "weight-only INT8", "unsigned weights", "TinyBERT", "one side", "other side"],
)
def test_condition_on_the_model_that_fails_is_named(facts, reason):
    finding = assess_openvino(SAPPHIRE_RAPIDS, [facts])
    assert finding.verdict is Verdict.NO_EFFECT
    assert reason in finding.explanation
    assert "AMX" not in finding.explanation
    assert (finding.tensors_ready, finding.tensors_sparse) == (0, 1)


def test_each_condition_met_by_another_tensor_is_still_no_effect():
    finding = assess_openvino(
        SAPPHIRE_RAPIDS, [tensor(activation="f32"), tensor(shape=(312, 312)), tensor(weight="u8")]
    )
    assert all(c.holds for c in finding.conditions[1:])
    assert finding.verdict is Verdict.NO_EFFECT
    assert "all conditions on one tensor" in finding.explanation


def test_both_reasons_are_given_for_fp32_on_a_cpu_without_amx():
    explanation = assess_openvino(ZEN4, [tensor(weight="f32", activation="f32")]).explanation
    assert "lacks AMX" in explanation
    assert "not INT8" in explanation
    assert "would qualify" not in explanation


@pytest.mark.parametrize("facts", [[], [tensor(0.0), tensor(0.02)]], ids=["no tensors", "rounding zeros only"])
def test_dense_file(facts):
    finding = assess_openvino(SAPPHIRE_RAPIDS, facts)
    assert finding.verdict is Verdict.NO_EFFECT
    assert "No tensor has enough zeros" in finding.explanation


@given(
    flags=st.sets(st.sampled_from(sorted(SAPPHIRE_RAPIDS))),
    facts=st.lists(
        st.builds(
            tensor,
            share=st.floats(0, 1),
            shape=st.sampled_from([(64, 64), (384, 1536), (312, 312)]),
            weight=st.sampled_from(["f32", "i8", "u8"]),
            activation=st.sampled_from(["f32", "u8", "i8"]),
        ),
        max_size=4,
    ),
)
def test_verdict_agrees_with_the_conditions(flags, facts):
    finding = assess_openvino(flags, facts)
    amx = {"amx_tile", "amx_int8", "amx_bf16", "avx512_fp16"} <= flags
    ready = [
        t for t in facts
        if t.zero_share >= 0.05 and t.shape != (312, 312) and t.weight_type == "i8" and t.activation_type != "f32"
    ]  # fmt: skip
    assert finding.tensors_ready == len(ready)
    assert (finding.verdict is Verdict.WITH_SETTING) == (amx and bool(ready))
    if finding.suggested_rate is not None:
        assert finding.suggested_rate < 1.0
        assert all(t.zero_share >= finding.suggested_rate for t in ready)


def decision(name, kernel="unstructured", pattern="unstructured", fill=0.35, cost=0.5):
    return TensorDecision(name=name, kernel=kernel, pattern=pattern, zero_share=0.7, fill=fill, cost=cost)


def test_every_runtime_answers_and_openvino_for_each_file():
    findings = assess_runtimes(ZEN4, {"a.onnx": [tensor()], "b.xml": [tensor()]}, "there is no compiler")
    assert [(f.runtime, f.file) for f in findings] == [
        ("PyTorch", ""), ("ONNX Runtime", ""), ("OpenVINO", "a.onnx"), ("OpenVINO", "b.xml"),
        ("sparse-deploy operators", ""), ("file size", ""),
    ]  # fmt: skip
    assert {f.verdict for f in findings} == {Verdict.NO_EFFECT, Verdict.NOT_INSTALLED}


def test_operators_that_are_not_installed_say_why():
    finding = assess_operators("the sparse runtime is not installed: no C++ compiler was found")
    assert finding.verdict is Verdict.NOT_INSTALLED
    assert "no C++ compiler was found" in finding.explanation
    assert finding.decisions == ()


def test_operators_report_kernels_by_role_and_each_tensor_in_the_facts():
    tensors = [
        decision("bert.encoder.layer.0.attention.self.query.weight", cost=0.5),
        decision("bert.encoder.layer.1.attention.self.query.weight", cost=0.55),
        decision("bert.encoder.layer.0.output.dense.weight", "block_4x1", "block_4x1", 0.2, 0.25),
        decision("bert.encoder.layer.1.output.dense.weight", "dense", "unstructured", 1, 1),
    ]
    finding = assess_operators(OperatorDecisions(instruction_set="avx512_vbmi", tensors=tuple(tensors)))
    assert finding.verdict is Verdict.IN_SPARSE_FILE
    assert "3 of 4 tensors get a sparse kernel (avx512_vbmi)" in finding.explanation
    assert "0.25 to 0.55 of the dense INT8 kernel's time" in finding.explanation
    assert {(c.text, c.holds) for c in finding.conditions} == {
        ("attention.self.query", True), ("output.dense", True), ("output.dense", False),
    }  # fmt: skip
    found = " ".join(c.found for c in finding.conditions)
    assert "unstructured kernel in 2 layers (pattern unstructured, fill 0.35, cost 0.50 to 0.55)" in found
    assert "block_4x1 kernel in 1 layer (pattern block_4x1, fill 0.20, cost 0.25)" in found
    assert "dense kernel in 1 layer (pattern unstructured)" in found
    assert finding.decisions == tuple(tensors)


def test_dense_tensors_only_are_no_effect():
    tensors = (decision("a.weight", "dense", "dense", 1, 1),)
    finding = assess_operators(OperatorDecisions(instruction_set="avx2", tensors=tensors))
    assert finding.verdict is Verdict.NO_EFFECT
    assert "0 of 1 tensors" in finding.explanation


def test_the_compiled_kernels_decide_by_the_places_of_the_zeros():
    random = np.random.default_rng(0)
    masks = {
        "u.weight": random.random((768, 768)) < 0.7,
        "b.weight": np.repeat(random.random((192, 768)) < 0.8, 4, axis=0),
        "d.weight": np.zeros((768, 768), bool),
    }
    decisions = decide(masks)
    found = {tensor.name: tensor for tensor in decisions.tensors}
    assert found["d.weight"].kernel == "dense"
    assert found["b.weight"].pattern == "block_4x1"
    assert found["u.weight"].pattern == "unstructured"
    assert found["b.weight"].cost <= found["u.weight"].cost <= found["d.weight"].cost
    if decisions.instruction_set in ("avx512_bf16", "avx512_vbmi"):  # elsewhere, places of single zeros save nothing
        assert found["b.weight"].cost < found["u.weight"].cost < found["d.weight"].cost
        assert found["b.weight"].fill == pytest.approx(0.2, abs=0.1)
