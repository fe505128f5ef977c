# SPDX-License-Identifier: Apache-2.0
"""Consistency checks of a deployment, before memory is allocated by its numbers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.architectures import architecture_of
from sparse_deploy.artifacts import Manifest
from sparse_deploy.config.loader import recipe_from_mapping
from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.resolve import task_of
from sparse_deploy.data.tasks import MODEL_INPUTS, Task, TaskKind, get_task
from sparse_deploy.errors import ArtifactError, CheckpointError, ConfigError
from sparse_deploy.runtimes import Session
from sparse_deploy.serving.settings import NAME_PATTERN

# Limit of tokens for a model whose config.json has none.
_LONGEST_UNKNOWN = 8192


def served_name(manifest: Manifest, chosen: str | None, folder: Path) -> str:
    """The model's name in URLs.

    Raises:
        ArtifactError: the recipe's name can't be part of a URL.
    """
    name = chosen or str(manifest.recipe.get("name") or "model")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ArtifactError(
            f"{folder}: the recipe's name {ascii(name)[:80]} can't be part of a URL (expected letters, digits, dots, "
            f"underscores, dashes); pass --name"
        )
    return name


def served_task(manifest: Manifest, folder: Path) -> Task:
    """The task of the manifest's recipe, or of the model's config if the recipe has none.

    Names in the data are irrelevant for a server, and are not checked.

    Raises:
        ArtifactError: there is no task, or the model has another task.
    """
    wanted = manifest.recipe.get("task", manifest.task)
    try:
        if isinstance(wanted, str):
            return get_task(wanted)
        return task_of(recipe_from_mapping({"task": wanted}, "recipe"), folder)
    except (ConfigError, CheckpointError) as error:
        raise ArtifactError(f"{folder}: the manifest has an {error}; export again") from error


def texts_needed(manifest: Manifest, task: Task) -> int:
    """Required number of texts per row of a request: that of the training rows."""
    columns = (manifest.recipe.get("data") or {}).get("text_columns") or task.text_columns
    return 1 if task.kind is TaskKind.EMBEDDING else len(columns)


def check_lengths(data: DataSection, config: dict[str, Any], folder: Path) -> int:
    """Largest number of input tokens of the model.

    Raises:
        ArtifactError: the recipe's length is larger, or the config has no vocabulary size.
    """
    longest = architecture_of(config).usable_length(config) or _LONGEST_UNKNOWN
    if data.max_length > longest:
        raise ArtifactError(
            f"{folder}: the recipe's data.max_length is {data.max_length}, the model reads at most {longest} tokens; "
            f"export again with a smaller one"
        )
    if config.get("vocab_size") is None:
        raise ArtifactError(f"{folder / 'config.json'}: expected vocab_size; export again")
    return longest


def check_answers(session: Session, task: Task, labels: tuple[str, ...], name: str) -> None:
    """Compute two rows, and compare the outputs with the task and its labels.

    Raises:
        ArtifactError: a row is missing, or the model has a different head.
    """
    rows, tokens = 2, 8
    shapes = [output.shape for output in session.run(ones(rows, tokens))]
    width = shapes[0][-1]
    wanted = [
        (rows, *(tokens if size == -1 else size for size in shape)) for shape in task.output_shapes(len(labels), width)
    ]
    if shapes != wanted:
        expected, found = ([list(shape) for shape in one] for one in (wanted, shapes))
        raise ArtifactError(
            f"{name}: {task.kind.value} with {len(labels)} labels in id2label needs, for {rows} texts, the shapes "
            f"{expected}, this model returns {found}; export again"
        )


def ones(rows: int, tokens: int) -> dict[str, NDArray[np.int64]]:
    """A batch without padding, valid for any model."""
    ids = np.ones((rows, tokens), dtype=np.int64)
    return {name: ids if name != "token_type_ids" else ids * 0 for name in MODEL_INPUTS}
