# SPDX-License-Identifier: Apache-2.0
"""``bench --baseline``: another model, such as the dense one, that is scored on the same rows in the same run."""

from pathlib import Path

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import load_manifest
from sparse_deploy.checkpoint import resolve_checkpoint
from sparse_deploy.config.schema import Recipe
from sparse_deploy.data.features import load_tokenizer, tokenizer_sha256
from sparse_deploy.data.resolve import task_of
from sparse_deploy.data.tasks import Task
from sparse_deploy.errors import ConfigError

CELL = "pytorch-fp32"


def open_baseline_model(name_or_path: str, recipe: Recipe, task: Task, deployment: Path) -> Path:
    """Find the baseline model of goals on a drop, and check that it has the same task and tokenizer.

    Args:
        name_or_path: a checkpoint (folder, hub id, ``package:NAME/PATH``) or a deployment, whose checkpoint counts.
        recipe: recipe of the run.
        task: task of the run.
        deployment: the measured deployment.

    Returns:
        The folder of its PyTorch checkpoint.

    Raises:
        CheckpointError, ArtifactError: the model is damaged or incomplete.
        ConfigError: the model is missing, or has another task or tokenizer.
    """
    local = Path(name_or_path).expanduser()
    if (local / MANIFEST_NAME).is_file():
        load_manifest(local)
    folder = resolve_checkpoint(name_or_path).folder
    other = task_of(recipe, folder)
    if (other.kind, other.model_labels or other.labels) != (task.kind, task.model_labels or task.labels):
        raise ConfigError(
            f"--baseline {name_or_path}: expected a model of {task.kind.value} with the labels {_labels(task)}, found "
            f"{other.kind.value} with {_labels(other)}; name the model that the deployment was made from"
        )
    theirs, ours = (tokenizer_sha256(load_tokenizer(path)) for path in (folder, deployment))
    if theirs != ours:
        raise ConfigError(
            f"--baseline {name_or_path}: its tokenizer is {theirs[:12]}, that of the deployment is {ours[:12]}, so the "
            f"two models read different tokens; name the model that the deployment was made from"
        )
    return folder


def baseline_cell_id(name_or_path: str) -> str:
    """The id of the baseline in verdicts: runtime and model."""
    return f"{CELL} of {Path(name_or_path).name}"


def _labels(task: Task) -> str:
    return ", ".join(task.model_labels or task.labels) or "none"
