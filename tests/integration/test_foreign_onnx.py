# SPDX-License-Identifier: Apache-2.0
"""An ONNX file of another exporter becomes a deployment: INT8, sparse operators, and a server's answers."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_architectures import save_tiny_model
from transformers import AutoModelForSequenceClassification

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode
from sparse_deploy.inspection.inspect import inspect_path
from sparse_deploy.results import BenchReport


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model("bert", tmp_path_factory.mktemp("foreign") / "my-model")


def to_onnx(network, output, path):
    """As TorchScript's exporter writes it: weights called onnx::MatMul_123, masks of transformers' own."""
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Positional(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network.eval()

        def forward(self, *inputs):
            return self.network(**dict(zip(names, inputs, strict=True)))[output]

    ids = torch.ones((2, 7), dtype=torch.int64)
    torch.onnx.export(
        Positional(), (ids, ids, ids * 0), path, dynamo=False, input_names=names, output_names=[output],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names}, opset_version=17,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def foreign(model):
    network = AutoModelForSequenceClassification.from_pretrained(model, attn_implementation="eager")
    return to_onnx(network, "logits", model.parent / "someone-elses.onnx")


def exported(source, model, output):
    command = ["export", str(source), "--tokenizer", str(model), "--output", str(output), "--quiet"]
    assert run([*command, "--set", "export.int8_agreement=0.6"]) == ExitCode.OK
    return output


@pytest.fixture(scope="module")
def deployment(foreign, model):
    return exported(foreign, model, model.parent / "deployment")


def test_it_becomes_a_deployment(foreign, deployment):
    manifest = load_manifest(deployment, "deployment")
    assert {"model.onnx", "model_int8.onnx", "model_sparse.onnx"} <= set(manifest.sparsity)
    assert len(manifest.details["sparse"]["encoder_layers"]) == 2
    named = {tensor.name: tensor.zeros for tensor in manifest.sparsity["model.onnx"].tensors}
    assert any(name.endswith("layer.0.attention.self.query.weight") for name in named)
    assert all(zeros > 500 for zeros in named.values())
    ids = np.random.default_rng(0).integers(4, 700, (3, 30))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    answers = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for path in (foreign, deployment / "model.onnx")
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)


def test_without_a_checkpoint_bench_compares_with_onnx_runtimes_fp32(deployment, tmp_path):
    lines = [f"the {thing} was {word},{label}" for thing in ("room", "film", "staff", "phone", "food")
             for word, label in (("good", "positive"), ("bad", "negative"))]  # fmt: skip
    (tmp_path / "d.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    command = ["bench", str(deployment), "--data", str(tmp_path / "d.csv"), "--report", str(tmp_path / "report")]
    assert run([*command, "--no-latency", "--quiet"]) == ExitCode.OK
    report = BenchReport.model_validate_json((tmp_path / "report" / "report.json").read_bytes())
    assert report.baseline == "onnxruntime-fp32"
    assert [cell.id for cell in report.cells] == ["onnxruntime-fp32", "onnxruntime-int8", "sparse-int8"]
    assert report.examples == 10
    assert report.settings["skipped_cells"]["pytorch-fp32"] == "the deployment has no model.safetensors"
    assert {gate.verdict for gate in report.gates} == {"pass"}, "zeros of every file"


def test_what_onnxsim_simplified_has_whole_layers_under_their_names(foreign, model, deployment, tmp_path):
    import onnxsim

    simplified, same = onnxsim.simplify(onnx.load(foreign))
    assert same
    assert sum(node.op_type == "Gemm" for node in simplified.graph.node) > 2, "pooler and classifier are two"
    onnx.save(simplified, tmp_path / "simplified.onnx")
    (file,) = inspect_path(str(tmp_path / "simplified.onnx")).files
    assert len([tensor for tensor in file.record.tensors if tensor.zeros > 500]) == 12
    found = load_manifest(exported(tmp_path / "simplified.onnx", model, tmp_path / "out"), "deployment")
    expected = load_manifest(deployment, "deployment")
    for name in ("model.onnx", "model_int8.onnx", "model_sparse.onnx"):
        zeros = [
            {tensor.name: tensor.zeros for tensor in manifest.sparsity[name].tensors} for manifest in (found, expected)
        ]
        assert zeros[0] == zeros[1]
    assert found.details["sparse"] == expected.details["sparse"]


def test_what_onnx_runtimes_optimizer_fused_is_read_and_its_plain_products_become_int8(foreign, model, tmp_path):
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(str(foreign), "bert", num_heads=2, hidden_size=32, opt_level=0)
    assert fused.get_fused_operator_statistics()["Attention"] == 2
    fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    (file,) = inspect_path(str(tmp_path / "fused.onnx")).files
    assert len([tensor for tensor in file.record.tensors if tensor.zeros > 500]) == 12
    assert not file.not_understood
    manifest = load_manifest(exported(tmp_path / "fused.onnx", model, tmp_path / "out"), "deployment")
    assert len(manifest.details["sparse"]["linears"]) == 6
    assert "found SkipLayerNormalization" in str(manifest.details["sparse"])


def test_a_file_that_came_in_dynamic_int8_has_the_same_layers(foreign, model, deployment, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(foreign, tmp_path / "int8.onnx", per_channel=True)
    assert "MatMulInteger" in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    manifest = load_manifest(exported(tmp_path / "int8.onnx", model, tmp_path / "out"), "deployment")
    assert manifest.details["dequantized_products"] == 14  # twelve, pooler and classifier
    assert manifest.details["parity"]["model.onnx"]["argmax_agreement"] >= 0.6
    expected = load_manifest(deployment, "deployment").details["sparse"]
    assert manifest.details["sparse"]["encoder_layers"] == expected["encoder_layers"]
    assert {"model.onnx", "model_int8.onnx", "model_sparse.onnx"} == set(manifest.sparsity)


def test_vectors_of_tokens_are_pooled_as_the_models_folder_says(sentence_encoder, tmp_path):
    """As sentence-transformers writes ONNX files: its pooling is outside."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    path = tmp_path / "model.onnx"
    to_onnx(AutoModel.from_pretrained(sentence_encoder, attn_implementation="eager"), "last_hidden_state", path)
    output = exported(path, sentence_encoder, tmp_path / "out")
    assert load_manifest(output, "deployment").task == "sentence-embedding"
    assert (output / "1_Pooling" / "config.json").is_file()
    texts = ["the staff was lovely", "bad"]
    batch = AutoTokenizer.from_pretrained(sentence_encoder)(texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(output / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["sentence_embedding"], {name: ids.astype(np.int64) for name, ids in batch.items()})
    expected = SentenceTransformer(str(sentence_encoder), device="cpu").encode(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("asked", [("--int8", "static"), ("--target", "openvino"), ("--set", "export.openvino=true")])
def test_what_an_onnx_file_can_not_become_is_refused(foreign, model, tmp_path, capsys, asked):
    command = ["export", str(foreign), "--tokenizer", str(model), "--output", str(tmp_path / "out")]
    assert run([*command, *asked]) == ExitCode.USAGE
    assert "made from a checkpoint: sparse-deploy export FOLDER" in capsys.readouterr().err


def test_without_a_tokenizer_the_message_says_what_is_missing(foreign, capsys):
    assert run(["export", str(foreign)]) == ExitCode.USAGE
    assert "--tokenizer FOLDER" in capsys.readouterr().err
