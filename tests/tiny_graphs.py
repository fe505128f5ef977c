# SPDX-License-Identifier: Apache-2.0
"""Small encoders of several architectures, exported by the project's own exporter, for the tests of graph passes."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from sparse_deploy.graph.fold_weight_quantization import FoldWeightQuantization
from sparse_deploy.graph.name_weights import NameWeights
from sparse_deploy.graph.sparsity_check import run_passes
from sparse_deploy.graph.transpose_weights import TransposeWeights

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
DISTILBERT_SIZES = {
    "vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64,
    "initializer_range": 0.2,
}  # fmt: skip
ARCHITECTURES = ("bert", "bert-qa", "bert-three-heads", "roberta", "distilbert", "electra")


def make_model(name: str, zeros: float = 0.7) -> Any:
    """A model with random weights; the given share of each encoder matrix is zero."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    model = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES)),
        "bert-qa": lambda: t.BertForQuestionAnswering(t.BertConfig(**SIZES)),
        "bert-three-heads": lambda: t.BertForSequenceClassification(
            t.BertConfig(**SIZES | {"hidden_size": 48, "num_attention_heads": 3, "hidden_act": "gelu_new"})
        ),
        "bert-silu": lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES | {"hidden_act": "silu"})),
        "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**SIZES)),
        "distilbert": lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(**DISTILBERT_SIZES)),
        "electra": lambda: t.ElectraForSequenceClassification(t.ElectraConfig(**SIZES, embedding_size=16)),
        "albert": lambda: t.AlbertForSequenceClassification(t.AlbertConfig(**SIZES, embedding_size=16)),
        "mpnet": lambda: t.MPNetForSequenceClassification(t.MPNetConfig(**SIZES)),
    }[name]()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 2 and any(part in parameter_name for part in ("encoder.", ".layer.", "albert_layer")):
                parameter[torch.rand_like(parameter) < zeros] = 0
            elif parameter.ndim == 1 and "bias" in parameter_name:
                parameter.normal_(0, 0.1)
    return model.eval()


def exported(name: str, *, opset: int = 20, int8: bool = False) -> ir.Model:
    """``model.onnx`` or a static ``model_int8.onnx`` of the export stage; a new copy in each call."""
    return ir.from_proto(onnx.ModelProto.FromString(_exported(name, opset, int8)))


@cache
def _exported(name: str, opset: int, int8: bool) -> bytes:
    from sparse_deploy.export.exporter import ExportableModel, example_inputs, quiet, to_onnx

    model = make_model(name)
    outputs = ("start_logits", "end_logits") if name.endswith("-qa") else ("logits",)
    module: Any = ExportableModel(model, outputs).eval()
    traced = example_inputs(module.input_names)
    parameters = {key: value.numpy() for key, value in model.state_dict().items()}
    if int8:
        with quiet():
            from sparse_deploy.config.schema import QuantizationSection
            from sparse_deploy.quantization.neural_compressor import quantize_static
        module = quantize_static(module, [inputs(4, tokens, padded=False) for tokens in (5, 9, 12)],
                                 QuantizationSection())  # fmt: skip
    graph = to_onnx(module, traced, outputs, opset)
    run_passes(graph, NameWeights(parameters))
    passes = (FoldWeightQuantization(), TransposeWeights()) if int8 else (TransposeWeights(),)
    return ir.to_proto(run_passes(graph, *passes)).SerializeToString()


def inputs(batch: int, tokens: int, *, padded: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids; with padding in every row except the first."""
    mask = np.ones((batch, tokens), np.int64)
    if padded:
        for row in range(1, batch):
            mask[row, max(1, tokens - 2 * row) :] = 0
    ids = np.random.default_rng(seed).integers(3, 100, (batch, tokens)).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros((batch, tokens), np.int64)}


def kept(outputs: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """All logits in one row; logits of padding tokens are left out."""
    tokens = batch["attention_mask"].astype(bool)
    return np.concatenate([np.asarray(array)[tokens] if len(outputs) == 2 else np.ravel(array) for array in outputs])
