# SPDX-License-Identifier: Apache-2.0
"""The last step of an export: the manifest of a deployment, and its signature."""

from pathlib import Path
from typing import Any

from sparse_deploy.artifacts import Manifest, Source, seal
from sparse_deploy.config.schema import Recipe
from sparse_deploy.data.tasks import Task
from sparse_deploy.signing import sign
from sparse_deploy.sparsity.statistics import SparsityRecord


def seal_deployment(
    staging: Path,
    task: Task,
    source: Source,
    recipe: Recipe,
    *,
    sparsity: dict[str, SparsityRecord],
    details: dict[str, Any],
    signer: Any = None,
) -> Manifest:
    """Write the manifest of a staged deployment, and sign the folder.

    Args:
        staging: the folder, with all other files.
        task: task of the model.
        source: the source model of the files.
        recipe: the settings of the export.
        sparsity: sparsity record by file.
        details: further entries about the export.
        signer: result of :func:`sparse_deploy.signing.open_signer`; None means no signature.

    Returns:
        The written manifest.
    """
    manifest = Manifest(
        kind="deployment",
        task=task.name,
        source=source,
        recipe=recipe.model_dump(mode="json"),
        sparsity=sparsity,
        details=details,
    )
    sealed = seal(staging, manifest)
    if signer is not None:
        sign(staging, signer)
    return sealed
