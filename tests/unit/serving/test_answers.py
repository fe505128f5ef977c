# SPDX-License-Identifier: Apache-2.0
"""Logits to answers; those of other kinds of task are in ``tests/unit/data/test_task_kinds.py``."""

import numpy as np
import pytest

from sparse_deploy.data.encoded import ServedText, WindowMap
from sparse_deploy.data.tasks import get_task
from sparse_deploy.serving.model import _stacked


def test_labels_and_their_probabilities():
    outputs = [[(np.array([1.0, 3.0], np.float32),)], [(np.array([1000.0, -1000.0], np.float32),)]]
    found = get_task("sst2").answers([], outputs, ["no", "yes"], 30)
    assert found["label"] == ["yes", "no"]
    expected = np.exp([1, 3]) / np.exp([1, 3]).sum()
    np.testing.assert_allclose(found["probabilities"], [expected, [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(found["score"], [expected[1], 1], rtol=1e-6)
    np.testing.assert_array_equal(found["logits"], [[1, 3], [1000, -1000]])
    assert found["score"].dtype == np.float32


def test_a_number():
    outputs = [[(np.array([2.5], np.float32),)], [(np.array([-1.0], np.float32),)]]
    found = get_task("stsb").answers([], outputs, (), 30)
    assert found["score"].tolist() == [2.5, -1.0]
    assert set(found) == {"score"}


def test_the_best_span_of_all_windows():
    context = "zero one two"
    spans = np.array([[-1, -1], [0, 4], [5, 8], [-1, -1]])
    other = np.array([[-1, -1], [5, 8], [9, 12], [-1, -1]])
    low, high = np.array([0, 1, 0, 9], np.float32), np.array([9, 0, 2, 0], np.float32)
    asked = [ServedText(("which", context), [WindowMap(spans), WindowMap(other)])]
    found = get_task("squad").answers(asked, [[(low, low), (high, high)]], (), 30)
    assert (found["answer"], found["start"].tolist(), found["end"].tolist()) == (["two"], [9], [12])
    assert found["score"][0] == pytest.approx(4.0)


def test_outputs_per_token():
    rows = [(np.zeros(3, np.float32), np.ones(3, np.float32))] * 2
    found = _stacked(("start_logits", "end_logits"), rows)
    assert [(tensor.name, tensor.shape) for tensor in found] == [("start_logits", (2, 3)), ("end_logits", (2, 3))]
