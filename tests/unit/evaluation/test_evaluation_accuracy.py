# SPDX-License-Identifier: Apache-2.0
"""Scores per split, agreement between cells, and the stored predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.tasks import SentenceEmbedding, get_task
from sparse_deploy.evaluation.accuracy import load_unlabelled, load_validation, score_cell, write_predictions
from sparse_deploy.evaluation.requests import Requests

LABELS = ("entailment", "neutral", "contradiction")


class OracleRival:
    """Answers from a list of label ids instead of a model."""

    def __init__(self, answers: list[list[int]]) -> None:
        self.answers = answers

    def call(self, command: str, *, requests: str, batch_size: int, output: str, per_token: list[bool]):
        labels = self.answers.pop(0)
        assert len(Requests.load(Path(requests))) == len(labels)
        logits = np.eye(3, dtype=np.float32)[labels]
        np.savez(output, **{"0": logits.reshape(-1), "sizes": np.full(len(labels), 3)})
        return {}


@pytest.fixture
def mnli(tmp_path) -> Path:
    folder = tmp_path / "data" / "mnli"
    folder.mkdir(parents=True)
    for split, count in (("validation_matched", 4), ("validation_mismatched", 2)):
        rows = [{"premise": "a film", "hypothesis": "good", "label": i % 3} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def test_every_split_is_scored_and_the_second_carries_its_suffix(mnli, tiny_encoder, tmp_path):
    task, data = get_task("mnli"), DataSection()
    splits = load_validation(task, data, tiny_encoder, mnli)
    rival = OracleRival([[0, 1, 2, 1], [1, 1]])
    score = score_cell(rival, task, splits, tmp_path, batch_size=2, data=data)
    assert score.metrics["accuracy"] == 0.75
    assert score.metrics["accuracy_mismatched"] == 0.5
    assert [row["prediction"] for row in score.rows[""]] == [0, 1, 2, 1]
    assert [row["prediction"] for row in score.rows["mismatched"]] == [1, 1]
    assert tuple(row["sha256"] for row in score.rows[""]) == splits[0].digests


def test_limited_validation(mnli, tiny_encoder):
    splits = load_validation(get_task("mnli"), DataSection(validation_samples=2), tiny_encoder, mnli)
    assert [len(split.requests) for split in splits] == [2, 2]


def test_texts_without_labels_are_read_as_the_task_reads_them(tiny_encoder, tmp_path):
    """Pairs get the next text as their second one, vectors are of single texts, and empty lines are named."""
    texts, notes = tmp_path / "texts.txt", []
    texts.write_text("a film\n\na very good one\nbad\n")
    data = DataSection(source=str(texts), on_problem="skip")
    (split,) = load_unlabelled(get_task("mnli"), data, tiny_encoder, notes.append)
    assert [example["texts"] for example in split.encoded.examples] == [["a film"], ["a very good one"], ["bad"]]
    assert [int(feature["token_type_ids"].sum()) > 0 for feature in split.encoded.features] == [True] * 3
    assert "1 row skipped" in notes[0] or "line 2" in " ".join(notes)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"sentence1": "one", "sentence2": "two"}\n{"sentence1": "three", "sentence2": "four"}\n')
    data = DataSection(source=str(pairs), validation_samples=1)
    (split,) = load_unlabelled(SentenceEmbedding("e"), data, tiny_encoder)
    assert [example["texts"] for example in split.encoded.examples] == [["one"], ["two"]]


def test_predictions_are_one_json_object_per_line(tmp_path):
    rows = {"": [{"id": 0, "prediction": "é"}, {"id": 1, "prediction": "b"}], "mismatched": [{"id": 9}]}
    relative = write_predictions(tmp_path / "report", "openvino-int8", rows)
    assert relative == "predictions/openvino-int8.jsonl"
    lines = (tmp_path / "report" / relative).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows[""]
    assert (tmp_path / "report/predictions/openvino-int8-mismatched.jsonl").is_file()
