# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page that works offline: inline style, inline SVG, no script."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sparse_deploy.report import plots
from sparse_deploy.report.findings import headline
from sparse_deploy.report.forest import drops_by_gate
from sparse_deploy.report.sections import machine_line, measured_line, reproduce_command, sections
from sparse_deploy.results import BenchReport

_TEMPLATES = Path(__file__).parent / "templates"
_CAPTIONS = {
    "accuracy": "Accuracy against latency",
    "latency": "Latency of single requests",
    "throughput": "Offline throughput",
    "sparsity": "Zeros by layer and matrix",
    "gates": "Drop against the baseline, with its bounds",
}


def render_page(report: BenchReport) -> str:
    """The whole report as HTML text; every text of the report is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(
        report=report,
        headline=headline(report),
        measured=measured_line(report),
        machine=machine_line(report),
        command=reproduce_command(report),
        sections=sections(report),
        plots=_plots(report),
        captions=_CAPTIONS,
    )


def _plots(report: BenchReport) -> dict[str, Markup]:
    record = report.cell(report.baseline).sparsity or next((c.sparsity for c in report.cells if c.sparsity), None)
    drawn = {
        "accuracy": plots.accuracy_against_latency(report),
        "latency": plots.latency_distributions(report),
        "throughput": plots.throughput_bars(report),
        "sparsity": plots.sparsity_by_layer(record),
        "gates": drops_by_gate(report),
    }
    # Matplotlib escapes the texts that it writes into an SVG, so this markup is safe.
    return {name: Markup(svg) for name, svg in drawn.items() if svg}  # noqa: S704
