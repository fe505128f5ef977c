# SPDX-License-Identifier: Apache-2.0
"""Writes a tiny deployment with the runtimes' own exporters, so that bench is tested independently of the export stage.

Weights have the checkpoint's names, by which the zeros are checked.
"""

import tempfile
from pathlib import Path
from typing import Any

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import Manifest, Source, seal
from sparse_deploy.checkpoint import parameter_count, zero_masks
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.sparsity.statistics import record_masks

MODEL_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
MODEL_FILES = (
    "model.safetensors", "model.onnx", "model_int8.onnx", "openvino_model.xml", "openvino_model_int8.xml",
    "model_sparse.onnx",
)  # fmt: skip

# 40 rows and short blocks: bench takes seconds.
BENCH_RECIPE: dict[str, Any] = {
    "name": "tiny",
    "task": "demo",
    "model": {"name_or_path": "tiny"},
    "data": {"max_length": 32, "validation_samples": 40},
    "bench": {"blocks": 2, "block_seconds": 0.05, "warmup_seconds": 0.2, "throughput_batch_size": 8, "threads": 1},
}


def write_models(
    folder: Path, encoder: Path, *, question_answering: bool = False, labels: int = 2, sparse_ir: bool = False
) -> None:
    """Write a model with a random head on ``encoder``: safetensors, ONNX and IR, FP32 and dynamic INT8, sparse ONNX.

    ``sparse_ir`` adds the IR of the sparse model, which needs OpenVINO's extension.
    """
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    if question_answering:
        model = AutoModelForQuestionAnswering.from_pretrained(encoder).eval()
        outputs = ["start_logits", "end_logits"]
    else:
        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=labels).eval()
        outputs = ["logits"]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    export_onnx(model, outputs, folder / "model.onnx")
    name_weights(folder / "model.onnx", {name: value.numpy() for name, value in model.state_dict().items()})
    quantize(folder / "model.onnx", folder / "model_int8.onnx")
    convert(folder)
    make_sparse(folder / "model.onnx", folder / "model_sparse.onnx")
    if sparse_ir:
        make_sparse_ir(folder)


def export_onnx(model: Any, outputs: list[str], path: Path) -> None:
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            return tuple(result[name] for name in outputs)

    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in MODEL_INPUTS)
    dynamic = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in MODEL_INPUTS)
    torch.onnx.export(
        Positional().eval(), example, path, dynamo=True, input_names=MODEL_INPUTS, output_names=outputs,
        dynamic_shapes=dynamic, external_data=False, opset_version=20, verbose=False,
    )  # fmt: skip


def name_weights(path: Path, parameters: dict[str, Any]) -> None:
    from sparse_deploy.graph.model_file import load_onnx, save_onnx
    from sparse_deploy.graph.name_weights import NameWeights
    from sparse_deploy.graph.sparsity_check import run_passes
    from sparse_deploy.graph.transpose_weights import TransposeWeights

    save_onnx(run_passes(load_onnx(path), NameWeights(parameters), TransposeWeights()), path)


def quantize(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # The exporter leaves outdated value infos of transposed tensors, with which the quantizer's shape inference fails.
    model.graph.ClearField("value_info")
    quantize_dynamic(model, target, weight_type=QuantType.QInt8)


def convert(folder: Path) -> None:
    from sparse_deploy.export.openvino import convert_to_ir
    from sparse_deploy.graph.compress_weights import CompressWeights
    from sparse_deploy.graph.model_file import load_onnx, save_onnx
    from sparse_deploy.graph.weights import read_weights

    convert_to_ir(folder / "model.onnx", folder / "openvino_model.xml")
    graph = load_onnx(folder / "model.onnx")
    quantized = [w for w in read_weights(load_onnx(folder / "model_int8.onnx")) if "encoder" in w.name]
    CompressWeights(quantized)(graph)
    with tempfile.TemporaryDirectory() as scratch:
        save_onnx(graph, Path(scratch, "compressed.onnx"))
        convert_to_ir(Path(scratch, "compressed.onnx"), folder / "openvino_model_int8.xml")


def make_sparse(source: Path, target: Path) -> None:
    from sparse_deploy.graph.model_file import load_onnx, save_onnx
    from sparse_deploy.graph.sparse_model import to_sparse_model

    found = to_sparse_model(load_onnx(source))
    assert len(found.layers) == 2
    save_onnx(found.model, target)


def make_sparse_ir(folder: Path) -> None:
    from sparse_deploy.runtimes import get_runtime
    from sparse_deploy.stages.sparse_target import write_sparse_ir

    if get_runtime("openvino-sparse").available():
        write_sparse_ir(folder)


def seal_deployment(folder: Path, recipe: dict[str, Any]) -> None:
    """Write a new manifest; every model file has the sparsity record of the checkpoint."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    masks = zero_masks(folder, DEFAULT_EXCLUDE)
    record = record_masks(masks, model_parameters=parameter_count(folder))
    present = [name for name in MODEL_FILES if (folder / name).is_file()]
    seal(
        folder,
        Manifest(
            kind="deployment",
            task=recipe["task"],
            source=Source(name_or_path="tiny"),
            recipe=recipe,
            sparsity=dict.fromkeys(present, record),
        ),
    )
