# SPDX-License-Identifier: Apache-2.0
"""`sparse-deploy sweep` on a tiny model: killed in the middle and run again, and the same sweep on Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from learnt_deployment import train_classifier, write_text
from tiny_checkpoint import demo_recipe

from sparse_deploy.errors import ExitCode
from sparse_deploy.publishing import only_writer

MODE = "quantization.mode"
TOO_SPARSE = {MODE: "static", "sparsity.target": 0.9}  # the checkpoint promises less: exit code 5


class Sweep:
    """A sweep of two good cells and one that fails."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder, self.output = folder, folder / "local"
        data = write_text(folder / "data")
        train_classifier(encoder, data, folder / "checkpoint")
        recipe = demo_recipe(
            encoder,
            data={"max_length": 32, "validation_samples": 100},
            export={"openvino": False, "sparse": {"enabled": False}},
            bench={"runtimes": ["onnxruntime"]},
            goals=[{"metric": "accuracy", "type": "threshold", "value": 0.5}],
        )
        (folder / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
        self.write("sweep.yaml", include=[TOO_SPARSE])
        self.write("good.yaml")

    def write(self, name: str, **more: object) -> None:
        sweep = {"name": "tiny", "recipe": str(self.folder / "recipe.yaml"), "grid": {MODE: ["none", "dynamic"]}}
        sweep |= {"checkpoint": str(self.folder / "checkpoint")}
        (self.folder / name).write_text(json.dumps(sweep | more))

    def command(self, name: str, output: Path, *more: str) -> list[str]:
        command = [sys.executable, "-m", "sparse_deploy", "sweep", str(self.folder / name), "--output", str(output)]
        return [*command, "--data-dir", str(self.folder / "data"), "--cpus-per-task", "1", *more]

    def run(self, name: str, output: Path, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(name, output, *more), capture_output=True, text=True, timeout=300, check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        )  # fmt: skip


def processes_of(folder: Path) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def swept(sparse_encoder, tmp_path_factory):
    """The sweep, its driver killed once the first export was there, and then run again."""
    sweep = Sweep(tmp_path_factory.mktemp("sweep"), sparse_encoder)
    driver = subprocess.Popen(sweep.command("sweep.yaml", sweep.output), stderr=subprocess.PIPE)
    wait_until(lambda: list(sweep.output.glob("cells/*/progress.json")), 200)
    assert processes_of(sweep.output)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    exported = [path.parent / "deployment" / "manifest.json" for path in sweep.output.glob("cells/*/progress.json")]
    sweep.before = {path: path.stat().st_mtime_ns for path in exported}
    wait_until(lambda: not processes_of(sweep.output), 10)
    assert not (sweep.output / "summary.json").exists()
    sweep.again = sweep.run("sweep.yaml", sweep.output, "--json")
    return sweep


def test_a_killed_sweep_goes_on_from_the_last_finished_stage(swept):
    assert swept.before
    assert {path: path.stat().st_mtime_ns for path in swept.before} == swept.before
    summary = json.loads(swept.again.stdout)
    assert [cell["status"] for cell in summary["cells"]] == ["finished", "finished", "failed"]
    for cell in summary["cells"][:2]:
        files = {path.name for path in (swept.output / cell["folder"]).iterdir()}
        assert files == {"deployment", "report", "logs", "cell.json", "progress.json", "recipe.json"}


def test_a_failed_cell_stops_no_other_and_gives_the_exit_code(swept):
    assert swept.again.returncode == ExitCode.BAD_ARTIFACT
    *_, failed = json.loads(swept.again.stdout)["cells"]
    assert failed["settings"] == TOO_SPARSE
    assert failed["exit_code"] == ExitCode.BAD_ARTIFACT
    assert "requires 90.0%" in failed["message"]


def test_the_summary_holds_figures_and_verdicts(swept):
    summary = json.loads((swept.output / "summary.json").read_text())
    assert summary == json.loads(swept.again.stdout)
    dynamic = summary["cells"][1]["measured"]
    assert [one["id"] for one in dynamic] == ["onnxruntime-fp32", "onnxruntime-int8"]
    for one in dynamic:
        assert one["metrics"]["accuracy"] > 0.9
        assert one["verdicts"]["accuracy"] == "pass"
        assert one["zeros"] == pytest.approx(0.7, abs=0.01)
        assert one["p50_ms"] is None
    page = (swept.output / "summary.md").read_text()
    assert "| dynamic | - | onnxruntime-int8 |" in page
    assert "failed, exit code 5" in page


@pytest.fixture(scope="module")
def good(swept):
    """The two good cells again, where the first sweep has left them."""
    before = {path: path.stat().st_mtime_ns for path in swept.output.glob("cells/*/*.json")}
    done = swept.run("good.yaml", swept.output, "--json")
    assert {path: path.stat().st_mtime_ns for path in swept.output.glob("cells/*/*.json")} == before
    return done


def test_finished_cells_are_skipped(good):
    assert good.returncode == ExitCode.OK, good.stderr
    assert [cell["status"] for cell in json.loads(good.stdout)["cells"]] == ["finished", "finished"]


def test_ray_runs_the_same_sweep_to_the_same_summary(swept, good, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    # One cell has its export from the other engine, one is Ray's own work from the start.
    output, others = tmp_path / "ray", processes_of(Path("/tmp/sdray-"))  # another test's Ray may run
    folder = json.loads(good.stdout)["cells"][0]["folder"]
    shutil.copytree(swept.output / folder, output / folder)
    (output / folder / "cell.json").unlink()
    progress = output / folder / "progress.json"
    found = json.loads(progress.read_text())
    progress.write_text(json.dumps(found | {"stages": found["stages"][:1]}))
    done = swept.run("good.yaml", output, "--engine", "ray")
    assert done.returncode == ExitCode.OK, done.stderr
    assert (output / "summary.json").read_text() == good.stdout
    assert "dynamic" in done.stderr  # the table
    assert not done.stdout
    wait_until(lambda: not processes_of(output) and set(processes_of(Path("/tmp/sdray-"))) <= set(others), 20)


def test_a_second_driver_is_refused(swept):
    with only_writer(swept.output):
        refused = swept.run("good.yaml", swept.output)
    assert refused.returncode == ExitCode.USAGE
    assert "another process writes to it" in refused.stderr
