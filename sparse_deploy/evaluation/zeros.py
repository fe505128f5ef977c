# SPDX-License-Identifier: Apache-2.0
"""Counts the zeros of the files of a benchmark, independent of their manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparse_deploy import checkpoint
from sparse_deploy.artifacts import Manifest
from sparse_deploy.config.schema import SparsitySection
from sparse_deploy.errors import SparsityError
from sparse_deploy.gate.zeros import TensorZeros, ZeroCount
from sparse_deploy.sparsity.contract import check_promise
from sparse_deploy.sparsity.mask import mask_sha256
from sparse_deploy.sparsity.pattern import BoolArray, PatternKind
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord, prunable_names, record_masks

Masks = Mapping[str, BoolArray]


@dataclass(frozen=True)
class Recount:
    """The zeros in the files of a deployment.

    Attributes:
        records: sparsity record of each file, in the manifest's form.
        counts: the required zeros of each file; empty for a dense deployment.
    """

    records: dict[str, SparsityRecord]
    counts: dict[str, ZeroCount]


@dataclass(frozen=True)
class _Required:
    """The required zeros of one tensor: positions and number, which is larger if some positions are unknown."""

    mask: BoolArray
    number: int


def recount_zeros(deployment: Path, files: Sequence[str], manifest: Manifest, sparsity: SparsitySection) -> Recount:
    """Read every file and compare its zeros with the required zeros, position by position.

    The zeros of the deployment's checkpoint and of the manifest are required. The manifest has fingerprints of masks;
    the mask is taken from a file with this fingerprint, and if there is none, only numbers are compared.

    Args:
        deployment: folder of the deployment.
        files: the files to measure, relative to it.
        manifest: manifest of the deployment.
        sparsity: the recipe's ``sparsity`` section.

    Raises:
        ArtifactError: a file is not readable.
        CheckpointError: the checkpoint is not readable.
    """
    required = _required(deployment, files, manifest, sparsity.exclude)
    broken = _missing_in_checkpoint({name: zeros.mask for name, zeros in required.items()}, sparsity)
    records: dict[str, SparsityRecord] = {}
    counts: dict[str, ZeroCount] = {}
    for file in dict.fromkeys(files):
        found = _read(deployment / file)
        recorded = manifest.sparsity.get(file)
        records[file] = record_masks(
            found,
            {name: zeros.mask for name, zeros in required.items()},
            model_parameters=recorded.model_parameters if recorded else 0,
        )
        tensors = tuple(_count(name, zeros, found.get(name)) for name, zeros in required.items())
        counts[file] = ZeroCount(file, tensors, broken)
    dense = sparsity.pattern.kind is PatternKind.DENSE and not any(zeros.number for zeros in required.values())
    return Recount(records, {} if dense else counts)


def _required(
    deployment: Path, files: Sequence[str], manifest: Manifest, exclude: tuple[str, ...]
) -> dict[str, _Required]:
    has_checkpoint = (deployment / checkpoint.WEIGHTS_FILE).is_file()
    masks = checkpoint.zero_masks(deployment, exclude) if has_checkpoint else {}
    wanted = _fingerprints(manifest, exclude)
    known = {name: {mask_sha256(mask): mask} for name, mask in masks.items() if name in wanted}
    if any(wanted[name].keys() - known.get(name, {}).keys() for name in wanted):  # rare: the other files are read twice
        for file in files:
            for name, mask in _read(deployment / file).items():
                if name in wanted:
                    known.setdefault(name, {})[mask_sha256(mask)] = mask
    return {
        name: _whole(masks.get(name), wanted.get(name, {}), known.get(name, {}))
        for name in sorted({*masks, *wanted}, key=checkpoint.natural_order)
    }


def _fingerprints(manifest: Manifest, exclude: tuple[str, ...]) -> dict[str, dict[str, TensorRecord]]:
    """The records of each tensor by the fingerprint of its required zeros; a correct manifest has one per tensor."""
    found: dict[str, dict[str, TensorRecord]] = {}
    for record in manifest.sparsity.values():
        for tensor in record.tensors:
            if tensor.required_zeros and prunable_names([tensor.name], exclude):
                found.setdefault(tensor.name, {})[tensor.mask_sha256] = tensor
    return found


def _whole(own: BoolArray | None, wanted: Mapping[str, TensorRecord], known: Masks) -> _Required:
    """All required zeros of a tensor: the checkpoint's mask, and each recorded mask."""
    shape = own.shape if own is not None else next(iter(wanted.values())).shape
    mask = np.zeros(shape, dtype=np.bool_) if own is None else own
    unknown = 0
    for fingerprint, record in wanted.items():
        if fingerprint in known and known[fingerprint].shape == shape:
            mask = mask | known[fingerprint]
        else:
            unknown = max(unknown, record.required_zeros)
    return _Required(mask, max(unknown, int(mask.sum())))


def _count(name: str, required: _Required, found: BoolArray | None) -> TensorZeros:
    if found is None or found.shape != required.mask.shape:
        reason = "the file has no such tensor" if found is None else f"its shape is {list(found.shape)}"
        return TensorZeros(name, required.mask.size, required.number, 0, reason if required.number else "")
    known = int(required.mask.sum())
    kept = int((required.mask & found).sum())
    if kept == known < required.number:
        kept = min(required.number, int(found.sum()))
        return TensorZeros(name, found.size, required.number, kept, "no file has the recorded mask; numbers compared")
    return TensorZeros(name, found.size, required.number, kept)


def _missing_in_checkpoint(masks: Masks, sparsity: SparsitySection) -> str:
    try:
        check_promise(masks, sparsity)
    except SparsityError as error:
        return str(error).rstrip(".")
    return ""


def _read(path: Path) -> Mapping[str, BoolArray]:
    """Zero masks of a file; the reader is imported only for its format."""
    if path.suffix == ".onnx":
        from sparse_deploy.graph.weights import read_zero_masks as read_onnx

        return read_onnx(path)
    if path.suffix == ".xml":
        from sparse_deploy.graph.openvino_ir import read_zero_masks as read_ir

        return read_ir(path)
    return checkpoint.zero_masks(path.parent, ())
