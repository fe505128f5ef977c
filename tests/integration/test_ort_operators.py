# SPDX-License-Identifier: Apache-2.0
"""The operators in real ONNX Runtime sessions, held against their numpy form, and everything that must be refused."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sparse_operators import STACK_ROWS, layer_constants, layer_model, linear_constants, linear_model

from sparse_deploy.kernels import reference
from sparse_deploy.kernels.loader import onnxruntime_library
from sparse_deploy.sparsity.packing import Encoding

# Absolute, on values of magnitude 1 to 4. A linear differs from numpy by the order of float additions, and by one
# quantization step of one input where x / scale lies on a half. A layer adds BF16 in attention where the CPU has it
# (0.06 at most and 0.007 on average here; 0.02 and 0.0007 without BF16).
LINEAR_TOLERANCE = 2e-3
LAYER_TOLERANCE, LAYER_MEAN_TOLERANCE = 0.12, 0.015


def session(model, threads=2, announced=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if announced is not None:
        options.add_session_config_entry("sparse_deploy.threads", str(announced))
    options.register_custom_ops_library(str(onnxruntime_library()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def expected(model, inputs):
    evaluator = ReferenceEvaluator(model, new_ops=[reference.SparseLinear, reference.SparseEncoderLayer])
    return evaluator.run(["Y"], inputs)[0]


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def layer_inputs(batch, sequence, hidden, lengths=(), seed=0):
    mask = np.ones((batch, sequence), np.int64)
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    return {"X": rows(batch, sequence, hidden, seed=seed), "mask": mask}


def assert_layer_close(model, inputs, result, layers=1):
    """Compares the tokens. The values at padding are undefined, but must be finite."""
    tokens = inputs["mask"].astype(bool)
    difference = np.abs(result - expected(model, inputs))[tokens]
    assert difference.max() <= LAYER_TOLERANCE * layers
    assert difference.mean() <= LAYER_MEAN_TOLERANCE * layers
    assert np.isfinite(result).all()


def problem(model, **keywords):
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:  # its classes derive from Exception alone
        session(model, **keywords)
    return str(caught.value)


class TestSparseLinear:
    @pytest.mark.parametrize("encoding", list(Encoding))
    @pytest.mark.parametrize("static", [False, True])
    def test_equals_numpy_for_every_encoding(self, encoding, static):
        model = linear_model(linear_constants(70, 45, encoding=encoding, static=static))
        inputs = {"X": rows(2, 9, 45)}
        np.testing.assert_allclose(
            session(model).run(None, inputs)[0], expected(model, inputs), atol=LINEAR_TOLERANCE, rtol=0
        )

    @pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu", "tanh"])
    def test_equals_numpy_for_every_activation(self, activation):
        model = linear_model(linear_constants(48, 64), activation=activation)
        inputs = {"X": 3 * rows(1, 17, 64)}
        np.testing.assert_allclose(
            session(model).run(None, inputs)[0], expected(model, inputs), atol=LINEAR_TOLERANCE, rtol=0
        )

    def test_one_session_takes_every_batch_and_length(self):
        model = linear_model(linear_constants(33, 40))
        opened = session(model)
        for batch, length in itertools.product((1, 2, 5), (1, 2, 3, 7, 16, 33)):
            inputs = {"X": rows(batch, length, 40, seed=batch * length)}
            result = opened.run(None, inputs)[0]
            assert result.shape == (batch, length, 33)
            np.testing.assert_allclose(result, expected(model, inputs), atol=LINEAR_TOLERANCE, rtol=0)

    @pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 3, 40), (2, 1, 3, 40), (0, 40), (2, 0, 40)])
    def test_takes_every_rank_and_no_rows(self, shape):
        model = linear_model(linear_constants(8, 40), dims=shape[:-1])
        inputs = {"X": rows(*shape)}
        result = session(model).run(None, inputs)[0]
        assert result.shape == (*shape[:-1], 8)
        if result.size:
            reference_rows = expected(model, {"X": inputs["X"].reshape(-1, 40)})
            np.testing.assert_allclose(result.reshape(-1, 8), reference_rows, atol=LINEAR_TOLERANCE, rtol=0)

    def test_output_shape_is_inferred_with_the_names_of_the_dimensions(self):
        (output,) = session(linear_model(linear_constants(8, 40))).get_outputs()
        assert output.shape == ["batch", "sequence", 8]

    def test_dimensions_without_a_name_leave_the_shape_open(self):
        opened = session(linear_model(linear_constants(8, 40), dims=(None, None)))
        assert opened.run(None, {"X": rows(2, 3, 40)})[0].shape == (2, 3, 8)
        assert opened.run(None, {"X": rows(4, 5, 40)})[0].shape == (4, 5, 8)

    def test_optional_inputs_may_be_named_by_empty_strings(self):
        constants = linear_constants(8, 40)
        model = linear_model(constants)
        model.graph.node[0].input.extend(["", ""])
        inputs = {"X": rows(1, 4, 40)}
        np.testing.assert_array_equal(
            session(model).run(None, inputs)[0], session(linear_model(constants)).run(None, inputs)[0]
        )

    def test_a_static_scale_of_zero_is_a_dynamic_one(self):
        constants = linear_constants(8, 40, static=True)
        static = session(linear_model(constants | {"x_scale": np.zeros(1, np.float32)}))
        dynamic = session(linear_model(linear_constants(8, 40)))
        inputs = {"X": rows(1, 4, 40)}
        np.testing.assert_array_equal(static.run(None, inputs)[0], dynamic.run(None, inputs)[0])

    def test_a_constant_node_is_as_good_as_an_initializer(self):
        model = linear_model(linear_constants(8, 40))
        scale = next(value for value in model.graph.initializer if value.name == "scale")
        model.graph.initializer.remove(scale)
        model.graph.node.insert(0, helper.make_node("Constant", [], ["scale"], value=scale))
        assert session(model).run(None, {"X": rows(1, 4, 40)})[0].shape == (1, 4, 8)


class TestSparseEncoderLayer:
    HIDDEN, HEADS = 64, 4

    def model(self, layers=1, **keywords):
        static = keywords.pop("static", False)
        constants = [layer_constants(self.HIDDEN, 160, seed=10 * index, static=static) for index in range(layers)]
        return layer_model(constants, hidden=self.HIDDEN, heads=self.HEADS, **keywords)

    @pytest.mark.parametrize("static", [False, True])
    @pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
    def test_equals_numpy(self, activation, static):
        model = self.model(activation=activation, static=static)
        inputs = layer_inputs(2, 11, self.HIDDEN)
        assert_layer_close(model, inputs, session(model).run(None, inputs)[0])

    def test_padding_is_not_attended_to(self):
        model = self.model()
        inputs = layer_inputs(3, 12, self.HIDDEN, lengths=(12, 5, 1))
        result = session(model).run(None, inputs)[0]
        assert_layer_close(model, inputs, result)
        changed = {name: value.copy() for name, value in inputs.items()}
        changed["X"][1, 5:] += 7
        np.testing.assert_array_equal(session(model).run(None, changed)[0][1, :5], result[1, :5])

    def test_a_request_of_padding_only_attends_to_all_its_tokens(self):
        opened = session(self.model())
        inputs = layer_inputs(2, 6, self.HIDDEN, lengths=(0, 6))
        without_padding = opened.run(None, inputs | {"mask": np.ones((2, 6), np.int64)})[0]
        np.testing.assert_array_equal(opened.run(None, inputs)[0], without_padding)

    def test_one_session_takes_every_batch_and_length(self):
        model = self.model()
        opened = session(model)
        for batch, length in ((1, 1), (1, 40), (4, 3), (2, 17), (1, 2), (3, 33)):
            inputs = layer_inputs(batch, length, self.HIDDEN, seed=length)
            assert_layer_close(model, inputs, opened.run(None, inputs)[0])

    @pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
    def test_an_empty_batch_gives_an_empty_answer(self, shape):
        assert session(self.model()).run(None, layer_inputs(*shape, self.HIDDEN))[0].shape == (*shape, self.HIDDEN)

    def test_layers_follow_each_other(self):
        model = self.model(layers=3)
        inputs = layer_inputs(2, 9, self.HIDDEN, lengths=(9, 4))
        assert_layer_close(model, inputs, session(model).run(None, inputs)[0], layers=3)

    def test_the_comparison_notices_a_layer_that_is_another(self):
        inputs = layer_inputs(2, 9, self.HIDDEN)
        for changes in ({"activation": "relu"}, {"num_heads": 2}):
            with pytest.raises(AssertionError):
                assert_layer_close(self.model(**changes), inputs, session(self.model()).run(None, inputs)[0])
        swapped = self.model()
        node = swapped.graph.node[0]
        node.input[2:5], node.input[5:8] = node.input[5:8], node.input[2:5]
        with pytest.raises(AssertionError):
            assert_layer_close(swapped, inputs, session(self.model()).run(None, inputs)[0])

    def test_an_input_that_is_needed_again_is_not_overwritten(self):
        # Each layer may write its output over its input. X also goes to the end of the graph, so it must survive.
        alone, added = self.model(layers=2), self.model(layers=2, add_input=True)
        inputs = layer_inputs(2, 9, self.HIDDEN)
        before = inputs["X"].copy()
        total = session(added).run(None, inputs)[0]
        np.testing.assert_array_equal(inputs["X"], before)
        np.testing.assert_array_equal(total, session(alone).run(None, inputs)[0] + before)

    def test_output_shape_is_that_of_the_input(self):
        assert session(self.model()).get_outputs()[0].shape == ["batch", "sequence", self.HIDDEN]

    def test_an_unknown_shape_stays_unknown_through_all_layers(self):
        model = self.model(3, rows=STACK_ROWS)
        for dim in model.graph.input[0].type.tensor_type.shape.dim[:2]:
            dim.Clear()
        model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
        model.graph.node.append(helper.make_node("Gather", ["Y", "first"], ["Z"], axis=1))
        model.graph.output[0].name = "Z"
        inputs = layer_inputs(2, 9, self.HIDDEN, lengths=(9, 4))
        whole = session(self.model(3)).run(None, inputs)[0]
        np.testing.assert_array_equal(session(model).run(None, inputs)[0], whole[:, 0])

    def test_output_shape_of_a_layer_that_computes_a_few_tokens(self):
        one, more = (self.model(rows=[{"output_tokens": tokens}]) for tokens in (1, 3))
        assert session(one).get_outputs()[0].shape == ["batch", 1, self.HIDDEN]
        opened = session(more)
        for length in (2, 9):
            assert opened.run(None, layer_inputs(2, length, self.HIDDEN))[0].shape == (2, min(length, 3), self.HIDDEN)

    def test_a_stack_without_padding_whose_last_layer_computes_one_token(self):
        opened, whole = session(self.model(3, rows=STACK_ROWS)), session(self.model(3))
        for lengths in ((9,), (9, 4), (40, 3, 17), (0, 5)):
            inputs = layer_inputs(len(lengths), max(lengths), self.HIDDEN, lengths=lengths)
            before = inputs["X"].copy()
            np.testing.assert_array_equal(opened.run(None, inputs)[0], whole.run(None, inputs)[0][:, :1])
            np.testing.assert_array_equal(inputs["X"], before)


class TestThreads:
    @pytest.mark.parametrize(
        ("threads", "announced"), [(1, 1), (1, 8), (2, None), (2, 1), (2, 2), (2, 64), (3, 3), (4, 2)]
    )
    def test_the_answer_is_the_same_for_every_number_of_threads(self, threads, announced):
        model = layer_model([layer_constants(64, 160)], hidden=64, heads=4)
        inputs = layer_inputs(3, 21, 64, lengths=(21, 8, 2))
        opened = session(model, threads, announced)
        alone = session(model, 1, 1).run(None, inputs)[0]
        for _ in range(5):
            np.testing.assert_array_equal(opened.run(None, inputs)[0], alone)

    def test_requests_of_several_threads_share_a_session(self):
        model = layer_model([layer_constants(64, 160, seed=seed) for seed in (0, 10)], hidden=64, heads=4)
        opened = session(model)
        requests = [layer_inputs(1 + index % 3, 3 + index, 64, seed=index) for index in range(16)]
        answers = [session(model, 1, 1).run(None, request)[0] for request in requests]
        with ThreadPoolExecutor(4) as executor:
            results = list(executor.map(lambda request: opened.run(None, request)[0], requests * 4))
        for result, answer in zip(results, answers * 4, strict=True):
            np.testing.assert_array_equal(result, answer)

    def test_sessions_come_and_go_beside_each_other(self):
        inputs = layer_inputs(2, 7, 64)
        models = [layer_model([layer_constants(64, 96, seed=seed)], hidden=64, heads=2) for seed in range(4)]
        answers = [session(model, 1, 1).run(None, inputs)[0] for model in models]
        assert np.ptp([answer[0, 0, 0] for answer in answers]) > 1e-3, "different weights must answer differently"

        def open_and_run(index):
            return session(models[index % 4], 1 + index % 2, 1 + index % 3).run(None, inputs)[0]

        with ThreadPoolExecutor(4) as executor:
            for index, result in enumerate(executor.map(open_and_run, range(24))):
                np.testing.assert_array_equal(result, answers[index % 4])

    @pytest.mark.parametrize("value", ["0", "-3", "two", "2.5", "", "99999999999999999999"])
    def test_a_number_of_threads_that_is_none_is_refused(self, value):
        message = problem(linear_model(linear_constants(8, 40)), announced=value)
        assert "sparse_deploy.threads: expected a whole number from 1 to 1024" in message
        assert f"'{value}'" in message

    def test_the_variable_goes_before_the_session(self, monkeypatch):
        model = linear_model(linear_constants(8, 40))
        monkeypatch.setenv("SPARSE_DEPLOY_THREADS", "1")
        session(model, announced=2)
        monkeypatch.setenv("SPARSE_DEPLOY_THREADS", "many")
        assert "SPARSE_DEPLOY_THREADS: expected a whole number" in problem(model, announced=2)


class TestRefusals:
    """Every message is one line that names the node and the input."""

    def test_a_weight_that_is_not_constant(self):
        model = linear_model(linear_constants(8, 40))
        weight = next(value for value in model.graph.initializer if value.name == "weight")
        model.graph.input.append(helper.make_tensor_value_info("weight", weight.data_type, weight.dims))
        message = problem(model)
        assert "SparseLinear node 'dense_1': input 1 (weight) must be a constant" in message
        assert "Traceback" not in message

    @pytest.mark.parametrize(
        ("rows", "reason"),
        [
            ({"operator_version": 3}, "it needs operator version 3, this library supports 1 to 2"),
            ({"output_tokens": -1}, "output_tokens is -1, expected at least 0"),
            ({"output_tokens": "one"}, "attribute output_tokens is required and must be an int"),
            ({"unpadded_input": 2}, "unpadded_input is 2, expected 0 to 1"),
            ({"output_tokens": 1, "unpadded_output": 1}, "an unpadded output has all tokens"),
        ],
    )
    def test_rows(self, rows, reason):
        model = layer_model([layer_constants(64, 160)], hidden=64, heads=4, rows=[rows])
        assert f"SparseEncoderLayer node 'layer_0': {reason}" in problem(model)

    def test_a_scale_that_is_computed(self):
        model = linear_model(linear_constants(8, 40))
        model.graph.node.insert(0, helper.make_node("RandomNormal", [], ["drawn"], shape=[8]))
        model.graph.node[1].input[2] = "drawn"
        assert "node 'dense_1': input 2 (scale) must be a constant" in problem(model)

    @pytest.mark.parametrize("encoding", list(Encoding))
    @pytest.mark.parametrize(
        "damage",
        [
            lambda blob: blob[:0],
            lambda blob: blob[:31],
            lambda blob: blob[:32],
            lambda blob: blob[:-1],
            lambda blob: np.concatenate([blob, blob[:1]]),
            lambda blob: _changed(blob, 0, 0x54),
            lambda blob: _changed(blob, 4, 2),
            lambda blob: _changed(blob, 6, 9),
            lambda blob: _changed(blob, 8, 9),
            lambda blob: _changed(blob, 15, 0xFF),
            lambda blob: _changed(blob, 16, int(blob[16]) ^ 1),
            lambda blob: _changed(blob, 23, 0xFF),
            lambda blob: _changed(blob, 24, int(blob[24]) ^ 1),
            lambda blob: _changed(blob, 40, int(blob[40]) ^ 1),
        ],
        ids=[
            "empty",
            "short",
            "header",
            "cut",
            "long",
            "magic",
            "version",
            "encoding",
            "n",
            "k",
            "units",
            "huge",
            "crc",
            "body",
        ],
    )
    def test_a_damaged_weight(self, damage, encoding):
        constants = linear_constants(8, 40, encoding=encoding)
        model = linear_model(constants)
        damaged = linear_model(constants | {"weight": damage(constants["weight"])})
        # The right size of everything else, whatever the header says now.
        assert session(model)
        message = problem(damaged)
        assert "SparseLinear node 'dense_1': " in message
        assert "\n" not in message.strip()

    @pytest.mark.parametrize(
        ("constant", "value", "words"),
        [
            ("scale", np.ones(9, np.float32), "input 2 (scale) has shape [9], expected [8]"),
            ("bias", np.ones((1, 8), np.float32), "input 3 (bias) has shape [1, 8], expected [8]"),
            ("scale", np.array([1, 2, np.nan, 4, 5, 6, 7, 8], np.float32), "scale[2] is nan, expected a finite number"),
            ("bias", np.full(8, np.inf, np.float32), "bias[0] is inf, expected a finite number"),
            ("x_scale", np.array([-1], np.float32), "x_scale[0] is -1.000000, expected a positive number"),
            ("x_scale", np.array([np.nan], np.float32), "x_scale[0] is nan, expected a positive number"),
            ("x_scale", np.ones(2, np.float32), "input 4 (x_scale) has shape [2], expected [1]"),
            ("x_zero_point", np.ones(0, np.uint8), "input 5 (x_zero_point) has shape [0], expected [1]"),
        ],
    )
    def test_a_constant_of_a_linear(self, constant, value, words):
        message = problem(linear_model(linear_constants(8, 40, static=True) | {constant: value}))
        assert f"SparseLinear node 'dense_1': {words}" in message

    def test_a_scale_without_its_zero_point(self):
        constants = linear_constants(8, 40, static=True)
        del constants["x_zero_point"]
        assert "expected both x_scale and x_zero_point, found only x_scale" in problem(linear_model(constants))

    @pytest.mark.parametrize(
        ("activation", "words"),
        [("swish", "activation is 'swish', expected one of none, gelu, gelu_tanh, relu, tanh"), (3, "be a string")],
    )
    def test_an_activation(self, activation, words):
        assert words in problem(linear_model(linear_constants(8, 40), activation=activation))

    def test_a_type_that_the_operator_does_not_take(self):
        constants = linear_constants(8, 40)
        message = problem(linear_model(constants | {"scale": constants["scale"].astype(np.float64)}))
        assert "dense_1" in message
        assert "double" in message

    def test_a_nameless_node_is_known_by_its_output(self):
        constants = linear_constants(8, 40)
        model = linear_model(constants | {"bias": np.ones(3, np.float32)})
        model.graph.node[0].name = ""
        assert "SparseLinear node 'Y': input 3 (bias)" in problem(model)

    @pytest.mark.parametrize(
        ("attributes", "words"),
        [
            ({"num_heads": 5}, "num_heads is 5, expected a divisor of the hidden size 64"),
            ({"num_heads": 0}, "num_heads is 0, expected a divisor"),
            ({"num_heads": None}, "attribute num_heads is required and must be an int"),
            ({"epsilon": None}, "attribute epsilon is required and must be a float"),
            ({"activation": None}, "attribute activation is required and must be a string"),
            ({"activation": "tanh"}, "activation is 'tanh', expected one of gelu, gelu_tanh, relu"),
        ],
    )
    def test_an_attribute_of_a_layer(self, attributes, words):
        model = layer_model([layer_constants(64, 96)], **({"hidden": 64, "heads": 4} | attributes))
        assert f"SparseEncoderLayer node 'layer_0': {words}" in problem(model)

    def test_weights_of_a_layer_that_do_not_fit_together(self):
        constants = layer_constants(64, 96) | {"key_weight": linear_constants(64, 32)["weight"]}
        message = problem(layer_model([constants], hidden=64, heads=4))
        assert "SparseEncoderLayer node 'layer_0': key weight is [64, 32], expected [64, 64]" in message

    def test_a_damaged_weight_of_a_layer(self):
        constants = layer_constants(64, 96)
        constants["output_weight"] = _changed(constants["output_weight"], 100, int(constants["output_weight"][100]) ^ 4)
        message = problem(layer_model([constants], hidden=64, heads=4))
        assert "SparseEncoderLayer node 'layer_0': " in message
        assert "output" in message

    def test_a_batch_of_another_width_fails_alone(self):
        model = linear_model(linear_constants(8, 40))
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("X", 1, ("batch", "sequence", "width")))
        opened = session(model)
        with pytest.raises(Exception, match=r"node 'dense_1': X has shape \[1, 4, 41\], expected \[\.\.\., 40\]"):
            opened.run(None, {"X": rows(1, 4, 41)})
        assert opened.run(None, {"X": rows(1, 4, 40)})[0].shape == (1, 4, 8)

    def test_a_mask_of_another_shape_fails_alone(self):
        model = layer_model([layer_constants(64, 96)], hidden=64, heads=4)
        model.graph.input[1].CopyFrom(helper.make_tensor_value_info("mask", 7, ("batch", "other")))
        opened = session(model)
        inputs = layer_inputs(2, 5, 64)
        with pytest.raises(Exception, match=r"node 'layer_0': mask has shape \[2, 4\], expected \[2, 5\]"):
            opened.run(None, inputs | {"mask": inputs["mask"][:, :4]})
        assert opened.run(None, inputs)[0].shape == (2, 5, 64)


SCRIPT = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
options.register_custom_ops_library(sys.argv[1])
model = open(sys.argv[2], "rb").read()
x = np.load(sys.argv[3])
for _ in range(3):
    session = onnxruntime.InferenceSession(model, options)
    result = session.run(None, {"X": x})[0]
    del session
np.save(sys.argv[4], result)
"""


@pytest.mark.parametrize("isa", ["", "portable"])
def test_a_process_of_its_own_answers_and_ends_cleanly(isa, tmp_path):
    """Without importing this package, as in C++: only the library is used, and it may be unloaded."""
    model = linear_model(linear_constants(70, 90))
    x = rows(2, 5, 90)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "x.npy", x)
    arguments = [onnxruntime_library(), tmp_path / "model.onnx", tmp_path / "x.npy", tmp_path / "y.npy"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env={**os.environ, "SPARSE_DEPLOY_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(model, {"X": x}), atol=LINEAR_TOLERANCE, rtol=0)


def test_the_profile_is_that_of_the_operators_own_kernels(tmp_path):
    (tmp_path / "model.onnx").write_bytes(
        layer_model([layer_constants(64, 96)], hidden=64, heads=4).SerializeToString()
    )
    script = """
import sys
import numpy as np, onnxruntime
from sparse_deploy.kernels.loader import KERNELS, ONNXRUNTIME, onnxruntime_library, profile
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(str(onnxruntime_library()))
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {"X": np.ones((1, 9, 64), np.float32), "mask": np.ones((1, 9), np.int64)})
print(sum(profile(ONNXRUNTIME).values()) > 0, sum(profile(KERNELS).values()) > 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "model.onnx"],
        env={**os.environ, "SPARSE_DEPLOY_PROFILE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


def _changed(blob, place, value):
    changed = blob.copy()
    changed[place] = value
    return changed
