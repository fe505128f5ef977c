# SPDX-License-Identifier: Apache-2.0
"""Whether a deployment's parts fit each other, checked before anything takes memory by their numbers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_deploy.architectures import architecture_of
from sparse_deploy.artifacts import Manifest
from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.tasks import MODEL_INPUTS, Task, TaskKind, get_task
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.runtimes import Session
from sparse_deploy.serving.settings import NAME_PATTERN

# Of a model whose config.json does not say how many tokens it reads.
_LONGEST_UNKNOWN = 8192


def served_name(manifest: Manifest, chosen: str | None, folder: Path) -> str:
    """The model's name in URLs.

    Raises:
        ArtifactError: the recipe's name can't be a part of one.
    """
    name = chosen or str(manifest.recipe.get("name") or "model")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ArtifactError(
            f"{folder}: the recipe's name {ascii(name)[:80]} can't be part of a URL (expected letters, digits, dots, "
            f"underscores, dashes); pass --name"
        )
    return name


def served_task(manifest: Manifest, folder: Path) -> Task:
    """The task that the manifest names.

    Raises:
        ArtifactError: there is none of that name.
    """
    try:
        return get_task(manifest.task)
    except ConfigError as error:
        raise ArtifactError(f"{folder}: the manifest has an {error}; export again") from error


def check_lengths(data: DataSection, config: dict[str, Any], folder: Path) -> int:
    """The most tokens that the model reads.

    Raises:
        ArtifactError: texts are to be longer than that, or the config has no size of the vocabulary.
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


def check_answers(session: Session, kind: TaskKind, labels: tuple[str, ...], name: str) -> None:
    """Compute two rows, and compare what comes with the task and its labels.

    Raises:
        ArtifactError: a row is missing, or the model has another head.
    """
    rows, tokens = 2, 8
    shapes = [output.shape for output in session.run(ones(rows, tokens))]
    wanted = {
        TaskKind.QUESTION_ANSWERING: [(rows, tokens)] * 2,
        TaskKind.REGRESSION: [(rows, 1)],
        TaskKind.CLASSIFICATION: [(rows, len(labels))],
    }[kind]
    if shapes != wanted:
        expected, found = ([list(shape) for shape in one] for one in (wanted, shapes))
        raise ArtifactError(
            f"{name}: {kind.value} with {len(labels)} labels in id2label answers {rows} texts with shapes {expected}, "
            f"this model with {found}; export again"
        )


def ones(rows: int, tokens: int) -> dict[str, NDArray[np.int64]]:
    """A batch without padding for any model."""
    ids = np.ones((rows, tokens), dtype=np.int64)
    return {name: ids if name != "token_type_ids" else ids * 0 for name in MODEL_INPUTS}
