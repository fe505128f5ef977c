# SPDX-License-Identifier: Apache-2.0
"""Whether zeros make a model faster on this CPU, per runtime.

This module does not measure. A verdict follows from the flags of the machine and the tensors of the file by conditions
in the sources of the runtimes; the sparse operators report the layouts that they choose. Speed is measured by
``sparse-deploy bench``.
"""

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum

from sparse_deploy.inspection.expected_speed import expected_speed
from sparse_deploy.inspection.operators import OperatorDecisions, TensorDecision, grouped, is_dense
from sparse_deploy.runtimes.sparse_decompression import (
    SPARSE_RATE_PROPERTY,
    Condition,
    Decision,
    Fact,
    TensorFacts,
    decide,
)


class Verdict(StrEnum):
    """The use of zeros in one runtime."""

    NO_EFFECT = "no effect"
    WITH_SETTING = "with a setting"
    IN_SPARSE_FILE = "skipped in model_sparse.onnx"
    NOT_INSTALLED = "not installed"
    FASTER = "faster by recorded figures"
    SLOWER = "slower expected"
    UNKNOWN = "no figure decides"


class Finding(Fact):
    """The use of the zeros of one file in one runtime.

    Attributes:
        runtime: name of the runtime.
        file: the model file, if the finding depends on it; empty if it holds for every file.
        verdict: see :class:`Verdict`.
        explanation: one or two sentences.
        conditions: the conditions of the verdict, in the runtime's order.
        tensors_ready: sparse tensors that meet every condition on the model.
        tensors_sparse: tensors with enough zeros.
        suggested_rate: value for :data:`SPARSE_RATE_PROPERTY` that reaches all ready tensors.
        decisions: the choice of the sparse operators for each tensor.
    """

    runtime: str
    file: str = ""
    verdict: Verdict
    explanation: str
    conditions: tuple[Condition, ...] = ()
    tensors_ready: int = 0
    tensors_sparse: int = 0
    suggested_rate: float | None = None
    decisions: tuple[TensorDecision, ...] = ()


def assess_runtimes(
    flags: Collection[str], files: dict[str, Sequence[TensorFacts]], operators: OperatorDecisions | str
) -> tuple[Finding, ...]:
    """The use of the zeros of these files in each runtime.

    Args:
        flags: the CPU's flags, as ``/proc/cpuinfo`` names them.
        files: facts of each model file for PyTorch, ONNX Runtime and OpenVINO without the sparse operators, by name.
        operators: the choices of the sparse operators, or the reason why they are not available.
    """
    return (
        Finding(
            runtime="PyTorch",
            verdict=Verdict.NO_EFFECT,
            explanation="nn.Linear runs dense kernels: zeros are multiplied like any other weight.",
        ),
        Finding(
            runtime="ONNX Runtime",
            verdict=Verdict.NO_EFFECT,
            explanation="The CPU provider has no sparse kernels: zeros are multiplied like any other weight, and a "
            "sparse initializer is made dense when the file is loaded.",
        ),
        *(assess_openvino(flags, facts, file=name) for name, facts in files.items()),
        assess_operators(operators),
        *assess_speed(flags, operators),
        Finding(
            runtime="file size",
            verdict=Verdict.NO_EFFECT,
            explanation="All files store zeros like any other weight, except model_sparse.onnx, which omits them. The "
            "other files are smaller only when they are compressed for transport or storage.",
        ),
    )


def assess_openvino(flags: Collection[str], facts: Sequence[TensorFacts], *, file: str = "") -> Finding:
    """Evaluate OpenVINO's sparse-weights decompression for one file on one CPU.

    Args:
        flags: the CPU's flags.
        facts: the file's prunable tensors.
        file: name of the file, for the finding.
    """
    decision = decide(flags, facts)
    ready, sparse, rate = len(decision.ready), decision.sparse, decision.reaching
    switch = Condition(
        text=f"{SPARSE_RATE_PROPERTY} is set below 1.0 and not above the tensor's zero share",
        holds=decision.rate is not None,
        found=f"bench and serve set it to {rate:g} on this CPU"
        if decision.rate
        else f"off by default (1.0); {rate:g} would include all tensors that qualify"
        if rate
        else "off by default (1.0)",
    )
    return Finding(
        runtime="OpenVINO",
        file=file,
        verdict=Verdict.WITH_SETTING if decision.rate else Verdict.NO_EFFECT,
        explanation=_openvino_words(decision),
        conditions=(switch, decision.cpu, *decision.model) if sparse else (),
        tensors_ready=ready,
        tensors_sparse=sparse,
        suggested_rate=decision.rate,
    )


def assess_operators(operators: OperatorDecisions | str) -> Finding:
    """The use of the zeros in this package's sparse operators (domain ``sparse_deploy``) on this CPU.

    Args:
        operators: their choices, or the reason why they are not available.
    """
    runtime = "sparse-deploy operators"
    if isinstance(operators, str):
        return Finding(
            runtime=runtime,
            verdict=Verdict.NOT_INSTALLED,
            explanation=f"Not available: {operators}. Without them model_sparse.onnx can't be opened.",
        )
    chosen = [tensor for tensor in operators.tensors if not is_dense(tensor.kernel)]
    summary = f"{len(chosen)} of {len(operators.tensors)} tensors get a sparse kernel ({operators.instruction_set})"
    if not chosen:
        return Finding(
            runtime=runtime,
            verdict=Verdict.NO_EFFECT,
            explanation=f"{summary}: too few zeros, the dense INT8 kernel is faster.",
            decisions=operators.tensors,
        )
    return Finding(
        runtime=runtime,
        verdict=Verdict.IN_SPARSE_FILE,
        explanation=f"{summary}, predicted from their packed form to take {_range(t.cost for t in chosen)} of the "
        f"dense INT8 kernel's time. Write the file with export --target sparse, measure it with bench.",
        conditions=tuple(
            Condition(text=role, holds=not is_dense(kernel), found=_group_words(kernel, tensors))
            for (role, kernel), tensors in grouped(operators.tensors).items()
        ),
        tensors_ready=len(chosen),
        tensors_sparse=len(operators.tensors),
        decisions=operators.tensors,
    )


def assess_speed(flags: Collection[str], operators: OperatorDecisions | str) -> tuple[Finding, ...]:
    """Whether the operators are expected to beat ONNX Runtime INT8 on this instruction set; nothing without them.

    Args:
        flags: the CPU's flags.
        operators: their choices, or the reason why they are not available.
    """
    if isinstance(operators, str):
        return ()
    verdict, explanation = expected_speed(flags, operators)
    verdicts = {"faster": Verdict.FASTER, "slower": Verdict.SLOWER}
    return (
        Finding(
            runtime="sparse-deploy operators against ONNX Runtime INT8",
            verdict=verdicts.get(verdict, Verdict.UNKNOWN),
            explanation=explanation,
        ),
    )


def _group_words(kernel: str, tensors: Sequence[TensorDecision]) -> str:
    patterns = ", ".join(sorted({tensor.pattern for tensor in tensors}))
    words = f"{kernel} kernel in {len(tensors)} {'layer' if len(tensors) == 1 else 'layers'} (pattern {patterns}"
    if is_dense(kernel):
        return f"{words})"
    return f"{words}, fill {_range(t.fill for t in tensors)}, cost {_range(t.cost for t in tensors)})"


def _range(numbers: Iterable[float]) -> str:
    values = list(numbers)
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _openvino_words(decision: Decision) -> str:
    amx, model, ready, sparse = decision.cpu, decision.model, len(decision.ready), decision.sparse
    if not sparse:
        return "No tensor has enough zeros for its sparse-weights decompression."
    reasons = [] if amx.holds else [f"this CPU lacks AMX ({amx.found}), so the setting has no effect"]
    if not ready and not any(c.holds for c in model[1:]):
        reasons.append("the file is not INT8: only i8 weights with u8 or i8 activations qualify (export --int8 static)")
    elif not ready:
        failed = next((f"{c.text}: {c.found}" for c in model if not c.holds), "all conditions on one tensor: none")
        reasons.append(f"the file fails at: {failed}")
    if reasons:
        also = f"; on a CPU with AMX {ready} of {sparse} sparse tensors of the file would qualify" if ready else ""
        return f"Zeros are multiplied: {', and '.join(reasons)}{also}."
    return (
        f"{ready} of {sparse} sparse tensors qualify for sparse-weights decompression, which is off by default: set "
        f"{SPARSE_RATE_PROPERTY} to {decision.reaching:g}, as bench and serve do. It saves memory traffic, not "
        f"multiplications; measure it."
    )
