# SPDX-License-Identifier: Apache-2.0
"""The precision of a training run: bf16 if the device computes it, FP32 if it would emulate it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from sparse_deploy.machine import describe_machine

# The flags of /proc/cpuinfo with which oneDNN multiplies bf16 by an instruction (x86: VDPBF16PS or AMX tiles; Arm:
# BFDOT, BFMMLA).
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
# Values of ONEDNN_MAX_CPU_ISA below the first instruction set with a bf16 product
# (https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html).
_WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})


@dataclass(frozen=True)
class TrainingPrecision:
    """The precision of a run and the reason for it.

    Attributes:
        name: ``fp32``, or ``bf16`` for autocast.
        reason: one clause for users and for the manifest.
        emulated: the device has no instruction for this precision, so that FP32 would be faster.
    """

    name: Literal["fp32", "bf16"]
    reason: str
    emulated: bool = False

    def __str__(self) -> str:
        return f"training in {self.name}: {self.reason}"


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16"], measure: Callable[[], float] | None = None
) -> TrainingPrecision:
    """The training precision on this machine.

    Every process of a distributed run must get the same result, so ``auto`` uses the device's features, without
    measurement.

    Args:
        wanted: ``finetune.precision`` of the recipe.
        measure: returns the time of bf16 / time of FP32 on this CPU; called if a recipe sets bf16 for an emulating CPU.
    """
    fast, device = _bf16_support()
    if wanted == "fp32":
        return TrainingPrecision("fp32", "set in the recipe")
    if wanted == "bf16":
        if fast:
            return TrainingPrecision("bf16", "set in the recipe")
        factor = (measure or bf16_slowdown)()
        return TrainingPrecision(
            "bf16",
            f"set in the recipe, but {device}; a matrix product takes {factor:.1f} times as long as in FP32, "
            f"and finetune.precision=auto would train in FP32",
            emulated=True,
        )
    return TrainingPrecision("bf16" if fast else "fp32", device)


def _bf16_support() -> tuple[bool, str]:
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "the GPU computes bf16"
        return False, "the GPU has no bf16"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit in _WITHOUT_BF16:
        return False, f"with ONEDNN_MAX_CPU_ISA={limit} bf16 is emulated"
    flags = describe_machine().flags
    found = [flag for flag in _BF16_FLAGS if flag in flags]
    if not found:
        return False, "this CPU has no bf16 instructions and would emulate them"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False, "this build of torch has no oneDNN, which computes bf16"
    return True, f"this CPU computes bf16 ({found[0]})"


def bf16_slowdown() -> float:
    """Time of a bf16 matrix product / time of the same product in FP32, minimum of some repetitions on this CPU."""
    x, weight = torch.ones(256, 768), torch.ones(768, 768)

    def seconds(dtype: torch.dtype) -> float:
        a, b = x.to(dtype), weight.to(dtype)
        a @ b
        times = []
        for _ in range(5):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.bfloat16) / seconds(torch.float32)
