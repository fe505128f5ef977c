# SPDX-License-Identifier: Apache-2.0
"""The task table agrees with the recipe schema and with itself."""

from typing import get_args

import pytest

from sparse_deploy.config.schema import KnownTask, TaskSection
from sparse_deploy.data.tasks import KINDS, TASKS, TaskKind, get_task
from sparse_deploy.errors import ConfigError


def test_every_task_of_the_recipe_schema_exists_and_no_other():
    assert set(TASKS) == set(get_args(KnownTask))
    literal, none = get_args(TaskSection.model_fields["type"].annotation)
    assert set(KINDS) == set(get_args(literal))
    assert none is type(None)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_task_is_consistent(task):
    assert task.primary_metric in task.metrics
    assert "" in task.validation_splits
    assert bool(task.labels) == (task.kind is TaskKind.CLASSIFICATION)
    assert task.num_outputs == {TaskKind.REGRESSION: 1, TaskKind.QUESTION_ANSWERING: 2}.get(task.kind, len(task.labels))


def test_mnli_has_both_validation_splits_and_three_labels():
    mnli = get_task("mnli")
    assert mnli.validation_splits == {"": "validation_matched", "mismatched": "validation_mismatched"}
    assert mnli.labels == ("entailment", "neutral", "contradiction")


def test_unknown_task_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown task 'imdb'.*sst2.*squad"):
        get_task("imdb")
