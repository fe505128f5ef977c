# SPDX-License-Identifier: Apache-2.0
"""Speed of model_sparse.onnx against ONNX Runtime's dense INT8, for shapes of other families than BERT.

    python benchmarks/architecture_speed.py --prepare     # random models with 70 % zeros, exported into runs
    python benchmarks/architecture_speed.py               # blocks of both in turns, in one process; a table in Markdown

The baseline is dynamic INT8 of ONNX Runtime's own quantizer, per channel, from the same FP32 file.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "runs" / "architecture-speed"
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "distilroberta-base": (
        "roberta", {"num_hidden_layers": 6, "max_position_embeddings": 514, "type_vocab_size": 1, "vocab_size": 2000},
    ),
    "deberta-v3-small": (
        "deberta-v2",
        {
            "num_hidden_layers": 6, "vocab_size": 2000, "relative_attention": True, "position_buckets": 256,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False, "type_vocab_size": 0, "hidden_size": 768, "intermediate_size": 3072,
            "num_attention_heads": 12,
        },
    ),
    "ModernBERT-base": (
        "modernbert",
        {"vocab_size": 2000, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2,
         "eos_token_id": 3},
    ),
}  # fmt: skip
ZEROS = 0.7
BATCHES = ((1, 16), (1, 128), (1, 384), (8, 128))
BLOCKS = 9


def main() -> None:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="write the models")
    parser.add_argument("models", nargs="*", choices=[*SHAPES, []], help="all when none is named")
    options = parser.parse_args()
    names = options.models or list(SHAPES)
    if options.prepare:
        for name in names:
            prepare(name, FOLDER / name)
        return
    print("| shape | layers as operators | " + " | ".join(f"{rows} x {tokens}" for rows, tokens in BATCHES) + " |")
    print("|---|---|" + "---|" * len(BATCHES))
    for name in names:
        print(measure(FOLDER / name), flush=True)


def prepare(name: str, folder: Path) -> None:
    """Random weights with zeros; FP32, dynamic INT8 and sparse."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from sparse_deploy.architectures import dense_parts
    from sparse_deploy.export.exporter import ExportableModel, example_inputs, to_onnx
    from sparse_deploy.graph.model_file import save_onnx
    from sparse_deploy.graph.name_weights import NameWeights
    from sparse_deploy.graph.sparse_model import to_sparse_model
    from sparse_deploy.graph.sparsity_check import run_passes
    from sparse_deploy.graph.transpose_weights import TransposeWeights
    from sparse_deploy.sparsity.statistics import prunable_names

    folder.mkdir(parents=True, exist_ok=True)
    model_type, sizes = SHAPES[name]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(model_type, **sizes), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        weights = {key: value for key, value in model.named_parameters() if value.ndim == 2}
        for key in prunable_names(weights, dense_parts()):
            weights[key][torch.rand_like(weights[key]) < ZEROS] = 0
    module = ExportableModel(model, ("logits",)).eval()
    graph = to_onnx(module, example_inputs(module.input_names), ("logits",), 20)
    run_passes(graph, NameWeights({k: v.numpy() for k, v in model.state_dict().items()}), TransposeWeights())
    save_onnx(graph, folder / "model.onnx")
    quantize_dynamic(folder / "model.onnx", folder / "model_int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    found = to_sparse_model(graph)
    save_onnx(found.model, folder / "model_sparse.onnx")
    layers = model.config.num_hidden_layers
    (folder / "layers.txt").write_text(f"{len(found.layers)} of {layers}")
    print(f"{name}: {len(found.layers)} of {layers} layers, {len(found.linears)} SparseLinear")


def measure(folder: Path) -> str:
    """A row of the table: milliseconds of baseline and operators, and the ratio of paired blocks' medians."""
    import onnxruntime

    from sparse_deploy.runtimes import sparse_session

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    dense = onnxruntime.InferenceSession(folder / "model_int8.onnx", options, providers=["CPUExecutionProvider"])
    sparse = sparse_session(folder / "model_sparse.onnx", options)
    cells = []
    for rows, tokens in BATCHES:
        ids = np.random.default_rng(0).integers(4, 2000, (rows, tokens))
        every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        times: dict[str, list[float]] = {"dense": [], "sparse": []}
        for _ in range(BLOCKS):
            for name, session in (("dense", dense), ("sparse", sparse)):
                inputs = {one.name: every[one.name] for one in session.get_inputs()}
                session.run(None, inputs)
                best = min(_seconds(session, inputs) for _ in range(4))
                times[name].append(best * 1e3)
        ratios = np.array(times["dense"]) / np.array(times["sparse"])
        cells.append(
            f"{np.median(times['dense']):.1f} / {np.median(times['sparse']):.1f} ms = {np.median(ratios):.2f} "
            f"[{np.quantile(ratios, 0.1):.2f}, {np.quantile(ratios, 0.9):.2f}]"
        )
    return f"| {folder.name} | {(folder / 'layers.txt').read_text()} | " + " | ".join(cells) + " |"


def _seconds(session: Any, inputs: dict[str, Any]) -> float:
    begin = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
