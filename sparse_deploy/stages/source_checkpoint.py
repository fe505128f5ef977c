# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that a deployment starts from: is it of the recipe's task, and its copy in the deployment."""

import json
import shutil
from pathlib import Path

from sparse_deploy.checkpoint import WEIGHTS_FILE, weight_files
from sparse_deploy.data.tasks import Task, TaskKind
from sparse_deploy.errors import ConfigError

_HEADS = {
    TaskKind.CLASSIFICATION: "ForSequenceClassification",
    TaskKind.REGRESSION: "ForSequenceClassification",
    TaskKind.QUESTION_ANSWERING: "ForQuestionAnswering",
}


def check_task(folder: Path, task: Task) -> None:
    """Check that a checkpoint is fine-tuned for a task, by its config.

    Raises:
        ConfigError: another head, or another number of labels.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = next(iter(config.get("architectures") or ["no architecture"]))
    if not str(architecture).endswith(_HEADS[task.kind]):
        raise ConfigError(
            f"{folder}: expected a model fine-tuned on {task.name} (...{_HEADS[task.kind]}), found {architecture!r}; "
            f"use another checkpoint or recipe, or fine-tune first: sparse-deploy finetune -c RECIPE"
        )
    labels = len(config.get("id2label") or {}) or config.get("num_labels", 2)
    if task.kind is not TaskKind.QUESTION_ANSWERING and labels != task.num_outputs:
        raise ConfigError(
            f"{folder}: expected {task.num_outputs} output(s) for {task.name}, found {labels}; use the checkpoint "
            f"with the recipe of its own task"
        )


def copy_model(source: Path, staging: Path, kind: TaskKind, *, allow_pickle: bool) -> None:
    """Put weights and config into the deployment: one safetensors file, whatever the source has."""
    if [path.name for path in weight_files(source, allow_pickle=allow_pickle)] == [WEIGHTS_FILE]:
        shutil.copyfile(source / WEIGHTS_FILE, staging / WEIGHTS_FILE)
        shutil.copyfile(source / "config.json", staging / "config.json")
        return
    from sparse_deploy.modeling import load_finetuned

    load_finetuned(source, kind, allow_pickle=allow_pickle).save_pretrained(staging, max_shard_size="100GB")
