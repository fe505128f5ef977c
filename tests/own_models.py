# SPDX-License-Identifier: Apache-2.0
"""Tiny user models with random heads, and their deployments without a recipe."""

import json
import shutil
from pathlib import Path
from typing import Any

from sparse_deploy.stages.default_recipe import recipe_of_checkpoint
from sparse_deploy.stages.export import export_deployment


def export_fp32(
    model: Path, output: Path, *overrides: str, openvino: bool = False, data_dir: Path | None = None
) -> Path:
    """Export FP32 files only, which takes a second without OpenVINO."""
    quick = (f"export.openvino={str(openvino).lower()}", "export.sparse.enabled=false", "quantization.mode=none")
    export_deployment(str(model), recipe_of_checkpoint(str(model), [*quick, *overrides]), output, data_dir=data_dir)
    return output


def save_sentence_encoder(encoder: Path, folder: Path) -> Path:
    """Save an encoder in the format of sentence-transformers: mean pooling, vectors of length one."""
    shutil.copytree(encoder, folder)
    (folder / "1_Pooling").mkdir()
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def save_classifier(encoder: Path, folder: Path, labels: list[str], **config: Any) -> Path:
    """Save an encoder with a random head for these labels."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(labels), id2label=dict(enumerate(labels)), **config
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def save_tagger(encoder: Path, folder: Path, labels: list[str]) -> Path:
    """Save a token classifier that predicts the second label for every word."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(
        encoder, num_labels=len(labels), id2label=dict(enumerate(labels))
    )
    model.classifier.bias.data[:] = 0
    model.classifier.bias.data[1] = 50
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder
