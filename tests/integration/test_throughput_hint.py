# SPDX-License-Identifier: Apache-2.0
"""``bench`` with the throughput hint, on a tiny real deployment: streams beside the latency hint, or none."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from openvino_extension import needs_extension
from openvino_streams import streams_of_openvino
from tiny_deployment import BENCH_RECIPE, make_sparse_ir, seal_deployment
from typer.testing import CliRunner

from sparse_deploy.cli.bench import bench_command
from sparse_deploy.errors import ConfigError
from sparse_deploy.report.report import load_report
from sparse_deploy.results import BenchReport
from sparse_deploy.stages.bench import bench_deployment

CELLS = ("bench.runtimes=[onnxruntime, openvino, openvino-sparse]", "bench.threads=2")


@pytest.fixture(scope="module")
def deployment(tiny_deployment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(tiny_deployment, tmp_path_factory.mktemp("hint") / "deployment")
    make_sparse_ir(folder)
    seal_deployment(folder, BENCH_RECIPE)
    return folder


@pytest.fixture(scope="module")
def measured(deployment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, Path]:
    folder = tmp_path_factory.mktemp("measured")
    return bench_deployment(deployment, folder, overrides=CELLS), folder


def test_cells_of_openvino_are_measured_in_streams_too(deployment, measured):
    report, _ = measured
    streams = streams_of_openvino(deployment / "openvino_model.xml", threads=2)
    assert [cell.id for cell in report.cells if cell.streamed and cell.runtime == "openvino"] == [
        "openvino-fp32",
        "openvino-int8",
    ]
    assert {cell.streamed for cell in report.cells if cell.runtime == "onnxruntime"} == {None}
    for figures in (cell.streamed for cell in report.cells if cell.streamed):
        assert figures.streams == streams
        assert len(figures.blocks) in (2, 3)  # a third round where another process disturbed one
        assert figures.batch_size == 8
        assert figures.tokens_per_second > figures.examples_per_second > 0
        assert 0 < figures.gain.low <= figures.gain.value <= figures.gain.high
        assert figures.gain.confidence == 0.95
    assert report.settings["hints"] == ["latency", "throughput"]


@needs_extension
def test_so_is_openvino_with_the_sparse_operators(measured):
    report, _ = measured
    assert report.cell("openvino-sparse-int8").streamed.streams == report.cell("openvino-fp32").streamed.streams


def test_every_form_of_the_report_shows_them(measured):
    report, folder = measured
    assert load_report(folder).cell("openvino-fp32").streamed == report.cell("openvino-fp32").streamed
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "over the latency hint" in text
        assert "in streams" in text


def test_the_command_prints_them_and_json_has_them(deployment, tmp_path):
    app = typer.Typer()
    app.command()(bench_command)
    arguments = [str(deployment), "--report", str(tmp_path), "--runtime", "openvino", "--precision", "fp32"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "over the latency hint" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["cells"][0]["streamed"]["streams"] == 1  # the recipe has one thread


def test_hints_switched_off(deployment, tmp_path):
    report = bench_deployment(
        deployment,
        tmp_path,
        overrides=("bench.runtimes=[openvino]", "bench.precisions=[fp32]", "bench.hints=[latency]"),
    )
    assert report.cells[0].streamed is None
    assert report.cells[0].throughput
    assert "over the latency hint" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_latency_hint_can_not_be_left_out(deployment, tmp_path):
    with pytest.raises(ConfigError, match=r"bench.*hints needs latency"):
        bench_deployment(deployment, tmp_path, overrides=("bench.hints=[throughput]",))
