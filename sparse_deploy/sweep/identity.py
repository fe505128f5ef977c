# SPDX-License-Identifier: Apache-2.0
"""The inputs of a cell, and its key: equal keys mean equal work, for any location of the files."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import load_manifest, package_versions
from sparse_deploy.checkpoint import resolve_checkpoint
from sparse_deploy.config.schema import Recipe
from sparse_deploy.data.loading import split_file
from sparse_deploy.data.tasks import get_task
from sparse_deploy.errors import DataError
from sparse_deploy.file_records import file_sha256

# Words for users; nothing is computed from them.
_WORDS = {"name", "description", "reference"}
# Keys that only finetune reads. `sparsity` is not one: export checks the required zeros.
_TRAINING = {"model", "distillation", "finetune"}
# Keys that only export and bench read; with finetune.qat the training also reads two keys of `quantization`.
_AFTER_TRAINING = {"export", "quantization", "bench", "gate", "goals"}
# Documentation and dot files that travel with a checkpoint are not read.
_CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")


def content_key(kind: str, content: dict[str, Any]) -> str:
    """The key of a piece of work: SHA-256 of all that its result depends on, as hexadecimal text."""
    text = json.dumps({"kind": kind, "versions": package_versions(), **content}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def training_content(recipe: Recipe, data: dict[str, str], fingerprint: Callable[[str, str], str]) -> dict[str, Any]:
    """The inputs of a fine-tuned checkpoint.

    Args:
        recipe: with the cell's settings.
        data: see :func:`data_identity`.
        fingerprint: :func:`checkpoint_sha256`, or a cache of it.
    """
    settings = recipe.model_dump(mode="json", exclude=_WORDS | _AFTER_TRAINING)
    settings["model"].pop("name_or_path")
    trained_for = recipe.quantization.model_dump(mode="json", include={"mode", "exclude", "target_cpu"})
    teacher = recipe.distillation
    if teacher:
        settings["distillation"].pop("teacher")
    return {
        "recipe": settings,
        "int8": trained_for if recipe.finetune.qat else None,
        "source": fingerprint(recipe.model.name_or_path, recipe.model.revision),
        "teacher": fingerprint(teacher.teacher, teacher.teacher_revision) if teacher else None,
        "data": data,
    }


def cell_content(recipe: Recipe, checkpoint: str, data: dict[str, str], bench: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a deployment and its report.

    Args:
        recipe: with the cell's settings.
        checkpoint: fingerprint of the checkpoint, or the key of the training that makes it.
        data: see :func:`data_identity`.
        bench: options of the measurement.
    """
    settings = recipe.model_dump(mode="json", exclude=_WORDS | _TRAINING)
    return {"recipe": settings, "checkpoint": checkpoint, "data": data, "bench": bench}


def checkpoint_sha256(name_or_path: str, revision: str = "main") -> str:
    """Fingerprint of a checkpoint: its manifest's files, or all files that a model is read from.

    Raises:
        ConfigError: no such checkpoint.
        CheckpointError: incomplete or unsafe.
        ArtifactError: it differs from its manifest.
    """
    folder = resolve_checkpoint(name_or_path, revision).folder
    if (folder / MANIFEST_NAME).is_file():
        files = {record.path: record.sha256 for record in load_manifest(folder, verify=False).files}
    else:
        read = [path for path in folder.iterdir() if path.suffix in _CHECKPOINT_SUFFIXES and path.is_file()]
        files = {path.name: file_sha256(path) for path in read}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def data_identity(recipe: Recipe, data_dir: Path | None) -> dict[str, str]:
    """The text of a recipe: SHA-256 of each split's local file, or the name of the data set on the hub.

    A missing split is ``absent``; the stage that needs it raises the error.
    """
    if recipe.data.source or not isinstance(recipe.task, str):
        sources = (recipe.data.source, recipe.data.validation_source)
        return {name: _source_sha256(name) for name in sources if name}
    task = get_task(recipe.task)
    splits = (task.train_split, *task.validation_splits.values())
    if task.name == "demo" and (data_dir is None or not (data_dir / task.name).is_dir()):
        return dict.fromkeys(splits, "embedded")  # the package makes it, and its version is part of the key
    if data_dir is None:
        return dict.fromkeys(splits, f"hub:{task.hub_dataset}/{task.hub_config or ''}")
    return {split: _split_sha256(recipe.task, split, data_dir) for split in splits}


def _source_sha256(source: str) -> str:
    path = Path(source).expanduser()
    if path.is_file():
        return file_sha256(path)
    files = {str(one.relative_to(path)): file_sha256(one) for one in sorted(path.rglob("*")) if one.is_file()}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest() if files else f"hub:{source}"


def _split_sha256(task_name: str, split: str, data_dir: Path) -> str:
    try:
        return file_sha256(split_file(get_task(task_name), split, data_dir))
    except DataError:
        return "absent"
