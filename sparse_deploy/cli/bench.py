# SPDX-License-Identifier: Apache-2.0
"""``sparse-deploy bench``."""

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparse_deploy.cli.data_options import DATA, DATA_CONFIG, LABEL_COLUMN, ON_PROBLEM, TEXT_COLUMN, data_overrides
from sparse_deploy.cli.progress import QuietOption, progress_bar
from sparse_deploy.errors import ConfigError, GateFailure, InconclusiveError

if TYPE_CHECKING:
    from sparse_deploy.results import BenchReport

_TABLE_WIDTH = 200


def bench_command(
    deployment: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    against: Annotated[
        Path | None,
        typer.Option(
            help="A file of --save-baseline, or an earlier report.json with its predictions: relative goals refer to "
            "its baseline cell. Refused if task, validation rows, tokenizer or input length differ; the checkpoint "
            "may differ, and there may be fewer rows (--validation-samples) if they are the first ones."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Another model, such as the dense one before pruning: a checkpoint (folder, hub id, "
            "package:NAME/PATH) or deployment. It answers the same rows in PyTorch FP32; relative goals, agreement and "
            "logit differences refer to it. Its tokenizer must be the deployment's. With --data without labels, the "
            "cells are scored against its answers: same_predictions, or similarity of embeddings."
        ),
    ] = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option(help="Write the predictions of every cell, with fingerprints of its rows, into this JSON file."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for the report; default: DEPLOYMENT-report.")] = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with TASK/SPLIT.jsonl.gz; default: the Hugging Face hub.")
    ] = None,
    data: Annotated[str | None, DATA] = None,
    data_config: Annotated[str | None, DATA_CONFIG] = None,
    text_column: Annotated[list[str] | None, TEXT_COLUMN] = None,
    label_column: Annotated[str | None, LABEL_COLUMN] = None,
    on_problem: Annotated[str | None, ON_PROBLEM] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="Only this runtime: pytorch, onnxruntime, openvino, sparse, openvino-sparse. Repeatable."),
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only this precision: fp32, int8. Repeatable.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Also measure a fixed shape, BATCHxTOKENS, such as 1x128. Repeatable.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per request; default: the CPU quota.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key: bench.blocks=3. Repeatable.")
    ] = None,
    validation_samples: Annotated[
        int | None, typer.Option(help="Largest number of validation examples; the first ones are used.")
    ] = None,
    latency: Annotated[bool, typer.Option(help="Measure latency and throughput, too.")] = True,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="For CI: also write junit.xml, gate.md and gate.json to the report folder, and annotations in GitHub "
            "Actions. Without goals in the recipe, every cell must reach 99 % of the baseline's primary metric.",
        ),
    ] = False,
    fail_on_unstable: Annotated[
        bool, typer.Option("--fail-on-unstable", help="Exit code 4 when a measurement was unstable.")
    ] = False,
) -> None:
    """Measure a deployment: accuracy, latency, throughput, size, memory and zeros of every runtime and precision.

    Missed goals of the recipe end the command with exit code 3, after the report is written; inconclusive goals end it
    with 4, unless gate.on_inconclusive changes this. A file that lost required zeros always counts as a missed goal.
    """
    from sparse_deploy.stages.bench import bench_deployment

    changes = data_overrides(
        data=data,
        config=data_config,
        text_column=text_column,
        label_column=label_column,
        on_problem=on_problem,
        validate_on_all=True,
    )
    changes += overrides or []
    changes += [f"bench.runtimes={json.dumps(runtime)}"] if runtime else []
    changes += [f"bench.precisions={json.dumps(precision)}"] if precision else []
    changes += [f"bench.shapes={json.dumps([_parse_shape(text) for text in shape])}"] if shape else []
    changes += [f"bench.threads={threads}"] if threads is not None else []
    changes += [f"data.validation_samples={validation_samples}"] if validation_samples is not None else []
    folder = report or deployment.resolve().with_name(f"{deployment.resolve().name}-report")

    with progress_bar(f"bench {deployment}", quiet=quiet) as progress:
        found = bench_deployment(
            deployment,
            folder,
            overrides=changes,
            data_dir=data_dir,
            against=against,
            new_baseline=save_baseline,
            baseline_model=baseline,
            explicit=bool(runtime or precision),
            timing=latency,
            default_goal=gate,
            progress=progress,
        )
    if gate:
        _publish(found, folder)
    if as_json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        print_report(found, goals_only=gate and not sys.stdout.isatty())
        typer.echo(f"\nreport: {folder / 'report.html'}")
        if save_baseline:
            typer.echo(f"baseline: {save_baseline}")
    _judge(found, fail_on_unstable=fail_on_unstable)


def print_report(report: "BenchReport", *, goals_only: bool = False) -> None:
    """Print the tables of a report on standard output, and warnings below them.

    Args:
        report: the report.
        goals_only: print only the table of the goals.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sparse_deploy.report.conditions import machine_state, machine_was_steady
    from sparse_deploy.report.findings import slower_sparse_file
    from sparse_deploy.report.tables import gate_rows, shape_rows, stream_rows, summary_rows

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH, soft_wrap=False)
    for title, rows in (
        (f"{report.name}: {report.task}, {report.examples} validation examples", summary_rows(report)),
        ("Streams (throughput hint)", stream_rows(report)),
        ("Fixed shapes", shape_rows(report)),
        ("Goals", gate_rows(report)),  # standard error and the report give the reasons
    ):
        if not rows.rows or (goals_only and title != "Goals"):
            continue
        table = Table(title=title, box=box.SIMPLE, title_justify="left")
        for position, header in enumerate(rows.headers):
            left = position == 0 or title == "Goals"
            table.add_column(header, justify="left" if left else "right", no_wrap=position == 0)
        for row in rows.rows:
            table.add_row(*row)
        console.print(table)
    for cell in report.cells:
        if not cell.stable:
            console.print(
                f"UNSTABLE {cell.id}: {cell.instability}. Its times are not comparable; use a quieter machine."
            )
    if (state := machine_state(report)) and not machine_was_steady(report):
        console.print(f"Machine: {state[0]}. {state[1]}")
    if remark := report.settings.get("thread_remark"):
        console.print(f"Threads: {remark}")
    for cell in report.cells:
        if cell.warning:
            console.print(f"Warning: {cell.id}: {cell.warning}")
    if slower := slower_sparse_file(report):
        console.print(slower)
    if cut := report.settings.get("truncated_examples"):
        console.print(
            f"{cut} examples are longer than data.max_length ({report.settings['max_length']}) and were truncated"
        )
    for line in report.settings.get("rows_left_out", ()):
        console.print(line)
    for cell_id, reason in report.settings.get("skipped_cells", {}).items():
        console.print(f"skipped {cell_id}: {reason}")
    if report.settings.get("without_labels"):
        console.print(report.settings["without_labels"])
    for line in _comparison(report):
        console.print(line)


def _comparison(report: "BenchReport") -> list[str]:
    """The baseline of ``--against`` or ``--baseline``, and the drift of each cell from its stored predictions."""
    facts = report.settings
    if facts.get("baseline_model"):
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in facts["baseline_model_metrics"].items())
        return [f"compared with {facts['baseline_model_cell']} ({metrics}): {facts['baseline_model']}"]
    if not facts.get("against"):
        return []
    lines = [
        f"compared with {facts['against_cell']} of {facts['against_name']} ({facts['against_created']}), "
        f"{facts['against_checkpoint']} checkpoint: {facts['against']}"
    ]
    for cell in report.cells:
        if cell.drift is None:
            continue
        parts = [] if cell.drift.agreement is None else [f"{100 * cell.drift.agreement:.2f} % equal predictions"]
        if cell.drift.logit_difference is not None:
            parts.append(f"largest logit difference {cell.drift.logit_difference:.3g}")
        lines.append(f"{cell.id} against its stored predictions: {', '.join(parts)}")
    return lines


def _parse_shape(text: str) -> list[int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ConfigError(f"--shape: expected BATCHxTOKENS such as 1x128, found {text!r}")
    return [int(match[1]), int(match[2])]


def _publish(report: "BenchReport", folder: Path) -> None:
    """Write the gate's files; inside GitHub Actions also its annotations and the step's summary."""
    from sparse_deploy.report.annotations import annotations
    from sparse_deploy.report.ci_summary import append_step_summary
    from sparse_deploy.report.gate_files import write_gate_files

    policy = report.settings["gate"]["on_inconclusive"]
    write_gate_files(report, folder, policy)
    if goal := report.settings["default_goal"]:
        typer.echo(
            f"sparse-deploy: the recipe has no goals; every cell must reach {goal['value']:g} % of the baseline's "
            f"{report.primary_metric}",
            err=True,
        )
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # The runner also reads standard error; with --json standard output has only the JSON.
        for line in annotations(report.gates, policy):
            typer.echo(line, err=True)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_step_summary(Path(summary), report, policy)


def _judge(report: "BenchReport", *, fail_on_unstable: bool) -> None:
    from sparse_deploy.report.verdict import whole_verdict

    whole = whole_verdict(report.gates, report.settings["gate"]["on_inconclusive"])
    missed = " ".join(gate.explanation for gate in report.gates if gate.verdict != "pass" and not gate.informational)
    if whole.exit_code == GateFailure.exit_code:
        raise GateFailure(f"{whole.sentence}: {missed}")
    if whole.exit_code == InconclusiveError.exit_code:
        raise InconclusiveError(f"{whole.sentence}: {missed}")
    if missed:
        typer.echo(f"sparse-deploy: warning: {whole.sentence}: {missed}", err=True)
    unstable = [cell.id for cell in report.cells if not cell.stable]
    if unstable and fail_on_unstable:
        raise InconclusiveError(
            f"unstable measurements of {', '.join(unstable)}; repeat on a quieter machine or with more bench.blocks"
        )
