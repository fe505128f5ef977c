# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out inside an operator: ONNX Runtime and OpenVINO report it, and answer the next request."""

import ctypes

import numpy as np
import onnxruntime
import pytest
from failing_memory import fail_each
from openvino_extension import needs_extension
from sparse_operators import layer_constants, layer_model, linear_constants, linear_model

from sparse_deploy.kernels.loader import KERNELS, ONNXRUNTIME, onnxruntime_library, open_library

HIDDEN = 64
MODELS = {
    "linear": linear_model(linear_constants(200, HIDDEN)),
    "layer": layer_model([layer_constants(HIDDEN, 96)], hidden=HIDDEN, heads=4),
}
# With 2 threads the first length is shared out by columns, the second by tokens.
REQUESTS = [(1, 20), (2, 5), (2, 40)]


def inputs(operator, length):
    x = np.random.default_rng(0).standard_normal((1, length, HIDDEN)).astype(np.float32)
    return {"X": x} if operator == "linear" else {"X": x, "mask": np.ones((1, length), np.int64)}


def library(name):
    opened = open_library(name)
    opened.sd_fail_allocation.restype, opened.sd_fail_allocation.argtypes = ctypes.c_int64, [ctypes.c_int64]
    return opened


def onnxruntime_session(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("sparse_deploy.threads", str(threads))
    options.register_custom_ops_library(str(onnxruntime_library()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("operator", MODELS)
@pytest.mark.parametrize(("threads", "length"), REQUESTS)
def test_a_request_to_onnxruntime(operator, threads, length):
    session, request = onnxruntime_session(MODELS[operator], threads), inputs(operator, length)
    expected = session.run(None, request)[0]
    run = lambda: session.run(None, request)[0]  # noqa: E731
    assert fail_each(library(ONNXRUNTIME), run, lambda y: np.testing.assert_array_equal(y, expected), Exception) > 0


@pytest.mark.parametrize("operator", MODELS)
def test_a_session_of_onnxruntime(operator):
    model, request = MODELS[operator], inputs(operator, 7)
    expected = onnxruntime_session(model, 1).run(None, request)[0]
    open_ = lambda: onnxruntime_session(model, 1)  # noqa: E731
    check = lambda session: np.testing.assert_array_equal(session.run(None, request)[0], expected)  # noqa: E731
    assert fail_each(library(ONNXRUNTIME), open_, check, Exception, step=41) > 0


@needs_extension
@pytest.mark.parametrize("operator", MODELS)
@pytest.mark.parametrize(("threads", "length"), REQUESTS)
def test_a_request_to_openvino(operator, threads, length):
    import openvino

    from sparse_deploy.kernels.openvino_extension import openvino_library

    core = openvino.Core()
    core.add_extension(str(openvino_library()))
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    model = core.compile_model(core.read_model(MODELS[operator].SerializeToString()), "CPU", settings)
    inference, request = model.create_infer_request(), inputs(operator, length)

    def run():
        inference.start_async(request)
        inference.wait()
        return inference.get_output_tensor().data.copy()

    expected = run()
    assert fail_each(library(KERNELS), run, lambda y: np.testing.assert_array_equal(y, expected), Exception) > 0
    if threads == 1:  # OpenVINO loses the error of infer(): no earlier answer may pass for that of this request
        library(KERNELS).sd_fail_allocation(0)
        lost = inference.infer(request)
        library(KERNELS).sd_fail_allocation(-1)
        assert np.isnan(lost[0]).all()
