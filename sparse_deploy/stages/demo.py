# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded default: fine-tune, export and bench in one go."""

from collections.abc import Callable
from pathlib import Path

from sparse_deploy.config.loader import find_recipe
from sparse_deploy.config.schema import Recipe
from sparse_deploy.results import BenchReport
from sparse_deploy.stages.bench import bench_deployment
from sparse_deploy.stages.export import export_deployment
from sparse_deploy.stages.finetune import finetune


def embedded_recipe() -> Path:
    """The recipe of the embedded default."""
    return find_recipe("minilm-demo")


def run_demo(
    recipe: Recipe, output: Path, *, progress: Callable[[str, float], None] = lambda message, share: None
) -> BenchReport:
    """Run the whole line; every stage leaves its own folder.

    Args:
        recipe: usually :func:`embedded_recipe`'s.
        output: gets ``checkpoint/``, ``deployment/`` and ``report/``.
        progress: called with a message and the share done.

    Returns:
        The benchmark's report, as in ``report/report.json``.
    """

    def part(name: str, begin: float, end: float) -> Callable[[str, float], None]:
        return lambda message, share: progress(f"{name}: {message}", begin + (end - begin) * share)

    checkpoint, deployment = output / "checkpoint", output / "deployment"
    finetune(recipe, checkpoint, restart=True, progress=part("finetune", 0.0, 0.5))
    export_deployment(str(checkpoint), recipe, deployment, progress=lambda message: progress(f"export: {message}", 0.5))
    return bench_deployment(deployment, report_dir=output / "report", progress=part("bench", 0.7, 1.0))
