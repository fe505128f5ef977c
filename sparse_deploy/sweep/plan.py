# SPDX-License-Identifier: Apache-2.0
"""The jobs of a sweep file."""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.config.schema import Recipe
from sparse_deploy.errors import ConfigError
from sparse_deploy.file_records import file_sha256
from sparse_deploy.report.report import JSON_NAME as REPORT_NAME
from sparse_deploy.sweep.cell import RECIPE_NAME, Job, Stage
from sparse_deploy.sweep.grid import Settings, Sweep, cell_recipe, expand, varied_keys
from sparse_deploy.sweep.identity import (
    cell_content,
    checkpoint_sha256,
    content_key,
    data_identity,
    training_content,
)

KEY_LENGTH = 12
EXPORT = "export"


@dataclass(frozen=True)
class Plan:
    """All jobs of a sweep.

    Attributes:
        varied: the settings in which cells differ.
        cells: one job per cell, in the order of the sweep.
        trainings: the training job of each cell, by the cell's key; empty with a finished checkpoint.
    """

    varied: tuple[str, ...]
    cells: tuple[Job, ...]
    trainings: dict[str, Job] = field(default_factory=dict)


def make_plan(sweep: Sweep, output: Path, data_dir: Path | None) -> Plan:
    """Compute every cell's recipe and key.

    Args:
        sweep: the file.
        output: absolute path of the sweep's folder.
        data_dir: folder with the task's text; default: the hub.

    Raises:
        SparseDeployError: a cell's recipe is invalid, the checkpoint is unusable, or two cells are equal jobs.
    """
    planner = _Planner(sweep, output, data_dir.absolute() if data_dir else None)
    settings = expand(sweep)
    cells: list[Job] = []
    trainings: dict[str, Job] = {}
    for one in settings:
        recipe = cell_recipe(sweep, one)
        training = planner.training(recipe) if sweep.finetune else None
        cell = planner.cell(recipe, one, training)
        if twin := next((other for other in cells if other.key == cell.key), None):
            raise ConfigError(
                f"{sweep.name}: the cells {twin.settings} and {one} are equal: they differ in no key that "
                f"{'the stages read' if training else 'export and bench read'}; remove one"
            )
        cells.append(cell)
        if training:
            trainings[cell.key] = training
    return Plan(varied_keys(settings), tuple(cells), trainings)


class _Planner:
    """Makes jobs, and computes each input's fingerprint once."""

    def __init__(self, sweep: Sweep, output: Path, data_dir: Path | None) -> None:
        self._sweep = sweep
        self._output = output
        self._data_dir = data_dir
        self._data = ("--data-dir", str(data_dir)) if data_dir else ()
        self._known_data: dict[str, dict[str, str]] = {}
        self._checkpoint_sha256 = functools.cache(checkpoint_sha256)
        against = sweep.bench.against
        self._against = Path(against).absolute() if against else None
        self._against_sha256 = _file_sha256(self._against) if self._against else None

    def _data_of(self, recipe: Recipe) -> dict[str, str]:
        """See :func:`data_identity`; a large file is read once per sweep."""
        key = json.dumps([recipe.model_dump(mode="json", include={"task"}), recipe.data.model_dump(mode="json")])
        if key not in self._known_data:
            self._known_data[key] = data_identity(recipe, self._data_dir)
        return self._known_data[key]

    def training(self, recipe: Recipe) -> Job:
        """The training job of a recipe."""
        content = training_content(recipe, self._data_of(recipe), self._checkpoint_sha256)
        key = content_key("checkpoint", content)
        folder = self._output / "checkpoints" / key[:KEY_LENGTH]
        arguments = ("finetune", "-c", str(folder / RECIPE_NAME), "--output", str(folder / "checkpoint"), *self._data)
        stage = Stage(name="finetune", arguments=arguments, result=f"checkpoint/{MANIFEST_NAME}")
        return self._job("checkpoint", key, folder, recipe, {}, (stage,))

    def cell(self, recipe: Recipe, settings: Settings, training: Job | None) -> Job:
        """The job of a cell."""
        if training:
            checkpoint, fingerprint = str(training.folder / "checkpoint"), training.key
        else:
            checkpoint, fingerprint = self._given_checkpoint(recipe)
        bench = {"latency": self._sweep.bench.latency, "against": self._against_sha256}
        key = content_key("cell", cell_content(recipe, fingerprint, self._data_of(recipe), bench))
        folder = self._output / "cells" / key[:KEY_LENGTH]
        deployment, report = folder / "deployment", folder / "report"
        recipe_file = str(folder / RECIPE_NAME)
        export = (EXPORT, checkpoint, "-c", recipe_file, "--output", str(deployment), *self._data)
        measure = ("bench", str(deployment), "--report", str(report), *self._data)
        measure += ("--latency" if self._sweep.bench.latency else "--no-latency",)
        measure += ("--against", str(self._against)) if self._against else ()
        stages = (
            Stage(name=EXPORT, arguments=export, result=f"deployment/{MANIFEST_NAME}"),
            Stage(name="bench", arguments=measure, result=f"report/{REPORT_NAME}"),
        )
        return self._job("cell", key, folder, recipe, settings, stages)

    def _given_checkpoint(self, recipe: Recipe) -> tuple[str, str]:
        name = self._sweep.checkpoint or ""
        revision = recipe.model.revision if name == recipe.model.name_or_path else "main"  # as in export
        fingerprint = self._checkpoint_sha256(name, revision)
        local = Path(name).expanduser()
        return str(local.absolute()) if local.is_dir() else name, fingerprint

    def _job(
        self, kind: str, key: str, folder: Path, recipe: Recipe, settings: Settings, stages: tuple[Stage, ...]
    ) -> Job:
        return Job.model_validate(
            {
                "kind": kind,
                "key": key,
                "folder": folder,
                "working_folder": Path.cwd(),
                "recipe": recipe.model_dump(mode="json"),
                "settings": settings,
                "stages": stages,
            }
        )


def _file_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ConfigError(f"{path}: can't read the baseline of bench.against: {error.strerror}") from error
