# SPDX-License-Identifier: Apache-2.0
"""The candidate's file of a built model: its INT8 (QDQ) ONNX file, rewritten to the sparse operators.

The file is written again when the rewriting code changes. ``python -m harness.sparse_model FOLDER`` writes it in a
separate process, to release its memory.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.models import QDQ_ONNX, SPARSE_IR, SPARSE_ONNX, Progress, run_module
from sparse_deploy.runtimes import get_runtime

_KEY_FILE = "sparse_key.json"
# A change of any of these sources may change the file.
_SOURCES = ("graph/*.py", "sparsity/packing.py")


def ensure_sparse_model(folder: Path, progress: Progress = lambda message: None) -> None:
    """Write ``model_sparse.onnx`` into a model's folder, unless the same code has already written it.

    Raises:
        RuntimeError: the rewriting failed, or an encoder weight still belongs to a standard operator.
    """
    wanted = source_digest()
    if not (folder / SPARSE_ONNX).is_file() or _stored(folder).get("sources") != wanted:
        progress(f"{folder.name}: rewriting to sparse operators")
        run_module("harness.sparse_model", str(folder))
    ir, onnx = folder / SPARSE_IR, folder / SPARSE_ONNX
    if get_runtime("openvino-sparse").available() and (
        not ir.is_file() or ir.stat().st_mtime_ns < onnx.stat().st_mtime_ns
    ):
        progress(f"{folder.name}: converting it to IR")
        run_module("harness.sparse_model", str(folder), "--ir")


def source_digest() -> str:
    """Hash of the rewriting code."""
    import sparse_deploy

    root = Path(sparse_deploy.__file__).parent
    content = hashlib.blake2b(digest_size=8)
    for pattern in _SOURCES:
        for path in sorted(root.glob(pattern)):
            content.update(path.read_bytes())
    return content.hexdigest()


def write(folder: Path) -> None:
    """Rewrite the model; the key file, with the result of the passes, is written last."""
    from sparse_deploy.graph.model_file import load_onnx, save_onnx
    from sparse_deploy.graph.sparse_model import to_sparse_model

    result = to_sparse_model(load_onnx(folder / QDQ_ONNX))
    if not result.layers:
        raise RuntimeError(f"no encoder layer was fused: {'; '.join(str(refusal) for refusal in result.standard[:3])}")
    staging = folder / f".{SPARSE_ONNX}.{os.getpid()}"
    save_onnx(result.model, staging)
    staging.replace(folder / SPARSE_ONNX)
    key = {
        "sources": source_digest(),
        "layers": len(result.layers),
        "linears": len(result.linears),
        "standard": [str(refusal) for refusal in result.standard],
    }
    (folder / _KEY_FILE).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def write_ir(folder: Path) -> None:
    """Write the same model as IR; the ``.xml`` is written last."""
    from sparse_deploy.stages.sparse_target import write_sparse_ir

    (folder / SPARSE_IR).unlink(missing_ok=True)
    write_sparse_ir(folder)


def _stored(folder: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads((folder / _KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored


if __name__ == "__main__":
    (write_ir if "--ir" in sys.argv[2:] else write)(Path(sys.argv[1]))
