# SPDX-License-Identifier: Apache-2.0
"""An inspection as rows of text: tensors, files, and the use of zeros per runtime."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sparse_deploy.inspection.benefit import Finding
from sparse_deploy.inspection.inspect import InspectedFile, Inspection

WEIGHT = ".weight"
# The columns of bert-large must fit 120 characters.
SHORT_FORMATS = {"OpenVINO": "IR"}
# Header, and cells by tensor.
_Column = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Rows:
    """A table: headers and rows of equal length."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tensor_rows(inspection: Inspection) -> Rows:
    """One row per tensor: its zeros, and additional zeros of single files.

    With a contract all files of a deployment have the same required zeros, which get one column; only files in which
    INT8 rounded more weights to zero get another column: ``+N``. Without a contract, each file has a column of zeros.
    """
    first = inspection.files[0]
    columns = _contract_columns(inspection.files) if inspection.contract else _plain_columns(inspection.files)
    names = [tensor.name for tensor in first.record.tensors]
    prefix = _common_prefix(names)
    heading = f"{prefix}*{WEIGHT}" if names else "tensor"
    return Rows(
        headers=(heading, "shape", "pattern", "share", *(header for header, _ in columns)),
        rows=tuple(
            (
                name.removeprefix(prefix).removesuffix(WEIGHT),
                f"{tensor.shape[0]}x{tensor.shape[1]}",
                tensor.pattern,
                percent(tensor.required_zeros, tensor.numel),
                *(cells.get(name, "-") for _, cells in columns),
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
                _weights(file),
                str(file.required_zeros),
                f"{100 * file.sparsity_of_prunable:.1f} %",
                f"{100 * file.sparsity_of_model:.1f} %",
                f"+{file.rounded_zeros}" if file.rounded_zeros else "0",
            )
            for file in inspection.files
        ),
    )


def benefit_rows(findings: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """Findings with headings; files with equal findings share a heading."""
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


def _contract_columns(files: Sequence[InspectedFile]) -> list[_Column]:
    required = {tensor.name: str(tensor.required_zeros) for file in files for tensor in file.record.tensors}
    return [("zeros", required), *((_heading_of(file), _rounded(file)) for file in files if file.rounded_zeros)]


def _plain_columns(files: Sequence[InspectedFile]) -> list[_Column]:
    columns = [{tensor.name: str(tensor.zeros) for tensor in file.record.tensors} for file in files]
    return list(zip(["zeros"] if len(files) == 1 else map(_heading_of, files), columns, strict=True))


def _weights(file: InspectedFile) -> str:
    """The stored types, the bits in use if they are fewer than stored, and whether VNNI is needed."""
    types = ", ".join(file.weight_types)
    if file.saturates_without_vnni:
        return f"{types}, needs VNNI"
    return types if file.weight_bits in (None, 8) else f"{types} in {file.weight_bits} bits"


def _rounded(file: InspectedFile) -> dict[str, str]:
    extra = {tensor.name: tensor.zeros - tensor.required_zeros for tensor in file.record.tensors}
    return {name: f"+{count}" if count else "" for name, count in extra.items()}


def _heading_of(file: InspectedFile) -> str:
    return f"{_short_format(file)} {'+'.join(file.weight_types)}"


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
