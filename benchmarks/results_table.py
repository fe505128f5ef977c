# SPDX-License-Identifier: Apache-2.0
"""One Markdown table from several reports: a row per deployment and cell, with the difference from its FP32 baseline.

python benchmarks/results_table.py runs/*-report > table.md
"""

import argparse
from pathlib import Path

from sparse_deploy.artifacts import load_manifest
from sparse_deploy.report.report import load_report
from sparse_deploy.results import BenchReport, Cell

HEADERS = (
    "deployment",
    "zeros %",
    "cell",
    "metric",
    "Δ FP32",
    "p50 ms",
    "spread %",
    "examples/s",
    "speed-up [95 %]",
    "MB",
)


def row(report: BenchReport, cell: Cell) -> tuple[str, ...]:
    """One cell as table text. The figure of an unstable cell is in brackets."""
    metric, base = cell.metrics[report.primary_metric], report.cell(report.baseline).metrics[report.primary_metric]
    unit = 1.0 if report.task == "squad" else 100.0
    sparsity = report.cell(report.baseline).sparsity
    mark = "{}" if cell.stable else "({})"
    latency, throughput, speedup = cell.latency, cell.throughput, cell.speedup
    return (
        report.name,
        f"{100 * sparsity.sparsity_of_prunable:.1f}" if sparsity else "",
        cell.id,
        f"{metric * unit:.2f}",
        "baseline" if cell.id == report.baseline else f"{(metric - base) * unit:+.2f}",
        mark.format(f"{latency.p50_ms:.2f}") if latency else "",
        f"{100 * latency.cv:.1f}" if latency else "",
        mark.format(f"{throughput.examples_per_second:.0f}") if throughput else "",
        mark.format(f"{speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]") if speedup else "",
        f"{cell.file_bytes / 1e6:.1f}",
    )


def print_zeros(reports: list[BenchReport]) -> None:
    """Required zeros found in each file of each deployment; ``+N`` were rounded to zero by INT8."""
    for number, report in enumerate(reports):
        records = load_manifest(Path(report.deployment), "deployment", verify=False).sparsity
        if number == 0:
            print("| deployment | pattern | " + " | ".join(f"`{name}`" for name in records) + " |")
            print("|---|---|" + "---:|" * len(records))
        cells = []
        for record in records.values():
            required = sum(tensor.required_zeros for tensor in record.tensors)
            cells.append(f"{required:,}" + (f" +{record.zeros - required:,}" if record.zeros > required else ""))
        pattern = next(iter(records.values())).tensors[0].pattern
        print(f"| {report.name} | {pattern} | " + " | ".join(cells) + " |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="report.json files or the folders that hold them")
    parser.add_argument(
        "--checkpoints", nargs="*", type=Path, default=[], help="also list steps and metrics of these checkpoints"
    )
    parser.add_argument("--zeros", action="store_true", help="print required and rounded zeros per file instead")
    arguments = parser.parse_args()
    reports = [load_report(path) for path in arguments.reports]
    if arguments.zeros:
        print_zeros(reports)
        return
    first = reports[0]
    print(f"Machine: {first.machine.cpu_model}, {', '.join(first.machine.flags)}; {first.settings['threads']} threads.")
    print(f"Versions: {', '.join(f'{name} {version}' for name, version in first.versions.items())}.\n")
    print("|" + "|".join(HEADERS) + "|")
    print("|" + "|".join("---" if i in (0, 2) else "---:" for i in range(len(HEADERS))) + "|")
    for report in reports:
        for cell in report.cells:
            print("|" + "|".join(row(report, cell)) + "|")
    for folder in arguments.checkpoints:
        manifest = load_manifest(folder, "checkpoint", verify=False)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in manifest.details["metrics"].items())
        print(f"\n* `{folder}`: {manifest.details['steps']} steps; {figures}")


if __name__ == "__main__":
    main()
