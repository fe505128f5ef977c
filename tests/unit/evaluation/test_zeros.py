# SPDX-License-Identifier: Apache-2.0
"""The recount: a zero that came back is found in every format, though the manifest describes the damaged file."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from tiny_deployment import BENCH_RECIPE, MODEL_FILES, seal_deployment

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.config.schema import SparsitySection
from sparse_deploy.evaluation.zeros import recount_zeros
from sparse_deploy.gate.zeros import judge_zeros

WEIGHT = "bert.encoder.layer.1.output.dense.weight"
DENSE = SparsitySection()


def recount(folder: Path, *files: str, promise: SparsitySection = DENSE):
    return recount_zeros(folder, files or MODEL_FILES, load_manifest(folder), promise)


def verdicts(found) -> dict[str, str]:
    return {file: judge_zeros("cell", count).verdict for file, count in found.counts.items()}


@pytest.fixture
def copy(tiny_deployment, tmp_path) -> Path:
    return shutil.copytree(tiny_deployment, tmp_path / "copy")


def revive_in_onnx(path: Path, count: int) -> None:
    model = onnx.load(path)
    (stored,) = [i for i in model.graph.initializer if i.name.startswith(WEIGHT) and len(i.dims) == 2]
    values = onnx.numpy_helper.to_array(stored).copy()
    zeros = np.flatnonzero(values == 0)[:count]
    values.reshape(-1)[zeros] = 1
    stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    onnx.save(model, path)


def revive_in_ir(folder: Path, name: str, count: int) -> None:
    """Overwrite the first zeros of the weight where its values stand in the IR's ``.bin``."""
    weight = load_file(folder / "model.safetensors")[WEIGHT]
    content = bytearray((folder / name).with_suffix(".bin").read_bytes())
    place = content.index(weight.tobytes())
    values = weight.copy().reshape(-1)
    values[np.flatnonzero(values == 0)[:count]] = 0.5
    content[place : place + weight.nbytes] = values.tobytes()
    (folder / name).with_suffix(".bin").write_bytes(content)


def test_every_file_of_an_honest_deployment_keeps_all_zeros(tiny_deployment):
    found = recount(tiny_deployment)
    assert verdicts(found) == dict.fromkeys(MODEL_FILES, "pass")
    count = found.counts["model_int8.onnx"]
    assert count.required == count.kept > 0
    recorded = load_manifest(tiny_deployment).sparsity
    for file in ("model.onnx", "openvino_model.xml", "model_sparse.onnx"):
        assert {t.name: t.required_zeros for t in found.records[file].tensors} == {
            t.name: t.required_zeros for t in recorded[file].tensors
        }
    sentence = judge_zeros("pytorch-fp32", found.counts["model.safetensors"]).explanation
    assert sentence == (
        f"model.safetensors of pytorch-fp32 keeps all {count.required:,} required zeros of 12 tensors "
        "(all positions compared): pass."
    )


@pytest.mark.parametrize("file", ["model.onnx", "model_int8.onnx"])
def test_revived_zeros_in_an_onnx_file(copy, file):
    revive_in_onnx(copy / file, 3)
    seal_deployment(copy, BENCH_RECIPE)
    found = recount(copy)
    assert verdicts(found) == {**dict.fromkeys(MODEL_FILES, "pass"), file: "fail"}
    count = found.counts[file]
    (lost,) = [tensor for tensor in count.tensors if tensor.kept < tensor.required]
    assert (lost.name, lost.required - lost.kept) == (WEIGHT, 3)
    result = judge_zeros("onnxruntime-fp32", count)
    assert (result.goal.metric, result.cell) == ("sparsity", "onnxruntime-fp32")
    assert f"has lost 3 of {count.required:,} required zeros: {WEIGHT} kept" in result.explanation
    assert result.value < result.bound == result.baseline


def test_revived_zeros_in_an_ir(copy):
    revive_in_ir(copy, "openvino_model.xml", 2)
    seal_deployment(copy, BENCH_RECIPE)
    assert verdicts(recount(copy)) == {**dict.fromkeys(MODEL_FILES, "pass"), "openvino_model.xml": "fail"}


def test_places_count_and_not_numbers(copy):
    model = onnx.load(copy / "model.onnx")
    (stored,) = [i for i in model.graph.initializer if i.name == WEIGHT]
    values = onnx.numpy_helper.to_array(stored).copy()
    flat = values.reshape(-1)
    zero, other = np.flatnonzero(flat == 0)[0], np.flatnonzero(flat)[0]
    flat[[zero, other]] = flat[[other, zero]]
    stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    onnx.save(model, copy / "model.onnx")
    seal_deployment(copy, BENCH_RECIPE)
    assert verdicts(recount(copy, "model.onnx")) == {"model.onnx": "fail"}


def test_zeros_revived_in_the_checkpoint_are_required_by_the_manifest(copy):
    """The other files still hold the mask that the manifest has the fingerprint of."""
    weights = load_file(copy / "model.safetensors")
    weights[WEIGHT].reshape(-1)[np.flatnonzero(weights[WEIGHT] == 0)[:4]] = 0.1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    found = recount_zeros(copy, MODEL_FILES, load_manifest(copy, verify=False), DENSE)
    assert verdicts(found) == {**dict.fromkeys(MODEL_FILES, "pass"), "model.safetensors": "fail"}
    alone = recount_zeros(copy, ["model.safetensors"], load_manifest(copy, verify=False), DENSE)
    assert (
        "no file has the recorded mask; numbers compared"
        in judge_zeros("c", alone.counts["model.safetensors"]).explanation
    )


def test_a_tensor_that_is_gone(copy):
    model = onnx.load(copy / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["renamed" if name == WEIGHT else name for name in node.input]
    next(i for i in model.graph.initializer if i.name == WEIGHT).name = "renamed"
    onnx.save(model, copy / "model.onnx")
    seal_deployment(copy, BENCH_RECIPE)
    result = judge_zeros("c", recount(copy, "model.onnx").counts["model.onnx"])
    assert result.verdict == "fail"
    assert f"{WEIGHT} kept 0 of" in result.explanation
    assert "the file has no such tensor" in result.explanation


def test_a_recipe_that_promises_more_than_the_checkpoint_holds(tiny_deployment):
    promise = SparsitySection(mode="lock", pattern="unstructured", target=0.9)
    result = judge_zeros("c", recount(tiny_deployment, "model.onnx", promise=promise).counts["model.onnx"])
    assert result.verdict == "fail"
    assert "requires 90.0% zeros" in result.explanation


def test_a_dense_deployment_has_no_such_gate(tiny_deployment):
    nothing = load_manifest(tiny_deployment).model_copy(update={"sparsity": {}})
    every = SparsitySection(exclude=("encoder", "embeddings", "pooler", "classifier"))
    found = recount_zeros(tiny_deployment, ["model.onnx"], nothing, every)
    assert found.counts == {}
    assert found.records["model.onnx"].tensors == ()
