# SPDX-License-Identifier: Apache-2.0
"""Every stage that computes with PyTorch in its own process keeps to the container's CPUs."""

import pytest
import torch
from tiny_checkpoint import demo_recipe

from sparse_deploy.config.pruning import PruneSettings
from sparse_deploy.errors import SparseDeployError
from sparse_deploy.machine import describe_machine
from sparse_deploy.stages import torch_threads
from sparse_deploy.stages.export import export_deployment
from sparse_deploy.stages.finetune import finetune
from sparse_deploy.stages.prune import prune

STAGES = {
    "finetune": lambda missing, output: finetune(demo_recipe(missing), output),
    "prune": lambda missing, output: prune(str(missing), PruneSettings(pattern="1:2", method="magnitude"), output),
    "export": lambda missing, output: export_deployment(str(missing), demo_recipe(missing), output),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_quota_of_one_cpu_means_one_thread(stage, tmp_path, monkeypatch):
    limited = describe_machine().model_copy(update={"visible_cpus": 4, "quota_cpus": 1.5})
    monkeypatch.setattr(torch_threads, "describe_machine", lambda: limited)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with pytest.raises(SparseDeployError):
            STAGES[stage](tmp_path / "missing", tmp_path / "out")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
