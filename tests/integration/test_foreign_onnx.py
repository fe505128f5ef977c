# SPDX-License-Identifier: Apache-2.0
"""An ONNX file of another exporter becomes a deployment: INT8, sparse operators, and a server's answers."""

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_architectures import save_tiny_model
from transformers import AutoModelForSequenceClassification

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model("bert", tmp_path_factory.mktemp("foreign") / "my-model")


@pytest.fixture(scope="module")
def foreign(model):
    """As TorchScript's exporter writes it: weights called onnx::MatMul_123, masks of transformers' own."""
    network = AutoModelForSequenceClassification.from_pretrained(model, attn_implementation="eager").eval()
    path = model.parent / "someone-elses.onnx"
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Positional(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, *inputs):
            return self.network(**dict(zip(names, inputs, strict=True))).logits

    ids = torch.ones((2, 7), dtype=torch.int64)
    torch.onnx.export(
        Positional(), (ids, ids, ids * 0), path, dynamo=False, input_names=names, output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names}, opset_version=17,
    )  # fmt: skip
    return path


def test_it_becomes_a_deployment(foreign, model, tmp_path):
    output = tmp_path / "deployment"
    command = ["export", str(foreign), "--tokenizer", str(model), "--output", str(output), "--set"]
    assert run([*command, "export.int8_agreement=0.7", "--quiet"]) == ExitCode.OK
    manifest = load_manifest(output, "deployment")
    assert {"model.onnx", "model_int8.onnx", "model_sparse.onnx"} <= set(manifest.sparsity)
    assert len(manifest.details["sparse"]["encoder_layers"]) == 2
    named = {tensor.name: tensor.zeros for tensor in manifest.sparsity["model.onnx"].tensors}
    assert any(name.endswith("layer.0.attention.self.query.weight") for name in named)
    assert all(zeros > 500 for zeros in named.values())
    ids = np.random.default_rng(0).integers(4, 700, (3, 30))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    answers = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for path in (foreign, output / "model.onnx")
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)


def test_without_a_tokenizer_the_message_says_what_is_missing(foreign, capsys):
    assert run(["export", str(foreign)]) == ExitCode.USAGE
    assert "--tokenizer FOLDER" in capsys.readouterr().err
