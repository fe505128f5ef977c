# SPDX-License-Identifier: Apache-2.0
"""Bench as a gate: verdicts and exit codes by policy, stored baselines, and damage that only one of the gates finds."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file
from tiny_deployment import BENCH_RECIPE, seal_deployment

from sparse_deploy.cli.main import run
from sparse_deploy.data.demo_text import demo_rows
from sparse_deploy.errors import ConfigError, ExitCode
from sparse_deploy.results import BenchReport
from sparse_deploy.stages.bench import bench_deployment

CELLS = ("bench.runtimes=[onnxruntime]", "bench.precisions=[fp32, int8]")
# Of 40 rows the tightest 95 % bound on a drop is 7 points: 20 can be shown and 1 can't.
DECIDED = 'goals=[{"metric": "accuracy", "type": "max-degradation", "value": 0.2}]'
OPEN = 'goals=[{"metric": "accuracy", "type": "max-degradation", "value": 0.01}]'


def bench(deployment: Path, folder: Path, *overrides: str, **options) -> BenchReport:
    return bench_deployment(deployment, folder, overrides=(*CELLS, *overrides), timing=False, **options)


def verdicts(report: BenchReport, metric: str = "accuracy") -> dict[str, str]:
    return {gate.cell: gate.verdict for gate in report.gates if gate.goal.metric == metric}


@pytest.fixture(scope="module")
def saved(tiny_deployment, tmp_path_factory) -> tuple[Path, BenchReport]:
    """A baseline file, and the report of the same run beside it."""
    folder = tmp_path_factory.mktemp("saved")
    path = folder / "baseline.json"
    return path, bench(tiny_deployment, folder / "report", DECIDED, new_baseline=path)


def scaled(source: Path, target: Path, factor: float) -> Path:
    """A deployment whose producer multiplied the weights of one FP32 layer, and described the file as it is."""
    copy = shutil.copytree(source, target)
    model = onnx.load(copy / "model.onnx")
    (weight,) = [i for i in model.graph.initializer if i.name == "bert.encoder.layer.0.output.dense.weight"]
    values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, copy / "model.onnx")
    seal_deployment(copy, BENCH_RECIPE)
    return copy


def test_a_drop_is_tested_and_zeros_are_always_counted(saved):
    _, report = saved
    assert verdicts(report) == {"onnxruntime-int8": "pass"}
    assert verdicts(report, "sparsity") == {"onnxruntime-fp32": "pass", "onnxruntime-int8": "pass"}
    (tested,) = [gate for gate in report.gates if gate.goal.metric == "accuracy"]
    assert tested.evidence.rows == 40
    assert report.cells[0].logit_difference == 0.0
    assert 0 < report.cells[1].logit_difference < 1


@pytest.mark.parametrize("form", ["file", "report"])
def test_a_run_against_its_own_baseline_has_not_moved(saved, tiny_deployment, tmp_path, form):
    path, _ = saved
    drift = '{"metric": "logit_drift", "type": "at-most", "value": 0.00001}'
    source = path if form == "file" else path.parent / "report"
    report = bench(tiny_deployment, tmp_path, f"{DECIDED[:-1]}, {drift}]", against=source)
    assert verdicts(report) == {"onnxruntime-fp32": "pass", "onnxruntime-int8": "pass"}
    assert verdicts(report, "logit_drift") == {"onnxruntime-fp32": "pass", "onnxruntime-int8": "pass"}
    assert report.cells[0].drift.agreement == 1.0
    assert report.settings["against_checkpoint"] == "same"


def test_the_first_rows_of_a_baseline_are_enough_but_batch_other_examples_together(saved, tiny_deployment, tmp_path):
    report = bench(tiny_deployment, tmp_path, DECIDED, "data.validation_samples=30", against=saved[0])
    assert (report.settings["against_examples"], report.examples) == (40, 30)
    tested = [gate.evidence for gate in report.gates if gate.evidence]
    assert [evidence.rows for evidence in tested] == [30, 30]
    assert {cell.drift for cell in report.cells} == {None}


def test_a_layer_that_is_off_moves_the_logits_before_it_moves_the_accuracy(saved, tiny_deployment, tmp_path):
    drift = '{"metric": "logit_drift", "type": "at-most", "value": 0.00001}'
    off = scaled(tiny_deployment, tmp_path / "off", 1.05)
    report = bench(off, tmp_path / "report", f"{DECIDED[:-1]}, {drift}]", against=saved[0])
    assert verdicts(report) == {"onnxruntime-fp32": "pass", "onnxruntime-int8": "pass"}
    assert verdicts(report, "logit_drift") == {"onnxruntime-fp32": "fail", "onnxruntime-int8": "pass"}


def test_another_checkpoint_is_compared_and_its_drift_is_not(saved, tiny_deployment, tmp_path):
    copy = shutil.copytree(tiny_deployment, tmp_path / "other")
    from safetensors.numpy import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt", "run": "another"})
    seal_deployment(copy, BENCH_RECIPE)
    drift = '{"metric": "logit_drift", "type": "at-most", "value": 0.1}'
    report = bench(copy, tmp_path / "report", f"{DECIDED[:-1]}, {drift}]", against=saved[0])
    assert report.settings["against_checkpoint"] == "another"
    assert verdicts(report) == {"onnxruntime-fp32": "pass", "onnxruntime-int8": "pass"}
    assert set(verdicts(report, "logit_drift").values()) == {"inconclusive"}
    assert report.cells[0].drift is None


def test_a_swapped_tokenizer_is_refused(saved, tiny_deployment, tmp_path):
    copy = shutil.copytree(tiny_deployment, tmp_path / "swapped")
    content = json.loads((copy / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (copy / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    seal_deployment(copy, BENCH_RECIPE)
    with pytest.raises(ConfigError, match=r"its tokenizer is \w+, that of the deployment is \w+"):
        bench(copy, tmp_path / "report", against=saved[0])
    assert not (tmp_path / "report").exists()


def test_more_rows_than_the_baseline_has_are_refused(saved, tiny_deployment, tmp_path):
    with pytest.raises(ConfigError, match="it has 40 validation rows, this run has 60"):
        bench(tiny_deployment, tmp_path / "report", "data.validation_samples=60", against=saved[0])


def revived(source: Path, target: Path) -> Path:
    copy = shutil.copytree(source, target)
    model = onnx.load(copy / "model.onnx")
    (weight,) = [i for i in model.graph.initializer if i.name == "bert.encoder.layer.0.output.dense.weight"]
    values = onnx.numpy_helper.to_array(weight).copy()
    values[values == 0] = 1e-6
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, copy / "model.onnx")
    seal_deployment(copy, BENCH_RECIPE)
    return copy


@pytest.fixture
def command(tiny_deployment, tmp_path, capsys):
    """Runs bench on FP32 and INT8 of ONNX Runtime; returns the exit code and the text on standard error."""

    def call(*arguments: str, deployment: Path = tiny_deployment) -> tuple[int, str]:
        cells = ("--runtime", "onnxruntime", "--no-latency", "--report", str(tmp_path / "report"))
        capsys.readouterr()
        code = run(["bench", str(deployment), *cells, *arguments])
        return code, capsys.readouterr().err

    return call


def test_zeros_that_came_back_fail_the_command_though_no_answer_changed(command, tiny_deployment, tmp_path):
    code, error = command("--set", DECIDED, deployment=revived(tiny_deployment, tmp_path / "revived"))
    assert code == ExitCode.GATE_FAILED
    assert "model.onnx of onnxruntime-fp32 has lost" in error
    assert "bert.encoder.layer.0.output.dense.weight kept 0 of" in error
    assert (tmp_path / "report" / "report.json").is_file()


@pytest.mark.parametrize(
    ("policy", "code"),
    [("more-rows", ExitCode.INCONCLUSIVE), ("fail", ExitCode.GATE_FAILED), ("warn", ExitCode.OK)],
)
def test_the_recipe_says_what_an_open_verdict_means(command, policy, code):
    found, error = command("--set", OPEN, "--set", f"gate.on_inconclusive={policy}")
    assert found == code
    assert "40 rows were compared, about" in error
    assert ("warning" in error) == (policy == "warn")


def test_a_failure_is_worse_than_no_verdict(command):
    goals = f'{OPEN[:-1]}, {{"metric": "accuracy", "type": "threshold", "value": 1.01}}]'
    assert command("--set", goals)[0] == ExitCode.GATE_FAILED


def test_what_only_informs_changes_no_exit_code(command):
    goal = 'goals=[{"metric": "latency_ratio", "type": "at-most", "value": 0.1}]'
    code, error = command("--set", goal)
    assert code == ExitCode.OK
    assert "sparse-deploy:" not in error
    assert command("--set", goal, "--set", "gate.quiet_machine=true")[0] == ExitCode.INCONCLUSIVE


def test_the_command_saves_and_compares(command, tmp_path):
    path = tmp_path / "baseline.json"
    drift = ("--set", 'goals=[{"metric": "logit_drift", "type": "at-most", "value": 0.1}]')
    assert command(*drift, "--precision", "fp32")[0] == ExitCode.INCONCLUSIVE
    assert command(*drift, "--save-baseline", str(path))[0] == ExitCode.OK  # there is nothing to drift from yet
    assert json.loads(path.read_text())["baseline"] == "onnxruntime-fp32"
    assert command(*drift, "--against", str(path))[0] == ExitCode.OK
    code, error = command("--save-baseline", str(tmp_path))
    assert code == ExitCode.USAGE
    assert "expected a file in a folder that exists, found a folder" in error


def test_drops_refer_to_another_model_that_answers_the_same_rows(saved, tiny_deployment, tmp_path):
    """The deployment against its own checkpoint is what it was; against a model that always errs nothing drops."""
    same = bench(tiny_deployment, tmp_path / "same", DECIDED, baseline_model=str(tiny_deployment))
    assert verdicts(same) == {"onnxruntime-fp32": "pass", "onnxruntime-int8": "pass"}
    assert same.settings["baseline_model_metrics"]["accuracy"] == saved[1].cells[0].metrics["accuracy"]
    assert 0 < same.cells[0].logit_difference < 1e-4
    other = tmp_path / "other"
    shutil.copytree(tiny_deployment, other)
    (other / "manifest.json").unlink()
    weights = load_file(other / "model.safetensors")
    weights["classifier.weight"] *= -1
    weights["classifier.bias"] *= -1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    report = bench(tiny_deployment, tmp_path / "report", DECIDED, baseline_model=str(other))
    accuracy, theirs = report.cells[0].metrics["accuracy"], report.settings["baseline_model_metrics"]["accuracy"]
    assert theirs == pytest.approx(1 - accuracy)
    assert report.cells[0].agreement == 0.0
    (tested, _) = [gate for gate in report.gates if gate.evidence]
    assert tested.baseline == theirs
    assert "pytorch-fp32 of other" in tested.explanation


def test_a_baseline_that_can_not_be_compared_is_refused(tiny_deployment, tiny_encoder, saved, tmp_path):
    with pytest.raises(ConfigError, match="use only one of them"):
        bench(tiny_deployment, tmp_path, DECIDED, baseline_model=str(tiny_deployment), against=saved[0])
    with pytest.raises(ConfigError, match="expected a model fine-tuned on demo"):
        bench(tiny_deployment, tmp_path, DECIDED, baseline_model=str(tiny_encoder))
    with pytest.raises(ConfigError, match="no such folder"):
        bench(tiny_deployment, tmp_path, DECIDED, baseline_model="./nothing")


def test_without_labels_the_predictions_of_the_dense_model_take_their_place(tiny_deployment, tmp_path, command):
    """A model agrees with itself, and with one whose head is negated on no text; the report says so."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(row["sentence"] + "\n" for row in demo_rows("validation")[:40]), encoding="utf-8")
    data = ("--data", str(texts), "--precision", "fp32", "--gate")
    goal = 'goals=[{"metric": "same_predictions", "type": "max-degradation", "value": 0.2}]'
    assert command(*data, "--baseline", str(tiny_deployment), "--set", goal)[0] == ExitCode.OK
    report = BenchReport.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert report.cells[0].metrics == {"same_predictions": 1.0}
    assert (report.examples, report.gates[-1].evidence.rows) == (40, 40)
    assert "no labels were read" in (tmp_path / "report" / "report.md").read_text()
    code, error = command(*data, "--baseline", str(tiny_deployment))
    assert code == ExitCode.INCONCLUSIVE  # 40 texts can't show that 99 % agree
    assert "must reach 99 % of the baseline's same_predictions" in error
    turned = shutil.copytree(tiny_deployment, tmp_path / "turned")
    (turned / "manifest.json").unlink()
    weights = load_file(turned / "model.safetensors")
    weights["classifier.weight"] *= -1
    weights["classifier.bias"] *= -1
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    code, error = command(*data, "--baseline", str(turned), "--set", goal)
    assert code == ExitCode.GATE_FAILED
    assert "same_predictions of onnxruntime-fp32 is 100.00 points below pytorch-fp32 of turned" in error


def test_what_labels_are_needed_for_is_refused_without_them(tiny_deployment, tmp_path, command):
    texts = tmp_path / "texts.txt"
    texts.write_text("a good film\na bad one\n")
    data, baseline = ("--data", str(texts)), ("--baseline", str(tiny_deployment))
    for options, words in (
        (
            (),
            "expected a column 'label' to score against, found none; name one with --label-column, or compare the",
        ),
        ((*baseline, "--save-baseline", str(tmp_path / "b.json")), "omit --against and --save-baseline"),
        ((*baseline, "--set", DECIDED), "goal accuracy: "),
    ):
        code, error = command(*data, *options)
        assert code == ExitCode.USAGE
        assert words in error
        assert not (tmp_path / "report").exists()
