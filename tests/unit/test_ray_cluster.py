# SPDX-License-Identifier: Apache-2.0
"""Ray is an extra: without it, one line names the package to install."""

import json
import sys

import pytest

from sparse_deploy.cli.main import run
from sparse_deploy.errors import ExitCode


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # a cluster, so that no local environment is made


def test_a_sweep_on_ray_says_what_is_missing(sparse_encoder, tmp_path, capsys):
    sweep = {"name": "s", "recipe": "minilm-demo", "checkpoint": str(sparse_encoder)}
    sweep |= {"grid": {"quantization.mode": ["none"]}}
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    command = ["sweep", str(tmp_path / "sweep.yaml"), "--engine", "ray", "--output", str(tmp_path / "out")]
    assert run(command) == ExitCode.USAGE
    assert "pip install 'sparse-deploy[ray]'" in capsys.readouterr().err


def test_replicas_say_what_is_missing(tiny_deployment, capsys):
    assert run(["serve", str(tiny_deployment), "--replicas", "2", "--port", "0"]) == ExitCode.USAGE
    assert "pip install 'sparse-deploy[ray]'" in capsys.readouterr().err
