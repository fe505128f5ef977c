# SPDX-License-Identifier: Apache-2.0
"""Resolves ``quantization.target_cpu: auto`` for this machine."""

from sparse_deploy.config.schema import Recipe
from sparse_deploy.machine import describe_machine


def with_target_cpu(recipe: Recipe) -> Recipe:
    """The recipe of finetune or export with ``auto`` replaced by the target CPU of this machine."""
    if recipe.quantization.target_cpu != "auto":
        return recipe
    chosen = "any" if describe_machine().saturates else "vnni"
    return recipe.model_copy(update={"quantization": recipe.quantization.model_copy(update={"target_cpu": chosen})})
