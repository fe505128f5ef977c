# SPDX-License-Identifier: Apache-2.0
"""Inspection of a checkpoint, an ONNX file, an OpenVINO IR or a deployment: its zeros and their benefit.

With a manifest in the folder, its record has the required zeros, and a lost zero is an error.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from sparse_deploy.artifact_target import MANIFEST_NAME
from sparse_deploy.artifacts import Manifest, load_manifest
from sparse_deploy.checkpoint import resolve_checkpoint
from sparse_deploy.config.schema import DEFAULT_EXCLUDE
from sparse_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError, SparsityLostError
from sparse_deploy.inspection.benefit import Finding, assess_runtimes
from sparse_deploy.inspection.operators import OperatorDecisions, decide
from sparse_deploy.inspection.readers import ModelContent, read_checkpoint, read_onnx, read_openvino
from sparse_deploy.machine import Machine, describe_machine
from sparse_deploy.sparsity.mask import assert_zeros_kept, mask_sha256
from sparse_deploy.sparsity.pattern import BoolArray
from sparse_deploy.sparsity.statistics import SparsityRecord, TensorRecord, prunable_names, record_masks

CHECKPOINT_WEIGHTS = "model.safetensors"
Format = Literal["PyTorch", "ONNX", "OpenVINO"]
Kind = Literal["checkpoint", "onnx", "openvino", "deployment"]
# In the order of the report.
MODEL_FILES: dict[str, Format] = {".safetensors": "PyTorch", ".onnx": "ONNX", ".xml": "OpenVINO"}


class InspectedFile(BaseModel):
    """One model file.

    Attributes:
        path: relative to the inspected folder, or the file's name.
        format: name of the file format.
        bytes: size of its weight files.
        weight_types: types of its prunable weights.
        saturates_without_vnni: whether its INT8 products saturate on CPUs without VNNI, outside the sparse operators.
        weight_bits: bits in use of their 8-bit integers: 8, or 7 with ``quantization.target_cpu`` avx2; None without
            such integers.
        record: per tensor, the required zeros and the stored ones.
        required_zeros: required zeros of all tensors; without a contract all stored zeros.
        rounded_zeros: additional stored zeros: weights that INT8 rounded to zero.
        sparsity_of_prunable: required zeros divided by the weights of the prunable tensors.
        sparsity_of_model: required zeros divided by all parameters of the file.
        left_out: matrices on the exclusion list.
        sparse_operators: whether it has this package's sparse operators.
        not_understood: products with an unreadable stored weight; no figure includes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    format: Format
    bytes: int
    weight_types: tuple[str, ...]
    weight_bits: int | None = None
    saturates_without_vnni: bool = False
    record: SparsityRecord
    required_zeros: int
    rounded_zeros: int
    sparsity_of_prunable: float
    sparsity_of_model: float
    left_out: tuple[str, ...]
    sparse_operators: bool = False
    not_understood: tuple[str, ...] = ()


class Inspection(BaseModel):
    """The result of an inspection.

    Attributes:
        path: path given by the user.
        kind: kind of the path.
        contract: whether a manifest has the required zeros; if false, all stored zeros are counted.
        files: model files.
        findings: use of the zeros per runtime on this machine.
        machine: this machine.
        exclude: excluded names.
        warnings: warnings for the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    path: str
    kind: Kind
    contract: bool
    files: tuple[InspectedFile, ...]
    findings: tuple[Finding, ...]
    machine: Machine
    exclude: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def inspect_path(path: str, *, exclude: tuple[str, ...] | None = None, machine: Machine | None = None) -> Inspection:
    """Inspect a checkpoint, an ONNX file, an OpenVINO IR or a deployment.

    Args:
        path: folder, ``.onnx`` or ``.xml`` file, ``package:NAME/PATH`` or hub id.
        exclude: tensors whose name contains one of these texts are excluded; default: the list of the manifest's
            recipe, or :data:`DEFAULT_EXCLUDE`.
        machine: machine of the findings; default: this machine.

    Raises:
        ConfigError: the path does not exist, or is a file of another kind.
        CheckpointError: incomplete or unsafe checkpoint.
        ArtifactError: damaged file, altered or unfinished deployment.
        SparsityLostError: a file lacks a zero that the manifest requires.
    """
    kind, folder, names, manifest = _locate(path)
    exclude = exclude if exclude is not None else _recorded_exclude(manifest)
    contents = {name: _read(folder / name, exclude) for name in names}
    required, warnings = _required_masks(manifest, contents, folder, exclude)
    machine = machine or describe_machine()
    return Inspection(
        path=path,
        kind=kind,
        contract=required is not None,
        files=tuple(_inspect_file(name, content, required) for name, content in contents.items()),
        findings=assess_runtimes(
            machine.flags,
            {name: content.facts for name, content in contents.items() if not content.sparse_operators},
            _operator_decisions(contents.values()),
        ),
        machine=machine,
        exclude=exclude,
        warnings=(*warnings, *_not_understood(contents), *_saturation_warnings(contents, machine)),
    )


def _saturation_warnings(contents: Mapping[str, ModelContent], machine: Machine) -> tuple[str, ...]:
    wrong = [name for name, content in contents.items() if content.saturates_without_vnni]
    if not wrong or not machine.saturates:
        return ()
    return (
        f"{', '.join(wrong)}: 8-bit weights saturate on this CPU without VNNI; OpenVINO's results are wrong, ONNX "
        f"Runtime's are without session.x64quantprecision; export again with quantization.target_cpu any",
    )


def _not_understood(contents: Mapping[str, ModelContent]) -> list[str]:
    return [
        f"{name}: the weights of {len(content.not_understood)} products could not be read and are in no figure: "
        f"{', '.join(content.not_understood)}"
        for name, content in contents.items()
        if content.not_understood
    ]


def _operator_decisions(contents: Collection[ModelContent]) -> OperatorDecisions | str:
    """Choices of the sparse operators for the sparse file, else for the first; or why they are not available."""
    asked = next((content for content in contents if content.sparse_operators), next(iter(contents)))
    try:
        return decide(asked.masks)
    except RuntimeUnavailableError as error:
        return str(error)


def _locate(path: str) -> tuple[Kind, Path, list[str], Manifest | None]:
    """A path: its kind, its folder, the model files in it, and their manifest."""
    local = Path(path).expanduser()
    if local.is_file() or (local.suffix in MODEL_FILES and not local.is_dir()):
        return _kind_of_file(local), local.parent, [local.name], _neighbours_manifest(local)
    manifest = load_manifest(local) if (local / MANIFEST_NAME).is_file() else None
    if manifest is not None and manifest.kind == "deployment":
        return "deployment", local, _model_files(local, manifest), manifest
    return "checkpoint", resolve_checkpoint(path).folder, [CHECKPOINT_WEIGHTS], manifest


def _kind_of_file(path: Path) -> Literal["onnx", "openvino"]:
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".xml":
        return "openvino"
    raise ConfigError(
        f"{path}: expected a checkpoint folder, a deployment folder, an .onnx file or an .xml file; found a file with "
        f"suffix {path.suffix!r}. For weights give their folder."
    )


def _read(path: Path, exclude: tuple[str, ...]) -> ModelContent:
    if path.suffix == ".onnx":
        return read_onnx(path, exclude)
    if path.suffix == ".xml":
        return read_openvino(path, exclude)
    return read_checkpoint(path.parent, exclude)


def _model_files(folder: Path, manifest: Manifest) -> list[str]:
    """The model files of a deployment: PyTorch, ONNX, OpenVINO, each FP32 before INT8."""
    order = list(MODEL_FILES)
    paths = [Path(record.path) for record in manifest.files if Path(record.path).suffix in order]
    if not paths:
        raise ArtifactError(f"{folder}: the deployment has no model file; export it again")
    return [path.as_posix() for path in sorted(paths, key=lambda path: (order.index(path.suffix), path.stem))]


def _recorded_exclude(manifest: Manifest | None) -> tuple[str, ...]:
    recorded = manifest.recipe.get("sparsity", {}).get("exclude") if manifest else None
    return DEFAULT_EXCLUDE if recorded is None else tuple(str(part) for part in recorded)


def _neighbours_manifest(file: Path) -> Manifest | None:
    """The manifest of the deployment of a single file."""
    if not (file.parent / MANIFEST_NAME).is_file():
        return None
    manifest = load_manifest(file.parent, verify=False)
    return manifest if file.name in {record.path for record in manifest.files} else None


def _required_masks(
    manifest: Manifest | None, contents: Mapping[str, ModelContent], folder: Path, exclude: tuple[str, ...]
) -> tuple[dict[str, BoolArray] | None, tuple[str, ...]]:
    """The masks that the contract demands, with warnings; None without a contract.

    The manifest has counts and fingerprints. A mask is taken from a file whose zeros have the recorded fingerprint,
    such as an FP32 file.
    """
    if manifest is None or not manifest.sparsity:
        return None, ()
    records = {tensor.name: tensor for record in manifest.sparsity.values() for tensor in record.tensors}
    sources = [content.masks for content in contents.values()]
    if CHECKPOINT_WEIGHTS not in contents and (folder / CHECKPOINT_WEIGHTS).is_file():
        sources.append(read_checkpoint(folder, exclude).masks)
    required: dict[str, BoolArray] = {}
    unproven = []
    for name in prunable_names(records, exclude):
        candidates = [masks[name] for masks in sources if name in masks]
        if not candidates and not records[name].required_zeros:
            continue
        found = next((mask for mask in candidates if mask_sha256(mask) == records[name].mask_sha256), None)
        if found is None:
            found = _fewest_zeros(records[name], candidates)
            unproven.append(name)
        required[name] = found
    if not unproven:
        return required, ()
    return required, (
        f"{len(unproven)} tensors (first: {unproven[0]}): no file has exactly the zeros that the manifest requires; "
        f"their number was checked, but not their positions",
    )


def _fewest_zeros(record: TensorRecord, candidates: Sequence[BoolArray]) -> BoolArray:
    fewest = min(candidates, key=np.count_nonzero, default=None)
    count = 0 if fewest is None else int(fewest.sum())
    if fewest is None or count < record.required_zeros:
        raise SparsityLostError("inspect", record.name, before=record.required_zeros, after=count)
    return fewest


def _inspect_file(name: str, content: ModelContent, required: Mapping[str, BoolArray] | None) -> InspectedFile:
    masks = content.masks
    if required is not None:
        assert_zeros_kept(name, required, masks)
    record = record_masks(masks, {**masks, **(required or {})}, model_parameters=content.parameters)
    required_zeros = sum(tensor.required_zeros for tensor in record.tensors)
    prunable = sum(tensor.numel for tensor in record.tensors)
    return InspectedFile(
        path=name,
        format=MODEL_FILES[Path(name).suffix],
        bytes=content.bytes,
        weight_types=tuple(sorted({fact.weight_type for fact in content.facts})),
        weight_bits=content.weight_bits,
        saturates_without_vnni=content.saturates_without_vnni,
        record=record,
        required_zeros=required_zeros,
        rounded_zeros=record.zeros - required_zeros,
        sparsity_of_prunable=required_zeros / prunable if prunable else 0.0,
        sparsity_of_model=required_zeros / content.parameters if content.parameters else 0.0,
        left_out=content.left_out,
        sparse_operators=content.sparse_operators,
        not_understood=content.not_understood,
    )
