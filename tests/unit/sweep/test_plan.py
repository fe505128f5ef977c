# SPDX-License-Identifier: Apache-2.0
"""Keys: they change if and only if something changes that the result depends on."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_checkpoint import demo_recipe

from sparse_deploy.errors import ConfigError
from sparse_deploy.sweep import identity
from sparse_deploy.sweep.grid import Sweep
from sparse_deploy.sweep.plan import Plan, make_plan

MODE = "quantization.mode"


class Files:
    """A sweep with its recipe, checkpoint and text, all in one folder."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder = folder
        shutil.copytree(encoder, folder / "checkpoint")
        (folder / "data" / "demo").mkdir(parents=True)
        for split in ("train", "validation"):
            (folder / "data" / "demo" / f"{split}.jsonl").write_text('{"sentence": "good", "label": 1}\n')
        self.write_recipe()

    def write_recipe(self, **changes: object) -> None:
        recipe = demo_recipe(self.folder / "checkpoint").model_dump(mode="json") | changes
        (self.folder / "recipe.yaml").write_text(json.dumps(recipe))

    def plan(self, **changes: object) -> Plan:
        sweep = {"name": "s", "recipe": str(self.folder / "recipe.yaml"), "grid": {MODE: ["static", "dynamic"]}}
        sweep |= {} if changes.get("finetune") else {"checkpoint": str(self.folder / "checkpoint")}
        return make_plan(Sweep.model_validate(sweep | changes), self.folder / "out", self.folder / "data")

    def keys(self, **changes: object) -> list[str]:
        return [job.key for job in self.plan(**changes).cells]


@pytest.fixture
def files(tmp_path, sparse_encoder):
    return Files(tmp_path, sparse_encoder)


def test_keys_are_stable_and_differ_between_cells(files):
    assert files.keys() == files.keys()
    assert len(set(files.keys())) == 2


def test_words_and_places_change_no_key(files, tmp_path, monkeypatch):
    before = files.keys()
    files.write_recipe(name="another", description="words", reference=[{"metrics": {"f1": 1}, "source": "somewhere"}])
    assert files.keys() == before
    moved = tmp_path / "moved"
    shutil.copytree(files.folder, moved, ignore=shutil.ignore_patterns("moved"))
    (moved / "checkpoint" / "README.md").write_text("words")
    files.folder = moved
    monkeypatch.chdir(tmp_path)
    assert files.keys() == before


def test_training_settings_change_no_key_of_a_finished_checkpoint(files):
    before = files.keys()
    files.write_recipe(finetune={"epochs": 9.0})
    assert files.keys() == before


def test_whatever_the_result_depends_on_changes_every_key(files, monkeypatch):
    seen = set(files.keys())

    def changed(**changes: object) -> None:
        keys = set(files.keys(**changes))
        assert not keys & seen
        seen.update(keys)

    changed(set={"data.validation_samples": 7})
    changed(set={"bench.runtimes": ["onnxruntime"]})
    changed(set={"gate.confidence": 0.9})
    changed(bench={"latency": True})
    baseline = files.folder / "baseline.json"
    for content in ("one", "two"):
        baseline.write_text(content)
        changed(bench={"against": str(baseline)})
    (files.folder / "data" / "demo" / "validation.jsonl").write_text('{"sentence": "bad", "label": 0}\n')
    changed()
    config = files.folder / "checkpoint" / "config.json"
    config.write_text(config.read_text() + "\n")
    changed()
    weights = files.folder / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    changed()
    monkeypatch.setattr(identity, "package_versions", lambda: {"sparse-deploy": "9"})
    changed()


def test_cells_that_train_alike_share_a_checkpoint(files):
    plan = files.plan(finetune=True, grid={MODE: ["static", "dynamic"], "finetune.seed": [1, 2]})
    assert len({job.key for job in plan.cells}) == 4
    made = {job.settings["finetune.seed"]: plan.trainings[job.key].folder / "checkpoint" for job in plan.cells}
    assert len(set(made.values())) == 2
    for job in plan.cells:
        assert job.stages[0].arguments[:2] == ("export", str(made[job.settings["finetune.seed"]]))


def test_cells_that_are_the_same_work_are_refused(files):
    with pytest.raises(ConfigError, match=r"are equal.*export and bench read"):
        files.plan(grid={"finetune.seed": [1, 2]})


def test_a_missing_baseline_is_refused(files):
    with pytest.raises(ConfigError, match=r"bench\.against"):
        files.plan(bench={"against": "nowhere.json"})


def test_latency_is_measured_only_where_asked(files):
    for latency in (False, True):
        for job in files.plan(bench={"latency": latency}).cells:
            assert ("--no-latency" in job.stages[-1].arguments) is not latency
