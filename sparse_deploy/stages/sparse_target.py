# SPDX-License-Identifier: Apache-2.0
"""Two targets of the export stage: ``model_sparse.onnx`` from the ONNX files of the same deployment, and its IR."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_deploy.architectures import architecture_of, read_config
from sparse_deploy.config.schema import Recipe
from sparse_deploy.errors import ExportError
from sparse_deploy.kernels.openvino_extension import ready_openvino_library
from sparse_deploy.machine import describe_machine
from sparse_deploy.runtimes import Session, get_runtime
from sparse_deploy.runtimes.openvino_sparse import SPARSE_IR_FILE
from sparse_deploy.runtimes.sparse import SPARSE_FILE

if TYPE_CHECKING:
    from sparse_deploy.graph.sparse_model import SparseModel

_SOURCES = {"fp32": "model.onnx", "int8": "model_int8.onnx"}


def write_sparse_file(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Write ``model_sparse.onnx``, if sparse operators fit parts of the graph. Needs no compiled library.

    Args:
        folder: the unfinished deployment, with the file of ``export.sparse.source``.
        recipe: the sections ``export.sparse`` and ``quantization`` are used.

    Returns:
        Entries for the manifest: the replaced nodes, and the other nodes with the reason.

    Raises:
        ExportError: the file was requested and no part fits, in a supported family.
        SparsityLostError: a zero weight is no longer zero.
    """
    from sparse_deploy.graph.model_file import load_onnx, save_onnx
    from sparse_deploy.graph.sparse_model import to_sparse_model

    settings = recipe.export.sparse
    source = _SOURCES[settings.source]
    found = to_sparse_model(
        load_onnx(folder / source), static=settings.activations == "static", exclude=recipe.quantization.exclude
    )
    why_dense = _why_dense(folder, found)
    if found.layers or found.linears:
        save_onnx(found.model, folder / SPARSE_FILE)
    elif settings.enabled and not why_dense:
        reasons = "; ".join(f"{refusal.name}: {refusal.reason}" for refusal in found.standard[:3])
        raise ExportError(
            f"{SPARSE_FILE}: expected encoder layers or weights with zeros, found none that a sparse operator fits "
            f"({reasons or 'no matrix product with a stored weight'}); omit --target sparse and "
            f"export.sparse.enabled"
        )
    return _details(found, source, settings.activations, why_dense)


def write_sparse_ir(folder: Path) -> None:
    """Write ``openvino_sparse.xml`` and ``.bin`` from ``model_sparse.onnx``.

    Raises:
        RuntimeUnavailableError: OpenVINO's extension with the operators is not available.
        ExportError: OpenVINO can't convert the model.
    """
    from sparse_deploy.export.openvino import convert_to_ir

    convert_to_ir(folder / SPARSE_FILE, folder / SPARSE_IR_FILE, ready_openvino_library())


def open_for_check(folder: Path) -> tuple[Session, str]:
    """A session on the written file, and the name of its implementation: numpy without compiled kernels."""
    runtime = get_runtime("sparse")
    if runtime.available():
        return runtime.open(folder, "int8", describe_machine().usable_cpus), f"ONNX Runtime {runtime.version()}"
    from sparse_deploy.kernels.reference import ReferenceSession

    return ReferenceSession(folder / SPARSE_FILE), "the operators in numpy (the compiled ones are not installed)"


def _why_dense(folder: Path, found: "SparseModel") -> dict[str, str]:
    """The reason for an unsupported family without any sparse encoder layer."""
    if found.layers or not (folder / "config.json").is_file():
        return {}
    reason = architecture_of(read_config(folder)).unlisted
    return {"encoder layers": reason} if reason else {}


def _details(found: "SparseModel", source: str, activations: str, why_dense: dict[str, str]) -> dict[str, Any]:
    return {
        "source": source,
        "activations": activations,
        "encoder_layers": list(found.layers),
        "linears": list(found.linears),
        "left_standard": why_dense | {refusal.name: refusal.reason for refusal in found.standard},
    }
