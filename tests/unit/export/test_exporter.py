# SPDX-License-Identifier: Apache-2.0
"""The exporter on tiny BERTs: interface, padding, extreme shapes, names, silence."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    PreTrainedModel,
)

from sparse_deploy.errors import ExportError
from sparse_deploy.export.exporter import (
    MODEL_INPUTS,
    ExportableModel,
    example_inputs,
    output_names,
    to_onnx,
)
from sparse_deploy.graph.model_file import load_onnx, save_onnx
from sparse_deploy.graph.name_weights import NameWeights
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.weights import parameter_count, zero_masks

MAX_TOKENS = 48


def tiny(model_class: type[PreTrainedModel], **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=MAX_TOKENS, initializer_range=0.3, **changes,
    )  # fmt: skip
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter[torch.rand_like(parameter) < 0.6] = 0
            else:  # no two biases alike
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def export(model: PreTrainedModel, kind: str, opset: int = 20) -> ir.Model:
    names = output_names(kind)
    graph = to_onnx(ExportableModel(model, names).eval(), example_inputs(), names, opset)
    return run_passes(graph, NameWeights({name: value.numpy() for name, value in model.state_dict().items()}))


def inputs(batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = [tokens, *random.integers(1, tokens + 1, size=batch - 1)]
    mask = (np.arange(tokens) < np.array(lengths)[:, None]).astype(np.int64)
    types = (np.arange(tokens) > tokens // 2).astype(np.int64) * mask
    return dict(zip(MODEL_INPUTS, (random.integers(1, 120, (batch, tokens)) * mask, mask, types), strict=True))


@pytest.fixture(scope="module", params=["text-classification", "question-answering"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    kind = request.param
    model = tiny(BertForQuestionAnswering) if "question" in kind else tiny(BertForSequenceClassification, num_labels=3)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    save_onnx(export(model, kind), path)
    return model, output_names(kind), path


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, MAX_TOKENS), (5, 2), (2, 7), (3, 31)])
def test_answers_like_pytorch_at_every_shape(exported, batch: int, tokens: int) -> None:
    model, names, path = exported
    batch_inputs = inputs(batch, tokens)
    with torch.no_grad():
        reference = model(**{name: torch.from_numpy(array) for name, array in batch_inputs.items()})
    session = onnxruntime.InferenceSession(path)
    assert [node.name for node in session.get_outputs()] == list(names)
    for name, found in zip(names, session.run(list(names), batch_inputs), strict=True):
        np.testing.assert_allclose(found, reference[name].numpy(), atol=2e-5)


def test_padding_changes_nothing(exported) -> None:
    _, names, path = exported
    session = onnxruntime.InferenceSession(path)
    short = inputs(1, 9)
    padded = {name: np.pad(array, ((0, 0), (0, 20))) for name, array in short.items()}
    padded["input_ids"][:, 9:] = 77  # any values
    for alone, with_padding in zip(session.run(None, short), session.run(None, padded), strict=True):
        width = 9 if len(names) == 2 else None
        np.testing.assert_allclose(with_padding[:, :width], alone, atol=1e-5)


def test_interface_names_zeros_and_no_traces_of_this_machine(exported) -> None:
    model, _, path = exported
    graph = load_onnx(path)
    assert [(value.name, [str(d) for d in value.shape]) for value in graph.graph.inputs] == [
        (name, ["batch", "sequence"]) for name in MODEL_INPUTS
    ]
    expected = {n: p.detach().numpy() == 0 for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}
    found = zero_masks(graph)
    assert sorted(found) == sorted(expected)
    assert all((found[name] == expected[name]).all() for name in expected)
    assert parameter_count(graph) == sum(parameter.numel() for parameter in model.parameters())
    assert b"site-packages" not in path.read_bytes()


def test_regression_has_one_logit() -> None:
    graph = export(tiny(BertForSequenceClassification, num_labels=1), "regression")
    assert [str(dimension) for dimension in graph.graph.outputs[0].shape] == ["batch", "1"]


@pytest.mark.parametrize("opset", [17, 23])
def test_opset_is_the_one_asked_for(opset: int) -> None:
    graph = export(tiny(BertForSequenceClassification), "text-classification", opset)
    assert graph.opset_imports[""] == opset


def test_export_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny(BertForSequenceClassification)
    capfd.readouterr()
    export(model, "text-classification")
    assert capfd.readouterr() == ("", "")


def test_failed_export_is_one_line() -> None:
    class Branching(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            return ids if int(ids.sum()) > 3 else mask

    with pytest.raises(ExportError, match="opset 20") as caught:
        to_onnx(Branching(), example_inputs(), ("logits",), 20)
    assert "\n" not in str(caught.value)
