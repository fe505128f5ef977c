# SPDX-License-Identifier: Apache-2.0
"""The workflows name the Python versions that the package claims, and actions by commit."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CLAIMED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def jobs(path: Path) -> dict[str, dict]:
    return yaml.safe_load(path.read_text())["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_and_each_job_ends(path):
    for job in jobs(path).values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40))


@pytest.mark.parametrize(("workflow", "job"), [("ci.yml", "test"), ("release.yml", "try")])
def test_each_claimed_python_is_tried(workflow, job):
    assert jobs(ROOT / ".github" / "workflows" / workflow)[job]["strategy"]["matrix"]["python"] == CLAIMED
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == f">={CLAIMED[0]}"


def test_scripts_that_the_workflows_run_are_there():
    commands = [
        step["run"] for path in WORKFLOWS for job in jobs(path).values() for step in job["steps"] if "run" in step
    ]
    scripts = {word for command in commands for word in re.findall(r"(?m)^\s*((?:tools|\.ci)/\S+)", command)}
    assert {"tools/build_wheels.sh", "tools/check_wheels.sh", ".ci/run"} <= scripts
    assert not [script for script in scripts if not (ROOT / script).is_file()]
