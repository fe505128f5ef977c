# SPDX-License-Identifier: Apache-2.0
"""torch computes with as many threads as the process may use, and the user learns of what does not fit."""

import pytest
import torch

from sparse_deploy.machine import describe_machine
from sparse_deploy.stages import torch_threads
from sparse_deploy.stages.torch_threads import limit_torch_threads


@pytest.fixture
def machine(monkeypatch):
    """Sets the CPUs that the process sees and its quota; torch has its threads back afterwards."""
    before = torch.get_num_threads()

    def set_up(visible: int, quota: float | None, threads: int) -> None:
        described = describe_machine().model_copy(update={"visible_cpus": visible, "quota_cpus": quota})
        monkeypatch.setattr(torch_threads, "describe_machine", lambda: described)
        torch.set_num_threads(threads)

    yield set_up
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("visible", "quota", "before", "after", "said"),
    [
        (2, None, 2, 2, []),
        (8, None, 2, 2, []),
        (2, None, 4, 2, []),
        (8, 1.5, 4, 1, ["1 thread on 1 usable CPU (a cgroup quota of 1.5 on 8 CPUs)"]),
    ],
)
def test_no_more_threads_than_the_process_may_use(machine, visible, quota, before, after, said):
    machine(visible, quota, before)
    notes: list[str] = []
    limit_torch_threads("prune", notes.append)
    assert torch.get_num_threads() == after
    assert notes == said


@pytest.mark.parametrize(("rank", "warned"), [("0", True), ("1", False)])
def test_more_processes_than_cpus_are_warned_of_once(machine, monkeypatch, caplog, rank, warned):
    machine(2, None, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", rank)
    notes: list[str] = []
    limit_torch_threads("finetune", notes.append)
    assert torch.get_num_threads() == 1
    assert ("finetune: 4 processes of 1 thread on 2 usable CPUs" in caplog.text) == warned
    assert notes == []
