# SPDX-License-Identifier: Apache-2.0
"""Determines the task of a recipe and a model: from the recipe, then from the model, then from the data."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_deploy.data.labels import have_names, match_labels, model_labels, sorted_labels
from sparse_deploy.data.tasks import KINDS, Head, Pooling, Task, TaskKind, get_task
from sparse_deploy.data.tasks.pooling import read_pooling
from sparse_deploy.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from sparse_deploy.config.schema import DataSection, Recipe

_LABELLED = (TaskKind.CLASSIFICATION, TaskKind.MULTI_LABEL, TaskKind.TOKEN_CLASSIFICATION)
# Key of sentence-transformers in the config of a cross-encoder.
_CROSS_ENCODER_KEYS = ("sentence_transformers", "sbert_ce_default_activation_function")


def head_of(config: Mapping[str, Any]) -> Head | None:
    """The class of a model by the name of its architecture; None if it is not an encoder with a known head."""
    name = str(next(iter(config.get("architectures") or [""])))
    for head in (Head.SEQUENCE, Head.TOKEN, Head.QUESTION):
        if name.endswith(head.suffix):
            return head
    return Head.NONE if name.endswith("Model") else None


def kind_of_model(folder: Path, config: Mapping[str, Any], *, assume: TaskKind | None = None) -> TaskKind:
    """The task of a fine-tuned model, from its folder.

    Args:
        folder: folder of the model, with ``modules.json`` for a sentence encoder.
        config: content of its ``config.json``.
        assume: kind of an encoder without a head; None means that it is refused.

    Raises:
        CheckpointError: an encoder without a head, or an unsupported model.
    """
    if read_pooling(folder) is not None:
        return TaskKind.EMBEDDING
    problem = config.get("problem_type")
    labels = len(config.get("id2label") or {}) or int(config.get("num_labels") or 2)
    match head_of(config):
        case Head.TOKEN:
            return TaskKind.TOKEN_CLASSIFICATION
        case Head.QUESTION:
            return TaskKind.QUESTION_ANSWERING
        case Head.SEQUENCE if problem == "multi_label_classification" and labels > 1:
            return TaskKind.MULTI_LABEL
        case Head.SEQUENCE if labels == 1 and any(key in config for key in _CROSS_ENCODER_KEYS):
            return TaskKind.RANKING
        case Head.SEQUENCE if labels == 1 or problem == "regression":
            return TaskKind.REGRESSION
        case Head.SEQUENCE:
            return TaskKind.CLASSIFICATION
    if assume is not None and head_of(config) is Head.NONE:
        return assume
    found = ", ".join(config.get("architectures") or ["no architecture"])
    raise CheckpointError(
        f"{folder}: expected a fine-tuned model (...ForSequenceClassification, ...ForTokenClassification, "
        f"...ForQuestionAnswering) or a folder of sentence-transformers with modules.json, found {found}; fine-tune "
        f"first: sparse-deploy finetune --model {folder} --data FILE --label-column COLUMN; or name its task "
        f"with --task"
    )


def task_of(recipe: "Recipe", folder: Path) -> Task:
    """The task of a fine-tuned model under a recipe.

    Args:
        recipe: its ``task`` and ``data``.
        folder: folder of the model.

    Raises:
        ConfigError: the model's task differs from the recipe's, or its labels contradict the recipe's.
        CheckpointError: neither the recipe nor the model's config has a task.
    """
    config = _read_config(folder)
    kind = _kind_of_recipe(recipe) or kind_of_model(folder, config)
    task = describe(recipe, kind, folder)
    _check_head(task, config, folder)
    if kind not in _LABELLED:
        return task
    names = model_labels(config) or tuple(f"LABEL_{number}" for number in range(int(config.get("num_labels") or 2)))
    if not task.labels:
        return dataclasses.replace(task, labels=names)
    renamed = recipe.described_task.label_names if recipe.described_task else {}
    return task.with_model_labels(match_labels(task.labels, names, renamed, str(folder)))


def task_without_labels(recipe: "Recipe", folder: Path) -> Task | None:
    """The task of a model if ``data.source`` has no labels, else None.

    Pairs for a sentence encoder count as labelled, because they are scored by retrieval.

    Raises:
        SparseDeployError: as :func:`task_of`, or the data can't be read.
    """
    from sparse_deploy.data.own_data import source_table

    data = recipe.data
    if not data.source or data.label_column:
        return None
    no_data = data.model_copy(update={"source": None, "validation_source": None, "text_columns": ()})
    task = task_of(recipe.model_copy(update={"data": no_data}), folder)
    columns = set(source_table(data).columns())
    if task.target in columns:
        return None
    pairs = len(data.text_columns) == 2 or set(task.text_columns) <= columns
    return None if task.kind is TaskKind.EMBEDDING and pairs else task


def task_to_train(recipe: "Recipe", folder: Path) -> Task:
    """The task of a fine-tuning; the model may have the head of another task, or none.

    The labels are the recipe's, else the model's if they include all labels of the data, else the data's, sorted.

    Raises:
        ConfigError: the recipe has no task and the data no label column.
        DataError: the data has no labels.
    """
    config = _read_config(folder)
    kind = _kind_of_recipe(recipe)
    if kind is None:
        raise ConfigError(
            "finetune: expected a task; name one in the recipe or with --task, such as text-classification"
        )
    task = describe(recipe, kind, folder)
    if kind not in _LABELLED:
        return task
    own = model_labels(config) if head_of(config) is task.head else ()
    if not task.labels:
        found = labels_of_data(task, recipe.data)
        # The model's order, if the model has all labels of the data.
        known = own if have_names(own) and set(found) <= set(own) else sorted_labels(found)
        return dataclasses.replace(task, labels=known)
    if not have_names(own) or len(own) != len(task.labels):
        return task
    renamed = recipe.described_task.label_names if recipe.described_task else {}
    return task.with_model_labels(match_labels(task.labels, own, renamed, str(folder)))


def describe(recipe: "Recipe", kind: TaskKind, folder: Path) -> Task:
    """The task of a recipe, without the labels of the model.

    Args:
        recipe: its ``task`` and ``data``.
        kind: kind of its task, or of its model.
        folder: folder of the model, which has the pooling of a sentence encoder.

    Raises:
        ConfigError: unsuitable columns, or several possible ones.
    """
    section, data = recipe.described_task, recipe.data
    if isinstance(recipe.task, str):
        task = get_task(recipe.task)
        return dataclasses.replace(task, text_columns=data.text_columns) if data.text_columns else task
    settings: dict[str, Any] = {}
    if section is not None:
        settings |= {"labels": section.labels, "metrics": section.metrics}
        if kind is TaskKind.MULTI_LABEL:
            settings["threshold"] = section.threshold
        if kind is TaskKind.QUESTION_ANSWERING:
            settings["unanswerable"] = section.unanswerable
    if kind is TaskKind.EMBEDDING:
        settings["pooling"] = read_pooling(folder) or Pooling()
        settings["labelled"] = not data.source or data.label_column is not None
    task = KINDS[kind](kind.value, **settings)
    if data.text_columns and len(data.text_columns) not in task.text_counts:
        raise ConfigError(
            f"data.text_columns: {kind.value} reads {' or '.join(map(str, task.text_counts))} text(s) per row, found "
            f"{', '.join(data.text_columns)}"
        )
    columns = data.text_columns or (_text_columns(task, data) if data.source else task.text_columns)
    return dataclasses.replace(task, text_columns=columns)


def labels_of_data(task: Task, data: "DataSection") -> set[str]:
    """All label names in the training rows.

    Raises:
        ConfigError: no data, or no label column.
        DataError: no labels.
    """
    from sparse_deploy.data.own_data import raw_rows
    from sparse_deploy.data.problems import RowProblem
    from sparse_deploy.data.tasks.multi_label import labels_of

    found: set[str] = set()
    for _, row in raw_rows(task, "train", data):
        value = row.get(task.target) if isinstance(row, dict) else None
        if value is None or value == "":
            continue
        if task.kind is TaskKind.MULTI_LABEL:
            try:
                value = labels_of(value)
            except RowProblem:
                continue  # reported when the row is checked
        elif task.kind is TaskKind.TOKEN_CLASSIFICATION:
            value = value.split() if isinstance(value, str) else value
        found |= {str(one) for one in (value if isinstance(value, list) else [value])}
    if not found:
        raise DataError(f"{data.source}: expected labels in column {data.label_column}, found none")
    return found


def _text_columns(task: Task, data: "DataSection") -> tuple[str, ...]:
    """The task's columns if the data has them, else the only text column."""
    from sparse_deploy.data.tables import Table
    from sparse_deploy.data.unlabelled import choose_text_columns

    table = Table(str(data.source), data.train_split, data.config)
    if set(task.text_columns) <= set(table.columns()):
        return task.text_columns
    if 1 not in task.text_counts:
        raise ConfigError(
            f"{table.name}: expected the columns {' and '.join(task.text_columns)}; name both with --text-column, "
            f"found {', '.join(table.columns())}"
        )
    return choose_text_columns(table, (), (data.label_column or task.target,))


def _kind_of_recipe(recipe: "Recipe") -> TaskKind | None:
    if isinstance(recipe.task, str):
        return get_task(recipe.task).kind
    return TaskKind(recipe.task.type) if recipe.task is not None and recipe.task.type is not None else None


def _check_head(task: Task, config: Mapping[str, Any], folder: Path) -> None:
    """Check that a model is fine-tuned for a task, by its config.

    Raises:
        ConfigError: a different head, or a different number of labels.
    """
    architecture = str(next(iter(config.get("architectures") or ["no architecture"])))
    if head_of(config) is not task.head and task.head is not Head.NONE:
        raise ConfigError(
            f"{folder}: expected a model fine-tuned on {task.name} (...{task.head.suffix}), found {architecture!r}; "
            f"use another checkpoint or recipe, or fine-tune first: sparse-deploy finetune -c RECIPE"
        )
    if task.head is not Head.SEQUENCE:
        return
    labels = len(config.get("id2label") or {}) or int(config.get("num_labels") or 2)
    if task.num_outputs and labels != task.num_outputs:
        raise ConfigError(
            f"{folder}: expected {task.num_outputs} output(s) for {task.name}, found {labels}; use the checkpoint "
            f"with the recipe of its own task"
        )
    multi = config.get("problem_type") == "multi_label_classification" and labels > 1
    if multi is not (task.kind is TaskKind.MULTI_LABEL) and (multi or task.kind is TaskKind.MULTI_LABEL):
        raise ConfigError(
            f"{folder}: its problem_type is {config.get('problem_type')!r}, {task.name} is {task.kind.value}; its "
            f"outputs have another meaning. Use task.type {'multi-label-classification' if multi else task.kind}"
        )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: config.json can't be read: {error}; copy the model again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}: config.json: expected a JSON object, found {type(config).__name__}")
    return config
