# SPDX-License-Identifier: Apache-2.0
"""Threads of the stages that compute in this process."""

import torch

from sparse_deploy.machine import describe_machine


def use_cpu_quota() -> None:
    """Give PyTorch no more threads than the container may use: by itself it counts the machine's processors."""
    torch.set_num_threads(min(torch.get_num_threads(), describe_machine().usable_cpus))
