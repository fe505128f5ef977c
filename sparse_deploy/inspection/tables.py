# SPDX-License-Identifier: Apache-2.0
"""An inspection as rows of text: tensors, files, and what each runtime does with the zeros."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sparse_deploy.inspection.benefit import Finding
from sparse_deploy.inspection.inspect import InspectedFile, Inspection
from sparse_deploy.sparsity.statistics import TensorRecord

WEIGHT = ".weight"
# Five columns of bert-large must fit into 120 characters.
SHORT_FORMATS = {"OpenVINO": "IR"}


@dataclass(frozen=True)
class Rows:
    """A table: headers and rows of equal length."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tensor_rows(inspection: Inspection) -> Rows:
    """One row per tensor, one column of zeros per file; ``+N`` are zeros that INT8 rounding added."""
    first = inspection.files[0]
    names = [tensor.name for tensor in first.record.tensors]
    prefix = _common_prefix(names)
    by_name = [{tensor.name: tensor for tensor in file.record.tensors} for file in inspection.files]
    heading = f"{prefix}*{WEIGHT}" if names else "tensor"
    return Rows(
        headers=(heading, "shape", "pattern", "share", *_zeros_headings(inspection.files)),
        rows=tuple(
            (
                name.removeprefix(prefix).removesuffix(WEIGHT),
                f"{tensor.shape[0]}x{tensor.shape[1]}",
                tensor.pattern,
                percent(tensor.required_zeros, tensor.numel),
                *(_zeros(tensors.get(name)) for tensors in by_name),
            )
            for name, tensor in ((tensor.name, tensor) for tensor in first.record.tensors)
        ),
    )


def file_rows(inspection: Inspection) -> Rows:
    """One row per file: size, and the two ratios by name."""
    return Rows(
        headers=(
            "file",
            "MB",
            "weights",
            "zeros",
            "sparsity of prunable tensors",
            "sparsity of whole model",
            "rounded",
        ),
        rows=tuple(
            (
                file.path,
                f"{file.bytes / 1e6:.1f}",
                ", ".join(file.weight_types),
                str(file.required_zeros),
                f"{100 * file.sparsity_of_prunable:.1f} %",
                f"{100 * file.sparsity_of_model:.1f} %",
                f"+{file.rounded_zeros}" if file.rounded_zeros else "0",
            )
            for file in inspection.files
        ),
    )


def benefit_rows(findings: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """Findings under a heading each; files with the same answer share one."""
    grouped: list[tuple[list[str], Finding]] = []
    for finding in findings:
        for files, other in grouped:
            if finding.model_copy(update={"file": other.file}) == other:
                files.append(finding.file)
                break
        else:
            grouped.append(([finding.file] if finding.file else [], finding))
    return [(_heading(finding, files), finding) for files, finding in grouped]


def percent(part: int, whole: int) -> str:
    """A share as ``70.0 %``."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _zeros(tensor: TensorRecord | None) -> str:
    if tensor is None:
        return "-"
    rounded = tensor.zeros - tensor.required_zeros
    return f"{tensor.required_zeros} +{rounded}" if rounded else str(tensor.required_zeros)


def _zeros_headings(files: Sequence[InspectedFile]) -> list[str]:
    if len(files) == 1:
        return ["zeros"]
    return [f"{_short_format(file)} {'+'.join(file.weight_types)}" for file in files]


def _short_format(file: InspectedFile) -> str:
    return "sparse" if file.sparse_operators else SHORT_FORMATS.get(file.format, file.format)


def _heading(finding: Finding, files: Sequence[str]) -> str:
    where = f" ({', '.join(files)})" if files else ""
    return f"{finding.runtime}{where}: {finding.verdict.value}"


def _common_prefix(names: Sequence[str]) -> str:
    """The module path that all names share, with its dot; empty for a single name."""
    if len(names) < 2:
        return ""
    levels = zip(*(name.split(".") for name in names), strict=False)
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)
    return "".join(f"{parts[0]}." for parts in shared)
