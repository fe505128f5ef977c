# SPDX-License-Identifier: Apache-2.0
"""The operators in a stock OpenVINO, held against their numpy form: threads, streams, precision hints, refusals."""

import ctypes
import gc
import itertools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from onnx.reference import ReferenceEvaluator
from openvino_extension import needs_extension
from sparse_operators import STACK_ROWS, layer_constants, layer_model, linear_constants, linear_model

from sparse_deploy.kernels import openvino_extension, reference
from sparse_deploy.sparsity.packing import Encoding

pytestmark = needs_extension
# As those of the tests with ONNX Runtime, and for the same reasons.
LINEAR_TOLERANCE = 2e-3
LAYER_TOLERANCE, LAYER_MEAN_TOLERANCE = 0.12, 0.015
HIDDEN, HEADS = 64, 4


@pytest.fixture(scope="module")
def core():
    opened = ov.Core()
    opened.add_extension(str(openvino_extension.openvino_library()))
    return opened


@pytest.fixture(scope="module")
def packed_operators():
    """How many packed operators this process holds."""
    function = ctypes.CDLL(str(openvino_extension.openvino_library())).sparse_deploy_packed_operators
    function.restype = ctypes.c_int64
    return function


def compiled(core, model, **settings):
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)


def expected(model, inputs):
    evaluator = ReferenceEvaluator(model, new_ops=[reference.SparseLinear, reference.SparseEncoderLayer])
    return evaluator.run(["Y"], inputs)[0]


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def layers(count=1, **keywords):
    constants = [layer_constants(HIDDEN, 160, seed=10 * index) for index in range(count)]
    return layer_model(constants, hidden=HIDDEN, heads=HEADS, **keywords)


def layer_inputs(batch, sequence, lengths=(), seed=0):
    mask = np.ones((batch, sequence), np.int64)
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    return {"X": rows(batch, sequence, HIDDEN, seed=seed), "mask": mask}


def execution_graph(model):
    """Type and output precision of each node, in order."""
    infos = [node.get_rt_info() for node in model.get_runtime_model().get_ordered_ops()]
    return [(info["layerType"].value, info["outputPrecisions"].value) for info in infos]


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("static", [False, True])
def test_a_linear_equals_numpy(core, encoding, static):
    model = linear_model(linear_constants(70, 45, encoding=encoding, static=static), activation="gelu")
    inputs = {"X": rows(2, 9, 45)}
    np.testing.assert_allclose(compiled(core, model)(inputs)[0], expected(model, inputs), atol=LINEAR_TOLERANCE, rtol=0)


def test_one_model_takes_every_batch_and_length(core):
    linear, layer = linear_model(linear_constants(33, HIDDEN)), layers()
    opened = compiled(core, linear), compiled(core, layer)
    for batch, length in itertools.product((1, 2, 5), (1, 3, 16, 33)):
        inputs = layer_inputs(batch, length, lengths=(max(length // 2, 1),), seed=batch * length)
        found = opened[0]({"X": inputs["X"]})[0]
        np.testing.assert_allclose(found, expected(linear, {"X": inputs["X"]}), atol=LINEAR_TOLERANCE, rtol=0)
        difference = np.abs(opened[1](inputs)[0] - expected(layer, inputs))[inputs["mask"].astype(bool)]
        assert difference.max() <= LAYER_TOLERANCE
        assert difference.mean() <= LAYER_MEAN_TOLERANCE


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_an_empty_batch_gives_an_empty_answer(core, shape):
    assert compiled(core, layers())(layer_inputs(*shape))[0].shape == (*shape, HIDDEN)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_stack_without_padding_whose_last_layer_computes_one_token(core, tmp_path, fixed):
    whole = compiled(core, layers(3))
    model = core.read_model(layers(3, rows=STACK_ROWS).SerializeToString())
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    model = core.read_model(tmp_path / "model.xml")
    if fixed:
        model.reshape({"X": [2, 9, HIDDEN], "mask": [2, 9]})
        assert list(model.outputs[0].shape) == [2, 1, HIDDEN]
    opened = core.compile_model(model, "CPU")
    for lengths in ((9, 9), (9, 4)) if fixed else ((9, 4), (40,), (33, 3, 17)):
        inputs = layer_inputs(len(lengths), max(lengths), lengths)
        np.testing.assert_array_equal(opened(inputs)[0], whole(inputs)[0][:, :1])


@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_no_precision_hint_puts_converts_between_layers(core, hint):
    opened = compiled(core, layers(3), INFERENCE_PRECISION_HINT=hint)
    nodes = execution_graph(opened)
    assert [kind for kind, _ in nodes if kind == "Reference"] == ["Reference"] * 3
    # One: the plugin has no i64, so the mask becomes i32.
    assert [(kind, out) for kind, out in nodes if kind in ("Convert", "Reorder")] == [("Convert", "i32")]
    inputs = layer_inputs(2, 9)
    np.testing.assert_array_equal(opened(inputs)[0], compiled(core, layers(3))(inputs)[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_answer_is_the_same_for_every_number_of_threads(core, threads):
    inputs = layer_inputs(3, 21, lengths=(21, 8, 2))
    alone = compiled(core, layers(), INFERENCE_NUM_THREADS=1)(inputs)[0]
    opened = compiled(core, layers(), INFERENCE_NUM_THREADS=threads)
    for _ in range(5):
        np.testing.assert_array_equal(opened(inputs)[0], alone)


def test_streams_and_compiled_models_share_what_was_packed(core, packed_operators):
    gc.collect()  # models that other tests left in cycles
    before = packed_operators()
    model = core.read_model(layers(2).SerializeToString())
    assert packed_operators() == before, "reading a model packs nothing"
    opened = core.compile_model(model, "CPU", {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 2})
    latency = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    inputs = [layer_inputs(1 + index % 3, 3 + index, seed=index) for index in range(8)]
    answers = [latency(one)[0].copy() for one in inputs]
    requests = [opened.create_infer_request() for _ in range(4)]

    def ask(index):
        return [requests[index].infer(one)[0].copy() for one in inputs]

    with ThreadPoolExecutor(4) as executor:
        for results in executor.map(ask, range(4)):
            for result, answer in zip(results, answers, strict=True):
                np.testing.assert_array_equal(result, answer)
    assert packed_operators() == before + 2


# Opens a model with so many streams, computes on all of them, and prints how much private memory that took: files that
# are mapped, such as libraries and weights of an IR, don't count.
MEASURE_STREAMS = """
import ctypes, sys
import numpy, openvino
def private_bytes():
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
core = openvino.Core()
core.add_extension(sys.argv[1])
before = private_bytes()
settings = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": int(sys.argv[3]), "INFERENCE_NUM_THREADS": 2}
opened = core.compile_model(sys.argv[2], "CPU", settings)
requests = [opened.create_infer_request() for _ in range(4)]
for _ in range(3):
    for request in requests:
        request.start_async(dict(numpy.load(sys.argv[4])))
    for request in requests:
        request.wait()
packed = ctypes.CDLL(sys.argv[1]).sparse_deploy_packed_operators()
print(opened.get_property("NUM_STREAMS"), packed, private_bytes() - before)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="OpenVINO makes no two streams on one CPU")
def test_a_second_stream_holds_no_weights(core, tmp_path):
    hidden, intermediate, count = 512, 2048, 8
    constants = [layer_constants(hidden, intermediate, seed=index) for index in range(count)]
    model = layer_model(constants, hidden=hidden, heads=8)
    ov.save_model(core.read_model(model.SerializeToString()), tmp_path / "model.xml", compress_to_fp16=False)
    np.savez(tmp_path / "inputs.npz", X=rows(1, 16, hidden), mask=np.ones((1, 16), np.int64))
    # What is stored is less than what is packed: it has no padding to the lanes of a layout.
    stored = sum(value.nbytes for one in constants for name, value in one.items() if name.endswith("weight"))

    def measure(streams):
        library = str(openvino_extension.openvino_library())
        command = [sys.executable, "-P", "-c", MEASURE_STREAMS, library, str(tmp_path / "model.xml"), str(streams)]
        done = subprocess.run([*command, str(tmp_path / "inputs.npz")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [int(number) for number in done.stdout.split()]

    one, two = measure(1), measure(2)
    assert one[:2] == [1, count]
    assert two[:2] == [2, count]
    assert one[2] > stored, "the measure must see the packed weights"
    assert two[2] - one[2] < stored


def test_packed_weights_go_with_the_last_model(core, packed_operators):
    gc.collect()  # models that other tests left in cycles
    before = packed_operators()
    opened = compiled(core, layers())
    assert packed_operators() == before + 1
    del opened
    assert packed_operators() == before


def test_a_saved_ir_opens_in_a_process_with_nothing_but_openvino(core, tmp_path):
    model = layers(2)
    ov.save_model(core.read_model(model.SerializeToString()), tmp_path / "model.xml", compress_to_fp16=False)
    inputs = layer_inputs(2, 7)
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = """
import sys
import numpy, openvino
core = openvino.Core()
core.add_extension(sys.argv[1])
opened = core.compile_model(sys.argv[2] + "/model.xml", "CPU")
assert not any(name.startswith("sparse_deploy") for name in sys.modules)
numpy.save(sys.argv[2] + "/y.npy", opened(dict(numpy.load(sys.argv[2] + "/inputs.npz")))[0])
"""
    command = [sys.executable, "-P", "-c", script, str(openvino_extension.openvino_library()), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), compiled(core, model)(inputs)[0])


CPLUSPLUS = r"""
#include <fstream>
#include <openvino/openvino.hpp>

template <class T>
ov::Tensor tensor(const char *path, ov::element::Type type, ov::Shape shape) {
  ov::Tensor found(type, shape);
  std::ifstream(path, std::ios::binary).read(static_cast<char *>(found.data()), found.get_byte_size());
  return found;
}

int main(int, char **arguments) {
  ov::Core core;
  core.add_extension(arguments[1]);
  ov::InferRequest request = core.compile_model("model.xml", "CPU").create_infer_request();
  request.set_tensor("X", tensor<float>("x.bin", ov::element::f32, {2, 7, 64}));
  request.set_tensor("mask", tensor<int64_t>("mask.bin", ov::element::i64, {2, 7}));
  request.infer();
  const ov::Tensor answer = request.get_output_tensor();
  std::ofstream("y.bin", std::ios::binary).write(static_cast<const char *>(answer.data()), answer.get_byte_size());
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_program_in_cplusplus_opens_it(core, tmp_path):
    model, inputs = layers(1), layer_inputs(2, 7, lengths=(7, 3))
    ov.save_model(core.read_model(model.SerializeToString()), tmp_path / "model.xml", compress_to_fp16=False)
    inputs["X"].tofile(tmp_path / "x.bin")
    inputs["mask"].tofile(tmp_path / "mask.bin")
    (tmp_path / "main.cc").write_text(CPLUSPLUS)
    openvino = openvino_extension.openvino_folder()
    libraries = openvino / "libs"
    (library,) = libraries.glob("libopenvino.so.*")
    command = [
        "c++", "-std=c++17", "-D_GLIBCXX_USE_CXX11_ABI=1", f"-I{openvino / 'include'}", "main.cc", str(library),
        f"-Wl,-rpath,{libraries},-rpath-link,{libraries}", "-o", "main",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    extension = str(openvino_extension.openvino_library())
    done = subprocess.run(["./main", extension], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = np.fromfile(tmp_path / "y.bin", np.float32).reshape(2, 7, HIDDEN)
    np.testing.assert_array_equal(answer, compiled(core, model)(inputs)[0])


def test_benchmark_app_runs_it(core, tmp_path):
    ov.save_model(core.read_model(layers(2).SerializeToString()), tmp_path / "model.xml", compress_to_fp16=False)
    command = [
        str(Path(sys.executable).with_name("benchmark_app")), "-m", "model.xml", "-d", "CPU", "-niter", "2",
        "-extensions", str(openvino_extension.openvino_library()), "-data_shape", "X[1,8,64],mask[1,8]",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput:" in done.stdout


class TestRefusals:
    """One line, which names the node and the input; OpenVINO may put lines of its own around it."""

    def line(self, core, model):
        with pytest.raises(RuntimeError) as caught:
            compiled(core, model)
        (found,) = {line for line in str(caught.value).splitlines() if "sparse_deploy: " in line}
        return found

    @pytest.mark.parametrize("place", [0, 4, 6, 8, 15, 16, 23, 24, 40], ids=str)
    def test_a_damaged_weight(self, core, place):
        constants = linear_constants(8, 40)
        constants["weight"][place] ^= 0x55
        assert "SparseLinear node 'Y'" in self.line(core, linear_model(constants))

    @pytest.mark.parametrize("length", [0, 31, 32, -1])
    def test_a_weight_that_was_cut(self, core, length):
        constants = linear_constants(8, 40)
        constants["weight"] = constants["weight"][:length]
        model = linear_model(linear_constants(8, 40))
        model.graph.initializer[0].CopyFrom(linear_model(constants).graph.initializer[0])
        assert "weight" in self.line(core, model)

    def test_a_number_that_is_none(self, core):
        constants = linear_constants(8, 40)
        constants["scale"][3] = np.nan
        assert "scale[3] is nan, expected a finite number" in self.line(core, linear_model(constants))

    def test_scales_of_another_length(self, core):
        constants = linear_constants(8, 40) | {"bias": np.zeros(7, np.float32)}
        assert "input 3 (bias) has shape [7], expected [8]" in self.line(core, linear_model(constants))

    @pytest.mark.parametrize(
        ("attributes", "reason"),
        [
            ({"num_heads": 7}, "num_heads is 7, expected a divisor of the hidden size 64"),
            ({"activation": "swish"}, "activation is 'swish', expected one of gelu, gelu_tanh, relu"),
            ({"activation": None}, "attribute activation is required"),
            ({"rows": [{"operator_version": 3}]}, "it needs operator version 3, this library supports 1 to 2"),
            ({"rows": [{"output_tokens": -1}]}, "output_tokens is -1, expected at least 0"),
        ],
    )
    def test_attributes(self, core, attributes, reason):
        assert reason in self.line(core, layers(**attributes))

    def test_inputs_of_another_width(self, core):
        opened = compiled(core, layers())
        inputs = layer_inputs(1, 4) | {"mask": np.ones((1, 5), np.int64)}
        with pytest.raises(RuntimeError, match=r"sparse_deploy: .* mask has shape \[1, 5\], expected \[1, 4\]"):
            opened(inputs)
