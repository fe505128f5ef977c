# SPDX-License-Identifier: Apache-2.0
"""The precision of a training run follows what the device computes by instruction."""

import pytest
import torch

from sparse_deploy.training import precision
from sparse_deploy.training.precision import bf16_slowdown, choose_precision


@pytest.fixture
def cpu(monkeypatch):
    """A function that makes this machine a CPU with the given flags."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    machine = precision.describe_machine()

    def pretend(*flags: str) -> None:
        monkeypatch.setattr(precision, "describe_machine", lambda: machine.model_copy(update={"flags": flags}))

    return pretend


@pytest.mark.parametrize("flags", [("avx2", "avx512f", "avx512_bf16"), ("avx2", "amx_bf16"), ("asimddp", "bf16")])
def test_auto_is_bf16_where_the_cpu_has_an_instruction_for_it(cpu, flags):
    cpu(*flags)
    assert choose_precision("auto").name == "bf16"


@pytest.mark.parametrize("flags", [("avx2",), ("avx2", "avx512f", "avx512_vnni"), ("asimddp",)])
def test_auto_is_fp32_where_bf16_would_be_emulated(cpu, flags):
    cpu(*flags)
    chosen = choose_precision("auto")
    assert chosen.name == "fp32"
    assert not chosen.emulated
    assert str(chosen) == "training in fp32: this CPU has no bf16 instructions and would emulate them"


def test_auto_follows_the_limit_that_the_user_set_for_onednn(cpu, monkeypatch):
    cpu("avx2", "avx512_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert choose_precision("auto").name == "fp32"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert choose_precision("auto").name == "bf16"


def test_bf16_on_a_cpu_that_emulates_it_is_taken_and_said_with_the_measured_factor(cpu):
    cpu("avx2")
    chosen = choose_precision("bf16", measure=lambda: 7.2)
    assert chosen.name == "bf16"
    assert chosen.emulated
    assert "7.2 times as long as in FP32" in chosen.reason
    assert "finetune.precision=auto" in chosen.reason


def test_an_explicit_choice_holds(cpu):
    cpu("avx2", "avx512_bf16")
    assert choose_precision("fp32").name == "fp32"
    assert not choose_precision("bf16").emulated


def test_the_factor_is_measured():
    assert 0.01 < bf16_slowdown() < 1000
