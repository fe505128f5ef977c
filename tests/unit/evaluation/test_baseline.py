# SPDX-License-Identifier: Apache-2.0
"""Stored baselines: reading and writing, and refusals with the reason."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparse_deploy.config.schema import DataSection
from sparse_deploy.data.features import EncodedSplit
from sparse_deploy.data.tasks import get_task
from sparse_deploy.errors import ArtifactError, ConfigError
from sparse_deploy.evaluation.accuracy import ValidationSplit
from sparse_deploy.evaluation.baseline import (
    Baseline,
    check_alike,
    drift_of,
    identify,
    is_baseline,
    load_baseline,
    make_baseline,
    save_baseline,
)
from sparse_deploy.evaluation.requests import Requests
from sparse_deploy.gate.figures import Contestant
from sparse_deploy.machine import describe_machine
from sparse_deploy.results import Cell, Identity

ROWS = {
    "sst2": {"label": 1, "prediction": 1, "correct": True, "logits": [-0.25, 1.5]},
    "stsb": {"label": 2.5, "prediction": 2.0, "score": -0.25, "logits": [2.0]},
    "squad": {
        "prediction": "é Paris", "exact_match": 0.0, "f1": 66.5, "logits": [3.25, 4.5], "paragraph": "abc",
        "answers": ["Paris"],
    },
}  # fmt: skip
METRICS = {"sst2": {"accuracy": 1.0}, "stsb": {"pearson": 0.0}, "squad": {"exact_match": 0.0, "f1": 66.5}}


def rows(task: str, count: int = 4) -> list[dict]:
    return [{"id": n, "sha256": f"{n:016x}", **ROWS[task]} for n in range(count)]


def identity(task: str, count: int = 4, *, tokenizer: str = "t" * 64, checkpoint: str = "c" * 64, **data) -> Identity:
    digests = tuple(f"{n:016x}" for n in range(count))
    split = ValidationSplit("", EncodedSplit("v", [], [], [], None), Requests({}, [0]), digests)
    found = get_task(task)
    splits = [replace(split, suffix=suffix) for suffix in found.validation_splits]
    return identify(
        found, DataSection(**data), splits, tokenizer_sha256=tokenizer, checkpoint_sha256=checkpoint, batch_size=32
    )


def contestant(task: str, cell_id: str = "pytorch-fp32", lines: list[dict] | None = None) -> Contestant:
    runtime, precision = cell_id.split("-")
    cell = Cell(id=cell_id, runtime=runtime, precision=precision, file="m", file_bytes=7, metrics=METRICS[task])
    return Contestant(cell, {"": lines or rows(task)})


def stored(task: str = "sst2", *cells: Contestant, **known) -> Baseline:
    cells = cells or (contestant(task), contestant(task, "openvino-int8"))
    return make_baseline("name", identity(task, **known), cells, "pytorch-fp32", describe_machine(), get_task(task))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "baseline.json"


class TestRoundTrip:
    @pytest.mark.parametrize("task", list(ROWS))
    def test_answers_come_back(self, task, path):
        save_baseline(stored(task), path)
        assert is_baseline(path)
        back = load_baseline(path, get_task(task))
        assert back == stored(task).model_copy(update={"created": back.created})
        found = back.contestant("openvino-int8", {"": 4}, get_task(task))
        kept = [{key: value for key, value in row.items() if key != "answers"} for row in rows(task)]
        assert found.rows[""] == kept
        assert METRICS[task].items() <= found.cell.metrics.items()
        assert found.cell.file_bytes == 7
        assert back.contestant("onnxruntime-int8", {"": 4}, get_task(task)) is None

    def test_on_the_first_rows_the_metrics_are_those_of_the_first_rows(self):
        lines = rows("sst2")
        lines[3] |= {"prediction": 0, "correct": False}
        baseline = stored("sst2", contestant("sst2", lines=lines))
        assert baseline.contestant("pytorch-fp32", {"": 4}, get_task("sst2")).cell.metrics == {"accuracy": 0.75}
        found = baseline.contestant("pytorch-fp32", {"": 3}, get_task("sst2"))
        assert found.cell.metrics == {"accuracy": 1.0}
        assert len(found.rows[""]) == 3

    def test_no_text_is_stored_but_predictions(self, path):
        save_baseline(stored("squad"), path)
        text = path.read_text(encoding="utf-8")
        assert '"Paris"' not in text
        assert "é Paris" in text

    def test_logits_keep_six_digits(self):
        lines = [row | {"logits": [0.12345678901, 1.0]} for row in rows("sst2")]
        baseline = stored("sst2", contestant("sst2", lines=lines))
        assert baseline.contestant("pytorch-fp32", {"": 1}, get_task("sst2")).rows[""][0]["logits"] == [0.123457, 1.0]
        drift = drift_of(
            contestant("sst2", lines=lines), baseline.contestant("pytorch-fp32", {"": 4}, get_task("sst2"))
        )
        assert drift.agreement == 1.0
        assert 0 < drift.logit_difference < 1e-6

    @pytest.mark.parametrize("target", ["folder", "nowhere/baseline.json"])
    def test_a_target_that_can_be_no_file_is_refused(self, target, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(ConfigError, match=r"--save-baseline .*expected a file in a folder that exists"):
            save_baseline(stored(), tmp_path / target)


class TestUnlike:
    def check(self, ours: Identity, digests: list[str] | None = None, **known):
        digests = [f"{n:016x}" for n in range(4)] if digests is None else digests
        check_alike(stored(**known), ours, {"": digests}, "b.json")

    def test_the_same_set_up_another_checkpoint_and_fewer_rows_are_fine(self):
        self.check(identity("sst2"))
        self.check(identity("sst2", checkpoint="d" * 64))
        self.check(identity("sst2", 3), [f"{n:016x}" for n in range(3)])

    @pytest.mark.parametrize(
        ("ours", "message"),
        [
            ({"task": "qnli"}, "its task is sst2, that of this run is qnli"),
            ({"task": "sst2", "max_length": 64}, r"its data.max_length is 128, that of this run is 64"),
            ({"task": "sst2", "tokenizer": "u" * 64}, "its tokenizer is tttttttttttt, that of the deployment is uuu"),
        ],
    )
    def test_another_set_up(self, ours, message):
        with pytest.raises(ConfigError, match=message):
            self.check(identity(**ours))

    def test_windows_matter_to_questions_only(self):
        check_alike(stored(), identity("sst2", doc_stride=64), {"": ["0" * 16]}, "b.json")
        with pytest.raises(ConfigError, match=r"data.doc_stride is 128, that of this run is 64"):
            check_alike(stored("squad"), identity("squad", doc_stride=64), {"": ["0" * 16]}, "b.json")

    def test_other_rows_are_named(self):
        with pytest.raises(ConfigError, match=r"its validation rows differ from row 3 on"):
            self.check(identity("sst2"), ["0" * 16, f"{1:016x}", "f" * 16, f"{3:016x}"])

    def test_more_rows_than_it_holds(self):
        with pytest.raises(ConfigError, match=r"it has 4 validation rows, this run has 5; bench --validation-sam"):
            self.check(identity("sst2", 5), [f"{n:016x}" for n in range(5)])


class TestDamaged:
    def damaged(self, path: Path, change) -> Path:
        save_baseline(stored(), path)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return path

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.update(schema_version=2), "schema_version"),
            (lambda c: c.pop("identity"), "identity"),
            (lambda c: c.update(baseline="x-y"), "'x-y' is not among its cells"),
            (lambda c: c["rows"][""]["label"].pop(), "contradict each other"),
            (lambda c: c["cells"][1]["answers"][""].pop("prediction"), "contradict each other"),
            (lambda c: c["cells"][0]["answers"][""]["logits"][0].pop(), "contradict each other"),
            (lambda c: c["rows"][""]["sha256"].reverse(), "differ from their fingerprint"),
        ],
    )
    def test_it_is_refused(self, change, message, path):
        with pytest.raises(ArtifactError, match=message):
            load_baseline(self.damaged(path, change), get_task("sst2"))

    def test_half_a_file(self, path):
        save_baseline(stored(), path)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ArtifactError, match="not a readable baseline"):
            load_baseline(path, get_task("sst2"))
