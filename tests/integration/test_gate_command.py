# SPDX-License-Identifier: Apache-2.0
"""``bench --gate``, the composite action and the shell example, on a tiny trained model."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sparse_deploy.cli.main import _TOOLCHAIN, run
from sparse_deploy.errors import ExitCode

REPOSITORY = Path(__file__).resolve().parents[2]
EASY = '[{"metric": "accuracy", "type": "threshold", "value": 0.9}]'
HARD = '[{"metric": "accuracy", "type": "threshold", "value": 0.9999}]'
WORKFLOWS = [REPOSITORY / "action.yml", *REPOSITORY.glob("examples/ci/*.yml"), *REPOSITORY.glob(".github/**/*.yml")]


@pytest.fixture(autouse=True)
def outside_of_github(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def bench(learnt: Path, report: Path, *arguments: str) -> int:
    command = ["bench", str(learnt / "deployment"), "--data-dir", str(learnt / "data"), "--runtime", "onnxruntime"]
    return run([*command, "--no-latency", "--report", str(report), *arguments])


def test_a_recipe_without_goals_is_asked_for_99_percent(learnt, tmp_path, capsys):
    assert bench(learnt, tmp_path / "r", "--gate", "--set", "gate.on_inconclusive=warn") in (0, ExitCode.GATE_FAILED)
    said = capsys.readouterr()
    assert "the recipe has no goals" in said.err
    assert "99 % of the baseline's accuracy" in said.err
    gates = json.loads((tmp_path / "r" / "gate.json").read_text())["gates"]
    (paired,) = [gate for gate in gates if gate["evidence"]]
    assert (paired["cell"], paired["goal"]["type"], paired["goal"]["value"]) == (
        "onnxruntime-int8",
        "percent-of-baseline",
        99.0,
    )
    assert "p50 ms" not in said.out  # piped: the goals, nothing else
    assert "percent-of-baseline 99" in said.out


def test_files_and_exit_code_agree_and_nothing_is_said_to_github_outside_of_it(learnt, tmp_path, capsys):
    assert bench(learnt, tmp_path / "r", "--gate", "--set", f"goals={HARD}") == ExitCode.GATE_FAILED
    found = json.loads((tmp_path / "r" / "gate.json").read_text())
    assert (found["verdict"], found["exit_code"]) == ("fail", 3)
    assert "0.9999" in (tmp_path / "r" / "gate.md").read_text()
    failures = ET.parse(tmp_path / "r" / "junit.xml").findall(".//failure")
    assert len(failures) == found["failed"] == 2
    said = capsys.readouterr()
    assert "::error" not in said.out + said.err


def test_inside_github_json_stays_pure_and_the_summary_is_appended(learnt, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    code = bench(learnt, tmp_path / "r", "--gate", "--json", "--set", f"goals={HARD}")
    said = capsys.readouterr()
    assert code == ExitCode.GATE_FAILED
    assert json.loads(said.out)["task"] == "demo"
    assert len([line for line in said.err.splitlines() if line.startswith("::error title=")]) == 2
    assert (tmp_path / "summary.md").read_text() == "before\n" + (tmp_path / "r" / "gate.md").read_text()


def test_without_the_flag_nothing_of_it_is_written(learnt, tmp_path):
    assert bench(learnt, tmp_path / "r", "--set", f"goals={EASY}") == ExitCode.OK
    assert not {"gate.json", "gate.md", "junit.xml"} & {path.name for path in (tmp_path / "r").iterdir()}


class Runner:
    """Runs the steps of a composite action as GitHub's runner does: expressions filled in, bash, environment files."""

    def __init__(self, folder: Path):
        self.action = yaml.safe_load((REPOSITORY / "action.yml").read_text())
        self.summary = folder / "summary.md"
        self.folder, self.outputs, self.said = folder, {}, ""

    def run(self, **inputs: str) -> int:
        known = {name.replace("-", "_"): name for name in self.action["inputs"]}
        values = {name: str(entry.get("default", "")) for name, entry in self.action["inputs"].items()}
        values |= {known[name]: value for name, value in inputs.items()}
        for step in self.action["runs"]["steps"]:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"]  # inputs reach a script as variables, never as its text
            output = self.folder / f"{step['id']}.output"
            output.touch()
            environment = os.environ | {
                "GITHUB_ACTIONS": "true", "GITHUB_ACTION_PATH": str(REPOSITORY), "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.summary), "RUNNER_TEMP": str(self.folder),
            }  # fmt: skip
            environment |= {name: self.filled(text, values) for name, text in step["env"].items()}
            script = self.folder / f"{step['id']}.sh"
            script.write_text(step["run"])
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)], env=environment, cwd=self.folder,
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            self.said += done.stdout + done.stderr
            pairs = dict(line.split("=", 1) for line in output.read_text().splitlines())
            self.outputs |= {f"steps.{step['id']}.outputs.{name}": value for name, value in pairs.items()}
            if done.returncode:
                break
        return done.returncode

    def filled(self, text: str, values: dict[str, str]) -> str:
        known = {f"inputs.{name}": value for name, value in values.items()} | self.outputs
        return re.sub(r"\$\{\{ *([^ }]+) *\}\}", lambda match: known[match[1]], text)

    def output(self, name: str) -> str:
        return self.filled(self.action["outputs"][name]["value"], {})


@pytest.mark.parametrize(("goals", "code", "verdict"), [(EASY, 0, "pass"), (HARD, 3, "fail")])
def test_the_action_judges_a_deployment(learnt, tmp_path, goals, code, verdict):
    runner = Runner(tmp_path)
    found = runner.run(
        deployment=str(learnt / "deployment"), data_dir=str(learnt / "data"), install="none", python=sys.executable,
        overrides=f"goals={goals}\n\ngate.confidence=0.9\n", arguments="--runtime\nonnxruntime\n",
    )  # fmt: skip
    assert found == code, runner.said
    assert (runner.output("verdict"), runner.output("exit-code")) == (verdict, str(code))
    assert (Path(runner.output("report")) / "junit.xml").is_file()
    assert f"gate: {verdict.upper()}" in runner.summary.read_text()
    assert ("::error title=" in runner.said) == (verdict == "fail")


def test_the_action_has_no_verdict_where_bench_has_none(learnt, tmp_path):
    runner = Runner(tmp_path)
    hostile = '$(touch pwned) "; touch pwned; `touch pwned`'
    code = runner.run(deployment=hostile, overrides="", install="none", python=sys.executable)
    assert code == ExitCode.USAGE
    assert (runner.output("verdict"), runner.output("exit-code")) == ("error", "2")
    assert not (tmp_path / "pwned").exists()


def test_what_the_action_installs_has_all_that_bench_needs(tmp_path, monkeypatch):
    """The install step as it is: pip resolves against this environment's packages, and installs nothing."""
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{sysconfig.get_path('purelib')}")
    monkeypatch.setenv("PIP_DRY_RUN", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's words for: without isolation
    monkeypatch.setenv("PIP_REPORT", str(tmp_path / "pip.json"))
    runner = Runner(tmp_path)
    assert runner.run(deployment="nowhere", python=sys.executable) == ExitCode.USAGE
    assert runner.said.startswith("sparse-deploy: nowhere: ")  # the package ran, and pip had nothing to complain of
    assert runner.outputs["steps.install.outputs.python"] == str(tmp_path / "sparse-deploy" / "bin" / "python")
    (package,) = json.loads((tmp_path / "pip.json").read_text())["install"]
    extras = package.get("requested_extras", [])
    wanted = [Requirement(line) for line in package["metadata"]["requires_dist"]]
    installed = {
        canonicalize_name(one.name)
        for one in wanted
        if any(one.marker and one.marker.evaluate({"extra": extra}) for extra in extras)
    }
    owners = importlib.metadata.packages_distributions()
    assert not {name for name in _TOOLCHAIN if not installed & {canonicalize_name(owner) for owner in owners[name]}}


def test_the_gitlab_job_installs_what_bench_needs():
    script = yaml.safe_load((REPOSITORY / "examples" / "ci" / "gitlab-ci.yml").read_text())["gate"]["script"]
    torch, package = (shlex.split(line)[-1] for line in script if line.startswith("pip install"))
    assert torch in (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert Requirement(package).extras == {"toolchain"}


def test_the_shell_example_stores_a_baseline_and_then_compares(learnt, tmp_path):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "BASELINE": str(tmp_path / "baseline.json"),
        "REPORT": str(tmp_path / "report"),
    }  # fmt: skip
    command = [str(REPOSITORY / "examples" / "ci" / "gate.sh"), str(learnt / "deployment")]
    command += ["--data-dir", str(learnt / "data"), "--runtime", "onnxruntime", "--precision", "fp32"]

    def gated(goals: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*command, "--set", f"goals={goals}"], env=environment, capture_output=True, text=True, check=False
        )

    assert gated(EASY).returncode == 0
    assert (tmp_path / "baseline.json").is_file()
    drift = '[{"metric": "logit_drift", "type": "at-most", "value": 0.001}]'
    again = gated(drift)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "report" / "gate.json").read_text())["against"] == environment["BASELINE"]
    missed = gated(HARD)
    assert missed.returncode == 3
    assert "a goal is missed" in missed.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_in_use_is_pinned_by_its_full_hash(path):
    used = re.findall(r"uses: *(\S+)", path.read_text())
    assert all(re.fullmatch(r"[\w./-]+@([0-9a-f]{40}|COMMIT)", one) for one in used), used
    yaml.safe_load(path.read_text())
