# SPDX-License-Identifier: Apache-2.0
"""Measurements of ``post_training.py`` on all-MiniLM-L6-v2 as a sentence encoder, and of the time for a bert-base."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from post_training_common import ENCODER, ROOT, SAMPLES, Options, Pattern, key_of, pruned, rows_of, text_file

# llm-compressor reads one text at a time, which takes long; one cell of this project uses the same number.
PEER_SAMPLES = 256


def sentence_cell(
    options: Options,
    pattern: Pattern | None,
    method: str = "second-order",
    *,
    recover: bool = False,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Spearman of the sentence encoder, dense or pruned."""
    from sparse_deploy.checkpoint import resolve_checkpoint

    folder = resolve_checkpoint(ENCODER).folder
    facts: dict[str, Any] = {}
    if pattern is not None:
        folder, facts = pruned(options, ENCODER, pattern, method, "stsb", recover=recover, samples=samples)
    return {"spearman": sentence_spearman(folder, options.data), **facts}


def speed_cell(options: Options, pattern: Pattern) -> dict[str, Any]:
    """Zero shares chosen by sensitivity, at the predicted speed of an equal share in all matrices."""
    from sparse_deploy.checkpoint import resolve_checkpoint, zero_masks
    from sparse_deploy.config.schema import DEFAULT_EXCLUDE
    from sparse_deploy.pruning.kernel_costs import kernel_cost
    from sparse_deploy.sparsity.pattern import SparsityPattern

    name, target = pattern
    shapes = [mask.shape for mask in zero_masks(resolve_checkpoint(ENCODER).folder, DEFAULT_EXCLUDE).values()]
    weights = [rows * columns for rows, columns in shapes]
    times = [
        size * kernel_cost(shape, SparsityPattern.parse(name), target or 0.5)
        for size, shape in zip(weights, shapes, strict=True)
    ]
    speed = round(sum(weights) / sum(times), 3)
    folder, facts = pruned(options, ENCODER, pattern, "second-order", "stsb", speed=speed)
    details = json.loads((folder / "manifest.json").read_text())["details"]
    zeros = sum(
        details["shares"].get(tensor, 0.0) * size
        for tensor, size in zip(zero_masks(folder, DEFAULT_EXCLUDE), weights, strict=True)
    )
    return {
        "spearman": sentence_spearman(folder, options.data),
        **facts,
        "speed": speed,
        "zeros": round(zeros / sum(weights), 4),
        "shares": sorted({round(share, 2) for share in details["shares"].values()}),
    }


def peer_cell(options: Options, pattern: Pattern, method: str) -> dict[str, Any]:
    """The same model and text pruned by llm-compressor, with the same scoring."""
    from sparse_deploy.checkpoint import resolve_checkpoint

    if options.peer is None:
        raise SystemExit("the cells of llm-compressor need --peer, the folder of its environment")
    output = options.work / f"peer-{method}-{key_of(pattern)}"
    command = [
        options.peer / "bin" / "python", "-P", ROOT / "studies" / "post_training_peer.py",
        resolve_checkpoint(ENCODER).folder, text_file(options, "stsb"), output, "--pattern", pattern[0],
        "--method", method, "--samples", PEER_SAMPLES,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=environment)
    return {"spearman": sentence_spearman(output, options.data), **json.loads(done.stdout.strip().splitlines()[-1])}


def rounding_cell(options: Options, pattern: Pattern) -> dict[str, Any]:
    """Static INT8 of the pruned encoder, with weights rounded to the nearest integer or with error compensation."""
    import torch

    from sparse_deploy.config.schema import QuantizationSection
    from sparse_deploy.data.features import load_tokenizer
    from sparse_deploy.data.tasks.base import features_of
    from sparse_deploy.data.unlabelled import read_texts
    from sparse_deploy.export.exporter import ExportableModel
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.pruning.answers import mean_embedding
    from sparse_deploy.quantization.calibration import calibration_batches
    from sparse_deploy.quantization.neural_compressor import quantize_static

    folder, _ = pruned(options, ENCODER, pattern, "second-order", "stsb")
    model, tokenizer = load_as_saved(folder), load_tokenizer(folder)
    model.set_attn_implementation("eager")
    exportable = ExportableModel(model, ["last_hidden_state"]).eval()
    texts = [row[0] for row in read_texts(str(text_file(options, "stsb")), limit=128, seed=1).rows]
    features = features_of(tokenizer(texts, truncation=True, max_length=64, return_token_type_ids=True))
    found: dict[str, Any] = {"spearman": sentence_spearman(folder, options.data)}
    for rounding in ("nearest", "compensated"):
        settings = QuantizationSection.model_validate(
            {"weight_rounding": rounding, "calibration_samples": len(texts), "target_cpu": "vnni"}
        )
        graph = quantize_static(exportable, calibration_batches(features, settings), settings)

        def answer(batch: Any, quantized: Any = graph) -> Any:
            with torch.inference_mode():
                states = quantized(*(batch[name] for name in exportable.input_names))
            return mean_embedding(states[0] if isinstance(states, tuple) else states, batch["attention_mask"])

        distances: list[float] = []

        def watched(batch: Any, answer: Any = answer, distances: list[float] = distances) -> Any:
            embeddings = answer(batch)
            with torch.inference_mode():
                exact = mean_embedding(model(**batch).last_hidden_state, batch["attention_mask"])
            distances.extend((1 - torch.nn.functional.cosine_similarity(embeddings, exact)).tolist())
            return embeddings

        found[rounding] = {
            "spearman": sentence_spearman(folder, options.data, watched),
            "distance": sum(distances) / len(distances),
        }
    return found


def int8_cell(options: Options, pattern: Pattern) -> dict[str, Any]:
    """Spearman of the pruned encoder as ``model_sparse.onnx``: INT8 with the sparse operators."""
    import torch

    from sparse_deploy.export.exporter import ExportableModel, example_inputs, to_onnx
    from sparse_deploy.graph.model_file import save_onnx
    from sparse_deploy.graph.name_weights import NameWeights
    from sparse_deploy.graph.sparse_model import to_sparse_model
    from sparse_deploy.graph.sparsity_check import run_passes
    from sparse_deploy.graph.transpose_weights import TransposeWeights
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.pruning.answers import mean_embedding
    from sparse_deploy.runtimes.sparse import sparse_session

    folder, _ = pruned(options, ENCODER, pattern, "second-order", "stsb")
    model = load_as_saved(folder)
    model.set_attn_implementation("eager")
    exportable = ExportableModel(model, ["last_hidden_state"]).eval()
    graph = to_onnx(exportable, example_inputs(exportable.input_names), ["last_hidden_state"], 20)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    sparse = to_sparse_model(run_passes(graph, NameWeights(weights), TransposeWeights()))
    path = options.work / f"stsb-{key_of(pattern)}-sparse.onnx"
    save_onnx(sparse.model, path)
    session = sparse_session(path)

    def answer(batch: Any) -> Any:
        (states,) = session.run(None, {name: batch[name].numpy() for name in exportable.input_names})
        return mean_embedding(torch.from_numpy(states), batch["attention_mask"])

    return {
        "spearman": sentence_spearman(folder, options.data, answer),
        "layers": len(sparse.layers),
        "file_bytes": path.stat().st_size,
    }


def sentence_spearman(folder: Path, data: Path, answer: Callable[[Any], Any] | None = None) -> float:
    """Spearman (in points) of mean-pooled cosines and the scores of STS-B's validation rows.

    Args:
        folder: the checkpoint, or its tokenizer.
        data: folder of the rows.
        answer: computes embeddings from a padded batch; default: PyTorch on the checkpoint.
    """
    import torch
    from scipy.stats import spearmanr

    from sparse_deploy.data.features import load_tokenizer
    from sparse_deploy.modeling import load_as_saved
    from sparse_deploy.pruning.answers import answers_of
    from sparse_deploy.pruning.batches import token_batches

    rows = rows_of(data, "stsb", "validation")
    model, tokenizer = load_as_saved(folder), load_tokenizer(folder)
    sides = []
    for column in ("sentence1", "sentence2"):
        texts = [(row[column],) for row in rows]
        # token_batches uses a stable sort by length; the same order restores the rows' order.
        lengths = [len(ids) for ids in tokenizer([t[0] for t in texts], truncation=True, max_length=128)["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        batches = token_batches(texts, tokenizer, 128)
        found = torch.cat([answer(batch) for batch in batches] if answer else answers_of(model, batches))
        embeddings = torch.empty_like(found)
        embeddings[torch.tensor(order)] = found
        sides.append(embeddings)
    cosine = torch.nn.functional.cosine_similarity(sides[0], sides[1]).numpy()
    return round(100 * float(spearmanr(cosine, [row["label"] for row in rows]).statistic), 2)


def bert_base_cell(options: Options) -> dict[str, Any]:
    """Time and memory of 1:2 on a bert-base with random weights."""
    import torch
    from transformers import BertConfig, BertModel

    from sparse_deploy.checkpoint import resolve_checkpoint
    from sparse_deploy.data.features import load_tokenizer

    source = options.work / "bert-base-random"
    if not (source / "tokenizer.json").is_file():
        torch.manual_seed(0)
        BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(source)
        load_tokenizer(resolve_checkpoint(ENCODER).folder).save_pretrained(source)
    _, facts = pruned(options, str(source), ("1:2", None), "second-order", "stsb", again=True)
    return facts
