# SPDX-License-Identifier: Apache-2.0
"""The bench stage and its command on a tiny real deployment: figures, files, goals and refusals."""

import json
import os
import shutil
from pathlib import Path

import pytest
import typer
from tiny_deployment import BENCH_RECIPE as RECIPE
from typer.testing import CliRunner

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.cli.bench import bench_command
from sparse_deploy.config import recipe_from_mapping
from sparse_deploy.errors import (
    ArtifactError,
    ConfigError,
    GateFailure,
    InconclusiveError,
    RuntimeUnavailableError,
)
from sparse_deploy.results import BenchReport
from sparse_deploy.runtimes.onnxruntime import OnnxRuntime
from sparse_deploy.stages.bench import bench_deployment
from sparse_deploy.stages.candidates import find_candidates

QUICK = ("bench.runtimes=[onnxruntime, openvino]", "bench.precisions=[fp32]")


@pytest.fixture(scope="module")
def deployment(tiny_deployment: Path) -> Path:
    return tiny_deployment


@pytest.fixture(scope="module")
def measured(deployment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchReport, Path]:
    folder = tmp_path_factory.mktemp("measured") / "report"
    overrides = ("bench.runtimes=[onnxruntime, pytorch, openvino]", "bench.precisions=[fp32]", "bench.shapes=[[1, 16]]")
    return bench_deployment(deployment, folder, overrides=overrides), folder


class TestReport:
    def test_the_baseline_is_pytorch_wherever_the_recipe_names_it(self, measured):
        report, _ = measured
        assert report.baseline == "pytorch-fp32"
        assert report.cells[0].id == "pytorch-fp32"
        assert report.cells[0].speedup is None

    def test_every_cell_has_all_figures(self, measured):
        report, folder = measured
        assert [cell.id for cell in report.cells] == ["pytorch-fp32", "onnxruntime-fp32", "openvino-fp32"]
        for cell in report.cells:
            assert set(cell.metrics) == {"accuracy", "loss"}
            assert cell.latency.requests >= 2 * 20
            # A third round where another process disturbed one.
            assert len(cell.latency.block_medians_ms) in (2, 3)
            assert len(cell.throughput.blocks) in (2, 3)
            assert [(s.batch, s.tokens) for s in cell.shapes] == [(1, 16)]
            assert min(cell.load_ms, cell.first_inference_ms, cell.rss_bytes, cell.file_bytes) > 0
            assert cell.sparsity.sparsity_of_prunable == pytest.approx(0.7, abs=0.01)
            predictions = (folder / cell.predictions).read_text().splitlines()
            assert [json.loads(line)["id"] for line in predictions] == list(range(40))

    def test_runtimes_of_one_file_agree(self, measured):
        report, _ = measured
        assert {cell.agreement for cell in report.cells} == {1.0}
        assert len({round(cell.metrics["accuracy"], 9) for cell in report.cells}) == 1

    def test_size_of_an_ir_includes_its_weights(self, measured, deployment):
        report, _ = measured
        both = sum((deployment / name).stat().st_size for name in ("openvino_model.xml", "openvino_model.bin"))
        assert report.cell("openvino-fp32").file_bytes == both

    def test_written_report_reads_back_and_says_how_it_was_made(self, measured):
        report, folder = measured
        written = BenchReport.model_validate_json((folder / "report.json").read_bytes())
        assert written.cell("openvino-fp32").metrics == report.cell("openvino-fp32").metrics
        assert (folder / "report.html").is_file()
        assert (folder / "report.md").is_file()
        assert written.settings["threads"] == 1
        assert written.settings["percentiles"] == "nearest rank"
        assert written.lengths.minimum <= written.lengths.p50 <= written.lengths.maximum <= 32
        assert written.examples == 40


def run(deployment: Path, folder: Path, *more: str, **options) -> BenchReport:
    return bench_deployment(deployment, folder, overrides=(*QUICK, *more), timing=False, **options)


def test_more_threads_than_cpus_are_remarked_on_in_the_report(deployment, tmp_path):
    threads = 2 * len(os.sched_getaffinity(0))
    report = run(deployment, tmp_path, f"bench.threads={threads}", "bench.runtimes=[onnxruntime]")
    assert report.settings["thread_remark"].startswith(f"{threads} threads on ")
    assert report.settings["thread_remark"] in (tmp_path / "report.md").read_text()


class TestGoals:
    def test_a_missed_goal_is_in_the_report_and_nothing_is_raised(self, deployment, tmp_path):
        report = run(deployment, tmp_path, "goals=[{metric: accuracy, type: threshold, value: 1.01}]")
        assert {gate.verdict for gate in report.gates if gate.goal.metric == "accuracy"} == {"fail"}
        assert (tmp_path / "report.json").is_file()
        assert report.cells[0].latency is None

    def test_a_goal_without_a_metric_fails_before_anything_is_timed(self, deployment, tmp_path):
        messages: list[str] = []
        with pytest.raises(ConfigError, match="bleu"):
            bench_deployment(
                deployment,
                tmp_path,
                overrides=(*QUICK, "goals=[{metric: bleu, type: threshold, value: 1}]"),
                progress=lambda message, share: messages.append(message),
            )
        assert any(message.startswith("accuracy") for message in messages)
        assert not any(message.startswith("warm-up") for message in messages)


class TestRefusals:
    def test_not_a_report(self, deployment, tmp_path):
        (tmp_path / "earlier.json").write_text("{}")
        with pytest.raises(ArtifactError, match="not a readable report"):
            run(deployment, tmp_path, against=tmp_path / "earlier.json")

    def test_altered_deployment(self, deployment, tmp_path):
        copy = shutil.copytree(deployment, tmp_path / "copy")
        (copy / "model.onnx").write_bytes(b"other")
        with pytest.raises(ArtifactError, match=r"not the one that the manifest describes"):
            run(copy, tmp_path / "report")

    def test_unknown_override(self, deployment, tmp_path):
        with pytest.raises(ConfigError, match=r"did you mean 'bench\.blocks'|did you mean 'blocks'"):
            run(deployment, tmp_path, "bench.block=3")

    def test_shape_longer_than_the_model_reads(self, deployment, tmp_path):
        with pytest.raises(ConfigError, match=r"to \d+x128, .*found 1x129"):
            run(deployment, tmp_path, "bench.shapes=[[1, 129]]")

    def test_window_longer_than_the_model_reads(self, deployment, tmp_path):
        with pytest.raises(ConfigError, match=r"data\.max_length: .*at most 128 tokens; found 200"):
            run(deployment, tmp_path, "data.max_length=200")


class TestCandidates:
    def test_absent_files_are_left_out_with_the_reason(self, deployment, tmp_path):
        copy = shutil.copytree(deployment, tmp_path / "copy")
        (copy / "openvino_model_int8.xml").unlink()
        found, skipped = find_candidates(copy, recipe_from_mapping(RECIPE, "test"))
        assert "openvino-int8" not in [candidate.id for candidate in found]
        skipped.pop("openvino-sparse-int8")  # it is of no standard export
        assert skipped == {"openvino-int8": "the deployment has no openvino_model_int8.xml"}

    def test_absent_files_that_were_asked_for_are_an_error(self, deployment, tmp_path):
        copy = shutil.copytree(deployment, tmp_path / "copy")
        (copy / "openvino_model_int8.xml").unlink()
        with pytest.raises(ArtifactError, match="openvino-int8 was requested"):
            find_candidates(copy, recipe_from_mapping(RECIPE, "test"), explicit=True)

    def test_missing_runtimes(self, deployment, monkeypatch):
        monkeypatch.setattr(OnnxRuntime, "available", lambda self: False)
        recipe = recipe_from_mapping(RECIPE, "test")
        found, skipped = find_candidates(deployment, recipe)
        assert all(candidate.runtime.name != "onnxruntime" for candidate in found)
        assert skipped["onnxruntime-fp32"] == "onnxruntime is not installed"
        with pytest.raises(RuntimeUnavailableError, match="onnxruntime-fp32 was requested"):
            find_candidates(deployment, recipe, explicit=True)

    def test_operators_that_were_not_compiled_are_left_out_with_the_reason(self, deployment, without_operators):
        recipe = recipe_from_mapping(RECIPE, "test")
        found, skipped = find_candidates(deployment, recipe)
        assert all(candidate.runtime.name != "sparse" for candidate in found)
        assert "libsparse_deploy_onnxruntime.so: no such file" in skipped["sparse-int8"]
        with pytest.raises(RuntimeUnavailableError, match=r"sparse-int8 was requested: .*no such file"):
            find_candidates(deployment, recipe, explicit=True)

    def test_a_precision_that_a_runtime_does_not_have_is_no_cell(self, deployment):
        sparse = RECIPE | {"bench": {"runtimes": ["sparse", "onnxruntime"]}}
        found, skipped = find_candidates(deployment, recipe_from_mapping(sparse, "test"), explicit=True)
        assert [candidate.id for candidate in found] == ["sparse-int8", "onnxruntime-fp32", "onnxruntime-int8"]
        assert skipped == {}
        sparse = RECIPE | {"bench": {"runtimes": ["sparse"], "precisions": ["fp32"]}}
        with pytest.raises(RuntimeUnavailableError, match=r"no cell can run here \(sparse runs no fp32"):
            find_candidates(deployment, recipe_from_mapping(sparse, "test"), explicit=True)

    def test_no_pytorch_int8_without_int8(self, deployment):
        recipe = recipe_from_mapping(RECIPE | {"quantization": {"mode": "none"}}, "test")
        found, _ = find_candidates(deployment, recipe)
        assert not [candidate for candidate in found if candidate.id.startswith(("pytorch-int8", "onnxruntime-int8"))]

    def test_sparse_files_are_int8_without_the_setting(self, deployment):
        without = RECIPE | {"quantization": {"mode": "none"}, "bench": {"runtimes": ["pytorch", "sparse"]}}
        found, skipped = find_candidates(deployment, recipe_from_mapping(without, "test"), explicit=True)
        assert [candidate.id for candidate in found] == ["pytorch-fp32", "sparse-int8"]
        assert skipped == {"pytorch-int8": "the deployment was exported without INT8"}


class TestCommand:
    @pytest.fixture
    def invoke(self, deployment, tmp_path):
        app = typer.Typer()
        app.command()(bench_command)

        def call(*arguments: str):
            cells = ("--runtime", "onnxruntime", "--precision", "fp32")
            return CliRunner().invoke(app, [str(deployment), "--report", str(tmp_path / "report"), *cells, *arguments])

        return call

    def test_json_alone_is_on_standard_output(self, invoke):
        result = invoke("--json", "--no-latency")
        assert result.exit_code == 0, result.output
        assert BenchReport.model_validate_json(result.stdout).cells[0].id == "onnxruntime-fp32"

    def test_people_get_a_table(self, invoke):
        result = invoke("--shape", "1x16", "--set", "bench.blocks=2")
        assert result.exit_code == 0, result.output
        assert "onnxruntime-fp32" in result.stdout
        assert "Fixed shapes" in result.stdout
        assert "report.html" in result.stdout

    def test_missed_goals_end_with_their_names_after_the_report(self, invoke, tmp_path):
        result = invoke("--no-latency", "--set", "goals=[{metric: accuracy, type: threshold, value: 1.01}]")
        assert isinstance(result.exception, GateFailure)
        assert "accuracy" in str(result.exception)
        assert (tmp_path / "report/report.json").is_file()

    def test_a_malformed_shape(self, invoke):
        result = invoke("--shape", "1,128")
        assert isinstance(result.exception, ConfigError)
        assert "BATCHxTOKENS" in str(result.exception)

    def test_unstable_measurements_can_fail(self, invoke, monkeypatch):
        monkeypatch.setattr("sparse_deploy.measurement.statistics.UNSTABLE_CV", -1.0)
        result = invoke("--fail-on-unstable")
        assert isinstance(result.exception, InconclusiveError)
        assert "UNSTABLE onnxruntime-fp32" in result.stdout


def test_deployment_must_be_finished(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(ArtifactError, match=MANIFEST_NAME):
        bench_deployment(tmp_path / "d", tmp_path / "report")
