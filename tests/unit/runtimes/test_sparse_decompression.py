# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's own sparse path: the decision on recorded CPUs and real IR, and its use in the execution graph."""

import pytest

from sparse_deploy import machine
from sparse_deploy.graph.openvino_ir import read_weights_of_ir
from sparse_deploy.runtimes import get_runtime, sparse_decompression
from sparse_deploy.runtimes.sparse_decompression import (
    AMX_FLAGS,
    SPARSE_RATE_PROPERTY,
    SparseLayers,
    TensorFacts,
    count_sparse_layers,
    decide,
)

ZEN4 = {"avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16"}
SAPPHIRE_RAPIDS = ZEN4 | {"avx_vnni", *AMX_FLAGS}


def tensor(share=0.7, shape=(384, 1536), weight="i8", activation="u8"):
    return TensorFacts(name="w", shape=shape, zero_share=share, weight_type=weight, activation_type=activation)


def test_the_rate_is_the_lowest_share_that_reaches_all_ready_tensors():
    assert decide(SAPPHIRE_RAPIDS, [tensor(0.8049), tensor(0.7999), tensor(0.6, (65, 64))]).rate == 0.79
    assert decide(SAPPHIRE_RAPIDS, [tensor(1.0)]).rate == 0.99  # 1 would switch it off


@pytest.mark.parametrize(
    ("flags", "facts", "reason"),
    [
        (ZEN4, [tensor()], "the CPU has AMX does not hold: no amx_tile, amx_int8, amx_bf16, avx512_fp16"),
        (SAPPHIRE_RAPIDS - {"avx512_fp16"}, [tensor()], "the CPU has AMX does not hold: no avx512_fp16"),
        (SAPPHIRE_RAPIDS, [], "no tensor has enough zeros"),
        (SAPPHIRE_RAPIDS, [tensor(0.0)], "no tensor has enough zeros"),
        (
            SAPPHIRE_RAPIDS,
            [tensor(shape=(64, 65))],
            "64 does not hold: 0 of 1 sparse tensors; found 64x65",
        ),
        (SAPPHIRE_RAPIDS, [tensor(activation="f32")], "u8 or i8 does not hold"),
        (SAPPHIRE_RAPIDS, [tensor(weight="f32")], "stored as i8 does not hold"),
        (SAPPHIRE_RAPIDS, [tensor(shape=(64, 65)), tensor(activation="f32")], "no tensor meets all conditions at once"),
    ],
)
def test_it_is_left_alone_where_a_condition_fails(flags, facts, reason):
    decision = decide(flags, facts)
    assert decision.rate is None
    assert reason in decision.reason


@pytest.fixture(scope="module")
def static_ir(tmp_path_factory):
    """A sparse INT8 product in an IR, with a FakeQuantize as static quantization leaves it."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    weight = np.where(random.random((64, 128)) < 0.7, 0, random.integers(1, 127, (64, 128))).astype(np.int8)
    x = ops.parameter([-1, 128], np.float32, name="x")
    limits = [ops.constant(np.float32(limit)) for limit in (-1.28, 1.27, -1.28, 1.27)]
    scaled = ops.multiply(ops.convert(ops.constant(weight, name="w"), "f32"), ops.constant(np.float32(0.01)))
    product = ops.matmul(ops.fake_quantize(x, *limits, 256), scaled, False, True)
    path = tmp_path_factory.mktemp("ir") / "model.xml"
    ov.save_model(ov.Model([product], [x]), path, compress_to_fp16=False)
    return path


def facts_of(path):
    return [
        tensor(float(weight.zeros.mean()), weight.zeros.shape, weight.stored_type, weight.activation_type)
        for weight in read_weights_of_ir(path)
    ]


def test_a_real_int8_ir_qualifies_on_a_cpu_with_amx_and_on_no_other(static_ir):
    facts = facts_of(static_ir)
    assert decide(SAPPHIRE_RAPIDS, facts).rate == pytest.approx(0.7, abs=0.02)
    assert decide(ZEN4, facts).rate is None


def test_weight_only_int8_does_not_qualify_anywhere(tiny_deployment):
    facts = facts_of(tiny_deployment / "openvino_model_int8.xml")
    assert decide(SAPPHIRE_RAPIDS, facts).rate is None


def test_the_execution_graph_tells_that_it_does_not_run(static_ir):
    import openvino as ov

    core = ov.Core()
    if set(AMX_FLAGS) <= set(machine.describe_machine().flags):
        pytest.skip("this CPU runs it")
    compiled = core.compile_model(core.read_model(static_ir), "CPU", {SPARSE_RATE_PROPERTY: 0.5})
    assert count_sparse_layers(compiled) == SparseLayers(sparse=0, all=1)


def test_a_kernel_that_is_sparse_is_counted():
    class Value:
        def __init__(self, value):
            self.value = value

    class Node:
        def __init__(self, kind, kernel):
            self.info = {"layerType": Value(kind), "primitiveType": Value(kernel)}

        def get_rt_info(self):
            return self.info

    class Compiled:
        def get_runtime_model(self):
            return self

        def get_ops(self):
            return [
                Node("FullyConnected", "brgemm_sparse_avx512_amx_I8"),
                Node("FullyConnected", "brgemm_avx512_amx_I8"),
                Node("Reference", "ref_any_f32"),
            ]

    assert count_sparse_layers(Compiled()) == SparseLayers(sparse=1, all=2)


def test_an_int8_session_says_for_how_many_layers_it_runs(tiny_deployment):
    session = get_runtime("openvino").open(tiny_deployment, "int8", 1)
    assert session.remark.startswith("its sparse-weights decompression runs in 0 of ")
    assert get_runtime("openvino").open(tiny_deployment, "fp32", 1).remark == ""


def test_the_rate_reaches_the_plugin_where_the_cpu_has_amx(tiny_deployment, monkeypatch):
    """The plugin takes the setting on any CPU; it only has an effect on some."""
    described = machine.describe_machine().model_copy(update={"flags": tuple(SAPPHIRE_RAPIDS)})
    monkeypatch.setattr(machine, "describe_machine", lambda: described)
    monkeypatch.setattr(sparse_decompression, "decide", lambda flags, facts: decide(flags, [tensor()]))
    session = get_runtime("openvino").open(tiny_deployment, "int8", 1)
    assert session.remark.endswith("(rate 0.7)")
