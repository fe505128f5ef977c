# SPDX-License-Identifier: Apache-2.0
"""The demo: trains a dense model for a short time on embedded text, then prunes, exports and measures it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sparse_deploy.artifacts import Manifest
from sparse_deploy.config.data_section import TextSource
from sparse_deploy.config.loader import find_recipe, settings_from_options
from sparse_deploy.config.pruning import PruneSettings
from sparse_deploy.config.schema import Recipe, SparsitySection
from sparse_deploy.data.loading import load_split
from sparse_deploy.data.resolve import task_of
from sparse_deploy.results import BenchReport
from sparse_deploy.sparsity.pattern import PatternKind
from sparse_deploy.stages.bench import bench_deployment
from sparse_deploy.stages.export import export_deployment
from sparse_deploy.stages.finetune import finetune
from sparse_deploy.stages.prune import prune

Progress = Callable[[str, float], None]
# Messages of the export, for the progress display.
_EXPORT_MESSAGES = 14
# Share of each stage in the total time, for the progress display.
_PARTS = {"train the dense model": 0.13, "prune": 0.1, "export": 0.17, "bench": 0.6}


@dataclass(frozen=True)
class DemoRun:
    """Result of a run.

    Attributes:
        pruned: manifest of the pruned checkpoint.
        report: report of the deployment against the dense model, as in ``report/report.json``.
        seconds: seconds by stage.
    """

    pruned: Manifest
    report: BenchReport
    seconds: dict[str, float]


def embedded_recipe() -> Path:
    """The demo's recipe."""
    return find_recipe("minilm-demo")


def run_demo(recipe: Recipe, output: Path, *, progress: Progress = lambda message, share: None) -> DemoRun:
    """Run all stages; every stage writes a folder.

    Args:
        recipe: usually :func:`embedded_recipe`'s. Its ``sparsity`` section sets the zeros that ``prune`` makes.
        output: folder for ``dense/``, ``texts.jsonl`` (the unlabelled text for ``prune``), ``checkpoint/``,
            ``deployment/`` and ``report/``.
        progress: called with a message and the completed share.

    Raises:
        SparseDeployError: see the stages.
    """
    output.mkdir(parents=True, exist_ok=True)
    dense, checkpoint, deployment = output / "dense", output / "checkpoint", output / "deployment"
    stages = _Stages(progress)
    with stages.next() as stage_progress:
        finetune(
            recipe.model_copy(update={"sparsity": SparsitySection()}), dense, restart=True, progress=stage_progress
        )
    with stages.next() as stage_progress:
        text = _write_texts(recipe, dense, output / "texts.jsonl")
        pruned = prune(str(dense), _settings(recipe), checkpoint, text=text, progress=stage_progress)
    with stages.next() as stage_progress:
        promise = SparsitySection.model_validate(pruned.recipe["sparsity"])
        exported = recipe.model_copy(update={"sparsity": promise})
        number = count()
        export_deployment(
            str(checkpoint),
            exported,
            deployment,
            progress=lambda message: stage_progress(message, min(next(number) / _EXPORT_MESSAGES, 1.0)),
        )
    with stages.next() as stage_progress:
        report = bench_deployment(deployment, output / "report", baseline_model=str(dense), progress=stage_progress)
    return DemoRun(pruned, report, stages.seconds)


class _Stages:
    """The stages in order: duration of each, and progress as a share of the total."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def next(self) -> Iterator[Progress]:
        """The next stage, during the block."""
        name = list(_PARTS)[len(self.seconds)]
        before, part = sum(_PARTS[done] for done in self.seconds), _PARTS[name]
        begin = time.monotonic()
        yield lambda message, share: self._progress(f"{name}: {message}", before + part * share)
        self.seconds[name] = time.monotonic() - begin


def _settings(recipe: Recipe) -> PruneSettings:
    wanted = recipe.sparsity
    return settings_from_options(
        PruneSettings,
        {
            "pattern": str(wanted.pattern),
            "target": None if wanted.pattern.kind is PatternKind.N_M else wanted.target,
            "method": wanted.method,
            "samples": wanted.method_samples,
            "max_length": recipe.data.max_length,
            "exclude": wanted.exclude,
            "seed": recipe.finetune.seed,
        },
    )


def _write_texts(recipe: Recipe, model: Path, path: Path) -> TextSource:
    """The training rows without their labels, one JSON object per line: the input of ``prune``."""
    task = task_of(recipe, model)
    rows = load_split(task, task.train_split, None, data=recipe.data)
    columns = tuple(task.text_columns)
    lines = [json.dumps({column: row[column] for column in columns}) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TextSource(source=str(path), columns=columns)
