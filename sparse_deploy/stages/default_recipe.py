# SPDX-License-Identifier: Apache-2.0
"""Default recipes, from the folder of a model and from the data."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_deploy.architectures import architecture_of
from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import load_manifest
from sparse_deploy.checkpoint import resolve_checkpoint
from sparse_deploy.config.loader import recipe_with_overrides
from sparse_deploy.config.schema import Recipe
from sparse_deploy.data.infer_kind import infer_kind
from sparse_deploy.data.tasks import KINDS, TaskKind
from sparse_deploy.data.tasks.pooling import sentence_length

# Users set data.max_length for longer inputs, because most inputs of long models have only a few hundred tokens.
_LONGEST_BY_DEFAULT = 512
# Without a limit, tokenizer_config.json has a number with 30 digits.
_LONGEST_MEANT = 1_000_000


def recipe_of_checkpoint(
    checkpoint: str, overrides: Sequence[str] = (), *, revision: str = "main", allow_pickle: bool = False
) -> Recipe:
    """The recipe for the export of a checkpoint: that of ``finetune``, else one from its ``config.json``.

    Args:
        checkpoint: folder, hub id, or ``package:NAME/PATH``.
        overrides: ``a.b=value`` texts.
        revision: revision on the hub.
        allow_pickle: accept a checkpoint without safetensors.

    Raises:
        ConfigError: no such checkpoint, unknown key, wrong value.
    """
    folder = resolve_checkpoint(checkpoint, revision, allow_pickle=allow_pickle).folder
    if (folder / MANIFEST_NAME).is_file():
        own = load_manifest(folder, "checkpoint").recipe
        return recipe_with_overrides(own, overrides, f"{checkpoint}: its recipe")
    recipe = recipe_with_overrides(
        {
            "name": name_of(checkpoint),
            "model": {"name_or_path": checkpoint, "revision": revision},
            "data": {"max_length": usual_length(folder)},
            "export": {"sparse": {"enabled": True}},
            "quantization": {"mode": "dynamic"},
        },
        overrides,
        checkpoint,
    )
    text = recipe.data.unlabelled or recipe.data.source
    if not text or any(override.startswith("quantization.mode=") for override in overrides):
        return recipe
    return recipe_with_overrides(recipe.model_dump(mode="json"), ["quantization.mode=static"], checkpoint)


def recipe_for_data(
    model: str, data: Mapping[str, Any], *, kind: TaskKind | None = None, name: str | None = None,
    overrides: Sequence[str] = (), allow_pickle: bool = False,
) -> Recipe:  # fmt: skip
    """A recipe to fine-tune a model on own data.

    Args:
        model: hub id, folder, or ``package:NAME/PATH``.
        data: the recipe's ``data`` section.
        kind: kind of task; None means that the data determine it.
        name: name of the recipe; None means a name from model and data.
        overrides: ``a.b=value`` texts.
        allow_pickle: accept a checkpoint without safetensors.

    Raises:
        ConfigError: no such model or data, or the data do not determine the task.
    """
    source = str(data["source"])
    folder = resolve_checkpoint(model, allow_pickle=allow_pickle).folder
    wanted: dict[str, Any] = {
        "name": name or f"{name_of(model)}-{name_of(source)}",
        "description": f"{model} on {source}",
        "model": {"name_or_path": model},
        "data": {"max_length": min(usual_length(folder), 128), **data},
        "export": {"sparse": {"enabled": True}},
    }
    recipe = recipe_with_overrides(wanted, overrides, "recipe")
    if isinstance(recipe.task, str) or (recipe.task is not None and recipe.task.type is not None):
        return recipe
    found = kind or infer_kind(recipe.data)
    wanted["task"] = {"type": found.value}
    if found is TaskKind.QUESTION_ANSWERING and "max_length" not in data:
        wanted["data"]["max_length"] = min(usual_length(folder), 384)
    wanted["goals"] = [
        {
            "metric": KINDS[found].default_metrics[0],
            "type": "max-degradation",
            "value": 0.01 * KINDS[found].known_metrics[KINDS[found].default_metrics[0]].best,
            "precisions": ["int8"],
        }
    ]
    return recipe_with_overrides(wanted, overrides, "recipe")


def usual_length(folder: Path) -> int:
    """Usual number of input tokens: the limit in its tokenizer or sentence-transformers files, 512 at most.

    Args:
        folder: folder of the model.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    usable = architecture_of(config).usable_length(config)
    named = [sentence_length(folder) or _tokenizer_length(folder), usable, _LONGEST_BY_DEFAULT]
    return max(min(length for length in named if length is not None), 8)


def name_of(path: str) -> str:
    """A name for folders, by the last part of a path or hub id."""
    last = [part for part in re.split(r"[/:]", path) if part not in ("", ".", "..")][-1]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", last.split(".")[0]).strip("-") or "model"


def _tokenizer_length(folder: Path) -> int | None:
    try:
        length = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("model_max_length")
    except (OSError, ValueError, AttributeError):
        return None
    return int(length) if isinstance(length, int | float) and 0 < length < _LONGEST_MEANT else None
